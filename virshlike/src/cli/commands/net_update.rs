//! `vm net-update`

use super::define::read_definition;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::network::update::{Change, Command, Section};
use std::path::Path;

/// Change single entries of a network: reserved addresses, ranges, names, port groups
///
/// Without --live and --config an active network is changed until it ends, and the definition of one
/// that is not active. The DHCP and DNS server is restarted where it has to know; leases stay.
#[derive(Debug, clap::Args)]
pub struct NetUpdate {
    /// The network: name or UUID
    network: String,
    /// What is done: add-first, add-last (or add), modify or delete; only ip-dhcp-host and portgroup can be
    /// modified
    #[arg(value_parser = parse_command)]
    command: Command,
    /// What it is about: ip-dhcp-host, ip-dhcp-range, dns-host, dns-txt, dns-srv, forward-interface or
    /// portgroup
    section: Section,
    /// The entry as an XML element, or a file with it
    xml: String,
    /// Which <ip> the entry is of, counted from 0; the first that fits when absent
    #[arg(long, value_name = "NUMBER")]
    parent_index: Option<usize>,
    /// Change the definition on disk
    #[arg(long)]
    config: bool,
    /// Change the active network
    #[arg(long)]
    live: bool,
    /// Change the active network, or the definition of one that is not active
    #[arg(long, conflicts_with_all = ["config", "live"])]
    current: bool,
}

fn parse_command(word: &str) -> Result<Command, String> {
    match word {
        "add" | "add-last" => Ok(Command::AddLast),
        "add-first" => Ok(Command::AddFirst),
        "modify" => Ok(Command::Modify),
        "delete" => Ok(Command::Delete),
        _ => Err("it is one of add, add-first, add-last, modify, delete".into()),
    }
}

impl Verb for NetUpdate {
    const NAME: &'static str = "net-update";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let networks = manager.networks();
        let found = networks.find(&self.network)?;
        let xml = match self.xml.trim_start().starts_with('<') {
            true => self.xml.clone(),
            false => read_definition(Path::new(&self.xml))?.0,
        };
        let neither = !self.live && !self.config;
        let live = self.live || (neither && found.record.is_some());
        let config = self.config || (neither && found.record.is_none());
        if config && !found.persistent {
            return Err(Error::new(
                Kind::State,
                "Requested operation is not valid: cannot change persistent config of a transient network",
            ));
        }
        let change = Change {
            command: self.command,
            section: self.section,
            xml: &xml,
            parent: self.parent_index,
        };
        networks
            .update(&found, change, live, config)
            .map_err(|error| error.context(format!("Failed to update network {}", found.name)))?;
        let what = match (config, live) {
            (true, true) => "persistent config and live state",
            (true, false) => "persistent config",
            _ => "live state",
        };
        context
            .ui
            .sentence(format!("Updated network {} {what}", found.name))
    }
}
