//! `vm console`

use crate::cli::console::{Escape, Session};
use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Attach to a console of a running domain; leave with Ctrl+]
///
/// The last output is shown first. Any number of viewers may be attached, one of them types.
#[derive(Debug, clap::Args)]
pub struct Console {
    /// The domain: name, id or UUID
    domain: String,
    /// The alias of the console, such as serial0 or console1, where there are several
    #[arg(long, value_name = "ALIAS")]
    devname: Option<String>,
    /// Take typing over from another viewer
    #[arg(long)]
    force: bool,
    /// Only look
    #[arg(long, conflicts_with = "force")]
    view: bool,
    /// Only where viewers do not disturb each other; that is always so
    #[arg(long, hide = true)]
    safe: bool,
    /// The character that leaves, such as '^]' or '^A'
    #[arg(short, long, value_name = "CHARACTER", default_value = "^]")]
    escape: Escape,
}

impl Verb for Console {
    const NAME: &'static str = "console";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let session = Session {
            force: self.force,
            view: self.view,
            escape: self.escape,
            devname: self.devname,
        };
        session.run(context, &domain)
    }
}
