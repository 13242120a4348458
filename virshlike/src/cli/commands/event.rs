//! `vm event`: what happens to domains, as it happens.
//!
//! A `vm daemon` tells all of it, as it happens. Where none runs, running guests tell of themselves,
//! one connection each; that one was started, defined, changed or removed is seen in the store and in
//! the runtime directories, which are looked at every [`TICK`]. Nothing is missed that lasts longer
//! than that.

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::watch::{Happening, Type, Watch};
use crate::system::interrupt::Interrupt;
use serde::Serialize;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often the store and the runtime directories are looked at.
const TICK: Duration = Duration::from_millis(200);

/// Wait for what happens to domains, and print it
///
/// Without --loop it ends after the first event. Exit 1 when none came.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct Event {
    /// The domain: name, id or UUID; all of them when absent
    domain: Option<String>,
    /// Only events of this type; --list shows the types
    #[arg(long, value_name = "TYPE")]
    event: Option<Type>,
    /// Events of every type; so it is anyway without --event
    #[arg(long, conflicts_with = "event")]
    all: bool,
    /// Go on until Ctrl+C or --timeout
    #[arg(long = "loop")]
    repeat: bool,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Print the types of events, and end
    #[arg(long)]
    list: bool,
    /// Print when it happened
    #[arg(long)]
    timestamp: bool,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    domain: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<uuid::Uuid>,
    event: &'static str,
    detail: &'a str,
}

impl Verb for Event {
    const NAME: &'static str = "event";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        self.run_with_code(context).map(|_| ())
    }

    fn run_with_code(self, context: &Context) -> Result<ExitCode> {
        if self.list {
            let mut kinds = Type::ALL.into_iter().map(Type::as_str);
            match context.ui.is_json() {
                true => context.ui.json(&Type::ALL.map(Type::as_str))?,
                false => kinds.try_for_each(|kind| context.ui.line(kind))?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        let manager = context.manager()?;
        let domain = self.domain.as_ref().map(|word| context.domain(word));
        let domain = domain.transpose()?;
        let interrupt = interrupt()?;
        let (sender, receiver) = mpsc::channel();
        let mut watch = Watch::new(manager, domain, sender)?;
        let deadline = self.timeout.map(Duration::from_secs);
        let deadline = deadline.and_then(|most| Instant::now().checked_add(most));
        let mut count = 0;
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) || interrupt.came() {
                break;
            }
            match receiver.recv_timeout(left.unwrap_or(TICK).min(TICK)) {
                Ok(happening) => {
                    if self.event.is_some_and(|wanted| wanted != happening.kind) {
                        continue;
                    }
                    self.print(context, &happening)?;
                    count += 1;
                    if !self.repeat {
                        return through(context, None, count);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if watch.look()? {
                        context.ui.warn(
                            "the daemon that told of events has ended; what happened meanwhile is not known",
                        );
                    }
                }
                // The watch has a sender of its own.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        through(context, Some(&interrupt), count)
    }
}

/// Hears Ctrl+C from here on.
pub fn interrupt() -> Result<Interrupt> {
    Interrupt::hear()
        .map_err(|error| Error::new(Kind::Host, "cannot wait for signals").cause(error.to_string()))
}

/// virsh's last words and exit code: whoever waited for an event in vain has failed. `cut` is there
/// where the wait was cut short, by Ctrl+C or else by its deadline.
pub fn through(context: &Context, cut: Option<&Interrupt>, count: u64) -> Result<ExitCode> {
    match cut.map(Interrupt::came) {
        Some(true) => context.ui.sentence("event loop interrupted")?,
        Some(false) => context.ui.sentence("event loop timed out")?,
        None => {}
    }
    context.ui.sentence(format!("events received: {count}"))?;
    Ok(match count {
        0 => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

/// The time of day, as virsh prints it.
pub fn stamp() -> String {
    let now = jiff::Zoned::now();
    now.strftime("%Y-%m-%d %H:%M:%S%.3f%z").to_string()
}

impl Event {
    fn print(&self, context: &Context, happening: &Happening) -> Result<()> {
        let time = stamp();
        let Happening {
            domain,
            kind,
            detail,
            uuid,
        } = happening;
        if context.ui.is_json() {
            let line = Line {
                time,
                domain,
                uuid: *uuid,
                event: kind.as_str(),
                detail,
            };
            return context.ui.json_line(&line);
        }
        let stamp = match self.timestamp {
            true => format!("{time}: "),
            false => String::new(),
        };
        let detail = match detail.is_empty() {
            true => String::new(),
            false => format!(": {detail}"),
        };
        context.ui.line(format!(
            "{stamp}event '{}' for domain '{domain}'{detail}",
            kind.as_str()
        ))
    }
}
