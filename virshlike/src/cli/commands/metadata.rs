//! `vm metadata`

use super::edit::edit_text;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::metadata::absent;
use crate::manager::pins::Affects;

/// Print or change what other programs keep in a domain's definition
///
/// One element per namespace. What changes is the definition that the domain runs, or the one on disk
/// while it does not run, or what is named.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct Metadata {
    /// The domain: name, id or UUID
    domain: String,
    /// The URI of the namespace
    uri: String,
    /// Put this element there; needs --key
    #[arg(long, value_name = "XML", conflicts_with_all = ["remove", "edit"])]
    set: Option<String>,
    /// The prefix that stands for the namespace
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Change the element with $VISUAL or $EDITOR; needs --key where there is none yet
    #[arg(long, conflicts_with = "remove")]
    edit: bool,
    /// Remove the element
    #[arg(long)]
    remove: bool,
    /// The definition on disk
    #[arg(long)]
    config: bool,
    /// The definition that the domain runs
    #[arg(long)]
    live: bool,
    /// The one that counts now, as without any of these
    #[arg(long, conflicts_with_all = ["live", "config"])]
    current: bool,
}

impl Verb for Metadata {
    const NAME: &'static str = "metadata";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let affects = Affects {
            live: self.live,
            config: self.config,
        };
        if self.live {
            manager.running(&domain)?;
        }
        // What is read where both are meant is the running one.
        let config = self.config && !self.live;
        if self.remove {
            manager.set_metadata(&domain, &self.uri, None, affects)?;
            return context.ui.sentence("Metadata removed");
        }
        let set = |xml: &str| {
            let key = self.key.as_deref().ok_or_else(|| {
                Error::new(
                    Kind::Usage,
                    "namespace key is required when modifying metadata",
                )
                .hint("such as --key app")
            })?;
            manager.set_metadata(&domain, &self.uri, Some((key, xml)), affects)
        };
        let xml = match self.set.clone() {
            Some(xml) => Some(xml),
            None if self.edit => {
                let old = manager.metadata(&domain, &self.uri, config)?;
                let old = old.unwrap_or_default();
                let changed = edit_text(&old, "metadata.xml", |new| {
                    if new != old {
                        set(new)?;
                    }
                    Ok(new != old)
                })?;
                return context.ui.sentence(match changed {
                    true => "Metadata modified",
                    false => "Metadata not changed",
                });
            }
            None => None,
        };
        if let Some(xml) = xml {
            set(&xml)?;
            return context.ui.sentence("Metadata modified");
        }
        let found = manager.metadata(&domain, &self.uri, config)?;
        if context.ui.is_json() {
            return context.ui.json(&found);
        }
        context.ui.line(found.ok_or_else(absent)?)
    }
}
