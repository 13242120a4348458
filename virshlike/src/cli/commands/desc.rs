//! `vm desc`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Print or change a domain's description, or with --title its title
#[derive(Debug, clap::Args)]
pub struct Desc {
    /// The domain: name, id or UUID
    domain: String,
    /// The new text; '' removes it
    #[arg(id = "new-desc")]
    text: Option<String>,
    /// The title instead of the description
    #[arg(long)]
    title: bool,
    /// The definition on disk; that is always the one that changes
    #[arg(long)]
    config: bool,
}

impl Verb for Desc {
    const NAME: &'static str = "desc";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let what = if self.title { "title" } else { "description" };
        if let Some(text) = self.text {
            manager.describe(&domain, what, &text)?;
            return context
                .ui
                .sentence(format!("Domain {what} updated successfully"));
        }
        let (_, model) = if self.config {
            manager.current_definition(&domain, None)?
        } else {
            manager.current_definition(&domain, manager.guest(&domain)?.as_ref())?
        };
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
