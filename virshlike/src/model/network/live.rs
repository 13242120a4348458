//! A network's definition as `net-dumpxml` shows it.

use crate::xml::{Diagnostics, Document, Edits};

/// The definition; of an active network with the number of guests that are plugged in.
///
/// # Errors
/// When the result would not parse, which an edit of a parsed document does not bring about.
pub fn network_xml(document: &Document, connections: Option<usize>) -> Result<String, Diagnostics> {
    let mut edits = Edits::new();
    let root = document.root();
    match connections {
        Some(count) if count > 0 => {
            edits.set_attribute(root.id(), "connections", &count.to_string());
        }
        _ => edits.remove_attribute(root.id(), "connections"),
    }
    let mut shown = document.clone();
    shown.apply(edits)?;
    Ok(shown.text())
}
