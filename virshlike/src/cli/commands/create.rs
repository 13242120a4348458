//! `vm create`

use super::define::read_definition;
use crate::cli::console::Session;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use std::path::PathBuf;

/// Start a domain from a file without defining it; it is gone when it ends
#[derive(Debug, clap::Args)]
pub struct Create {
    /// The definition; '-' reads standard input
    file: PathBuf,
    /// Attach to its console afterwards
    #[arg(long)]
    console: bool,
    /// Leave its virtual CPUs held until 'vm resume'
    #[arg(long)]
    paused: bool,
    /// Only start what has no mistakes; that is always so
    #[arg(long, hide = true)]
    validate: bool,
}

impl Verb for Create {
    const NAME: &'static str = "create";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let (text, file) = read_definition(&self.file)?;
        let started = manager
            .create(&text, &file, self.paused)
            .map_err(|error| error.context(format!("Failed to create domain from {file}")))?;
        for warning in &started.warnings {
            context.ui.warn(warning);
        }
        context
            .ui
            .sentence(format!("Domain '{}' created from {file}", started.name))?;
        if self.console {
            let domain = context.domain(&started.name)?;
            return Session::default().run(context, &domain);
        }
        Ok(())
    }
}
