//! `vm qemu-agent-command`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::agent::Patience;
use std::time::Duration;

/// Say a command to a guest's agent and print its answer
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct QemuAgentCommand {
    /// The domain: name, id or UUID
    domain: String,
    /// The command, such as '{"execute": "guest-info"}'
    #[arg(required = true, value_name = "COMMAND")]
    cmd: Vec<String>,
    /// Wait for its answer at most so long
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["block", "nowait"])]
    timeout: Option<u64>,
    /// Fail when it does not answer soon, as without any of these
    #[arg(long = "async", conflicts_with = "block")]
    nowait: bool,
    /// Wait for its answer as long as it takes
    #[arg(long)]
    block: bool,
    /// Print the answer over several lines
    #[arg(long)]
    pretty: bool,
}

impl Verb for QemuAgentCommand {
    const NAME: &'static str = "qemu-agent-command";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let patience = match (self.timeout, self.block) {
            (Some(0), _) => {
                let message = "--timeout takes 1 second or more";
                return Err(Error::new(Kind::Usage, message));
            }
            (Some(seconds), _) => Patience::For(Duration::from_secs(seconds.min(31_536_000))),
            (None, true) => Patience::Endless,
            (None, false) => Patience::Usual,
        };
        let words = self.cmd.join(" ");
        let answer = context
            .manager()?
            .agent_command(&domain, &words, patience)?;
        if self.pretty {
            return context.ui.json(&answer);
        }
        // JSON has no control characters as they are.
        context.ui.line(answer)
    }
}
