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
        let changes = self.edit || !self.text.is_empty();
        let affects = Affects {
            live: self.live,
            config: self.config,
        };
        // What is read where both are meant is the running one.
        let (guest, _) = manager.affected(&domain, affects)?;
        if changes {
            let text = match self.edit {
                true => {
                    let (_, model) = manager.current_definition(&domain, guest.as_ref())?;
                    let old = if self.title {
                        model.title
                    } else {
                        model.description
                    };
                    let new = edit_text(&old.unwrap_or_default(), "description.txt")?;
                    new.trim_end().to_string()
                }
                false => self.text.join(" "),
            };
            manager.describe(&domain, what, &text, affects)?;
            return context
                .ui
                .sentence(format!("Domain {what} updated successfully"));
        }
        let (_, model) = manager.current_definition(&domain, guest.as_ref())?;
        let found = if self.title {
            model.title
        } else {
            model.description
        };
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
