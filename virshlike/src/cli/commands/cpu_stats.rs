//! `vm cpu-stats`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::runtime::threads;

/// Print the CPU time of a running domain's process
#[derive(Debug, clap::Args)]
pub struct CpuStats {
    /// The domain: name, id or UUID
    domain: String,
    /// All processors together; that is all the kernel tells
    #[arg(long)]
    total: bool,
    /// The first processor to show
    #[arg(long, value_name = "NUMBER")]
    start: Option<u32>,
    /// How many processors to show
    #[arg(long, value_name = "NUMBER")]
    count: Option<u32>,
}

impl Verb for CpuStats {
    const NAME: &'static str = "cpu-stats";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let guest = context.manager()?.running(&domain)?;
        if !self.total && (self.start.is_some() || self.count.is_some()) {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "Failed to retrieve CPU statistics for domain '{}'",
                    domain.name
                ),
            )
            .cause("the kernel does not tell a process's time on each processor")
            .hint(format!(
                "vm cpu-stats {} --total; per vCPU: vm vcpuinfo",
                domain.name
            )));
        }
        let mark = guest.record.process.filter(|mark| mark.exists());
        let times = mark.and_then(|mark| threads::process_times(mark.pid));
        let times = times.ok_or_else(|| {
            Error::new(
                Kind::Host,
                format!("the process of domain '{}' cannot be seen", domain.name),
            )
        })?;
        if context.ui.is_json() {
            return context.ui.json(&times);
        }
        context.ui.line("Total:")?;
        for (label, time) in [
            ("cpu_time", times.user_ns.saturating_add(times.system_ns)),
            ("user_time", times.user_ns),
            ("system_time", times.system_ns),
        ] {
            let (seconds, rest) = (time / 1_000_000_000, time % 1_000_000_000);
            context
                .ui
                .line(format!("\t{label:<12} {seconds:>9}.{rest:09} seconds"))?;
        }
        Ok(())
    }
}
