//! `vm completion`

use crate::cli::{Context, Group, Verb, completion};
use crate::error::{Error, Kind, Result};
use clap_complete::Shell;

/// Print a completion script for bash, zsh, fish or another shell
///
/// Those of bash, zsh and fish also offer the names of domains and of their devices. For the shell
/// that runs: source <(vm completion bash).
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
        context.ui.no_end();
        if let Some(script) = completion::script(&self.shell.to_string()) {
            return context.ui.data(&script);
        }
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::cli::command(), "vm", &mut script);
        let script =
            String::from_utf8(script).map_err(|error| Error::new(Kind::Io, error.to_string()))?;
        context.ui.data(&script)
    }
}
