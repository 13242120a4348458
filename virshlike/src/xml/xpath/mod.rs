//! XPath 1.0 over a [`Document`]: the part of a definition that somebody asks for.
//!
//! ```text
//! expression --words--> tokens --parse--> Query --evaluate(document)--> Answer
//! ```
//!
//! All of the language (W3C Recommendation of 16 November 1999) but what the tree does not keep or a
//! command line cannot give: comments and processing instructions, the namespace axis, variables,
//! `id()` and `lang()`. These are refused by name. A prefix of a name is compared as it is written, and a
//! name without one stands for elements without one. An element's own text is one node, in front of the
//! elements in it; white space alone is none.
//!
//! An expression is bounded in length, and in the work that it may take: nothing here runs for ever or
//! recurses without bound, whatever is asked of whatever document.

mod evaluate;
mod functions;
mod parse;
mod value;
mod words;

pub use value::{Answer, Node};

use super::tree::Document;
use std::fmt;

/// What is wrong with an expression, and at which character of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The character, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl Mistake {
    fn at(column: usize, message: impl Into<String>) -> Self {
        Self {
            column,
            message: message.into(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "character {}: {}", self.column, self.message)
    }
}

/// An expression that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    expression: parse::Expression,
}

impl Query {
    /// Reads an expression.
    ///
    /// # Errors
    /// What is no XPath, is not understood here, or is longer than anybody writes.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let words = words::split(text)?;
        let expression = parse::parse(&words)?;
        Ok(Self { expression })
    }

    /// What it finds in a document. Nodes come in the document's order.
    ///
    /// # Errors
    /// An operand that is no set of nodes where one must be, or too much work.
    pub fn evaluate(&self, document: &Document) -> Result<Answer, Mistake> {
        evaluate::evaluate(&self.expression, document)
    }
}

#[cfg(test)]
mod tests;
