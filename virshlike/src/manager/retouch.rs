//! Changes that no guest notices: title, description, other programs' metadata. They are made in the
//! definition on disk, in the one that a guest runs, or in both.

use super::definition;
use super::pins::Affects;
use super::{Domain, Manager};
use crate::error::Result;
use crate::runtime::Guest;
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
        let (guest, config) = self.affected(domain, affects)?;
        if let Some(guest) = &guest {
            self.live_with(domain, guest, &change)?;
        }
        if config {
            let stored = self.stored(domain)?;
            let mut document = self.checked(&stored)?.document;
            change(&mut document)?;
            let file = stored.path.display().to_string();
            self.replace(domain, &stored.text, document.as_str(), &file)?;
        }
        if guest.is_none() {
            return Ok(());
        }
        let _lock = self.store.lock_domain(domain.uuid, &domain.name)?;
        // It may have ended, or been started again, before the lock was free.
        let guest = self.running(domain)?;
        let document = self.live_with(domain, &guest, &change)?;
        guest.dir().write_live(document.as_str())?;
        self.note(domain.uuid, "edit", &domain.name, "while it runs");
        Ok(())
    }

    /// The definition that a guest runs, with a change.
    fn live_with(
        &self,
        domain: &Domain,
        guest: &Guest,
        change: impl Fn(&mut Document) -> Result<()>,
    ) -> Result<Document> {
        let (mut document, _) = self.current_definition(domain, Some(guest))?;
        change(&mut document)?;
        let file = format!("the running definition of '{}'", domain.name);
        definition::check(document.as_str(), &file)?;
        Ok(document)
    }
}
