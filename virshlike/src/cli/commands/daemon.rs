//! `vm daemon`

use crate::cli::{Context, Group, Verb};
use crate::daemon;
use crate::error::Result;
use std::io::IsTerminal;

/// Watch all guests, note what happens to them, and start those again whose policy says so
///
/// Optional: every other command works without it, and its end never touches a guest. A domain's
/// policy is <vm:restart> in its <metadata>, or <on_crash>restart</on_crash>. What happens goes to
/// the host's journal (journalctl VM_NAME=...) and, line by line as JSON, to everyone who listens on
/// the socket daemon/events in the store's runtime directory. It runs in the foreground until
/// SIGTERM or Ctrl+C.
#[derive(Debug, clap::Args)]
pub struct Daemon {}

impl Verb for Daemon {
    const NAME: &'static str = "daemon";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.open_manager()?;
        let json = context.ui.is_json();
        let told: Box<dyn Fn(&daemon::Notice)> = if json {
            // A service's output is its log, which has all this already.
            Box::new(|notice| {
                let line = serde_json::to_string(notice).unwrap_or_default();
                println!("{line}");
            })
        } else if std::io::stdout().is_terminal() {
            Box::new(|notice| {
                let daemon::Notice { domain, action, .. } = notice;
                let detail = match notice.detail.as_str() {
                    "" => String::new(),
                    detail => format!(" ({detail})"),
                };
                println!("domain '{domain}': {action}{detail}");
            })
        } else {
            Box::new(|_| {})
        };
        context.ui.no_end();
        daemon::run(manager, told)
    }
}
