//! `vm start`

use crate::cli::console::Session;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::start::StartOptions;

/// Start a defined domain; returns when its guest runs
#[derive(Debug, clap::Args)]
pub struct Start {
    /// The domain: name or UUID
    domain: String,
    /// Attach to its console afterwards
    #[arg(long)]
    console: bool,
    /// Leave its virtual CPUs held until 'vm resume'
    #[arg(long)]
    paused: bool,
    /// Start with virtio in place of disks and network cards that are not built; the definition stays
    #[arg(long)]
    map_to_virtio: bool,
    /// Without what was saved of it; a domain has no managed save here yet
    #[arg(long, hide = true)]
    force_boot: bool,
}

impl Verb for Start {
    const NAME: &'static str = "start";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let options = StartOptions {
            paused: self.paused,
            map_to_virtio: self.map_to_virtio,
        };
        let started = manager.start(&domain, options).map_err(|error| {
            if error.message == "Domain is already active" {
                return error;
            }
            error.context(format!("Failed to start domain '{}'", domain.name))
        })?;
        for warning in &started.warnings {
            context.ui.warn(warning);
        }
        context
            .ui
            .sentence(format!("Domain '{}' started", domain.name))?;
        if self.console {
            return Session::default().run(context, &domain);
        }
        Ok(())
    }
}
