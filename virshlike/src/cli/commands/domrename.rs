//! `vm domrename`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Rename a domain that is not running
#[derive(Debug, clap::Args)]
pub struct Domrename {
    /// The domain: name or UUID
    domain: String,
    /// Its new name
    #[arg(id = "new-name")]
    new_name: String,
}

impl Verb for Domrename {
    const NAME: &'static str = "domrename";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        context.manager()?.rename(&domain, &self.new_name)?;
        context.ui.sentence("Domain successfully renamed")
    }
}
