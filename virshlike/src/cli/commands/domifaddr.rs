//! `vm domifaddr`

use super::printable;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::Source;

/// List the addresses of a running domain's network cards
///
/// The guest's agent knows all of them. A network of ours knows those that it gave out by DHCP, this
/// host those IPv4 addresses that it has spoken with. Without --source
/// it is the networks, else the agent where the domain has a channel for one, else this host.
#[derive(Debug, clap::Args)]
pub struct Domifaddr {
    /// The domain: name, id or UUID
    domain: String,
    /// Only the card of this name
    interface: Option<String>,
    /// Names and MAC addresses in every line
    #[arg(long)]
    full: bool,
    /// Who is asked: lease, agent or arp
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
}

const DASHES: usize = 79;

impl Verb for Domifaddr {
    const NAME: &'static str = "domifaddr";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let source = match self.source.as_deref() {
            None => None,
            Some("lease") => Some(Source::Lease),
            Some("agent") => Some(Source::Agent),
            Some("arp") => Some(Source::Arp),
            Some(other) => {
                let message = format!("Unknown data source '{other}'");
                return Err(Error::new(Kind::Usage, message).hint("use lease, agent or arp"));
            }
        };
        let mut cards = manager.addresses(&domain, source)?;
        if let Some(only) = &self.interface {
            cards.retain(|card| card.name == *only);
        }
        if context.ui.is_json() {
            return context.ui.json(&cards);
        }
        if !context.ui.quiet {
            context.ui.line(format!(
                " {:<10} {:<20} {:<8}     {}\n{}",
                "Name",
                "MAC address",
                "Protocol",
                "Address",
                "-".repeat(DASHES)
            ))?;
        }
        for card in cards {
            let name = printable(&card.name);
            let mac = printable(card.mac.as_deref().unwrap_or("-"));
            if card.addresses.is_empty() {
                let line = format!(" {name:<10} {mac:<17}    {:<12} N/A", "N/A");
                context.ui.line(line)?;
            }
            for (index, address) in card.addresses.iter().enumerate() {
                let (name, mac) = match index > 0 && !self.full {
                    true => ("-", "-"),
                    false => (name.as_str(), mac.as_str()),
                };
                let kind = printable(&address.kind);
                let text = printable(&address.address);
                let line = format!(
                    " {name:<10} {mac:<17}    {kind:<12} {text}/{}",
                    address.prefix
                );
                context.ui.line(line)?;
            }
        }
        Ok(())
    }
}
