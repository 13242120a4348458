//! The document: its text, and an index of elements and attributes into it.
//!
//! The text is the only source of truth. An edit changes the text and builds the index anew, so
//! whatever is not edited survives byte by byte, and a [`NodeId`] is valid until the next edit.

use super::diagnostic::{Diagnostic, Diagnostics, Position};
use super::parse;

/// An element of one state of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(super) u32);

/// Byte range in the text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    pub start: u32,
    pub end: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub parent: Option<NodeId>,
    pub first_child: Option<NodeId>,
    pub next_sibling: Option<NodeId>,
    pub name: Span,
    /// From `<` of the opening tag to `>` of the closing one.
    pub whole: Span,
    /// The opening tag, `<` to `>`.
    pub open: Span,
    /// Where the closing tag starts; equal to `open.end` when there is none (`<a/>`).
    pub close_start: u32,
    /// Indices into the attributes.
    pub attributes: Span,
    /// The element's own text, unescaped.
    pub text: String,
    /// Where the first character of it stands that is no white space.
    pub text_at: Option<u32>,
}

#[derive(Debug, Clone)]
pub(super) struct AttributeNode {
    pub name: Span,
    /// Between the quotes.
    pub raw: Span,
    /// What it means, where that is not what is written.
    pub value: Option<String>,
}

/// A parsed document. `parse(text).text() == text`, always.
#[derive(Debug, Clone)]
pub struct Document {
    pub(super) file: String,
    pub(super) text: String,
    pub(super) lines: Lines,
    pub(super) nodes: Vec<Node>,
    pub(super) attributes: Vec<AttributeNode>,
}

impl Document {
    /// Largest document in bytes.
    pub const MAX_BYTES: usize = 4 << 20;
    /// Deepest nesting of elements.
    pub const MAX_DEPTH: usize = 128;
    /// Most elements.
    pub const MAX_ELEMENTS: usize = 65_536;
    /// Most attributes of all elements together.
    pub const MAX_ATTRIBUTES: usize = 262_144;

    /// Parses `text`; `file_name` is what messages call it.
    ///
    /// # Errors
    /// What is not well-formed, or beyond a bound, with line and column.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, Diagnostics> {
        parse::parse(text, file_name)
    }

    /// The document as it stands, byte for byte what was parsed plus the edits.
    pub fn text(&self) -> String {
        self.text.clone()
    }

    /// The same, borrowed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What messages call the document.
    pub fn file_name(&self) -> &str {
        &self.file
    }

    /// The outermost element.
    pub fn root(&self) -> Element<'_> {
        self.element(NodeId(0))
    }

    /// The element with this id, which must come from this state of this document.
    pub fn element(&self, id: NodeId) -> Element<'_> {
        Element { document: self, id }
    }

    /// The place of a byte offset.
    pub fn position(&self, offset: usize) -> Position {
        self.lines.position(&self.text, offset)
    }

    /// An error at `at` in this document.
    pub fn error(&self, at: Position, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(&self.file, at, message)
    }

    /// A warning at `at` in this document.
    pub fn warning(&self, at: Position, message: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(&self.file, at, message)
    }

    pub(super) fn slice(&self, span: Span) -> &str {
        self.text
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default()
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        // Ids are handed out by this document only, and edits take them away with `&mut`.
        &self.nodes[id.0 as usize]
    }
}

/// Bytes between two counts of characters.
const STRIDE: usize = 1024;

/// Where lines start and how many characters stand before each stride of bytes, so that finding a
/// place costs the same everywhere, in a document of one huge line too.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    starts: Vec<u32>,
    characters: Vec<u32>,
}

impl Lines {
    pub fn of(text: &str) -> Self {
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut starts = vec![0];
        let mut characters = Vec::with_capacity(text.len() / STRIDE + 1);
        let mut count = 0;
        for (index, byte) in text.bytes().enumerate() {
            if index % STRIDE == 0 {
                characters.push(small(count));
            }
            count += usize::from(starts_character(byte));
            if byte == b'\n' {
                starts.push(small(index + 1));
            }
        }
        Self { starts, characters }
    }

    /// How many characters start before a byte offset.
    fn characters_before(&self, text: &str, offset: usize) -> usize {
        let bytes = text.as_bytes();
        let offset = offset.min(bytes.len());
        let stride = offset / STRIDE;
        let Some(counted) = self.characters.get(stride) else {
            return bytes.iter().filter(|byte| starts_character(**byte)).count();
        };
        let rest = bytes.get(stride * STRIDE..offset).unwrap_or_default();
        *counted as usize + rest.iter().filter(|byte| starts_character(**byte)).count()
    }

    pub fn position(&self, text: &str, offset: usize) -> Position {
        let line = self
            .starts
            .partition_point(|start| *start as usize <= offset)
            .max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0) as usize;
        let before = self.characters_before(text, offset);
        let column = before.saturating_sub(self.characters_before(text, start)) + 1;
        Position {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }
}

/// Whether this is the first byte of a character in UTF-8.
fn starts_character(byte: u8) -> bool {
    byte & 0xc0 != 0x80
}

