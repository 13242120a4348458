//! `vm completion`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use clap_complete::Shell;

/// Print a completion script for bash, zsh, fish or another shell
#[derive(Debug, clap::Args)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Verb for Completion {
    const NAME: &'static str = "completion";
    const GROUP: Group = Group::Shell;

    fn run(self, context: &Context) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::cli::command(), "vm", &mut script);
        let script =
            String::from_utf8(script).map_err(|error| Error::new(Kind::Io, error.to_string()))?;
        context.ui.no_end();
        context.ui.data(&script)
    }
}
