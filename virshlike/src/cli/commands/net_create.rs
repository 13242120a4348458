//! `vm net-create`

use super::define::read_definition;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use std::path::PathBuf;

/// Start a network from a file without defining it; it is gone when it is destroyed
#[derive(Debug, clap::Args)]
pub struct NetCreate {
    /// The definition; '-' reads standard input
    file: PathBuf,
    /// Only start what has no mistakes; that is always so
    #[arg(long, hide = true)]
    validate: bool,
}

impl Verb for NetCreate {
    const NAME: &'static str = "net-create";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let (text, file) = read_definition(&self.file)?;
        let raised = manager
            .networks()
            .create(&text, &file)
            .map_err(|error| error.context(format!("Failed to create network from {file}")))?;
        for warning in &raised.warnings {
            context.ui.warn(warning);
        }
        context
            .ui
            .sentence(format!("Network {} created from {file}", raised.name))
    }
}
