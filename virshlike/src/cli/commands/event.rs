//! `vm event`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use vmm_api::control::Event as Happened;

/// Wait for what happens to a running domain, and print it
///
/// Without --loop it ends after the first event.
#[derive(Debug, clap::Args)]
pub struct Event {
    /// The domain: name, id or UUID; every running one when absent
    domain: Option<String>,
    /// Go on until the domain ends or Ctrl+C
    #[arg(long = "loop")]
    repeat: bool,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Print when it happened
    #[arg(long)]
    timestamp: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    time: String,
    domain: String,
    #[serde(flatten)]
    event: Happened,
}

impl Verb for Event {
    const NAME: &'static str = "event";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let guests = match &self.domain {
            Some(word) => vec![manager.running(&context.domain(word)?)?],
            None => manager.guests()?,
        };
        if guests.is_empty() {
            return Err(Error::new(Kind::State, "no domain is running").hint("vm list --all"));
        }
        let (sender, receiver) = mpsc::channel();
        for guest in guests {
            let sender = sender.clone();
            // One thread per guest; they end with the process or with their guest.
            std::thread::spawn(move || {
                let name = guest.record.name.clone();
                let result = guest.events(|event| sender.send(Ok((name.clone(), event))).is_ok());
                if let Err(error) = result {
                    // Nobody listens any more when this fails.
                    let _ = sender.send(Err(error));
                }
            });
        }
        drop(sender);
        let deadline = self
            .timeout
            .map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut count = 0;
        loop {
            let next = match deadline {
                Some(deadline) => {
                    receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()))
                }
                None => receiver
                    .recv()
                    .map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(Ok((domain, event))) => {
                    self.print(context, domain, event)?;
                    count += 1;
                }
                Ok(Err(error)) => return Err(error),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    context.ui.sentence("event loop timed out")?;
                    break;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if !self.repeat {
                break;
            }
        }
        context.ui.sentence(format!("events received: {count}"))
    }
}

impl Event {
    fn print(&self, context: &Context, domain: String, event: Happened) -> Result<()> {
        let time = jiff::Zoned::now()
            .strftime("%Y-%m-%d %H:%M:%S%.3f%z")
            .to_string();
        if context.ui.is_json() {
            let line = Line {
                time,
                domain,
                event,
            };
            let text = serde_json::to_string(&line)
                .map_err(|error| Error::new(Kind::Io, error.to_string()))?;
            return context.ui.line(text);
        }
        let stamp = if self.timestamp {
            format!("{time}: ")
        } else {
            String::new()
        };
        context.ui.line(format!(
            "{stamp}event for domain '{domain}': {}",
            describe(&event)
        ))
    }
}

fn describe(event: &Happened) -> String {
    let with = |words: String, detail: &str| {
        if detail.is_empty() {
            words
        } else {
            format!("{words}: {detail}")
        }
    };
    match event {
        Happened::Running => "Resumed".into(),
        Happened::Paused { reason, detail } => {
            with(format!("Suspended ({})", reason.as_str()), detail)
        }
        Happened::Reset => "Reset".into(),
        Happened::Powerdown => "Power button pressed".into(),
        Happened::Stopped { reason, detail } => {
            with(format!("Stopped ({})", reason.as_str()), detail)
        }
        Happened::Job { job, done, total } => format!("Job {}: {done} of {total}", job.as_str()),
        Happened::Unknown => "an event of a newer build".into(),
    }
}
