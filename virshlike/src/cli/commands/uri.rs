//! `vm uri`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Print the URI of the store that commands work on
#[derive(Debug, clap::Args)]
pub struct Uri {}

impl Verb for Uri {
    const NAME: &'static str = "uri";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let uri = context.manager()?.connection().uri();
        if context.ui.is_json() {
            return context.ui.json(&uri);
        }
        context.ui.line(uri)
    }
}
