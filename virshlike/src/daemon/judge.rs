//! What the daemon does to the store: tidies up after an end, decides what follows, and starts a
//! domain again, all as any other command would, under the domain's lock. Nothing here waits for
//! events; each function runs on a thread of its own.

use super::restart::{self, Facts, Row, Verdict};
use crate::error::{Kind, Result};
use crate::manager::start::StartOptions;
use crate::manager::{Domain, Manager};
use crate::model::Restart;
use crate::runtime::record::{LastRun, RunEnd};
use crate::runtime::{Liveness, RunDir, RunRecord, cgroup};
use crate::store::journal::Entry;
use crate::store::{atomic, journal};
use std::time::Duration;
use uuid::Uuid;
use vmm_api::end::EndReason;

/// Where restarts in a row are counted, so that a new daemon goes on counting.
const ROW: &str = "restarts.json";

/// Bytes at the end of a domain's journal that tell who asked for what.
const REMEMBERED: u64 = 64 << 10;
/// Seconds after an operator's word within which a guest that fails does so on the way.
const ON_THE_WAY: u64 = 600;

/// What was found of a run whose process is gone.
#[derive(Debug)]
pub(super) enum Found {
    /// It ended, and this follows.
    Ended(LastRun, Verdict),
    /// This run of it lives.
    Runs(u32),
    /// It was started again and that run has ended too; what follows is that one's matter.
    Later,
    /// Nothing is known of it.
    Nothing,
}

/// Looks at an end. `watched` is the run that was watched, and how long it ran; without one the daemon
/// was away.
///
/// # Errors
/// A store that cannot be read, or is held by a command for too long.
pub(super) fn judge(
    manager: &Manager,
    uuid: Uuid,
    watched: Option<(&RunRecord, Option<Duration>)>,
) -> Result<Found> {
    let record = watched.map(|(record, _)| record);
    let dir = manager.run_dir(uuid);
    let name = match (record, dir.liveness()?) {
        (Some(record), _) => record.name.clone(),
        (None, Liveness::Alive(now)) => return Ok(Found::Runs(now.id)),
        (None, Liveness::Ended(last)) => last.name,
        (None, Liveness::Never) => return Ok(Found::Nothing),
    };
    // Whoever ends a guest writes down why while it has the lock.
    let _domain = manager.store().lock_domain(uuid, &name)?;
    let last = match dir.liveness()? {
        Liveness::Alive(now) => return Ok(Found::Runs(now.id)),
        Liveness::Never => return Ok(Found::Nothing),
        Liveness::Ended(last) => last,
    };
    if record.is_some_and(|record| record.id != last.id) {
        return Ok(Found::Later);
    }
    dir.tidy()?;
    cgroup::forget(&last.name);
    let Some(policy) = policy(manager, uuid)? else {
        return Ok(Found::Ended(last, Verdict::Rest));
    };
    let ended = match last.ended {
        0 => journal::seconds_now(),
        ended => ended,
    };
    let path = manager.store().layout().journal(uuid);
    let entries = journal::read_last(&path, REMEMBERED).unwrap_or_default();
    let facts = Facts {
        end: last.end,
        asked: asked(
            &entries,
            record.map(|record| record.started),
            last.end,
            ended,
        ),
        // Not by the clock, which may be set meanwhile.
        ran: watched.and_then(|(_, ran)| ran).unwrap_or_default(),
        row: row(&dir),
    };
    let verdict = restart::decide(&policy, &facts);
    if let Verdict::After(_, row) = verdict {
        set_row(&dir, row)?;
    }
    Ok(Found::Ended(last, verdict))
}

/// What became of a restart.
#[derive(Debug)]
pub(super) enum Again {
    /// It runs.
    Started(String, Row),
    /// It is not wanted any more, or runs already.
    NotWanted,
    /// It failed with these words, and this follows.
    Failed(String, String, Verdict),
}

/// Starts a domain again, if its definition still says so.
///
/// # Errors
/// A store that cannot be read.
pub(super) fn start_again(manager: &Manager, uuid: Uuid) -> Result<Again> {
    let dir = manager.run_dir(uuid);
    let (Some(domain), Some(policy)) = (domain(manager, uuid)?, policy(manager, uuid)?) else {
        return Ok(Again::NotWanted);
    };
    if policy.when == crate::model::RestartWhen::No {
        return Ok(Again::NotWanted);
    }
    let row = row(&dir);
    match manager.start(&domain, StartOptions::default()) {
        Ok(_) => {
            let detail = format!("restart {} in a row", row.count);
            manager.note(uuid, "restart", &domain.name, &detail);
            Ok(Again::Started(domain.name, row))
        }
        Err(error) if error.kind == Kind::State => Ok(Again::NotWanted),
        Err(error) => {
            let verdict = restart::next(&policy, row);
            if let Verdict::After(_, row) = verdict {
                set_row(&dir, row)?;
            }
            Ok(Again::Failed(domain.name, error.to_string(), verdict))
        }
    }
}

