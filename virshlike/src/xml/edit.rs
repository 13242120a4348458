//! Changes to a document that touch only the lines concerned.
//!
//! Edits are collected against one state of the document and applied together: each becomes a
//! splice of the text, the splices are ordered, and the result is parsed again. When that fails
//! (it would be too big, say) the document stays as it was.

use super::diagnostic::Diagnostics;
use super::escape::{escape_attribute, escape_text};
use super::tree::{Document, Element, NodeId};

/// An element to be inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewElement {
    name: String,
    attributes: Vec<(String, String)>,
    text: Option<String>,
    children: Vec<NewElement>,
    verbatim: Option<String>,
}

impl NewElement {
    /// An empty element.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            attributes: Vec::new(),
            text: None,
            children: Vec::new(),
            verbatim: None,
        }
    }

    /// An element that is written as it is, its tags included.
    pub fn verbatim(name: impl Into<String>, xml: impl Into<String>) -> Self {
        Self {
            verbatim: Some(xml.into()),
            ..Self::new(name)
        }
    }

    /// The same with an attribute.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// The same with text; an element has text or children.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// The same with an element in it.
    #[must_use]
    pub fn child(mut self, child: NewElement) -> Self {
        self.children.push(child);
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// It as a document of its own, two spaces a level, with a line break at the end.
    pub fn to_text(&self) -> String {
        let layout = Layout {
            indent: Some(String::new()),
            unit: "  ".into(),
            line_break: "\n",
        };
        let mut out = String::new();
        self.render(&mut out, &layout);
        out.push('\n');
        out
    }

    fn render(&self, out: &mut String, layout: &Layout) {
        if let Some(xml) = &self.verbatim {
            out.push_str(xml);
            return;
        }
        out.push('<');
        out.push_str(&self.name);
        for (name, value) in &self.attributes {
            out.push_str(&format!(" {name}='{}'", escape_attribute(value)));
        }
        if let Some(text) = &self.text {
            out.push_str(&format!(">{}</{}>", escape_text(text), self.name));
        } else if self.children.is_empty() {
            out.push_str("/>");
        } else {
            out.push('>');
            let inner = layout.deeper();
            for child in &self.children {
                inner.break_line(out);
                child.render(out, &inner);
            }
            layout.break_line(out);
            out.push_str(&format!("</{}>", self.name));
        }
    }
}

/// How the lines around an insertion are laid out.
#[derive(Debug, Clone)]
struct Layout {
    /// Line break and indentation; `None` when everything stands on one line.
    indent: Option<String>,
    /// One step of indentation.
    unit: String,
    line_break: &'static str,
}

impl Layout {
    fn deeper(&self) -> Self {
        Self {
            indent: self
                .indent
                .as_ref()
                .map(|indent| format!("{indent}{}", self.unit)),
            ..self.clone()
        }
    }

    fn break_line(&self, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push_str(self.line_break);
            out.push_str(indent);
        }
    }
}

/// Where a new element goes among those of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    First,
    Last,
}

#[derive(Debug, Clone)]
enum Op {
    SetAttribute(NodeId, String, String),
    RemoveAttribute(NodeId, String),
    SetText(NodeId, String),
    Insert(NodeId, NewElement, &'static [&'static str], Side),
    Replace(NodeId, NewElement),
    Remove(NodeId),
}

/// Changes collected against one state of a document.
#[derive(Debug, Clone, Default)]
pub struct Edits(Vec<Op>);

impl Edits {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets an attribute, in place when it is there, else behind the last one.
    pub fn set_attribute(&mut self, node: NodeId, name: &str, value: &str) {
        self.0
            .push(Op::SetAttribute(node, name.to_string(), value.to_string()));
    }

    /// Removes an attribute and the space before it.
    pub fn remove_attribute(&mut self, node: NodeId, name: &str) {
        self.0.push(Op::RemoveAttribute(node, name.to_string()));
    }

    /// Replaces everything between the tags of an element by text.
    pub fn set_text(&mut self, node: NodeId, text: &str) {
        self.0.push(Op::SetText(node, text.to_string()));
    }

    /// Inserts an element into `parent`, on a line of its own where its neighbours have one.
    /// `order` names the children in the order that they are written in; the new one goes behind
    /// the last that does not come after it.
    pub fn insert(&mut self, parent: NodeId, element: NewElement, order: &'static [&'static str]) {
        self.0.push(Op::Insert(parent, element, order, Side::Last));
    }

    /// As [`Edits::insert`], in front of the others of its name.
    pub fn insert_first(
        &mut self,
        parent: NodeId,
        element: NewElement,
        order: &'static [&'static str],
    ) {
        self.0.push(Op::Insert(parent, element, order, Side::First));
    }

    /// Puts an element where another one is.
    pub fn replace(&mut self, node: NodeId, element: NewElement) {
        self.0.push(Op::Replace(node, element));
    }

    /// Removes an element, with its line when it stands alone on it.
    pub fn remove(&mut self, node: NodeId) {
        self.0.push(Op::Remove(node));
    }
}

