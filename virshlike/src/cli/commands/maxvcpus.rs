//! `vm maxvcpus`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use vmm_api::spec::MAX_VCPUS;

/// Print how many virtual CPUs a domain can have at most
#[derive(Debug, clap::Args)]
pub struct Maxvcpus {}

impl Verb for Maxvcpus {
    const NAME: &'static str = "maxvcpus";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        if context.ui.is_json() {
            return context.ui.json(&MAX_VCPUS);
        }
        context.ui.line(MAX_VCPUS)
    }
}
