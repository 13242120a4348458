//! `vm net-event`: what happens to networks, as it happens.

use super::event::{interrupt, stamp, through};
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::watch::networks::{Lifecycle, NetworkHappening, NetworkWatch};
use serde::Serialize;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Wait for what happens to networks, and print it
///
/// Without --loop it ends after the first event. Exit 1 when none came.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct NetEvent {
    /// The network: name or UUID; all of them when absent
    network: Option<String>,
    /// Only events of this type; --list shows the types
    #[arg(long, value_name = "TYPE")]
    event: Option<Lifecycle>,
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
    network: &'a str,
    event: &'static str,
    detail: &'static str,
}

impl Verb for NetEvent {
    const NAME: &'static str = "net-event";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        self.run_with_code(context).map(|_| ())
    }

    fn run_with_code(self, context: &Context) -> Result<ExitCode> {
        if self.list {
            match context.ui.is_json() {
                true => context.ui.json(&[Lifecycle::NAME])?,
                false => context.ui.line(Lifecycle::NAME)?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        let manager = context.manager()?;
        let only = self
            .network
            .as_ref()
            .map(|word| manager.networks().find(word));
        let only = only.transpose()?.map(|found| found.name);
        let interrupt = interrupt()?;
        let mut watch = NetworkWatch::new(manager, only)?;
        let deadline = self.timeout.map(Duration::from_secs);
        let deadline = deadline.and_then(|most| Instant::now().checked_add(most));
        let mut count = 0;
        while let Some(happening) = watch.next(deadline, interrupt.as_fd())? {
            self.print(context, &happening)?;
            count += 1;
            if !self.repeat {
                return through(context, None, count);
            }
        }
        through(context, Some(&interrupt), count)
    }
}

impl NetEvent {
    fn print(&self, context: &Context, happening: &NetworkHappening) -> Result<()> {
        let NetworkHappening { network, detail } = happening;
        let (network, event) = (network.as_str(), Lifecycle::NAME);
        if context.ui.is_json() {
            return context.ui.json_line(&Line {
                time: stamp(),
                network,
                event,
                detail,
            });
        }
        let stamp = match self.timestamp {
            true => format!("{}: ", stamp()),
            false => String::new(),
        };
        context.ui.line(format!(
            "{stamp}event '{event}' for network '{network}': {detail}"
        ))
    }
}
