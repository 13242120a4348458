//! Collects what parsing finds, so that one pass reports every mistake.

use crate::xml::{Attribute, Diagnostic, Diagnostics, Document, Element, Position};
use std::collections::BTreeSet;

/// Most errors that are reported for one document; what follows them is noise.
const MAX_ERRORS: usize = 100;

/// Most warnings, and most refusals at start.
const MAX_REMARKS: usize = 500;

/// Longest value that a message repeats, in characters.
const MAX_SHOWN: usize = 80;

/// Errors, warnings and refusals at start of one document.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    document: &'a Document,
    errors: Diagnostics,
    warnings: Diagnostics,
    kept: Diagnostics,
    places: BTreeSet<Position>,
}

impl<'a> Findings<'a> {
    pub fn new(document: &'a Document) -> Self {
        Self {
            document,
            errors: Diagnostics::new(),
            warnings: Diagnostics::new(),
            kept: Diagnostics::new(),
            places: BTreeSet::new(),
        }
    }

    /// An error at `at`. Only the first at one place is kept: what follows is about the same thing.
    pub fn error(&mut self, at: Position, message: impl Into<String>) {
        self.push_error(self.document.error(at, message));
    }

    /// An error with what would be right.
    pub fn error_with_hint(
        &mut self,
        at: Position,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push_error(self.document.error(at, message).with_hint(hint));
    }

    fn push_error(&mut self, diagnostic: Diagnostic) {
        if self.errors.len() < MAX_ERRORS && self.places.insert(diagnostic.position()) {
            self.errors.push(diagnostic);
        }
    }

    /// Something that is accepted and has no effect, or another than it may seem.
    pub fn warn(&mut self, at: Position, message: impl Into<String>) {
        if self.warnings.len() < MAX_REMARKS {
            self.warnings.push(self.document.warning(at, message));
        }
    }

    /// Something that is kept in the definition and refused when the domain is started.
    pub fn keep(&mut self, at: Position, message: impl Into<String>) {
        self.push_kept(self.document.error(at, message));
    }

    /// The same with what to do.
    pub fn keep_with_hint(
        &mut self,
        at: Position,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push_kept(self.document.error(at, message).with_hint(hint));
    }

    fn push_kept(&mut self, diagnostic: Diagnostic) {
        if self.kept.len() < MAX_REMARKS {
            self.kept.push(diagnostic);
        }
    }

    /// Whether so much is wrong that looking on makes no sense.
    pub fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    /// Whether a mistake in this element has been told already, so that what follows from it
    /// need not be.
    pub fn told_in(&self, element: Element<'_>) -> bool {
        let range = element.position()..element.end_position();
        self.places.range(range).next().is_some()
    }

    pub fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Errors, warnings and refusals at start, each in the order of their places.
    pub fn finish(mut self) -> (Diagnostics, Diagnostics, Diagnostics) {
        self.errors.sort();
        self.warnings.sort();
        self.kept.sort();
        (self.errors, self.warnings, self.kept)
    }

    /// The value of an attribute through a parser; an error with `expected` when it says no.
    pub fn parsed<T>(
        &mut self,
        element: Element<'_>,
        name: &str,
        expected: &str,
        parser: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let attribute = element.attribute(name)?;
        let value = parser(attribute.value());
        if value.is_none() {
            self.bad_attribute(element, attribute, expected);
        }
        value
    }

    /// Says that an attribute has a value that it cannot have.
    pub fn bad_attribute(
        &mut self,
        element: Element<'_>,
        attribute: Attribute<'_>,
        expected: &str,
    ) {
        self.error_with_hint(
            attribute.value_position(),
            format!(
                "'{}' is no value for {}= of <{}>",
                shown(attribute.value()),
                attribute.name(),
                element.name()
            ),
            format!("it takes {expected}"),
        );
    }
}

/// A value as a message repeats it: not more of it than a person wants to see.
pub(super) fn shown(value: &str) -> std::borrow::Cow<'_, str> {
    match value.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", value.get(..end).unwrap_or_default()).into(),
        None => value.into(),
    }
}
