//! `vm history`

use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::store::journal;

/// Print who changed a domain, when, and by which command
#[derive(Debug, clap::Args)]
pub struct History {
    /// The domain: name, id or UUID; the UUID also of a domain that is no more
    domain: String,
}

impl Verb for History {
    const NAME: &'static str = "history";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let layout = context.manager()?.store().layout();
        let uuid = match self.domain.parse() {
            Ok(uuid) => uuid,
            Err(_) => context.domain(&self.domain)?.uuid,
        };
        let entries = journal::read(&layout.journal(uuid))?;
        if context.ui.is_json() {
            return context.ui.json(&entries);
        }
        let mut table = Table::new(&["Time", "User", "Command", "Domain", "Detail"]);
        for entry in entries {
            let user = entry.login_uid.unwrap_or(entry.uid);
            let user = match user == entry.uid {
                true => user.to_string(),
                false => format!("{user} as {}", entry.uid),
            };
            table.row([
                when(entry.time),
                user,
                entry.verb,
                entry.domain,
                entry.detail,
            ]);
        }
        context.ui.data(&table.render(context.ui.quiet))
    }
}

/// Seconds since the epoch as local time.
fn when(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(String::new, |time| {
            time.to_zoned(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S %z")
                .to_string()
        })
}
