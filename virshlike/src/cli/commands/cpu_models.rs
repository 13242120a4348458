//! `vm cpu-models`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::capabilities::ARCH;
use vmm_api::cpu::MODELS;

/// Print the CPU models that definitions can name
#[derive(Debug, clap::Args)]
pub struct CpuModels {
    /// The architecture: `x86_64`
    arch: String,
}

impl Verb for CpuModels {
    const NAME: &'static str = "cpu-models";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        if self.arch != ARCH {
            let what = format!("guests of architecture '{}' do not run here", self.arch);
            return Err(Error::new(Kind::Usage, "failed to get CPU model names")
                .cause(what)
                .hint(format!("the architecture is {ARCH}")));
        }
        let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        if context.ui.is_json() {
            return context.ui.json(&names);
        }
        context.ui.data(&format!("{}\n", names.join("\n")))
    }
}
