//! `vm daemon`: watches guests, notes what happens to them, and starts those again whose policy says
//! so. Optional: everything else works without it.
//!
//! ```text
//! kernel: a record was written --> changes --> look --> guest: its process and its events
//!                                                          | gone
//!                             restart: after a delay <-- judge: tidy, decide
//! guest: a card's passt has ended --> reconnect: starts another one, after growing delays
//! every change --> the host's journal (VM_NAME, VM_UUID, VM_ACTION, VM_UID) and run/daemon/events
//! a definition was written --> definitions --> run/daemon/events, for `vm event`
//! ```
//!
//! One thread, and others only while the store is worked on. All state is the store's: a daemon
//! that is killed leaves nothing undone, a new one finds every guest by its run lock. It takes no
//! lock that a command needs for longer than a command would, and it must never end a guest.
//!
//! - [`restart`]: whether and when, as a pure function;
//! - `reconnect`: a passt in the place of one that ended;
//! - `judge`: what it does to the store; `changes`, `definitions`, `guest`: what it hears; `fanout`: who
//!   hears it; `limit`: how much of it the host's journal gets.

mod changes;
mod definitions;
mod fanout;
mod guest;
mod judge;
mod limit;
mod reconnect;
pub mod restart;

use crate::error::{Error, Kind, Result};
use crate::manager::Manager;
use crate::manager::watch::heard::Told;
use crate::manager::watch::{self, Happening};
use crate::runtime::record::RunEnd;
use crate::runtime::{Guest, Liveness, RunRecord};
use crate::spawn;
use crate::store::{atomic, journal};
use crate::system::journald::{Change, Priority};
use crate::system::notify::notify;
use changes::Changes;
use definitions::Definitions;
use fanout::Fanout;
use guest::Ending;
use judge::{Again, Found};
use limit::Limits;
use reconnect::Lost;
use restart::Verdict;
use serde::Serialize;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::AbortHandle;
use uuid::Uuid;
use vmm_api::control::Event;
use vmm_api::end::EndReason;

/// What happened to a domain, for whoever listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// Seconds since the Unix epoch.
    pub time: u64,
    /// The domain's name.
    pub domain: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// One word: started, paused, resumed, reset, powerdown, stopped, restarting, restarted,
    /// restart-failed, given-up, card-lost, card-reconnected, card-reconnect-failed.
    pub action: &'static str,
    /// More, or empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// What the daemon's parts tell its middle.
enum Message {
    /// The events of a guest are heard, and whether it was just started.
    Heard(RunRecord, bool),
    Event(RunRecord, Event),
    /// It is gone, or nothing can be heard of it.
    Gone(RunRecord, Ending),
    /// To be judged once more.
    Judge(Uuid, (RunRecord, Ending)),
    Judged(Uuid, Option<(RunRecord, Ending)>, Result<Found>),
    Again(Uuid, Result<Again>),
    /// A delay is over: look once more at this run.
    Look(Uuid, u32),
    /// Cards have another passt, or not.
    Reconnected(RunRecord, Result<Vec<String>>),
}

/// Why a domain's runtime directory is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The daemon begins, or has missed something.
    Begin,
    /// It changed.
    Change,
    /// This run could not be heard.
    Again(u32),
}

/// How long a domain that a command holds is left alone before it is looked at once more.
const HELD: Duration = Duration::from_secs(10);
/// Threads that work on the store at the same time.
const WORKERS: usize = 32;
/// Files that are enough for any host's guests.
const DESCRIPTORS: u64 = 65_536;

/// The folder of a daemon's own files.
const FOLDER: &str = "daemon";