/// An element to read from.
#[derive(Debug, Clone, Copy)]
pub struct Element<'a> {
    document: &'a Document,
    id: NodeId,
}

impl<'a> Element<'a> {
    /// Its id, for edits.
    pub fn id(self) -> NodeId {
        self.id
    }

    /// The document that it belongs to.
    pub fn document(self) -> &'a Document {
        self.document
    }

    fn node(self) -> &'a Node {
        self.document.node(self.id)
    }

    /// The name as written, prefix included.
    pub fn name(self) -> &'a str {
        self.document.slice(self.node().name)
    }

    /// The name without its prefix.
    pub fn local_name(self) -> &'a str {
        self.name().rsplit(':').next().unwrap_or_default()
    }

    /// The prefix of the name, if it has one.
    pub fn prefix(self) -> Option<&'a str> {
        self.name().split_once(':').map(|(prefix, _)| prefix)
    }

    /// The namespace URI that the name belongs to; `None` outside any.
    pub fn namespace(self) -> Option<&'a str> {
        self.resolve_prefix(self.prefix())
    }

    /// The namespace URI of a prefix (or of no prefix) at this element.
    pub fn resolve_prefix(self, prefix: Option<&str>) -> Option<&'a str> {
        let mut element = Some(self);
        while let Some(current) = element {
            let declaration = current.attributes().find(|attribute| match prefix {
                Some(prefix) => attribute.name().strip_prefix("xmlns:") == Some(prefix),
                None => attribute.name() == "xmlns",
            });
            if let Some(declaration) = declaration {
                return Some(declaration.value()).filter(|uri| !uri.is_empty());
            }
            element = current.parent();
        }
        None
    }

    /// It as it is written, from `<` to the last `>`.
    pub fn source(self) -> &'a str {
        self.document.slice(self.node().whole)
    }

    /// Where its opening `<` stands.
    pub fn position(self) -> Position {
        self.document.position(self.node().whole.start as usize)
    }

    /// Where it ends: the place behind its last `>`.
    pub fn end_position(self) -> Position {
        self.document.position(self.node().whole.end as usize)
    }

    /// The element around it.
    pub fn parent(self) -> Option<Self> {
        self.node()
            .parent
            .map(|parent| self.document.element(parent))
    }

    /// The elements in it, in order.
    pub fn children(self) -> impl Iterator<Item = Self> + Clone {
        let document = self.document;
        std::iter::successors(self.node().first_child, move |id| {
            document.node(*id).next_sibling
        })
        .map(move |id| document.element(id))
    }

    /// The first element in it with this name.
    pub fn child(self, name: &str) -> Option<Self> {
        self.children().find(|child| child.name() == name)
    }

    /// The elements in it with this name.
    pub fn children_named(self, name: &str) -> impl Iterator<Item = Self> {
        self.children().filter(move |child| child.name() == name)
    }

    /// Its attributes, namespace declarations included.
    pub fn attributes(self) -> impl Iterator<Item = Attribute<'a>> + Clone {
        let document = self.document;
        let range = self.node().attributes;
        (range.start..range.end).map(move |index| Attribute { document, index })
    }

    /// The attribute with this name.
    pub fn attribute(self, name: &str) -> Option<Attribute<'a>> {
        self.attributes().find(|attribute| attribute.name() == name)
    }

    /// The value of the attribute with this name.
    pub fn value(self, name: &str) -> Option<&'a str> {
        self.attribute(name).map(Attribute::value)
    }

    /// Its own text, unescaped, without that of the elements in it.
    pub fn text(self) -> &'a str {
        &self.node().text
    }

    /// Where its text starts; its own place when there is none.
    pub fn text_position(self) -> Position {
        match self.node().text_at {
            Some(offset) => self.document.position(offset as usize),
            None => self.position(),
        }
    }

    /// Whether it has text beside white space.
    pub fn has_text(self) -> bool {
        self.node().text_at.is_some()
    }
}

/// An attribute to read from.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    document: &'a Document,
    index: u32,
}

impl<'a> Attribute<'a> {
    fn node(self) -> &'a AttributeNode {
        // Made by `Element::attributes` only, from the range of one node.
        &self.document.attributes[self.index as usize]
    }

    /// Its name as written, prefix included.
    pub fn name(self) -> &'a str {
        self.document.slice(self.node().name)
    }

    /// Its value, unescaped.
    pub fn value(self) -> &'a str {
        match &self.node().value {
            Some(value) => value,
            None => self.document.slice(self.node().raw),
        }
    }

    /// Where its name starts.
    pub fn position(self) -> Position {
        self.document.position(self.node().name.start as usize)
    }

    /// Where its value starts, inside the quotes.
    pub fn value_position(self) -> Position {
        self.document.position(self.node().raw.start as usize)
    }

    /// Whether it declares a namespace.
    pub fn is_namespace_declaration(self) -> bool {
        self.name() == "xmlns" || self.name().starts_with("xmlns:")
    }
}
