//! `vm dumpxml`

use crate::cli::xpath::Part;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Print a domain's definition: the running one's with live facts, else the one on disk
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct Dumpxml {
    /// The domain: name, id or UUID
    domain: String,
    /// The definition on disk, which the next start uses
    #[arg(long)]
    inactive: bool,
    /// Show passwords too
    #[arg(long)]
    security_info: bool,
    /// Show a CPU that follows the host as it would be on this one
    #[arg(long)]
    update_cpu: bool,
    /// XML that libvirt defines, for moving the domain there
    #[arg(long)]
    migratable: bool,
    #[command(flatten)]
    part: Part,
}

impl Verb for Dumpxml {
    const NAME: &'static str = "dumpxml";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let options = crate::manager::info::DumpOptions {
            inactive: self.inactive,
            update_cpu: self.update_cpu,
            shown: crate::model::DumpOptions {
                security_info: self.security_info,
                migratable: self.migratable,
            },
        };
        let text = context.manager()?.dump(&domain, options)?;
        self.part.print(context, &text)
    }
}