/// Watches until it is told to end by SIGTERM or SIGINT. `told` hears of every change.
///
/// # Errors
/// Another daemon watches this store, or the store cannot be watched.
pub fn run(manager: Manager, told: Box<dyn Fn(&Notice)>) -> Result<()> {
    let layout = manager.store().layout().clone();
    let folder = layout.run.join(FOLDER);
    atomic::create_dir(&layout.run, 0o755)?;
    atomic::create_dir(&folder, 0o700)?;
    let _lock = only_one(&folder.join("lock"))?;
    let failed = |what: &str, error: &std::io::Error| {
        Error::new(Kind::Host, format!("the daemon cannot {what}")).cause(error.to_string())
    };
    allow_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(WORKERS)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .map_err(|error| failed("start", &error))?;
    runtime.block_on(async {
        let (sender, receiver) = channel(64);
        let events = folder.join("events");
        let fanout =
            Fanout::at(&events).map_err(|error| Error::io("listen at", &events, &error))?;
        let manager = Arc::new(manager);
        let mut daemon = Daemon {
            changes: Changes::below(&layout.run)?,
            definitions: Definitions::of(Arc::clone(&manager))?,
            manager,
            fanout: Arc::new(fanout),
            told,
            sender,
            watched: HashMap::new(),
            pending: HashMap::new(),
            lost: Lost::default(),
            limits: Limits::default(),
        };
        let mut end = [SignalKind::terminate(), SignalKind::interrupt()]
            .map(|kind| signal(kind).map_err(|error| failed("hear signals", &error)))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let [terminate, interrupt] = end.as_mut_slice() else {
            return Ok(());
        };
        let tidy = Arc::clone(&daemon.manager);
        tokio::task::spawn_blocking(move || tidy.sweep_cores());
        daemon.adopt()?;
        notify(&format!("READY=1\n{}", daemon.status()));
        tokio::select! {
            result = daemon.watch(receiver) => result,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    })?;
    notify("STOPPING=1");
    Ok(())
}

/// Lets this process open as many files as its host allows it, within reason: each guest takes
/// [`three`](guest), and services begin with 1024.
fn allow_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(DESCRIPTORS);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        // Fewer guests can be heard without it.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// The lock that says that a store has a daemon.
fn only_one(path: &std::path::Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::io("open the lock", path, &error))?;
    let taken = spawn::take_lock(&file).map_err(|error| Error::io("lock", path, &error))?;
    if taken {
        return Ok(file);
    }
    Err(
        Error::new(Kind::Busy, "another daemon watches this store already")
            .cause(format!("it holds {}", path.display())),
    )
}

struct Daemon {
    manager: Arc<Manager>,
    changes: Changes,
    definitions: Definitions,
    fanout: Arc<Fanout>,
    told: Box<dyn Fn(&Notice)>,
    sender: Sender<Message>,
    /// Ids of the runs that are watched.
    watched: HashMap<Uuid, u32>,
    /// Restarts that wait for their time.
    pending: HashMap<Uuid, AbortHandle>,
    /// Guests whose cards lose their passt.
    lost: Lost,
    /// What guests may write into the host's journal.
    limits: Limits,
}

impl Daemon {
    /// Finds what runs, and what ended while no daemon was there.
    fn adopt(&mut self) -> Result<()> {
        for uuid in self.changes.all()? {
            self.look(uuid, Why::Begin);
        }
        Ok(())
    }

    async fn watch(&mut self, mut receiver: Receiver<Message>) -> Result<()> {
        let fanout = Arc::clone(&self.fanout);
        tokio::spawn(async move { fanout.serve().await });
        loop {
            let before = (self.watched.len(), self.pending.len());
            tokio::select! {
                changed = self.changes.next() => match changed? {
                    Some(domains) => domains.into_iter().for_each(|uuid| self.look(uuid, Why::Change)),
                    None => self.adopt()?,
                },
                redefined = self.definitions.next() => {
                    for (name, words) in redefined? {
                        self.tell_happening(None, Happening::redefined(&name, words));
                    }
                }
                // This holds a sender itself, so it never closes.
                Some(message) = receiver.recv() => self.hear(message),
            }
            if before != (self.watched.len(), self.pending.len()) {
                notify(&self.status());
            }
        }
    }

    fn status(&self) -> String {
        let (guests, restarts) = (self.watched.len(), self.pending.len());
        format!("STATUS=watching {guests} guests, {restarts} restarts to come")
    }

