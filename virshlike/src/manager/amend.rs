//! One change of a domain, made in the guest that runs, in its definition, or in both.
//!
//! ```text
//! domain's lock -> both texts with the change, checked -> the new definition beside the old one
//!               -> the guest is told -> its live definition -> the new definition gets its name
//! ```
//!
//! A refusal at any step up to the guest's changes nothing. What the change starts from is read
//! under the lock, or two commands would undo each other's. Nothing here knows what a change is about.

use super::definition::{self, Checked};
use super::pins::Affects;
use super::{Domain, Manager};
use crate::error::Result;
use crate::model;
use crate::runtime::Guest;
use crate::xml::Document;

/// Where a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the definition that a guest runs.
    Live,
    /// In the definition on disk.
    Config,
}

/// A running guest, and its definition after the change.
struct Live {
    guest: Guest,
    before: String,
    after: Checked,
}

impl Manager {
    /// Makes a change: `edit` in the definitions that are meant, `tell` in the guest, given its
    /// definition after the change. Says whether a guest was changed.
    ///
    /// # Errors
    /// As [`Manager::affected`]; what `edit` and `tell` refuse: nothing is changed then. A definition that
    /// cannot be written after that says so.
    pub(super) fn amend(
        &self,
        domain: &Domain,
        affects: Affects,
        edit: impl Fn(&mut Document, &model::Domain, Place) -> Result<()>,
        tell: impl FnOnce(&Guest, &model::Domain) -> Result<()>,
    ) -> Result<bool> {
        // A refusal needs no lock.
        self.affected(domain, affects)?;
        let _domain = self.store.lock_domain(domain.uuid, &domain.name)?;
        // It may have ended, or been started again, before the lock was free.
        let (guest, config) = self.affected(domain, affects)?;
        let live = match guest {
            Some(guest) => Some(self.live_with(domain, guest, &edit)?),
            None => None,
        };
        // Held to the end: the new text waits beside the old one.
        let writer = config.then(|| self.store.writer()).transpose()?;
        let staged = match &writer {
            Some(writer) => match self.stored_with(domain, &edit)? {
                Some(text) => Some(writer.stage(&domain.name, &text)?),
                None => None,
            },
            None => None,
        };
        if let Some(live) = &live {
            tell(&live.guest, &live.after.model)?;
            let text = live.after.document.as_str();
            if text != live.before {
                live.guest.dir().write_live(text).map_err(|error| {
                    error.context("the running guest was changed, its definitions were not")
                })?;
            }
        }
        if let Some(staged) = staged {
            staged.commit().map_err(|error| match &live {
                Some(_) => error
                    .context("the running guest was changed, its definition was not")
                    .hint("make the change again with --config alone"),
                None => error,
            })?;
            drop(writer);
            self.note(domain.uuid, "define", &domain.name, "");
        }
        Ok(live.is_some())
    }

    /// The definition that a guest runs, with a change.
    fn live_with(
        &self,
        domain: &Domain,
        guest: Guest,
        edit: impl Fn(&mut Document, &model::Domain, Place) -> Result<()>,
    ) -> Result<Live> {
        let (mut document, model) = self.current_definition(domain, Some(&guest))?;
        let before = document.text();
        edit(&mut document, &model, Place::Live)?;
        let file = format!("the running definition of '{}'", domain.name);
        let after = definition::check(document.as_str(), &file)?;
        Ok(Live {
            guest,
            before,
            after,
        })
    }

    /// The text of the definition on disk with a change, if it is another one then.
    fn stored_with(
        &self,
        domain: &Domain,
        edit: impl Fn(&mut Document, &model::Domain, Place) -> Result<()>,
    ) -> Result<Option<String>> {
        let stored = self.stored(domain)?;
        let Checked {
            mut document,
            model,
            ..
        } = self.checked(&stored)?;
        edit(&mut document, &model, Place::Config)?;
        let file = stored.path.display().to_string();
        let mut checked = definition::check(document.as_str(), &file)?;
        model::complete(&mut checked.document, &mut checked.model)
            .map_err(|found| definition::mistakes(&found))?;
        let text = checked.document.text();
        Ok((text != stored.text).then_some(text))
    }
}
