//! `vm vcpupin`, `vm emulatorpin` and `vm iothreadpin`

use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::pins::Affects;
use crate::model::Pinned;
use serde::Serialize;

/// Print or change on which processors of the host the virtual CPUs of a domain run
#[derive(Debug, clap::Args)]
pub struct Vcpupin {
    /// The domain: name, id or UUID
    domain: String,
    /// One virtual CPU
    #[arg(id = "vcpu", value_name = "VCPU")]
    vcpu: Option<u32>,
    /// The new list, such as 0-3,^2; r takes the pin away
    #[arg(id = "cpulist", value_name = "CPULIST")]
    cpulist: Option<String>,
    #[command(flatten)]
    scope: Scope,
}

/// Print or change on which processors of the host the other threads of a domain run
#[derive(Debug, clap::Args)]
pub struct Emulatorpin {
    /// The domain: name, id or UUID
    domain: String,
    /// The new list, such as 0-3,^2; r takes the pin away
    #[arg(id = "cpulist", value_name = "CPULIST")]
    cpulist: Option<String>,
    #[command(flatten)]
    scope: Scope,
}

/// Change on which processors of the host an I/O thread of a domain runs
#[derive(Debug, clap::Args)]
pub struct Iothreadpin {
    /// The domain: name, id or UUID
    domain: String,
    /// The thread's number
    #[arg(id = "iothread", value_name = "ID")]
    iothread: u32,
    /// The new list, such as 0-3,^2; r takes the pin away
    #[arg(id = "cpulist", value_name = "CPULIST")]
    cpulist: String,
    #[command(flatten)]
    scope: Scope,
}

/// What is meant; the running guest if there is one, else the definition.
#[derive(Debug, clap::Args)]
pub struct Scope {
    /// The definition on disk
    #[arg(long, conflicts_with = "current")]
    config: bool,
    /// The running guest
    #[arg(long, conflicts_with = "current")]
    live: bool,
    /// Whichever there is
    #[arg(long)]
    current: bool,
}

impl Scope {
    /// What a change is about.
    pub fn affects(&self) -> Affects {
        Affects {
            live: self.live,
            config: self.config,
        }
    }

    /// Two answers at once fit no table.
    ///
    /// # Errors
    /// Both were asked for.
    pub fn of_query(&self) -> Result<Affects> {
        if self.live && self.config {
            return Err(Error::new(
                Kind::Usage,
                "--config and --live are two questions: ask one at a time",
            ));
        }
        Ok(self.affects())
    }
}

#[derive(Debug, Serialize)]
struct Line {
    vcpu: u32,
    affinity: String,
}

impl Verb for Vcpupin {
    const NAME: &'static str = "vcpupin";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        if let (Some(vcpu), Some(list)) = (self.vcpu, &self.cpulist) {
            return manager.pin(&domain, Pinned::Vcpu(vcpu), list, self.scope.affects());
        }
        let mut found = manager.vcpu_affinity(&domain, self.scope.of_query()?)?;
        if let Some(vcpu) = self.vcpu {
            found.retain(|(index, _)| *index == vcpu);
            if found.is_empty() {
                return Err(Error::new(
                    Kind::Usage,
                    format!("invalid argument: there is no vcpu {vcpu}"),
                ));
            }
        }
        if context.ui.is_json() {
            let lines: Vec<Line> = found
                .into_iter()
                .map(|(vcpu, affinity)| Line { vcpu, affinity })
                .collect();
            return context.ui.json(&lines);
        }
        let mut table = Table::new(&["VCPU", "CPU Affinity"]);
        for (vcpu, affinity) in found {
            table.row([vcpu.to_string(), affinity]);
        }
        context.ui.data(&table.render(context.ui.quiet))
    }
}

impl Verb for Emulatorpin {
    const NAME: &'static str = "emulatorpin";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        if let Some(list) = &self.cpulist {
            return manager.pin(&domain, Pinned::Emulator, list, self.scope.affects());
        }
        let affinity = manager.emulator_affinity(&domain, self.scope.of_query()?)?;
        if context.ui.is_json() {
            let value = serde_json::json!({ "affinity": affinity });
            return context.ui.json(&value);
        }
        context.ui.sentence("emulator: CPU Affinity")?;
        context.ui.sentence("-".repeat(34))?;
        context.ui.line(format!("       *: {affinity}"))
    }
}

impl Verb for Iothreadpin {
    const NAME: &'static str = "iothreadpin";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let pinned = Pinned::Iothread(self.iothread);
        let affects = self.scope.affects();
        context
            .manager()?
            .pin(&domain, pinned, &self.cpulist, affects)
    }
}
