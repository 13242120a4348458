//! `vm dump`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use std::path::PathBuf;
use vmm_api::state::AfterDump;

/// Dump a domain's memory and registers into a file for analysis
///
/// The file is an ELF core: RAM by physical address, registers of every vCPU. The guest stands still meanwhile.
/// Whoever can read the file reads everything that the guest had in memory: it is made for its owner alone.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct Dump {
    /// The domain: name, id or UUID
    domain: String,
    /// Where the dump goes; a file of this name is replaced
    file: PathBuf,
    /// Dump memory only, which is what is always done
    #[arg(long)]
    memory_only: bool,
    /// Format of the dump: elf
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "elf",
        hide_default_value = true
    )]
    format: String,
    /// End the domain afterwards, as crashed
    #[arg(long, conflicts_with_all = ["reset", "live"])]
    crash: bool,
    /// Reset the domain afterwards
    #[arg(long, conflicts_with = "live")]
    reset: bool,
    /// Dump while the guest runs on: not built
    #[arg(long)]
    live: bool,
    /// Go round the host's page cache: not built
    #[arg(long)]
    bypass_cache: bool,
    /// Show how far it is: not built
    #[arg(long)]
    verbose: bool,
}

impl Verb for Dump {
    const NAME: &'static str = "dump";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let failed = || format!("Failed to core dump domain '{}'", domain.name);
        if self.live {
            let message = "a live dump is not built: what the guest writes meanwhile would tear it";
            return Err(Error::new(Kind::Unsupported, message)
                .hint("without --live the guest stands still for as long as the dump takes")
                .context(failed()));
        }
        if self.bypass_cache {
            let message = "a dump that goes round the page cache is not built";
            return Err(Error::new(Kind::Unsupported, message)
                .hint("without --bypass-cache the dump goes through the host's page cache")
                .context(failed()));
        }
        if self.verbose {
            let message = "showing how far a dump is is not built";
            return Err(Error::new(Kind::Unsupported, message)
                .hint("leave --verbose out; vm domjobinfo tells it meanwhile")
                .context(failed()));
        }
        if self.format != "elf" {
            let message = format!("a dump in format '{}' is not built", self.format);
            return Err(Error::new(Kind::Unsupported, message)
                .hint("use --format elf; makedumpfile compresses it")
                .context(failed()));
        }
        let then = match (self.crash, self.reset) {
            (true, _) => AfterDump::Crash,
            (_, true) => AfterDump::Reset,
            _ => AfterDump::Resume,
        };
        context
            .manager()?
            .core_dump(&domain, &self.file, then)
            .map_err(|error| error.context(failed()))?;
        context.ui.sentence(format!(
            "Domain '{}' dumped to {}",
            domain.name,
            self.file.display()
        ))
    }
}
