//! Text to [`Document`]: quick-xml's events for the structure, our own scan of each tag for the
//! places of its attributes.
//!
//! ```text
//! text -> bounds, characters -> events -> open elements on a stack -> nodes in document order
//! ```
//!
//! The first thing that is not well-formed ends the parse: what follows it cannot be judged.

use super::diagnostic::{Diagnostic, Diagnostics};
use super::escape::{is_xml_char, unescape};
use super::tree::{AttributeNode, Document, Lines, Node, NodeId, Span};
use quick_xml::Reader;
use quick_xml::errors::{Error, IllFormedError, SyntaxError};
use quick_xml::events::Event;

pub(super) fn parse(text: &str, file: &str) -> Result<Document, Diagnostics> {
    if text.len() > Document::MAX_BYTES {
        let message = format!(
            "the document has {} bytes; at most {} are read",
            text.len(),
            Document::MAX_BYTES
        );
        let at = super::Position { line: 1, column: 1 };
        return Err(Diagnostics::one(Diagnostic::error(file, at, message)));
    }
    let mut parser = Parser {
        text,
        lines: Lines::of(text),
        file,
        nodes: Vec::new(),
        attributes: Vec::new(),
        open: Vec::new(),
        last_child: Vec::new(),
        root_closed: false,
    };
    match parser.run() {
        Ok(()) => Ok(Document {
            file: file.to_string(),
            text: text.to_string(),
            lines: parser.lines,
            nodes: parser.nodes,
            attributes: parser.attributes,
        }),
        Err(fault) => {
            let at = parser.lines.position(text, fault.offset);
            let mut diagnostic = Diagnostic::error(file, at, fault.message);
            diagnostic.hint = fault.hint;
            Err(Diagnostics::one(diagnostic))
        }
    }
}

struct Fault {
    offset: usize,
    message: String,
    hint: Option<String>,
}

fn fault(offset: usize, message: impl Into<String>) -> Fault {
    Fault {
        offset,
        message: message.into(),
        hint: None,
    }
}

struct Parser<'a> {
    text: &'a str,
    lines: Lines,
    file: &'a str,
    nodes: Vec<Node>,
    attributes: Vec<AttributeNode>,
    open: Vec<NodeId>,
    /// Per node: the last child so far, to append siblings in constant time.
    last_child: Vec<Option<NodeId>>,
    root_closed: bool,
}

