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
        // Users of directory services are not in it and keep their number.
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        for entry in entries {
            let user = entry.login_uid.unwrap_or(entry.uid);
            let user = match user == entry.uid {
                true => name_of(user, &users),
                false => format!(
                    "{} as {}",
                    name_of(user, &users),
                    name_of(entry.uid, &users)
                ),
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

/// A user's name by passwd(5), or the number of one that is not there.
fn name_of(uid: u32, users: &str) -> String {
    let number = uid.to_string();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number && !name.is_empty()).then(|| name.to_string())
    });
    name.unwrap_or(number)
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

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn users_are_named_where_they_are_known() {
        let users = "root:x:0:0:root:/root:/bin/bash\n\nbad\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(name_of(0, users), "root");
        assert_eq!(name_of(1000, users), "ada");
        assert_eq!(name_of(5, users), "5");
    }
}
