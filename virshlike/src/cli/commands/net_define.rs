//! `vm net-define`

use super::define::read_definition;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use std::path::PathBuf;

/// Define a network from a libvirt XML file, or change its definition
///
/// A missing UUID, bridge name or address of the bridge is filled in once. An active network takes
/// the change up when it is started the next time.
#[derive(Debug, clap::Args)]
pub struct NetDefine {
    /// The definition; '-' reads standard input
    file: PathBuf,
    /// Only check it, and change nothing
    #[arg(long)]
    validate: bool,
}

impl Verb for NetDefine {
    const NAME: &'static str = "net-define";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let (text, file) = read_definition(&self.file)?;
        let result = match self.validate {
            true => manager.networks().validate(&text, &file),
            false => manager.networks().define(&text, &file),
        };
        let defined = result
            .map_err(|error| error.context(format!("Failed to define network from {file}")))?;
        for warning in &defined.warnings {
            context.ui.warn(warning);
        }
        context.ui.sentence(match self.validate {
            true => format!("{file} is a valid network definition"),
            false => format!("Network {} defined from {file}", defined.name),
        })
    }
}