    /// Looks at a domain's runtime directory.
    fn look(&mut self, uuid: Uuid, why: Why) {
        let dir = self.manager.run_dir(uuid);
        match dir.liveness() {
            // A record without a process is written anew in a moment.
            Ok(Liveness::Alive(record)) if record.process.is_some() => {
                if self.watched.insert(uuid, record.id) == Some(record.id) {
                    return;
                }
                self.cancel(uuid);
                let how = match why {
                    Why::Begin => "it ran before the daemon",
                    _ => "",
                };
                if why != Why::Again(record.id) {
                    self.tell(&record.name, uuid, "started", how, Priority::Info);
                }
                let guest = Guest::new(*record, dir);
                let new = why == Why::Change;
                tokio::spawn(guest::watch(guest, new, self.sender.clone()));
            }
            Ok(Liveness::Ended(_)) if why == Why::Begin => self.judge(uuid, None),
            Ok(Liveness::Ended(last)) => {
                // It was through before anybody looked.
                let fresh = dir.record().filter(|record| record.process.is_some());
                let Some(record) = fresh else { return };
                // Of a start that failed whoever started it is told.
                let failed = last.end == RunEnd::Said(EndReason::Failed);
                if failed || self.watched.get(&uuid) == Some(&record.id) {
                    return;
                }
                self.tell(&record.name, uuid, "started", "", Priority::Info);
                self.tell_happening(Some(uuid), Happening::started(&record.name));
                let ending = Ending::of(&Guest::new(record.clone(), dir));
                self.hear(Message::Gone(record, ending));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Heard(record, new) => {
                if new {
                    let started = Happening::started(&record.name);
                    self.tell_happening(Some(record.uuid), started);
                }
                // What was lost before anybody listened.
                if !record.helpers.is_empty() && self.watched.get(&record.uuid) == Some(&record.id)
                {
                    self.reconnect(&record);
                }
            }
            Message::Event(record, event) => self.event(&record, &event),
            Message::Gone(record, mut ending) => {
                // At once where it is known; else whoever ended it may be writing it down now.
                let end = ending.untold();
                self.tell_end(&record, end);
                if self.watched.get(&record.uuid) == Some(&record.id) {
                    self.watched.remove(&record.uuid);
                    self.lost.forget(record.uuid);
                    self.limits.forget(record.uuid);
                }
                self.judge(record.uuid, Some((record, ending)));
            }
            Message::Judge(uuid, watched) => self.judge(uuid, Some(watched)),
            Message::Judged(uuid, watched, found) => self.judged(uuid, watched, found),
            Message::Again(uuid, again) => self.again(uuid, again),
            Message::Look(uuid, id) => self.look(uuid, Why::Again(id)),
            Message::Reconnected(record, result) => self.reconnected(&record, result),
        }
    }

    /// Tells of an end that its guest told nobody of.
    fn tell_end(&self, record: &RunRecord, end: Option<(RunEnd, String)>) {
        if let Some((end, detail)) = end {
            let stopped = Happening::stopped(&record.name, end, &detail);
            self.tell_happening(Some(record.uuid), stopped);
        }
    }

    fn event(&mut self, record: &RunRecord, event: &Event) {
        for happening in watch::of_event(&record.name, event) {
            self.tell_happening(Some(record.uuid), happening);
        }
        let (action, detail) = match event {
            Event::Running => ("resumed", String::new()),
            Event::Paused { reason, detail } if detail.is_empty() => {
                ("paused", reason.as_str().to_string())
            }
            Event::Paused { reason, detail } => {
                ("paused", format!("{}: {detail}", reason.as_str()))
            }
            Event::Reset => ("reset", String::new()),
            Event::Powerdown => ("powerdown", String::new()),
            Event::CardLost { device } => {
                self.tell(
                    &record.name,
                    record.uuid,
                    "card-lost",
                    device,
                    Priority::Warning,
                );
                return self.reconnect(record);
            }
            // Its end is told once, with what is known afterwards.
            Event::Stopped { .. } | Event::Job { .. } | Event::Unknown => return,
        };
        let (name, uuid) = (&record.name, record.uuid);
        match self.limits.ask(uuid, action, Instant::now()) {
            None => self.tell_listeners(name, uuid, action, &detail),
            Some(0) => self.tell(name, uuid, action, &detail, Priority::Info),
            Some(left_out) => {
                let before = format!("{left_out} like this were left out before");
                let detail = match detail.as_str() {
                    "" => before,
                    _ => format!("{detail}; {before}"),
                };
                self.tell(name, uuid, action, &detail, Priority::Info);
            }
        }
    }

    fn judge(&self, uuid: Uuid, watched: Option<(RunRecord, Ending)>) {
        let (manager, sender) = (Arc::clone(&self.manager), self.sender.clone());
        tokio::spawn(async move {
            let known = watched.as_ref();
            let known = known.map(|(record, ending)| (record.clone(), ending.ran));
            let work = move || {
                let known = known.as_ref().map(|(record, ran)| (record, *ran));
                judge::judge(&manager, uuid, known)
            };
            if let Ok(found) = tokio::task::spawn_blocking(work).await {
                let _ = sender.send(Message::Judged(uuid, watched, found)).await;
            }
        });
    }

    fn judged(&mut self, uuid: Uuid, watched: Option<(RunRecord, Ending)>, found: Result<Found>) {
        if let Some((record, mut ending)) = watched {
            let kept = match &found {
                // Its connection broke before its end.
                Ok(Found::Runs(id)) if *id == record.id => return self.look_later(uuid, *id),
                Ok(Found::Ended(last, _)) => Some((last.end, last.detail.clone())),
                // A command holds the domain for long; what follows is still to be found out.
                Err(error) if error.kind == Kind::Timeout => {
                    tracing::warn!("{error}");
                    return self.judge_later(uuid, (record, ending));
                }
                _ => None,
            };
            let end = ending.untold_at_last(kept);
            self.tell_end(&record, end);
            self.note_end(&record, &found);
        }
        match found {
            Ok(Found::Ended(last, verdict)) => self.follow(uuid, &last.name, verdict),
            // It was started again.
            Ok(Found::Runs(_)) => self.look(uuid, Why::Change),
            // A domain without a definition leaves nothing behind.
            Ok(Found::Nothing | Found::Later) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Tells of the end of a run that was watched, with what was found of it.
    fn note_end(&self, record: &RunRecord, found: &Result<Found>) {
        let (words, priority) = match found {
            Ok(Found::Ended(last, verdict)) => (
                judge::words(last),
                match (verdict, judge::failed(last)) {
                    (Verdict::Rest, false) => Priority::Info,
                    _ => Priority::Warning,
                },
            ),
            Ok(_) => (String::new(), Priority::Info),
            // It is not known whether it ended.
            Err(_) => return,
        };
        self.tell(&record.name, record.uuid, "stopped", &words, priority);
    }

    fn look_later(&self, uuid: Uuid, id: u32) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _ = sender.send(Message::Look(uuid, id)).await;
        });
    }

