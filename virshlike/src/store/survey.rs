//! A look at every definition: which UUID stands where, and what each takes for itself. Those that
//! the index knows are not opened, only asked for their state.

use super::folder::{Folder, Listing};
use super::index::{self, Claims, Entry, Index, Stamp};
use super::scan::{self, Identity};
use super::{MAX_DEFINITION, Store};
use crate::error::Result;
use std::sync::atomic::Ordering;
use std::time::Duration;
use uuid::Uuid;

/// What a look at every definition found.
#[derive(Debug, Default)]
pub struct Survey {
    index: Index,
    entries: Vec<Entry>,
    /// The time of day, since the Unix epoch, before the first file was looked at.
    looked: Duration,
    /// Files that had to be read.
    pub(super) opened: usize,
    /// Those of them that belong into the index.
    pub(super) missing: usize,
    /// Temporary files, of somebody who is writing now or was interrupted.
    pub(super) leftovers: Vec<String>,
}

impl Survey {
    /// The name of the domain with this UUID.
    pub fn name_of(&self, uuid: Uuid) -> Option<&str> {
        let found = self.entries.iter().find(|entry| entry.uuid == uuid);
        found.map(|entry| entry.name.as_str())
    }

    /// The first domain but `own` that takes this MAC address or image for itself.
    pub fn claimant(&self, claim: &str, own: &str) -> Option<&str> {
        let has = |claims: &Claims| self.index.claims(claims).any(|known| known == claim);
        let found = self
            .entries
            .iter()
            .find(|entry| has(&entry.claims) && entry.name != own);
        found.map(|entry| entry.name.as_str())
    }

    pub(super) fn identities(self) -> Vec<(String, Uuid)> {
        let entries = self.entries.into_iter();
        entries.map(|entry| (entry.name, entry.uuid)).collect()
    }
}

impl Store {
    /// Looks at every definition. Those that the index knows are not opened.
    ///
    /// # Errors
    /// As [`Store::names`]; a single unreadable file is left out.
    pub fn survey(&self) -> Result<Survey> {
        let Some(folder) = self.folder()? else {
            return Ok(Survey::default());
        };
        let looked = index::now();
        let Listing { names, leftovers } = self.names_in(&folder)?;
        let mut survey = Survey {
            leftovers,
            looked,
            index: Index::read(&self.layout.index()),
            entries: Vec::with_capacity(names.len()),
            ..Survey::default()
        };
        let mut file = String::new();
        for name in names {
            file.clear();
            file.push_str(&name);
            file.push_str(".xml");
            // The stamp is taken first: what is read then is this state of the file or a later one,
            // and a later one has another stamp.
            let Ok(stamp) = folder.stamp(&file) else {
                continue;
            };
            let entry = match survey.index.take(&name, stamp) {
                Some((uuid, claims)) => Some(Entry {
                    name,
                    stamp,
                    uuid,
                    claims,
                }),
                None => {
                    survey.opened += 1;
                    survey.missing += usize::from(stamp.has_settled(looked));
                    read_entry(&folder, &file, name, stamp)
                }
            };
            survey.entries.extend(entry);
        }
        self.missing.store(survey.missing, Ordering::Relaxed);
        Ok(survey)
    }

    /// Writes the index anew when the last look found it wanting.
    pub(super) fn refresh_index(&self) {
        if self.missing.load(Ordering::Relaxed) < index::WORTH_IT {
            return;
        }
        // Nothing depends on the index.
        let _ = self.survey().and_then(|found| {
            Index::write(
                &self.layout.index(),
                &found.index,
                found.looked,
                &found.entries,
            )
        });
        self.missing.store(0, Ordering::Relaxed);
    }
}

fn read_entry(folder: &Folder, file: &str, name: String, stamp: Stamp) -> Option<Entry> {
    let text = folder.read(file, MAX_DEFINITION).ok()?;
    let Identity { uuid, .. } = scan::identity(&text);
    Some(Entry {
        uuid: uuid.unwrap_or_else(|| scan::fallback_uuid(&name)),
        claims: Claims::Read(scan::claims(&text)),
        name,
        stamp,
    })
}
