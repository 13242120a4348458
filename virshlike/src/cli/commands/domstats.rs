//! `vm domstats`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::stats::{Figures, Groups};
use crate::manager::{Domain, State, Summary};
use serde::Serialize;
use serde_json::{Map, Value};

/// Print the figures of domains: of all, or of those that are named
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct Domstats {
    /// Domains: names, ids or UUIDs
    domains: Vec<String>,
    /// What it is doing, and why
    #[arg(long)]
    state: bool,
    /// CPU time of its process
    #[arg(long)]
    cpu_total: bool,
    /// Memory
    #[arg(long)]
    balloon: bool,
    /// vCPUs
    #[arg(long)]
    vcpu: bool,
    /// Network interfaces
    #[arg(long)]
    interface: bool,
    /// Disks
    #[arg(long)]
    block: bool,
    /// I/O threads
    #[arg(long)]
    iothread: bool,
    #[command(flatten)]
    absent: Absent,
    #[command(flatten)]
    only: Only,
    /// Accepted for virsh's sake: figures are never dressed up
    #[arg(long)]
    raw: bool,
    /// Refuse groups of which this build tells nothing
    #[arg(long)]
    enforce: bool,
    /// Accepted for virsh's sake: nothing here waits for a job
    #[arg(long)]
    nowait: bool,
}

/// Groups of libvirt's of which this build tells nothing: without figures, refused with --enforce.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
struct Absent {
    /// Accepted for virsh's sake: no figures of perf events
    #[arg(long)]
    perf: bool,
    /// Accepted for virsh's sake: no figures of memory bandwidth
    #[arg(long)]
    memory: bool,
    /// Accepted for virsh's sake: no figures of how fast memory is written
    #[arg(long)]
    dirtyrate: bool,
}

impl Absent {
    fn words(&self) -> Vec<&'static str> {
        let all = [
            (self.perf, "--perf"),
            (self.memory, "--memory"),
            (self.dirtyrate, "--dirtyrate"),
        ];
        let given = all.into_iter().filter(|(given, _)| *given);
        given.map(|(_, word)| word).collect()
    }
}

/// Which domains, when none is named. Within a pair or the states one that fits is enough.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
struct Only {
    /// Only those with a process, when none is named
    #[arg(long)]
    list_active: bool,
    /// Only those without, when none is named
    #[arg(long)]
    list_inactive: bool,
    /// Only those with a definition, when none is named
    #[arg(long)]
    list_persistent: bool,
    /// Only those without a definition, when none is named
    #[arg(long)]
    list_transient: bool,
    /// Only running ones, when none is named
    #[arg(long)]
    list_running: bool,
    /// Only paused ones, when none is named
    #[arg(long)]
    list_paused: bool,
    /// Only shut off ones, when none is named
    #[arg(long)]
    list_shutoff: bool,
    /// Only crashed ones and those that do not answer, when none is named
    #[arg(long)]
    list_other: bool,
}

impl Only {
    fn takes(&self, summary: &Summary) -> bool {
        let pair = |yes: bool, no: bool, is: bool| yes == no || yes == is;
        let by_state =
            self.list_running || self.list_paused || self.list_shutoff || self.list_other;
        let state = match summary.state {
            State::Running => self.list_running,
            State::Paused => self.list_paused,
            State::ShutOff => self.list_shutoff,
            State::Crashed | State::NoAnswer => self.list_other,
        };
        let active = summary.state != State::ShutOff;
        pair(self.list_active, self.list_inactive, active)
            && pair(
                self.list_persistent,
                self.list_transient,
                summary.persistent,
            )
            && (!by_state || state)
    }
}

#[derive(Debug, Serialize)]
struct Answer {
    domain: String,
    stats: Map<String, Value>,
}

impl Verb for Domstats {
    const NAME: &'static str = "domstats";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let absent = self.absent.words();
        if self.enforce && !absent.is_empty() {
            let message = format!("this build has no figures of {}", absent.join(", "));
            return Err(Error::new(Kind::Unsupported, message).hint("leave out --enforce"));
        }
        let mut answers: Vec<(String, Figures)> = Vec::new();
        for domain in self.wanted(context)? {
            let figures = manager.figures(&domain, self.groups());
            let figures = figures.map_err(|error| {
                error.context(format!("failed to get the figures of '{}'", domain.name))
            })?;
            answers.push((domain.name, figures));
        }
        if context.ui.is_json() {
            let answers: Vec<Answer> = answers
                .into_iter()
                .map(|(domain, figures)| Answer {
                    domain,
                    stats: figures.into_iter().collect(),
                })
                .collect();
            return context.ui.json(&answers);
        }
        for (at, (name, figures)) in answers.iter().enumerate() {
            if at > 0 {
                context.ui.line("")?;
            }
            context.ui.line(format!("Domain: '{name}'"))?;
            for (name, value) in figures {
                match value {
                    Value::String(text) => context.ui.line(format!("  {name}={text}"))?,
                    other => context.ui.line(format!("  {name}={other}"))?,
                }
            }
        }
        Ok(())
    }
}

impl Domstats {
    fn groups(&self) -> Groups {
        let groups = Groups {
            state: self.state,
            cpu: self.cpu_total,
            balloon: self.balloon,
            vcpu: self.vcpu,
            interface: self.interface,
            block: self.block,
            iothread: self.iothread,
        };
        if groups == Groups::default() && self.absent.words().is_empty() {
            return Groups::ALL;
        }
        groups
    }

    fn wanted(&self, context: &Context) -> Result<Vec<Domain>> {
        if !self.domains.is_empty() {
            return self
                .domains
                .iter()
                .map(|name| context.domain(name))
                .collect();
        }
        let manager = context.manager()?;
        let list = manager.list()?.into_iter();
        let list = list.filter(|summary| self.only.takes(summary));
        list.map(|summary| manager.find(&summary.name)).collect()
    }
}