/// Offsets fit: the text is bounded by [`Document::MAX_BYTES`].
fn offset32(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

fn span(start: usize, end: usize) -> Span {
    Span {
        start: offset32(start),
        end: offset32(end),
    }
}

impl<'a> Parser<'a> {
    fn run(&mut self) -> Result<(), Fault> {
        let body = self.text.strip_prefix('\u{feff}').unwrap_or(self.text);
        let base = self.text.len() - body.len();
        if let Some((at, c)) = body.char_indices().find(|(_, c)| !is_xml_char(*c)) {
            return Err(fault(
                base + at,
                format!("the character U+{:04X} is not allowed in XML", u32::from(c)),
            ));
        }
        let mut reader = Reader::from_str(body);
        let config = reader.config_mut();
        config.check_end_names = false;
        config.allow_unmatched_ends = true;
        config.check_comments = true;
        loop {
            let start = base + offset(reader.buffer_position());
            let event = reader.read_event();
            let end = base + offset(reader.buffer_position());
            match event {
                Ok(Event::Eof) => break,
                Ok(event) => self.event(&event, start, end)?,
                Err(error) => {
                    let at = base + offset(reader.error_position());
                    return Err(self.syntax_fault(&error, at));
                }
            }
        }
        self.finish()
    }

    fn event(&mut self, event: &Event<'_>, start: usize, end: usize) -> Result<(), Fault> {
        match event {
            Event::Start(_) => self.start(start, end, false),
            Event::Empty(_) => self.start(start, end, true),
            Event::End(_) => self.end(start, end),
            Event::Text(_) | Event::GeneralRef(_) => self.characters(start, end),
            Event::CData(data) => {
                let content: &str = data;
                let at = start + "<![CDATA[".len();
                self.push_text(content, at, start)
            }
            Event::Decl(declaration) => match declaration.encoding() {
                Some(Ok(name)) if !is_utf8(&name) => Err(Fault {
                    offset: start,
                    message: format!("the document says that its encoding is {name}"),
                    hint: Some("save it as UTF-8 and say so, or leave encoding= out".into()),
                }),
                _ => Ok(()),
            },
            Event::DocType(_) => Err(Fault {
                offset: start,
                message: "a document type declaration is not read: definitions need none, and it could pull in other files".into(),
                hint: Some("remove the <!DOCTYPE ...>".into()),
            }),
            Event::Comment(_) | Event::PI(_) | Event::Eof => Ok(()),
        }
    }

    fn raw(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end).unwrap_or_default()
    }

    fn start(&mut self, start: usize, end: usize, empty: bool) -> Result<(), Fault> {
        if self.root_closed {
            return Err(fault(
                start,
                "a second element beside the outermost one; a document has one",
            ));
        }
        if self.open.len() >= Document::MAX_DEPTH {
            let message = format!("elements are nested deeper than {}", Document::MAX_DEPTH);
            return Err(fault(start, message));
        }
        if self.nodes.len() >= Document::MAX_ELEMENTS {
            let message = format!("more than {} elements", Document::MAX_ELEMENTS);
            return Err(fault(start, message));
        }
        let tag = Tag::scan(self.raw(start, end), start)?;
        let first = self.attributes.len();
        for attribute in tag.attributes {
            self.attribute(attribute, first)?;
        }
        let id = NodeId(offset32(self.nodes.len()));
        let parent = self.open.last().copied();
        self.nodes.push(Node {
            parent,
            first_child: None,
            next_sibling: None,
            name: tag.name,
            whole: span(start, end),
            open: span(start, end),
            close_start: offset32(end),
            attributes: span(first, self.attributes.len()),
            text: String::new(),
            text_at: None,
        });
        self.last_child.push(None);
        self.link(parent, id);
        if empty {
            self.root_closed = self.open.is_empty();
        } else {
            self.open.push(id);
        }
        Ok(())
    }

    fn link(&mut self, parent: Option<NodeId>, id: NodeId) {
        let Some(parent) = parent else { return };
        let index = parent.0 as usize;
        match self.last_child[index].replace(id) {
            Some(previous) => self.nodes[previous.0 as usize].next_sibling = Some(id),
            None => self.nodes[index].first_child = Some(id),
        }
    }

    fn attribute(&mut self, scanned: ScannedAttribute, first: usize) -> Result<(), Fault> {
        if self.attributes.len() >= Document::MAX_ATTRIBUTES {
            let message = format!("more than {} attributes", Document::MAX_ATTRIBUTES);
            return Err(fault(scanned.name.start as usize, message));
        }
        let name = self.raw(scanned.name.start as usize, scanned.name.end as usize);
        let others = self.attributes.get(first..).unwrap_or_default();
        if others
            .iter()
            .any(|other| self.raw(other.name.start as usize, other.name.end as usize) == name)
        {
            let message = format!("the attribute '{name}' is there twice");
            return Err(fault(scanned.name.start as usize, message));
        }
        let start = scanned.raw.start as usize;
        let raw = self.raw(start, scanned.raw.end as usize);
        let value = unescape(raw).map_err(|bad| fault(start + bad.offset, bad.message))?;
        // XML 1.0 §3.3.3: white space in an attribute value reads as spaces.
        let value = if raw.contains(['\n', '\r', '\t']) {
            Some(normalise_space(raw, value))
        } else {
            (value != raw).then_some(value)
        };
        self.attributes.push(AttributeNode {
            name: scanned.name,
            raw: scanned.raw,
            value,
        });
        Ok(())
    }

    fn end(&mut self, start: usize, end: usize) -> Result<(), Fault> {
        let name = self
            .raw(start, end)
            .trim_start_matches("</")
            .trim_end_matches('>')
            .trim();
        let Some(id) = self.open.pop() else {
            return Err(fault(start, format!("</{name}> closes nothing")));
        };
        let node = &self.nodes[id.0 as usize];
        let opened = self.raw(node.name.start as usize, node.name.end as usize);
        if name != opened {
            let at = self.lines.position(self.text, node.whole.start as usize);
            return Err(Fault {
                offset: start,
                message: format!(
                    "</{name}> does not close <{opened}>, opened in line {}",
                    at.line
                ),
                hint: Some(format!("write </{opened}>")),
            });
        }
        let node = &mut self.nodes[id.0 as usize];
        node.close_start = offset32(start);
        node.whole.end = offset32(end);
        self.root_closed = self.open.is_empty();
        Ok(())
    }

    fn characters(&mut self, start: usize, end: usize) -> Result<(), Fault> {
        let raw = self.raw(start, end);
        let text = unescape(raw).map_err(|bad| fault(start + bad.offset, bad.message))?;
        self.push_text(&text, start, start)
    }

    /// Adds text of the innermost open element. `at` is where its first character stands, `from`
    /// where the event starts.
    fn push_text(&mut self, text: &str, at: usize, from: usize) -> Result<(), Fault> {
        let content = text.find(|c: char| !c.is_ascii_whitespace());
        let Some(id) = self.open.last() else {
            return match content {
                Some(skip) => Err(fault(at + skip, "text outside the outermost element")),
                None => Ok(()),
            };
        };
        let node = &mut self.nodes[id.0 as usize];
        if let Some(skip) = content
            && node.text_at.is_none()
        {
            let place = at + skip;
            let inside = self.text.is_char_boundary(place);
            node.text_at = Some(offset32(if inside { place } else { from }));
        }
        if text.contains('\r') {
            node.text.push_str(&text.replace("\r\n", "\n"));
        } else {
            node.text.push_str(text);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        if let Some(id) = self.open.last() {
            let node = &self.nodes[id.0 as usize];
            let name = self.raw(node.name.start as usize, node.name.end as usize);
            return Err(Fault {
                offset: node.whole.start as usize,
                message: format!("<{name}> is never closed; the document ends before"),
                hint: Some(format!(
                    "add </{name}>, or see whether the file was cut off"
                )),
            });
        }
        if self.nodes.is_empty() {
            let message = format!("{} contains no XML element", self.file);
            return Err(Fault {
                hint: Some("a definition is one <domain> element".into()),
                ..fault(0, message)
            });
        }
        Ok(())
    }

    fn syntax_fault(&self, error: &Error, at: usize) -> Fault {
        let (message, hint) = match error {
            Error::Syntax(SyntaxError::UnclosedTag) => {
                ("this tag has no '>'".to_string(), "add the missing '>'")
            }
            Error::Syntax(
                SyntaxError::UnclosedSingleQuotedAttributeValue
                | SyntaxError::UnclosedDoubleQuotedAttributeValue,
            ) => (
                "an attribute value in this tag has no closing quote".to_string(),
                "add the missing quote",
            ),
            Error::Syntax(SyntaxError::UnclosedComment) => (
                "this comment is never closed".to_string(),
                "end it with -->",
            ),
            Error::IllFormed(IllFormedError::DoubleHyphenInComment) => (
                "'--' inside a comment".to_string(),
                "XML forbids it; write the two hyphens apart",
            ),
            Error::IllFormed(IllFormedError::UnclosedReference) => {
                ("'&' starts no reference".to_string(), "write it as &amp;")
            }
            other => (format!("not well-formed: {other}"), ""),
        };
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        Fault {
            offset: at,
            message,
            hint: (!hint.is_empty()).then(|| hint.to_string()),
        }
    }
}

fn offset(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

fn is_utf8(encoding: &str) -> bool {
    ["utf-8", "utf8", "us-ascii", "ascii"]
        .iter()
        .any(|known| encoding.eq_ignore_ascii_case(known))
}

/// Literal white space becomes spaces; that from character numbers stays.
fn normalise_space(raw: &str, unescaped: String) -> String {
    let spaced = raw.replace("\r\n", " ").replace(['\n', '\r', '\t'], " ");
    unescape(&spaced).unwrap_or(unescaped)
}

struct ScannedAttribute {
    name: Span,
    raw: Span,
}

/// An opening tag taken apart.
struct Tag {
    name: Span,
    attributes: Vec<ScannedAttribute>,
}

impl Tag {
    /// `raw` is the tag from `<` to `>`, at `base` in the document.
    fn scan(raw: &str, base: usize) -> Result<Self, Fault> {
        let inner = raw.strip_prefix('<').unwrap_or(raw);
        let inner = inner.strip_suffix('>').unwrap_or(inner);
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        let start = base + 1;
        let length = name_length(inner);
        if length == 0 {
            return Err(Fault {
                offset: base,
                message: "'<' starts no element name".into(),
                hint: Some("a '<' in text is written as &lt;".into()),
            });
        }
        let mut attributes = Vec::new();
        let mut at = length;
        loop {
            let rest = inner.get(at..).unwrap_or_default();
            let trimmed = rest.trim_start_matches(is_space);
            if trimmed.is_empty() {
                break;
            }
            let here = start + at + (rest.len() - trimmed.len());
            if trimmed.len() == rest.len() {
                return Err(fault(here, "white space is missing here"));
            }
            let (attribute, used) = scan_attribute(trimmed, here)?;
            attributes.push(attribute);
            at += rest.len() - trimmed.len() + used;
        }
        Ok(Self {
            name: span(start, start + length),
            attributes,
        })
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Scans `name = 'value'` at the start of `text`; also says how many bytes it took.
fn scan_attribute(text: &str, at: usize) -> Result<(ScannedAttribute, usize), Fault> {
    let length = name_length(text);
    let name = text.get(..length).unwrap_or_default();
    if name.is_empty() {
        return Err(fault(at, "an attribute name is expected here"));
    }
    let rest = text.get(length..).unwrap_or_default();
    let after_space = rest.trim_start_matches(is_space);
    let Some(after_equals) = after_space.strip_prefix('=') else {
        return Err(fault(at, format!("the attribute '{name}' has no value")));
    };
    let quoted = after_equals.trim_start_matches(is_space);
    let quote = match quoted.chars().next() {
        Some(quote @ ('\'' | '"')) => quote,
        _ => {
            let message = format!("the value of the attribute '{name}' is not in quotes");
            return Err(fault(at, message));
        }
    };
    let value = quoted.get(1..).unwrap_or_default();
    let value_start = text.len() - value.len();
    let Some(end) = value.find(quote) else {
        let message = format!("the value of the attribute '{name}' has no closing quote");
        return Err(fault(at, message));
    };
    if let Some(less) = value.get(..end).and_then(|value| value.find('<')) {
        return Err(fault(
            at + value_start + less,
            format!("'<' in the value of the attribute '{name}'; write it as &lt;"),
        ));
    }
    let attribute = ScannedAttribute {
        name: span(at, at + length),
        raw: span(at + value_start, at + value_start + end),
    };
    Ok((attribute, value_start + end + 1))
}

/// Bytes of the name at the start of `text`; XML 1.0 §2.3.
fn name_length(text: &str) -> usize {
    let mut chars = text.char_indices();
    match chars.next() {
        Some((_, c)) if c.is_alphabetic() || c == '_' || c == ':' => {}
        _ => return 0,
    }
    chars
        .find(|(_, c)| !(c.is_alphanumeric() || matches!(c, '_' | ':' | '-' | '.' | '\u{b7}')))
        .map_or(text.len(), |(index, _)| index)
}
