//! `vm maxvcpus`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::capabilities::Asked;

/// Print how many virtual CPUs a guest can have
#[derive(Debug, clap::Args)]
pub struct Maxvcpus {
    /// The type of domain: kvm
    #[arg(id = "type", value_name = "TYPE")]
    kind: Option<String>,
}

impl Verb for Maxvcpus {
    const NAME: &'static str = "maxvcpus";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        Asked {
            virttype: self.kind.as_deref(),
            ..Asked::default()
        }
        .check()?;
        let most = context.manager()?.most_vcpus()?;
        if context.ui.is_json() {
            return context.ui.json(&most);
        }
        context.ui.line(most)
    }
}