/// A replacement of a byte range. Ties at one place go by `rank`, then by the order of the edits.
#[derive(Debug)]
struct Splice {
    start: usize,
    end: usize,
    rank: usize,
    text: String,
}

/// Where the name stands in the order; unknown ones come last.
fn rank(order: &[&str], name: &str) -> usize {
    order
        .iter()
        .position(|known| *known == name)
        .unwrap_or(order.len())
}

impl Document {
    /// Applies the edits, all or none.
    ///
    /// # Errors
    /// What makes the result not parse; the document is then unchanged.
    pub fn apply(&mut self, edits: Edits) -> Result<(), Diagnostics> {
        if edits.is_empty() {
            return Ok(());
        }
        let text = self.edited(edits);
        *self = Self::parse(&text, &self.file)?;
        Ok(())
    }

    fn edited(&self, edits: Edits) -> String {
        let mut splices = Vec::new();
        let mut inserts: Vec<(NodeId, Vec<(usize, NewElement)>)> = Vec::new();
        for op in edits.0 {
            match op {
                Op::SetAttribute(id, name, value) => {
                    splices.push(self.set_attribute_splice(id, &name, &value));
                }
                Op::RemoveAttribute(id, name) => {
                    splices.extend(self.remove_attribute_splice(id, &name));
                }
                Op::SetText(id, text) => splices.push(self.set_text_splice(id, &text)),
                Op::Remove(id) => splices.push(self.remove_splice(id)),
                Op::Replace(id, element) => splices.push(self.replace_splice(id, &element)),
                Op::Insert(parent, element, order, side) => {
                    if self.element(parent).children().next().is_some() {
                        splices.push(self.insert_splice(parent, &element, (order, side)));
                    } else {
                        let entry = (rank(order, element.name()), element);
                        match inserts.iter_mut().find(|(id, _)| *id == parent) {
                            Some((_, entries)) => entries.push(entry),
                            None => inserts.push((parent, vec![entry])),
                        }
                    }
                }
            }
        }
        for (parent, mut entries) in inserts {
            entries.sort_by_key(|(rank, _)| *rank);
            splices.push(self.fill_splice(parent, &entries));
        }
        splices.sort_by_key(|splice| (splice.start, splice.rank));
        splice_all(&self.text, &splices)
    }

    fn set_attribute_splice(&self, id: NodeId, name: &str, value: &str) -> Splice {
        let node = self.node(id);
        let attributes = self
            .attributes
            .get(node.attributes.start as usize..node.attributes.end as usize)
            .unwrap_or_default();
        let value = escape_attribute(value);
        match attributes
            .iter()
            .find(|attribute| self.slice(attribute.name) == name)
        {
            Some(attribute) => Splice {
                start: attribute.raw.start as usize,
                end: attribute.raw.end as usize,
                rank: 0,
                text: value,
            },
            None => {
                // Behind the closing quote of the last attribute.
                let at = attributes
                    .last()
                    .map_or(node.name.end, |last| last.raw.end + 1)
                    as usize;
                Splice {
                    start: at,
                    end: at,
                    rank: 0,
                    text: format!(" {name}='{value}'"),
                }
            }
        }
    }

    fn remove_attribute_splice(&self, id: NodeId, name: &str) -> Option<Splice> {
        let node = self.node(id);
        let attribute = self
            .attributes
            .get(node.attributes.start as usize..node.attributes.end as usize)?
            .iter()
            .find(|attribute| self.slice(attribute.name) == name)?;
        let before = self.text.get(..attribute.name.start as usize)?;
        Some(Splice {
            start: before.trim_end().len(),
            end: attribute.raw.end as usize + 1,
            rank: 0,
            text: String::new(),
        })
    }

    fn set_text_splice(&self, id: NodeId, text: &str) -> Splice {
        let node = self.node(id);
        let text = escape_text(text);
        if node.close_start == node.whole.end {
            self.open_up(id, &text)
        } else {
            Splice {
                start: node.open.end as usize,
                end: node.close_start as usize,
                rank: 1,
                text,
            }
        }
    }

    /// `<a/>` becomes `<a>content</a>`.
    fn open_up(&self, id: NodeId, content: &str) -> Splice {
        let node = self.node(id);
        let tag = self.slice(node.open);
        let kept = tag.trim_end_matches('>').trim_end_matches('/').trim_end();
        Splice {
            start: node.open.start as usize + kept.len(),
            end: node.open.end as usize,
            rank: 1,
            text: format!(">{content}</{}>", self.slice(node.name)),
        }
    }

    fn remove_splice(&self, id: NodeId) -> Splice {
        let whole = self.node(id).whole;
        let (start, end) = (whole.start as usize, whole.end as usize);
        let before = self.text.get(..start).unwrap_or_default();
        let line = before.trim_end_matches([' ', '\t']);
        let after = self.text.get(end..).unwrap_or_default();
        let rest = after.trim_start_matches([' ', '\t']);
        let alone = line.ends_with('\n') && rest.starts_with(['\n', '\r']);
        let start = if alone {
            let line = line.strip_suffix('\n').unwrap_or(line);
            line.strip_suffix('\r').unwrap_or(line).len()
        } else {
            start
        };
        Splice {
            start,
            end: if alone {
                end + (after.len() - rest.len())
            } else {
                end
            },
            rank: 0,
            text: String::new(),
        }
    }

