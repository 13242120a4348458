//! Nodes, and what an expression can be: a set of them, a number, a text, or a truth (XPath 1.0 §3, §4).

use crate::xml::tree::{Attribute, Document, Element, NodeId};

/// A node of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// What is around the outermost element.
    Root,
    /// In the order of the document: an element, its attributes by number, its own text.
    Inner(NodeId, Part),
}

/// Which part of an element a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// All of it.
    Element,
    /// An attribute, by its number.
    Attribute(u32),
    /// Its own text.
    Text,
}

impl Node {
    pub(super) fn of(element: Element<'_>) -> Self {
        Self::Inner(element.id(), Part::Element)
    }

    pub(super) fn text_of(element: Element<'_>) -> Self {
        Self::Inner(element.id(), Part::Text)
    }

    /// The attributes of an element; declarations of namespaces are none (§5.3).
    pub(super) fn attributes_of(element: Element<'_>) -> impl Iterator<Item = Self> {
        let id = element.id();
        let numbered = (0u32..).zip(element.attributes());
        numbered
            .filter(|(_, attribute)| !attribute.is_namespace_declaration())
            .map(move |(number, _)| Self::Inner(id, Part::Attribute(number)))
    }

    /// The element that it is.
    pub fn element(self, document: &Document) -> Option<Element<'_>> {
        match self {
            Self::Inner(id, Part::Element) => Some(document.element(id)),
            _ => None,
        }
    }

    /// The attribute that it is.
    pub fn attribute(self, document: &Document) -> Option<Attribute<'_>> {
        match self {
            Self::Inner(id, Part::Attribute(number)) => {
                let number = usize::try_from(number).ok()?;
                document.element(id).attributes().nth(number)
            }
            _ => None,
        }
    }

    /// The name of an element or attribute, as it is written.
    pub fn name(self, document: &Document) -> &str {
        let element = self.element(document).map(Element::name);
        let attribute = || self.attribute(document).map(Attribute::name);
        element.or_else(attribute).unwrap_or_default()
    }

    /// The namespace of its name.
    pub(super) fn namespace(self, document: &Document) -> &str {
        if let Some(element) = self.element(document) {
            return element.namespace().unwrap_or_default();
        }
        let (Self::Inner(id, _), Some((prefix, _))) = (self, self.name(document).split_once(':'))
        else {
            return "";
        };
        let element = document.element(id);
        element.resolve_prefix(Some(prefix)).unwrap_or_default()
    }

    /// What it says: its text with that of all elements in it, or its value.
    pub fn text(self, document: &Document) -> String {
        let mut out = String::new();
        match self {
            Self::Root => collect(document.root(), &mut out),
            Self::Inner(id, Part::Element) => collect(document.element(id), &mut out),
            Self::Inner(id, Part::Text) => out.push_str(document.element(id).text()),
            Self::Inner(..) => {
                let attribute = self.attribute(document);
                out.push_str(attribute.map(Attribute::value).unwrap_or_default());
            }
        }
        out
    }

    /// How many characters of work it is to read [`Node::text`].
    pub(super) fn weight(self, document: &Document) -> u64 {
        let length = match self {
            Self::Root => document.as_str().len(),
            Self::Inner(id, Part::Element) => document.element(id).source().len(),
            Self::Inner(id, Part::Text) => document.element(id).text().len(),
            Self::Inner(..) => self.attribute(document).map_or(0, |one| one.value().len()),
        };
        u64::try_from(length).unwrap_or(u64::MAX)
    }
}

/// As deep as documents may be.
fn collect(element: Element<'_>, out: &mut String) {
    if element.has_text() {
        out.push_str(element.text());
    }
    for child in element.children() {
        collect(child, out);
    }
}

/// What an expression is.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Nodes in the document's order, each once.
    Nodes(Vec<Node>),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// True or false.
    Truth(bool),
}

impl Answer {
    /// As a text (§4.2).
    pub fn to_text(&self, document: &Document) -> String {
        match self {
            Self::Nodes(nodes) => nodes
                .first()
                .map_or_else(String::new, |node| node.text(document)),
            Self::Number(number) => number_text(*number),
            Self::Text(text) => text.clone(),
            Self::Truth(truth) => truth.to_string(),
        }
    }

    /// As a number (§4.4).
    pub(super) fn to_number(&self, document: &Document) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Truth(truth) => f64::from(u8::from(*truth)),
            _ => text_number(&self.to_text(document)),
        }
    }

    /// As a truth (§4.3).
    pub(super) fn to_truth(&self) -> bool {
        match self {
            Self::Nodes(nodes) => !nodes.is_empty(),
            Self::Number(number) => *number != 0.0 && !number.is_nan(),
            Self::Text(text) => !text.is_empty(),
            Self::Truth(truth) => *truth,
        }
    }
}

/// A number as a text (§4.2): no exponent, no sign of zero.
fn number_text(number: f64) -> String {
    if number.is_infinite() {
        let sign = if number < 0.0 { "-" } else { "" };
        return format!("{sign}Infinity");
    }
    match number == 0.0 {
        true => "0".to_string(),
        false => number.to_string(),
    }
}

/// A text as a number (§4.4).
pub(super) fn text_number(text: &str) -> f64 {
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = digits.chars().all(|c| c.is_ascii_digit() || c == '.')
        && digits.chars().any(|c| c.is_ascii_digit());
    match is_number {
        true => text.parse().unwrap_or(f64::NAN),
        false => f64::NAN,
    }
}
