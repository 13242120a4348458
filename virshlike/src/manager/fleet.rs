//! All guests at once: those that start with the host, and all that must end with it.
//!
//! ```text
//! host boots      -> autostart_all: one after the other, in order, each with its delay
//! host goes down  -> shutdown_all: every power button at once, pressed again while time is left;
//!                    whoever still runs at the deadline is destroyed
//! ```
//!
//! Nothing here needs a daemon. One domain that fails never keeps the others from their turn.

use super::start::StartOptions;
use super::{Domain, Manager};
use crate::error::{Error, Kind, Result};
use crate::model::Autostart;
use crate::runtime::Guest;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a guest may take no notice of its power button until it is pressed again: one that was
/// just booting had nobody to notice.
const AGAIN: Duration = Duration::from_secs(15);

/// A domain that starts with the host, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The domain.
    pub domain: Domain,
    /// What its definition says; nothing, where that cannot be read.
    pub when: Autostart,
}

/// What became of a domain that starts with the host.
#[derive(Debug)]
pub enum Raised {
    /// It runs; words that may surprise.
    Started(Vec<String>),
    /// It ran before.
    Running,
    /// It could not be started.
    Failed(Error),
}

/// How a guest ended.
#[derive(Debug)]
pub enum Ended {
    /// It powered itself off.
    ByItself,
    /// It was destroyed: it did not power itself off in time.
    Destroyed,
    /// It runs on.
    Failed(Error),
}

/// One guest that was told to end.
#[derive(Debug)]
pub struct Farewell {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub how: Ended,
    /// How long that took.
    pub took: Duration,
}

impl Manager {
    /// The domains that start with the host, in their order.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn autostarted(&self) -> Result<Vec<Candidate>> {
        let mut list = Vec::new();
        for (name, uuid) in self.store.identities()? {
            if !self.store.is_autostarted(&name) {
                continue;
            }
            let domain = Domain {
                name,
                uuid,
                persistent: true,
            };
            // A definition with a mistake is told when it is started.
            let checked = self
                .stored(&domain)
                .and_then(|stored| self.checked(&stored));
            let when = checked.map_or_else(|_| Autostart::default(), |c| c.model.policy.autostart);
            list.push(Candidate { domain, when });
        }
        list.sort_by_key(|candidate| {
            let order = candidate.when.order.unwrap_or(u32::MAX);
            (order, candidate.domain.name.clone())
        });
        Ok(list)
    }

    /// Starts every domain that starts with the host and does not run, one after the other. `told`
    /// hears of each; `delay` is waited after one that was started and has none of its own.
    ///
    /// # Errors
    /// A store that cannot be read, or what `told` says.
    pub fn autostart_all(
        &self,
        delay: Duration,
        mut told: impl FnMut(&str, &Raised) -> Result<()>,
    ) -> Result<()> {
        let mut pause = Duration::ZERO;
        for candidate in self.autostarted()? {
            let name = &candidate.domain.name;
            if self.guest(&candidate.domain)?.is_some() {
                told(name, &Raised::Running)?;
                continue;
            }
            std::thread::sleep(pause);
            let raised = match self.start(&candidate.domain, StartOptions::default()) {
                Ok(started) => {
                    pause = candidate.when.delay.unwrap_or(delay);
                    Raised::Started(started.warnings)
                }
                Err(error) if error.message == "Domain is already active" => Raised::Running,
                Err(error) => {
                    pause = Duration::ZERO;
                    Raised::Failed(error)
                }
            };
            told(name, &raised)?;
        }
        Ok(())
    }

    /// Powers every running guest down, all at once, and destroys those that still run after
    /// `patience`. `told` hears of each as it ends.
    ///
    /// # Errors
    /// A runtime directory that cannot be read, or what `told` says.
    pub fn shutdown_all(
        &self,
        patience: Duration,
        mut told: impl FnMut(&Farewell) -> Result<()>,
    ) -> Result<()> {
        let guests = self.guests()?;
        let started = Instant::now();
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            for guest in &guests {
                let sender = sender.clone();
                scope.spawn(move || {
                    let how = self
                        .part_with(guest, started + patience)
                        .unwrap_or_else(Ended::Failed);
                    // The receiver only goes when there is nobody to tell.
                    let _ = sender.send(Farewell {
                        name: guest.record.name.clone(),
                        how,
                        took: started.elapsed(),
                    });
                });
            }
            drop(sender);
            let mut result = Ok(());
            for farewell in receiver {
                result = result.and(told(&farewell));
            }
            result
        })
    }

    fn part_with(&self, guest: &Guest, deadline: Instant) -> Result<Ended> {
        let domain = Domain {
            name: guest.record.name.clone(),
            uuid: guest.record.uuid,
            persistent: !guest.record.transient,
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.press(&domain);
            match self.wait_off(&domain, guest, left.min(AGAIN)) {
                Ok(()) => return Ok(Ended::ByItself),
                Err(error) if error.kind == Kind::Timeout => {}
                Err(error) => return Err(error),
            }
        }
        match self.destroy(&domain) {
            Ok(()) => Ok(Ended::Destroyed),
            // It went at the last moment.
            Err(_) if self.guest(&domain)?.is_none() => Ok(Ended::ByItself),
            Err(error) => Err(error),
        }
    }

    /// The power button; one that is paused cannot notice it and runs on for that.
    fn press(&self, domain: &Domain) {
        let Err(error) = self.shutdown(domain) else {
            return;
        };
        if error.kind == Kind::State && self.resume(domain).is_ok() {
            // What it says the second time is told by its not ending.
            let _ = self.shutdown(domain);
        }
    }
}
