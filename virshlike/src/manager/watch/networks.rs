//! What happens to networks: defined, undefined, started, stopped.
//!
//! The kernel wakes us when something changes in their folders; what it was follows from what is there
//! now and was before. So nothing is polled, and only what comes and goes again at once is missed.

use super::{Mark, became, definitions};
use crate::error::{Error, Result};
use crate::manager::Manager;
use crate::runtime::network::record::{self, Phase};
use crate::store::Store;
use crate::system::wake::Wake;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long a folder that is not there yet may stay unseen.
const LONGEST: Duration = Duration::from_secs(1);

/// What kind of event; libvirt has one for networks that can happen here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifecycle;

impl Lifecycle {
    /// The word.
    pub const NAME: &'static str = "lifecycle";
}

impl FromStr for Lifecycle {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            Self::NAME => Ok(Self),
            _ => Err(format!("the only type is {}", Self::NAME)),
        }
    }
}

/// Something that happened to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkHappening {
    /// Its name.
    pub network: String,
    /// virsh's word: Defined, Undefined, Started, Stopped.
    pub detail: &'static str,
}

/// The networks as they were at one look.
#[derive(Debug, Default, PartialEq, Eq)]
struct Look {
    defined: BTreeMap<String, Mark>,
    active: BTreeSet<String>,
}

/// A watch over all networks, or over one.
#[derive(Debug)]
pub struct NetworkWatch {
    store: Store,
    only: Option<String>,
    wake: Wake,
    last: Look,
    found: VecDeque<NetworkHappening>,
}

impl NetworkWatch {
    /// Begins to watch. What is defined and active now is no event.
    ///
    /// # Errors
    /// A store that cannot be read, and what the kernel says.
    pub fn new(manager: &Manager, only: Option<String>) -> Result<Self> {
        let store = manager.store().networks();
        let failed = |error: io::Error| Error::io("watch", &store.layout().run, &error);
        let mut watch = Self {
            wake: Wake::new().map_err(failed)?,
            store,
            only,
            last: Look::default(),
            found: VecDeque::new(),
        };
        watch.last = watch.look()?;
        Ok(watch)
    }

    /// The next event; none when `deadline` passed.
    ///
    /// # Errors
    /// A store that cannot be read, and what the kernel says.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<Option<NetworkHappening>> {
        loop {
            if let Some(happening) = self.found.pop_front() {
                return Ok(Some(happening));
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.wake
                .wait(left.unwrap_or(LONGEST).min(LONGEST))
                .map_err(|error| Error::io("watch", &self.store.layout().run, &error))?;
            let now = self.look()?;
            self.found.extend(differences(&self.last, &now));
            self.last = now;
        }
    }

    /// Watches every folder that there is, then looks: what comes later wakes.
    fn look(&self) -> Result<Look> {
        let layout = self.store.layout();
        let records = || record::all(&layout.run).into_iter();
        let folders = records().map(|(dir, _)| dir.path().to_path_buf());
        let ours = [layout.domains.clone(), layout.run.clone()];
        for folder in ours.into_iter().chain(folders) {
            self.wake
                .also(&folder)
                .map_err(|error| Error::io("watch", &folder, &error))?;
        }
        let wanted = |name: &str| self.only.as_ref().is_none_or(|only| only == name);
        let mut defined = definitions(&self.store)?;
        defined.retain(|name, _| wanted(name));
        let active = records().filter(|(_, record)| record.phase == Phase::Active);
        let active = active.map(|(_, record)| record.name);
        Ok(Look {
            defined,
            active: active.filter(|name| wanted(name)).collect(),
        })
    }
}

/// What happened between two looks: a network is defined before it starts, and stops before it goes.
fn differences(old: &Look, now: &Look) -> Vec<NetworkHappening> {
    let one = |network: &str, detail| NetworkHappening {
        network: network.to_string(),
        detail,
    };
    let mut found = Vec::new();
    let names: BTreeSet<&String> = now.defined.keys().chain(old.defined.keys()).collect();
    for stopped in old.active.difference(&now.active) {
        found.push(one(stopped, "Stopped"));
    }
    for name in names {
        let words = became(old.defined.get(name), now.defined.get(name));
        // libvirt's word has nothing behind it here.
        let word = words.and_then(|words| words.split(' ').next());
        found.extend(word.map(|word| one(name, word)));
    }
    for started in now.active.difference(&old.active) {
        found.push(one(started, "Started"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(defined: &[(&str, u64)], active: &[&str]) -> Look {
        let marked = |(name, size): &(&str, u64)| ((*name).to_string(), Mark(1, 1, 1, *size));
        Look {
            defined: defined.iter().map(marked).collect(),
            active: active.iter().map(|name| (*name).to_string()).collect(),
        }
    }

    #[test]
    fn what_came_and_went_is_told_in_an_order_that_can_be() {
        let old = look(&[("a", 1), ("b", 1)], &["a"]);
        let now = look(&[("b", 2), ("c", 1)], &["c"]);
        let told: Vec<String> = differences(&old, &now)
            .into_iter()
            .map(|one| format!("{} {}", one.network, one.detail))
            .collect();
        assert_eq!(
            told,
            [
                "a Stopped",
                "a Undefined",
                "b Defined",
                "c Defined",
                "c Started"
            ]
        );
        assert!(differences(&now, &now).is_empty());
    }
}
