//! `vm domfstrim`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};

/// Have a guest give back the blocks that its file systems do not use, by its agent
#[derive(Debug, clap::Args)]
pub struct Domfstrim {
    /// The domain: name, id or UUID
    domain: String,
    /// Leave out free pieces that are smaller than so many bytes
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 0,
        hide_default_value = true
    )]
    minimum: u64,
    /// Only this file system; no guest agent can do so
    #[arg(long, value_name = "PATH", hide = true)]
    mountpoint: Option<String>,
}

impl Verb for Domfstrim {
    const NAME: &'static str = "domfstrim";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        if self.mountpoint.is_some() {
            let message = "invalid argument: Specifying mount point is not supported for now";
            return Err(Error::new(Kind::Unsupported, message));
        }
        let domain = context.domain(&self.domain)?;
        context
            .manager()?
            .trim(&domain, self.minimum)
            .map_err(|error| error.context("Unable to invoke fstrim"))
    }
}
