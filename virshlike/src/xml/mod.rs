//! XML documents that keep every byte of what a person wrote, with positions for messages.
//!
//! A [`Document`] is its source text plus an index of elements and attributes into it. Reading goes
//! through [`Element`] handles; changing goes through [`Edits`], which splice the text at the places
//! concerned and leave the rest alone. Nothing here knows what the elements mean.
//!
//! Input is hostile until parsed: size, depth and counts are bounded, document type declarations
//! and entities other than the five of XML are refused, so there is neither expansion nor any
//! access to other files.

mod diagnostic;
mod edit;
mod escape;
mod parse;
mod tree;
pub mod xpath;

pub use diagnostic::{Diagnostic, Diagnostics, Position, Severity};
pub use edit::{Edits, NewElement};
pub use escape::{escape_attribute, escape_text};
pub use tree::{Attribute, Document, Element, NodeId};

#[cfg(test)]
mod tests;
