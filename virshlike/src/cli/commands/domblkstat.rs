//! `vm domblkstat`

use super::domblkinfo::alias_of;
use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// virsh's words for the counters of a disk, for programs and for people: kind of request, and which of
/// its counters.
const COUNTERS: &[(&str, &str, &str, &str)] = &[
    ("rd_req", "number of read operations:", "read", "requests"),
    ("rd_bytes", "number of bytes read:", "read", "bytes"),
    ("wr_req", "number of write operations:", "write", "requests"),
    ("wr_bytes", "number of bytes written:", "write", "bytes"),
    (
        "flush_operations",
        "number of flush operations:",
        "flush",
        "requests",
    ),
    (
        "rd_total_times",
        "total duration of reads (ns):",
        "read",
        "total_ns",
    ),
    (
        "wr_total_times",
        "total duration of writes (ns):",
        "write",
        "total_ns",
    ),
    (
        "flush_total_times",
        "total duration of flushes (ns):",
        "flush",
        "total_ns",
    ),
];

/// Print the counters of a running domain's disks, or of one of them
#[derive(Debug, clap::Args)]
pub struct Domblkstat {
    /// The domain: name, id or UUID
    domain: String,
    /// The disk's target, such as vda, or its source
    device: Option<String>,
    /// Say what each counter counts
    #[arg(long, conflicts_with = "histogram")]
    human: bool,
    /// Show how long requests took instead, in classes that double from one to the next
    #[arg(long)]
    histogram: bool,
}

/// Kinds of requests whose times are kept.
const KINDS: &[(&str, &str)] = &[
    ("read", "read"),
    ("write", "write"),
    ("flush", "flush"),
    ("discard", "discard"),
    ("write_zeroes", "write zeroes"),
];

/// The rows of a device's histogram: words for the kind, upper end of the class, how many. Class N is of
/// what took less than 2^N microseconds; the last one is of all the rest.
pub(super) fn classes(counters: &serde_json::Value, kinds: &[(&str, &str)]) -> Vec<[String; 3]> {
    let mut rows = Vec::new();
    for (kind, words) in kinds {
        let Some(classes) = counters[kind]["latency_log2_us"].as_array() else {
            continue;
        };
        for (class, count) in classes.iter().enumerate() {
            let count = count.as_u64().unwrap_or(0);
            if count == 0 {
                continue;
            }
            let limit = match class + 1 == classes.len() {
                true => "more".to_string(),
                false => duration(1_u64.checked_shl(class as u32).unwrap_or(u64::MAX)),
            };
            rows.push([(*words).to_string(), limit, count.to_string()]);
        }
    }
    rows
}

/// Microseconds, as people read them.
fn duration(micros: u64) -> String {
    match micros {
        0..1024 => format!("{micros} us"),
        1024..1_048_576 => format!("{} ms", micros / 1024),
        _ => format!("{} s", micros / 1_048_576),
    }
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
        if self.histogram {
            let mut table = Table::new(&["Target", "Request", "Below", "Count"]);
            for disk in model.disks.iter().filter(|d| wanted.contains(&d.alias)) {
                let counters = stats.get(&disk.alias);
                let rows = counters.map(|counters| classes(counters, KINDS));
                for [kind, limit, count] in rows.unwrap_or_default() {
                    table.row([disk.target.clone(), kind, limit, count]);
                }
            }
            return context.ui.data(&table.render(context.ui.quiet));
        }
        for disk in model
            .disks
            .iter()
            .filter(|disk| wanted.contains(&disk.alias))
        {
            let Some(counters) = stats.get(&disk.alias) else {
                continue;
            };
            if self.human {
                context.ui.line(format!("Device: {}", disk.target))?;
            }
            for (word, label, kind, counter) in COUNTERS {
                let value = counters.get(kind).and_then(|kind| kind.get(counter));
                let value = value.and_then(serde_json::Value::as_u64).unwrap_or(0);
                context.ui.line(match self.human {
                    true => format!(" {label:<31} {value}"),
                    false => format!("{} {word} {value}", disk.target),
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_classes_with_requests_are_shown() {
        let mut classes_of = vec![0; 24];
        classes_of[0] = 3;
        classes_of[12] = 2;
        classes_of[23] = 1;
        let counters = serde_json::json!({ "read": { "latency_log2_us": classes_of } });
        let rows = classes(&counters, KINDS);
        let expected = [
            ["read", "1 us", "3"],
            ["read", "4 ms", "2"],
            ["read", "more", "1"],
        ];
        assert_eq!(rows, expected.map(|row| row.map(String::from)));
        assert!(classes(&serde_json::json!({}), KINDS).is_empty());
    }
}
