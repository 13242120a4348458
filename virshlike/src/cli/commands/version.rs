//! `vm version`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use vmm_api::control::{VERSION_MAX, VERSION_MIN};
use vmm_api::spec::MACHINE_NEWEST;

/// Print the versions of vm, of the control protocol and of the newest machine
#[derive(Debug, clap::Args)]
pub struct Version {}

impl Verb for Version {
    const NAME: &'static str = "version";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let build = env!("CARGO_PKG_VERSION");
        if context.ui.is_json() {
            return context.ui.json(&serde_json::json!({
                "vm": build,
                "control_protocol": { "min": VERSION_MIN, "max": VERSION_MAX },
                "machine": MACHINE_NEWEST,
            }));
        }
        context.ui.line(format!("Using library: vm {build}"))?;
        context
            .ui
            .line(format!("Control protocol: {VERSION_MIN} to {VERSION_MAX}"))?;
        context.ui.line(format!("Newest machine: {MACHINE_NEWEST}"))
    }
}
