//! `vm domblkstat`

use super::domblkinfo::alias_of;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// virsh's words for the counters of a disk: kind of request, and which of its counters.
const COUNTERS: &[(&str, &str, &str)] = &[
    ("rd_req", "read", "requests"),
    ("rd_bytes", "read", "bytes"),
    ("wr_req", "write", "requests"),
    ("wr_bytes", "write", "bytes"),
    ("flush_operations", "flush", "requests"),
    ("rd_total_times", "read", "total_ns"),
    ("wr_total_times", "write", "total_ns"),
    ("flush_total_times", "flush", "total_ns"),
];

/// Print the counters of a running domain's disks, or of one of them
#[derive(Debug, clap::Args)]
pub struct Domblkstat {
    /// The domain: name, id or UUID
    domain: String,
    /// The disk's target, such as vda, or its source
    device: Option<String>,
}

impl Verb for Domblkstat {
    const NAME: &'static str = "domblkstat";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let guest = manager.running(&domain)?;
        let (_, model) = manager.current_definition(&domain, Some(&guest))?;
        let wanted = match &self.device {
            Some(device) => vec![alias_of(&model, device)?],
            None => model.disks.iter().map(|disk| disk.alias.clone()).collect(),
        };
        let stats = manager.device_stats(&guest)?;
        if context.ui.is_json() {
            let mut found = stats;
            found.retain(|alias, _| wanted.contains(alias));
            return context.ui.json(&found);
        }
        for disk in model
            .disks
            .iter()
            .filter(|disk| wanted.contains(&disk.alias))
        {
            let Some(counters) = stats.get(&disk.alias) else {
                continue;
            };
            for (words, kind, counter) in COUNTERS {
                let value = counters.get(kind).and_then(|kind| kind.get(counter));
                let value = value.and_then(serde_json::Value::as_u64).unwrap_or(0);
                context
                    .ui
                    .line(format!("{} {words} {value}", disk.target))?;
            }
        }
        Ok(())
    }
}
