//! `vm cpu-compare` and `vm hypervisor-cpu-compare`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::capabilities::Asked;
use crate::manager::described::{self, Comparison};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Tell whether this host has the CPU that a file describes
///
/// Exits with 1 when it has not.
#[derive(Debug, clap::Args)]
pub struct CpuCompare {
    /// A file with a `<cpu>`, a domain or capabilities
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Tell what is missing
    #[arg(long)]
    error: bool,
    /// Accepted for virsh's sake: every description is checked
    #[arg(long)]
    validate: bool,
}

/// Tell whether a guest of this host can be shown the CPU that a file describes
///
/// Exits with 1 when it cannot.
#[derive(Debug, clap::Args)]
pub struct HypervisorCpuCompare {
    /// A file with a `<cpu>`, a domain or capabilities
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The type of domain: kvm
    #[arg(long)]
    virttype: Option<String>,
    /// A path; every domain runs the same program
    #[arg(long)]
    emulator: Option<String>,
    /// The architecture: `x86_64`
    #[arg(long)]
    arch: Option<String>,
    /// The machine
    #[arg(long)]
    machine: Option<String>,
    /// Tell what is missing
    #[arg(long)]
    error: bool,
    /// Accepted for virsh's sake: every description is checked
    #[arg(long)]
    validate: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    result: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

/// virsh's sentences, around the name of the file.
struct Words {
    identical: [&'static str; 2],
    superset: [&'static str; 2],
    incompatible: [&'static str; 2],
    failed: [&'static str; 2],
}

const HOST: Words = Words {
    identical: ["CPU described in ", " is identical to host CPU"],
    superset: ["Host CPU is a superset of CPU described in ", ""],
    incompatible: ["CPU described in ", " is incompatible with host CPU"],
    failed: ["Failed to compare host CPU with ", ""],
};

const HYPERVISOR: Words = Words {
    identical: [
        "CPU described in ",
        " is identical to the CPU provided by hypervisor on the host",
    ],
    superset: [
        "The CPU provided by hypervisor on the host is a superset of CPU described in ",
        "",
    ],
    incompatible: [
        "CPU described in ",
        " is incompatible with the CPU provided by hypervisor on the host",
    ],
    failed: ["Failed to compare hypervisor CPU with ", ""],
};

fn around(words: [&str; 2], file: &Path) -> String {
    let [before, after] = words;
    format!("{before}{}{after}", file.display())
}

/// The only CPU of a file.
pub(super) fn read_file(path: &Path) -> Result<Vec<described::Described>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
    described::read(&text, &path.display().to_string())
}

fn answer(
    context: &Context,
    file: &Path,
    comparison: Comparison,
    words: &Words,
    error: bool,
) -> Result<ExitCode> {
    let (result, sentence, code) = match &comparison {
        Comparison::Identical => ("identical", around(words.identical, file), true),
        Comparison::Superset => ("superset", around(words.superset, file), true),
        Comparison::Incompatible(why) if error => {
            return Err(Error::new(Kind::Host, around(words.failed, file))
                .cause("the CPU is incompatible with host CPU")
                .cause(why.clone()));
        }
        Comparison::Incompatible(_) => ("incompatible", around(words.incompatible, file), false),
    };
    if context.ui.is_json() {
        let reason = match comparison {
            Comparison::Incompatible(why) => why,
            Comparison::Identical | Comparison::Superset => String::new(),
        };
        context.ui.json(&Answer { result, reason })?;
    } else {
        context.ui.line(sentence)?;
    }
    Ok(if code {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Verb for CpuCompare {
    const NAME: &'static str = "cpu-compare";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        self.run_with_code(context).map(|_| ())
    }

    fn run_with_code(self, context: &Context) -> Result<ExitCode> {
        let found = read_file(&self.file)?;
        let host = context.manager()?.host_cpu()?;
        let offered = described::host_set(&host);
        let Some(first) = found.first() else {
            return Ok(ExitCode::FAILURE);
        };
        let comparison = first.compare(&offered, host.vendor());
        answer(context, &self.file, comparison, &HOST, self.error)
    }
}

impl Verb for HypervisorCpuCompare {
    const NAME: &'static str = "hypervisor-cpu-compare";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        self.run_with_code(context).map(|_| ())
    }

    fn run_with_code(self, context: &Context) -> Result<ExitCode> {
        Asked {
            virttype: self.virttype.as_deref(),
            emulator: self.emulator.as_deref(),
            arch: self.arch.as_deref(),
            machine: self.machine.as_deref(),
        }
        .check()?;
        let found = read_file(&self.file)?;
        let host = context.manager()?.host_cpu()?;
        let offered = described::guest_set(&host);
        let Some(first) = found.first() else {
            return Ok(ExitCode::FAILURE);
        };
        let comparison = first.compare(&offered, host.vendor());
        answer(context, &self.file, comparison, &HYPERVISOR, self.error)
    }
}
