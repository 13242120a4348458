//! `vm diff`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::info::DumpOptions;
use serde::Serialize;
use similar::TextDiff;

/// Lines around a change.
const AROUND: usize = 3;

/// Show what the next start of a running domain changes
///
/// Compares the definition that the domain runs with the one on disk, line by line: what only the
/// running one has begins with '-', what comes with the next start with '+'. Prints nothing when
/// they are the same.
#[derive(Debug, clap::Args)]
pub struct Diff {
    /// The domain: name, id or UUID
    domain: String,
}

#[derive(Debug, Serialize)]
struct Answer {
    changed: bool,
    diff: String,
}

impl Verb for Diff {
    const NAME: &'static str = "diff";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let manager = context.manager()?;
        let running = manager.dump_running(&domain)?;
        let inactive = DumpOptions {
            inactive: true,
            ..DumpOptions::default()
        };
        let stored = manager.dump(&domain, inactive)?;
        let diff = unified(&running, &stored);
        if context.ui.is_json() {
            let changed = !diff.is_empty();
            return context.ui.json(&Answer { changed, diff });
        }
        context.ui.data(&diff)
    }
}

fn unified(running: &str, stored: &str) -> String {
    if running == stored {
        return String::new();
    }
    TextDiff::from_lines(running, stored)
        .unified_diff()
        .context_radius(AROUND)
        .header("running", "next start")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_shown_with_its_surroundings() {
        assert_eq!(unified("a\nb\n", "a\nb\n"), "");
        let text = unified("1\n2\n3\n4\n5\n6\n", "1\n2\n3\n4\n5\nsix\n");
        let expected = "--- running\n+++ next start\n@@ -3,4 +3,4 @@\n 3\n 4\n 5\n-6\n+six\n";
        assert_eq!(text, expected);
    }
}
