//! A passt in the place of one that ended while its guest runs on.
//!
//! ```text
//! card-lost --delay--> started and connected: card-reconnected
//!               ^      | it does not serve: card-reconnect-failed
//!               +------+ the delay doubles, up to a minute; a minute without a loss begins anew
//! ```
//!
//! Must never touch a card that has its passt, nor wait on the daemon's one thread.

use super::{Daemon, Message};
use crate::error::{Kind, Result};
use crate::manager::Domain;
use crate::runtime::RunRecord;
use crate::system::journald::Priority;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The longest delay, and how long a passt has to serve to have been a good one.
const LONG: Duration = Duration::from_secs(60);
/// The delay after the second loss in a row; there is none after the first.
const SHORT: Duration = Duration::from_secs(1);

/// Losses in a row of one guest.
#[derive(Debug, Clone, Copy)]
struct Row {
    count: u32,
    last: Instant,
    /// An attempt is under way or waits: it looks at all cards.
    busy: bool,
    /// There was a loss meanwhile, which that attempt may have looked too early for.
    again: bool,
}

/// Guests whose cards lose their passt.
#[derive(Debug, Default)]
pub(super) struct Lost(HashMap<Uuid, Row>);

impl Lost {
    /// When to try, from `now` on; `None` when an attempt is under way already.
    fn next(&mut self, uuid: Uuid, now: Instant) -> Option<Duration> {
        let row = self.0.entry(uuid).or_insert(Row {
            count: 0,
            last: now,
            busy: false,
            again: false,
        });
        if row.busy {
            row.again = true;
            return None;
        }
        if now.saturating_duration_since(row.last) > LONG + delay(row.count) {
            row.count = 0;
        }
        let wait = delay(row.count);
        row.count = row.count.saturating_add(1);
        row.last = now;
        row.busy = true;
        Some(wait)
    }

    /// Whether there was a loss while the attempt that has ended was under way.
    fn ended(&mut self, uuid: Uuid) -> bool {
        self.0.get_mut(&uuid).is_some_and(|row| {
            row.busy = false;
            std::mem::take(&mut row.again)
        })
    }

    /// Its process is gone.
    pub(super) fn forget(&mut self, uuid: Uuid) {
        self.0.remove(&uuid);
    }
}

fn delay(count: u32) -> Duration {
    match count {
        0 => Duration::ZERO,
        more => SHORT.saturating_mul(1 << (more - 1).min(10)).min(LONG),
    }
}

impl Daemon {
    /// Sees to the cards of a guest that may have lost their passt.
    pub(super) fn reconnect(&mut self, record: &RunRecord) {
        let Some(wait) = self.lost.next(record.uuid, Instant::now()) else {
            return;
        };
        let (manager, sender) = (Arc::clone(&self.manager), self.sender.clone());
        let record = record.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let mut domain = Domain {
                name: record.name.clone(),
                uuid: record.uuid,
                persistent: !record.transient,
            };
            let work = move || {
                // It may have another name by now.
                if let Some(name) = manager.store().name_of(domain.uuid)? {
                    domain.name = name;
                }
                manager.reconnect_cards(&domain, None)
            };
            if let Ok(result) = tokio::task::spawn_blocking(work).await {
                let _ = sender.send(Message::Reconnected(record, result)).await;
            }
        });
    }

    /// What came of it.
    pub(super) fn reconnected(&mut self, record: &RunRecord, result: Result<Vec<String>>) {
        let (name, uuid) = (record.name.as_str(), record.uuid);
        // What is kept of losses is then another run's, or forgotten.
        if self.watched.get(&uuid) != Some(&record.id) {
            return;
        }
        let lost_again = self.lost.ended(uuid);
        match result {
            Ok(cards) => {
                for card in cards {
                    self.tell(name, uuid, "card-reconnected", &card, Priority::Info);
                }
                if lost_again {
                    self.reconnect(record);
                }
            }
            // It has ended meanwhile, or has no such card.
            Err(error) if matches!(error.kind, Kind::State | Kind::NotFound) => {}
            Err(error) => {
                let why = error.to_string();
                self.tell(name, uuid, "card-reconnect-failed", &why, Priority::Warning);
                self.reconnect(record);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_in_a_row_wait_longer_and_a_good_while_begins_anew() {
        let (mut lost, uuid, start) = (Lost::default(), Uuid::new_v4(), Instant::now());
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..9 {
            let wait = lost.next(uuid, now).expect("nothing is under way");
            assert_eq!(lost.next(uuid, now), None, "one attempt at a time");
            assert!(lost.ended(uuid), "the loss meanwhile is not forgotten");
            assert!(!lost.ended(uuid), "nor seen to twice");
            waits.push(wait.as_secs());
            now += wait + Duration::from_secs(1);
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        now += LONG * 3;
        assert_eq!(lost.next(uuid, now), Some(Duration::ZERO));
        lost.forget(uuid);
        assert_eq!(lost.next(uuid, now), Some(Duration::ZERO));
    }
}
