//! `vm dumpxml`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};

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
    /// Only what an XPath expression finds: not built, xmllint does it
    #[arg(long, value_name = "EXPRESSION", hide = true)]
    xpath: Option<String>,
    /// Put what --xpath finds into one element
    #[arg(long, hide = true)]
    wrap: bool,
}

impl Verb for Dumpxml {
    const NAME: &'static str = "dumpxml";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        if self.wrap && self.xpath.is_none() {
            return Err(Error::new(Kind::Usage, "--wrap goes with --xpath"));
        }
        if let Some(xpath) = &self.xpath {
            let quoted = xpath.replace('\'', "'\\''");
            let quoted: String = quoted.chars().flat_map(char::escape_debug).collect();
            return Err(
                Error::new(Kind::Unsupported, "--xpath is not built: vm has no XPath").hint(
                    format!("vm dumpxml {} | xmllint --xpath '{quoted}' -", domain.name),
                ),
            );
        }
        let options = crate::manager::info::DumpOptions {
            inactive: self.inactive,
            update_cpu: self.update_cpu,
            shown: crate::model::DumpOptions {
                security_info: self.security_info,
                migratable: self.migratable,
            },
        };
        let text = context.manager()?.dump(&domain, options)?;
        context.ui.data(&text)
    }
}
