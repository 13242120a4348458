//! `vm iothreadinfo`

use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::node::format_list;
use crate::runtime::threads::{allowed, iothreads_of};
use serde::Serialize;

/// Print the iothreads of a domain and the processors that they may run on
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct Iothreadinfo {
    /// The domain: name, id or UUID
    domain: String,
    /// The definition, also of a running domain
    #[arg(long)]
    config: bool,
    /// The running domain
    #[arg(long, conflicts_with = "config")]
    live: bool,
    /// The one that counts now, as without any of these
    #[arg(long, conflicts_with_all = ["live", "config"])]
    current: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    iothread: u32,
    affinity: String,
    /// Whether a disk of the guest runs on it.
    started: bool,
}

impl Verb for Iothreadinfo {
    const NAME: &'static str = "iothreadinfo";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        if self.live {
            manager.running(&domain)?;
        }
        let guest = match self.config {
            true => None,
            false => manager.guest(&domain)?,
        };
        let (_, model) = manager.current_definition(&domain, guest.as_ref())?;
        let process = guest.and_then(|guest| guest.record.process);
        let pid = process
            .filter(|process| process.exists())
            .map(|process| process.pid);
        let threads = pid.map(iothreads_of).unwrap_or_default();
        let otherwise = allowed(pid.unwrap_or(std::process::id())).unwrap_or_default();
        let lines: Vec<Line> = model
            .iothreads
            .iter()
            .map(|id| Line {
                iothread: *id,
                affinity: match (threads.get(id), pid, model.cputune.iothread(*id)) {
                    (Some(list), ..) => list.clone(),
                    (None, None, Some(list)) => format_list(list),
                    _ => otherwise.clone(),
                },
                started: threads.contains_key(id),
            })
            .collect();
        if context.ui.is_json() {
            return context.ui.json(&lines);
        }
        if lines.is_empty() {
            return context.ui.sentence("No IOThreads found for the domain");
        }
        let mut table = Table::new(&["IOThread ID", "CPU Affinity"]);
        for line in lines {
            table.row([line.iothread.to_string(), line.affinity]);
        }
        context.ui.data(&table.render(context.ui.quiet))
    }
}