    fn replace_splice(&self, id: NodeId, element: &NewElement) -> Splice {
        let whole = self.node(id).whole;
        let mut text = String::new();
        element.render(&mut text, &self.layout_beside(self.element(id)));
        Splice {
            start: whole.start as usize,
            end: whole.end as usize,
            rank: 0,
            text,
        }
    }

    fn insert_splice(
        &self,
        parent: NodeId,
        element: &NewElement,
        (order, side): (&[&str], Side),
    ) -> Splice {
        let own = rank(order, element.name());
        let previous = self
            .element(parent)
            .children()
            .filter(|child| {
                let rank = rank(order, child.name());
                rank < own || (rank == own && side == Side::Last)
            })
            .last();
        let first = self.element(parent).children().next();
        let mut text = String::new();
        let at = match (previous, first) {
            (Some(previous), _) => {
                let layout = self.layout_beside(previous);
                layout.break_line(&mut text);
                element.render(&mut text, &layout);
                self.line_end_behind(previous)
            }
            (None, Some(first)) => {
                let layout = self.layout_beside(first);
                element.render(&mut text, &layout);
                layout.break_line(&mut text);
                self.node(first.id()).whole.start as usize
            }
            (None, None) => self.node(parent).open.end as usize,
        };
        Splice {
            start: at,
            end: at,
            rank: own + 1,
            text,
        }
    }

    /// The first children of an element that has none.
    fn fill_splice(&self, parent: NodeId, entries: &[(usize, NewElement)]) -> Splice {
        let outer = self.layout_beside(self.element(parent));
        let layout = outer.deeper();
        let mut content = String::new();
        for (_, element) in entries {
            layout.break_line(&mut content);
            element.render(&mut content, &layout);
        }
        outer.break_line(&mut content);
        let node = self.node(parent);
        if node.close_start == node.whole.end {
            return self.open_up(parent, &content);
        }
        let inside = self
            .text
            .get(node.open.end as usize..node.close_start as usize)
            .unwrap_or_default();
        // White space goes; a comment or text stays in front of the new elements.
        let kept = inside.trim_end();
        Splice {
            start: node.open.end as usize + kept.len(),
            end: node.close_start as usize,
            rank: 1,
            text: content,
        }
    }

    /// The layout of the line that `element` starts.
    fn layout_beside(&self, element: Element<'_>) -> Layout {
        let indent = self.indentation(element).map(str::to_string);
        let parent = element.parent().and_then(|parent| self.indentation(parent));
        let unit = match (&indent, parent) {
            (Some(own), Some(parent)) => own.strip_prefix(parent).filter(|unit| !unit.is_empty()),
            _ => None,
        };
        Layout {
            unit: unit.unwrap_or("  ").to_string(),
            line_break: if self.text.contains("\r\n") {
                "\r\n"
            } else {
                "\n"
            },
            indent,
        }
    }

    /// White space between the line's start and the element; `None` when something else is there
    /// or when the whole document stands on one line.
    fn indentation(&self, element: Element<'_>) -> Option<&str> {
        let start = self.node(element.id()).whole.start as usize;
        let before = self.text.get(..start)?;
        let line_start = before.rfind('\n').map_or(0, |index| index + 1);
        let indent = before.get(line_start..)?;
        let blank = indent.chars().all(|c| matches!(c, ' ' | '\t'));
        (blank && (line_start > 0 || self.text.trim_end().contains('\n'))).then_some(indent)
    }

    /// Where the line of `element` ends when only white space and comments follow it on that
    /// line, so that a remark stays with what it speaks of.
    fn line_end_behind(&self, element: Element<'_>) -> usize {
        let end = self.node(element.id()).whole.end as usize;
        let mut at = end;
        loop {
            let rest = self.text.get(at..).unwrap_or_default();
            if rest.starts_with('\n') || rest.starts_with("\r\n") {
                return at;
            } else if rest.starts_with([' ', '\t']) {
                at += 1;
            } else if rest.starts_with("<!--") {
                match rest.find("-->") {
                    Some(length) => at += length + 3,
                    None => return end,
                }
            } else {
                return end;
            }
        }
    }
}

fn splice_all(text: &str, splices: &[Splice]) -> String {
    let mut out = String::with_capacity(text.len() + 256);
    let mut cursor = 0;
    for splice in splices {
        if splice.start < cursor && splice.end > splice.start {
            // Inside something that an earlier splice took away.
            continue;
        }
        let start = splice.start.max(cursor);
        out.push_str(text.get(cursor..start).unwrap_or_default());
        out.push_str(&splice.text);
        cursor = cursor.max(splice.end);
    }
    out.push_str(text.get(cursor..).unwrap_or_default());
    out
}
