//! `vm host-check`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::checks::Verdict;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Tell whether this host is ready for guests, and what to do where it is not
///
/// Exits with 1 when something is missing without which no guest runs.
#[derive(Debug, clap::Args)]
pub struct HostCheck {}

impl Verb for HostCheck {
    const NAME: &'static str = "host-check";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        self.run_with_code(context).map(|_| ())
    }

    fn run_with_code(self, context: &Context) -> Result<ExitCode> {
        let checks = context.manager()?.check_host();
        let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
        let code = if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
        if context.ui.is_json() {
            context.ui.json(&checks)?;
            return Ok(code);
        }
        let mut text = String::new();
        for check in checks {
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{}  {:<15} {}",
                check.verdict.as_str(),
                check.item,
                check.found
            );
            for step in check.next {
                let _ = writeln!(text, "{:22}next: {step}", "");
            }
        }
        context.ui.data(&text)?;
        Ok(code)
    }
}
