//! `vm domblkerror`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::model::Domain;
use crate::runtime::guest::ANSWER;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use vmm_api::state::{PauseReason, RunState};

/// Print the disks that hold a running domain because they could not be read or written
///
/// Each with its file and its first error. Once a disk is well again, vm resume repeats what failed.
#[derive(Debug, clap::Args)]
pub struct Domblkerror {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Domblkerror {
    const NAME: &'static str = "domblkerror";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let guest = manager.running(&domain)?;
        let (_, model) = manager.current_definition(&domain, Some(&guest))?;
        let status = guest.status(ANSWER)?;
        let errors = by_target(&model, &status.failed_disks);
        let held = matches!(&status.run, RunState::Paused { reasons } if reasons.contains(&PauseReason::IoError));
        if context.ui.is_json() {
            let errors: Vec<Value> = errors
                .iter()
                .map(|(target, error)| json!({ "target": target, "error": error }))
                .collect();
            return context.ui.json(&json!({ "held": held, "errors": errors }));
        }
        if !held {
            return context.ui.sentence("No errors found");
        }
        for (target, error) in errors {
            context.ui.line(format!("{target}: {error}"))?;
        }
        context
            .ui
            .hint(format!("when all is well again: vm resume {}", domain.name));
        Ok(())
    }
}

/// The errors in the order of the document's disks; one that it does not know (any more) comes last,
/// by its device id.
fn by_target<'a>(
    model: &'a Domain,
    failed: &'a BTreeMap<String, String>,
) -> Vec<(&'a str, &'a str)> {
    let known = |id: &str| model.disks.iter().any(|disk| disk.alias == id);
    let named = model
        .disks
        .iter()
        .filter_map(|disk| Some((disk.target.as_str(), failed.get(&disk.alias)?.as_str())));
    let others = failed
        .iter()
        .filter(|(id, _)| !known(id))
        .map(|(id, error)| (id.as_str(), error.as_str()));
    named.chain(others).collect()
}
