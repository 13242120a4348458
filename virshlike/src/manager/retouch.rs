//! Changes that no guest notices: title, description, other programs' metadata. They are made in the
//! definition on disk, in the one that a guest runs, or in both.

use super::amend::Place;
use super::definition;
use super::pins::Affects;
use super::{Domain, Manager};
use crate::error::Result;
use crate::model;
use crate::xml::{Document, Edits, NewElement};

impl Manager {
    /// Sets or, with an empty text, removes the title or the description of a domain.
    ///
    /// # Errors
    /// What is asked for and not there, a text that does not fit, or a definition that cannot be
    /// written.
    pub fn describe(
        &self,
        domain: &Domain,
        element: &'static str,
        text: &str,
        affects: Affects,
    ) -> Result<()> {
        self.retouch(domain, affects, |document| {
            let mut edits = Edits::new();
            let root = document.root();
            match (root.child(element), text.is_empty()) {
                (Some(found), true) => edits.remove(found.id()),
                (Some(found), false) => edits.set_text(found.id(), text),
                (None, true) => {}
                (None, false) => edits.insert(
                    root.id(),
                    NewElement::new(element).text(text),
                    &["name", "uuid", "title", "description"],
                ),
            }
            document
                .apply(edits)
                .map_err(|found| definition::mistakes(&found))
        })
    }

    /// Makes a change in the definitions that are meant: in all of them, or in none.
    pub(super) fn retouch(
        &self,
        domain: &Domain,
        affects: Affects,
        change: impl Fn(&mut Document) -> Result<()>,
    ) -> Result<()> {
        let edit = |document: &mut Document, _: &model::Domain, _: Place| change(document);
        if self.amend(domain, affects, edit, |_, _| Ok(()))? {
            self.note(domain.uuid, "edit", &domain.name, "while it runs");
        }
        Ok(())
    }
}
