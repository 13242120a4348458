//! `vm dominfo`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use std::fmt::Write as _;

/// Print the facts of a domain
#[derive(Debug, clap::Args)]
pub struct Dominfo {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Dominfo {
    const NAME: &'static str = "dominfo";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let info = context.manager()?.info(&domain)?;
        if context.ui.is_json() {
            return context.ui.json(&info);
        }
        let yes = |value: bool| if value { "yes" } else { "no" }.to_string();
        let mut facts = vec![
            ("Id:", info.id.map_or("-".into(), |id| id.to_string())),
            ("Name:", info.name),
            ("UUID:", info.uuid.to_string()),
            ("OS Type:", "hvm".into()),
            ("State:", info.state.as_str().into()),
            ("CPU(s):", info.vcpus.to_string()),
        ];
        facts.extend(info.cpu_time_ns.map(|time| ("CPU time:", seconds(time))));
        facts.extend([
            ("Max memory:", format!("{} KiB", info.max_memory_kib)),
            ("Used memory:", format!("{} KiB", info.used_memory_kib)),
            ("Persistent:", yes(info.persistent)),
            (
                "Autostart:",
                if info.autostart { "enable" } else { "disable" }.into(),
            ),
            ("Managed save:", yes(info.managed_save)),
            ("Security model:", "none".into()),
            ("Security DOI:", "0".into()),
        ]);
        let mut text = String::new();
        for (label, value) in facts {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{label:<15} {value}");
        }
        context.ui.data(&text)
    }
}

/// Nanoseconds as virsh prints CPU time.
fn seconds(nanoseconds: u64) -> String {
    let tenths = nanoseconds / 100_000_000;
    format!("{}.{}s", tenths / 10, tenths % 10)
}
