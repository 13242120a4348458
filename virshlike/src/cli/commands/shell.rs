//! `vm shell`

use crate::cli::{Context, Group, Verb, shell};
use crate::error::Result;
use std::process::ExitCode;

/// Read commands from the terminal, with history and completion; also: vm -i
///
/// Commands are separated by line ends or semicolons. Beside the verbs there are cd, pwd, quit and
/// exit. Commands may also come from a file: vm shell < FILE; the exit code is then the last one's.
#[derive(Debug, clap::Args)]
pub struct Shell {}

impl Verb for Shell {
    const NAME: &'static str = "shell";
    const GROUP: Group = Group::Shell;

    fn run(self, context: &Context) -> Result<()> {
        shell::run(context).map(|_| ())
    }

    fn run_with_code(self, context: &Context) -> Result<ExitCode> {
        shell::run(context)
    }
}