fn domain(manager: &Manager, uuid: Uuid) -> Result<Option<Domain>> {
    let name = manager.store().name_of(uuid)?;
    Ok(name.map(|name| Domain {
        name,
        uuid,
        persistent: true,
    }))
}

/// The policy of a domain that has a definition which can be read.
fn policy(manager: &Manager, uuid: Uuid) -> Result<Option<Restart>> {
    let Some(domain) = domain(manager, uuid)? else {
        return Ok(None);
    };
    let checked = manager
        .stored(&domain)
        .and_then(|stored| manager.checked(&stored));
    match checked {
        Ok(checked) => Ok(Some(restart::policy(&checked.model))),
        Err(error) => {
            tracing::warn!("domain '{}': no restart policy: {error}", domain.name);
            Ok(None)
        }
    }
}

/// Whether an operator asked for the end, by what the domain's journal says last: a shutdown after the
/// last start, or a run that never was more than a failed start, of which whoever typed it was told.
/// A guest that goes on after it was asked to reboot or shut down, and fails much later, does so by
/// itself. Times are in seconds since the Unix epoch.
fn asked(entries: &[Entry], started: Option<u64>, end: RunEnd, ended: u64) -> bool {
    let soon = |entry: &Entry| entry.time.saturating_add(ON_THE_WAY) >= ended;
    for entry in entries.iter().rev() {
        match entry.verb.as_str() {
            "destroy" => return true,
            // Its guest may take its time over it.
            "shutdown" if end == RunEnd::Said(EndReason::Shutdown) || soon(entry) => return true,
            "reboot" if soon(entry) => return true,
            "start" | "create" => return started.is_some_and(|started| entry.time < started),
            _ => {}
        }
    }
    started.is_some()
}

fn row(dir: &RunDir) -> Row {
    let text = std::fs::read(dir.path().join(ROW)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn set_row(dir: &RunDir, row: Row) -> Result<()> {
    let text = serde_json::to_vec(&row).unwrap_or_default();
    atomic::write_volatile(&dir.path().join(ROW), &text)
}

/// Whether a run ended as nobody wished.
pub(super) fn failed(last: &LastRun) -> bool {
    matches!(
        last.end,
        RunEnd::Vanished | RunEnd::Said(EndReason::Crashed | EndReason::Failed)
    )
}

/// Words for how a run ended.
pub(super) fn words(last: &LastRun) -> String {
    let end = match last.end {
        RunEnd::Vanished => "its process was gone without a word",
        RunEnd::Said(reason) => reason.as_str(),
    };
    match last.detail.as_str() {
        "" => end.to_string(),
        detail => format!("{end}: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHUTDOWN: RunEnd = RunEnd::Said(EndReason::Shutdown);

    fn entry(verb: &str, time: u64) -> Entry {
        Entry {
            time,
            ..Entry::now(verb, "a", "")
        }
    }

    #[test]
    fn an_operators_word_counts_on_the_way_and_not_for_ever() {
        let run = |verb, at, end, ended| {
            let entries = [entry("start", 1000), entry(verb, at), entry("pin", at)];
            asked(&entries, Some(999), end, ended)
        };
        let month = 30 * 24 * 3600;
        for end in [RunEnd::Vanished, SHUTDOWN] {
            assert!(run("destroy", 2000, end, 2000 + month));
            assert!(run("reboot", 2000, end, 2005));
            assert!(!run("reboot", 2000, end, 2000 + month));
            assert!(run("shutdown", 2000, end, 2100));
            assert!(!run("suspend", 2000, end, 2001));
        }
        // It took its time, or it took no notice and fell over later.
        assert!(run("shutdown", 2000, SHUTDOWN, 2000 + month));
        assert!(!run("shutdown", 2000, RunEnd::Vanished, 2000 + month));
        // A clock that was set back in between.
        assert!(run("shutdown", 2000, RunEnd::Vanished, 500));
    }

    #[test]
    fn a_start_that_failed_was_told_to_whoever_typed_it() {
        let before = [
            entry("start", 1000),
            entry("destroy", 1500),
            entry("start", 1600),
        ];
        assert!(asked(&before, Some(1700), RunEnd::Vanished, 1701));
        assert!(!asked(&before, Some(1599), RunEnd::Vanished, 1701));
        assert!(!asked(&before, None, RunEnd::Vanished, 1701));
        assert!(asked(&[], Some(5), RunEnd::Vanished, 6));
    }
}
