//! `vm guestinfo`

use super::printable;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::agent::facts::Info;
use serde_json::{Map, Value};

/// Print what a guest tells about itself, by its agent: everything that it knows, or some of it
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct Guestinfo {
    /// The domain: name, id or UUID
    domain: String,
    /// Who is logged in
    #[arg(long)]
    user: bool,
    /// The operating system
    #[arg(long)]
    os: bool,
    /// The time zone
    #[arg(long)]
    timezone: bool,
    /// The host's name
    #[arg(long)]
    hostname: bool,
    /// File systems
    #[arg(long)]
    filesystem: bool,
    /// Disks
    #[arg(long)]
    disk: bool,
    /// Network cards and their addresses
    #[arg(long)]
    interface: bool,
}

impl Verb for Guestinfo {
    const NAME: &'static str = "guestinfo";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let wanted = [
            (self.user, Info::Users),
            (self.os, Info::Os),
            (self.timezone, Info::Timezone),
            (self.hostname, Info::Hostname),
            (self.filesystem, Info::FileSystems),
            (self.disk, Info::Disks),
            (self.interface, Info::Interfaces),
        ];
        let kinds: Vec<Info> = wanted
            .into_iter()
            .filter_map(|(wanted, kind)| wanted.then_some(kind))
            .collect();
        let fields = manager.guest_info(&domain, &kinds)?;
        if context.ui.is_json() {
            return context.ui.json(&fields.into_iter().collect::<Map<_, _>>());
        }
        for (name, value) in fields {
            let value = match value {
                Value::String(text) => printable(&text),
                value => value.to_string(),
            };
            context.ui.line(format!("{name:<20}: {value}"))?;
        }
        Ok(())
    }
}
