//! `vm desc`

use super::edit::edit_text;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::pins::Affects;

/// Print or change a domain's description, or with --title its title
///
/// What changes is the definition that the domain runs, or the one on disk while it does not run, or
/// what is named: --live, --config, or both.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct Desc {
    /// The domain: name, id or UUID
    domain: String,
    /// The new text, in one word or several; '' removes it
    #[arg(id = "new-desc")]
    text: Vec<String>,
    /// The title instead of the description
    #[arg(long)]
    title: bool,
    /// The definition on disk
    #[arg(long)]
    config: bool,
    /// The definition that the domain runs
    #[arg(long)]
    live: bool,
    /// The one that counts now, as without any of these
    #[arg(long, conflicts_with_all = ["live", "config"])]
    current: bool,
    /// Change it with $VISUAL or $EDITOR
    #[arg(long, conflicts_with = "new-desc")]
    edit: bool,
}

impl Verb for Desc {
    const NAME: &'static str = "desc";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let what = if self.title { "title" } else { "description" };
        let affects = Affects {
            live: self.live,
            config: self.config,
        };
        // What is read where both are meant is the running one.
        let (guest, _) = manager.affected(&domain, affects)?;
        let updated = format!("Domain {what} updated successfully");
        if !self.text.is_empty() {
            manager.describe(&domain, what, &self.text.join(" "), affects)?;
            return context.ui.sentence(updated);
        }
        let (_, model) = manager.current_definition(&domain, guest.as_ref())?;
        let found = if self.title {
            model.title
        } else {
            model.description
        };
        if self.edit {
            let old = found.unwrap_or_default();
            let changed = edit_text(&old, "description.txt", |new| {
                let new = new.trim_end();
                if new == old.trim_end() {
                    return Ok(false);
                }
                manager.describe(&domain, what, new, affects)?;
                Ok(true)
            })?;
            return context.ui.sentence(match changed {
                true => updated,
                false => format!("Domain {what} not changed"),
            });
        }
        if context.ui.is_json() {
            return context.ui.json(&found);
        }
        match found {
            Some(text) => context.ui.line(text),
            None => context
                .ui
                .sentence(format!("No {what} for domain: {}", domain.name)),
        }
    }
}
