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
use crate::store::{atomic, journal};
use std::time::Duration;
use uuid::Uuid;

/// Where restarts in a row are counted, so that a new daemon goes on counting.
const ROW: &str = "restarts.json";

/// What was found of a run whose process is gone.
#[derive(Debug)]
pub(super) enum Found {
    /// It ended, and this follows.
    Ended(LastRun, Verdict),
    /// It runs.
    Runs,
    /// Nothing is known of it.
    Nothing,
}

/// Looks at an end. `record` is the run that was watched; without one the daemon was away.
///
/// # Errors
/// A store that cannot be read, or is held by a command for too long.
pub(super) fn judge(manager: &Manager, uuid: Uuid, record: Option<&RunRecord>) -> Result<Found> {
    let dir = manager.run_dir(uuid);
    let name = match (record, dir.liveness()?) {
        (Some(record), _) => record.name.clone(),
        (None, Liveness::Alive(_)) => return Ok(Found::Runs),
        (None, Liveness::Ended(last)) => last.name,
        (None, Liveness::Never) => return Ok(Found::Nothing),
    };
    // Whoever ends a guest writes down why while it has the lock.
    let _domain = manager.store().lock_domain(uuid, &name)?;
    let last = match dir.liveness()? {
        Liveness::Alive(_) => return Ok(Found::Runs),
        Liveness::Never => return Ok(Found::Nothing),
        Liveness::Ended(last) => last,
    };
    dir.tidy()?;
    cgroup::forget(&last.name);
    let Some(policy) = policy(manager, uuid)? else {
        return Ok(Found::Ended(last, Verdict::Rest));
    };
    let started = record.map(|record| record.started);
    let ended = match last.ended {
        0 => journal::seconds_now(),
        ended => ended,
    };
    let facts = Facts {
        end: last.end,
        asked: asked(manager, uuid, started),
        ran: Duration::from_secs(started.map_or(0, |started| ended.saturating_sub(started))),
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

/// Whether an operator asked for the end: a shutdown after the last start, or a run that never was
/// more than a failed start, of which whoever typed it was told.
fn asked(manager: &Manager, uuid: Uuid, started: Option<u64>) -> bool {
    let entries = journal::read(&manager.store().layout().journal(uuid)).unwrap_or_default();
    for entry in entries.iter().rev() {
        match entry.verb.as_str() {
            "shutdown" | "destroy" | "reboot" => return true,
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