    fn judge_later(&self, uuid: Uuid, watched: (RunRecord, Ending)) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(HELD).await;
            let _ = sender.send(Message::Judge(uuid, watched)).await;
        });
    }

    /// What follows an end.
    fn follow(&mut self, uuid: Uuid, name: &str, verdict: Verdict) {
        match verdict {
            // A restart that waits stays: this may be one that failed, and is tried again.
            Verdict::Rest => {}
            Verdict::After(delay, row) => {
                self.cancel(uuid);
                let detail = format!("in {} s, {} in a row", delay.as_secs(), row.count);
                self.tell(name, uuid, "restarting", &detail, Priority::Info);
                let (manager, sender) = (Arc::clone(&self.manager), self.sender.clone());
                let waiting = tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    // On its own from here: a start is never cut off in the middle.
                    tokio::spawn(async move {
                        let work = move || judge::start_again(&manager, uuid);
                        if let Ok(again) = tokio::task::spawn_blocking(work).await {
                            let _ = sender.send(Message::Again(uuid, again)).await;
                        }
                    });
                });
                self.pending.insert(uuid, waiting.abort_handle());
            }
            Verdict::GiveUp(count) => {
                self.cancel(uuid);
                let detail = format!("after {count} restarts in a row: vm start {name}");
                self.tell(name, uuid, "given-up", &detail, Priority::Error);
            }
        }
    }

    fn again(&mut self, uuid: Uuid, again: Result<Again>) {
        self.pending.remove(&uuid);
        match again {
            Ok(Again::Started(name, row)) => {
                let detail = format!("{} in a row", row.count);
                self.tell(&name, uuid, "restarted", &detail, Priority::Info);
            }
            Ok(Again::NotWanted) => {}
            Ok(Again::Failed(name, why, verdict)) => {
                self.tell(&name, uuid, "restart-failed", &why, Priority::Warning);
                self.follow(uuid, &name, verdict);
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }

    fn cancel(&mut self, uuid: Uuid) {
        if let Some(waiting) = self.pending.remove(&uuid) {
            waiting.abort();
        }
    }

    /// Tells whoever runs `vm event`.
    fn tell_happening(&self, uuid: Option<Uuid>, happening: Happening) {
        self.fanout.tell_happening(&Told {
            time: journal::seconds_now(),
            uuid,
            happening,
        });
    }

    fn tell(&self, name: &str, uuid: Uuid, action: &'static str, detail: &str, how: Priority) {
        self.manager.tell_host(&Change {
            name,
            uuid,
            action,
            uid: rustix::process::getuid().as_raw(),
            detail,
            priority: how,
        });
        self.tell_listeners(name, uuid, action, detail);
    }

    /// Tells whoever follows the daemon, but not the host's journal.
    fn tell_listeners(&self, name: &str, uuid: Uuid, action: &'static str, detail: &str) {
        let notice = Notice {
            time: journal::seconds_now(),
            domain: name.to_string(),
            uuid,
            action,
            detail: detail.to_string(),
        };
        self.fanout.tell(&notice);
        (self.told)(&notice);
    }
}

/// Whether a read has nothing for now.
fn blocked(error: rustix::io::Errno) -> bool {
    error == rustix::io::Errno::WOULDBLOCK
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Resource, getrlimit};

    #[test]
    fn a_daemon_may_open_what_its_host_allows() {
        allow_descriptors();
        let limit = getrlimit(Resource::Nofile);
        let allowed = limit.maximum.unwrap_or(u64::MAX).min(DESCRIPTORS);
        assert!(limit.current.is_none_or(|current| current >= allowed));
    }
}
