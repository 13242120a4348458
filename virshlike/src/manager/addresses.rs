//! The addresses of a domain's network cards, as the networks that they are plugged into, the guest's
//! agent or this host's own neighbour table tells them.

use super::agent;
use super::agent::facts::{Address, Card};
use super::{Domain, Manager};
use crate::error::{Error, Kind, Result};
use crate::model;
use crate::runtime::Guest;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Whoever gave the addresses out.
    Lease,
    /// The agent inside the guest.
    Agent,
    /// This host's table of neighbours: those that it has spoken with.
    Arp,
}

/// The kernel's table of IPv4 neighbours (proc(5)).
const NEIGHBOURS: &str = "/proc/net/arp";
/// Of an entry's flags: its hardware address is known.
const COMPLETE: u32 = 0x2;

impl Manager {
    /// The cards of a running domain with their addresses. Without a source: who gave the addresses out,
    /// where that is a network of ours and it did; else its agent where it has a channel for one, else
    /// this host's neighbours.
    ///
    /// # Errors
    /// It is not running; as [`Manager::agent`]; no table of neighbours; leases that cannot be read.
    pub fn addresses(&self, domain: &Domain, source: Option<Source>) -> Result<Vec<Card>> {
        let guest = self.running(domain)?;
        let (_, model) = self.current_definition(domain, Some(&guest))?;
        let has_agent = || {
            let mut channels = model.channels.iter();
            channels.any(|channel| channel.name.as_deref() == Some(agent::CHANNEL))
        };
        if source.is_none() {
            let leased = self.leased_cards(&guest, &model)?;
            if !leased.is_empty() {
                return Ok(leased);
            }
        }
        match source {
            Some(Source::Lease) => self.leased_cards(&guest, &model),
            Some(Source::Agent) => self.guest_cards(domain),
            None if has_agent() => self.guest_cards(domain),
            Some(Source::Arp) | None => {
                let text = fs::read_to_string(NEIGHBOURS)
                    .map_err(|error| Error::io("read", Path::new(NEIGHBOURS), &error))?;
                let mut known = neighbours(&text);
                let cards = model.interfaces.iter().filter_map(|card| {
                    let mac = card.mac?.to_string();
                    let addresses = known.remove(&mac)?;
                    let tap = guest.record.taps.get(&card.alias).or(card.target.as_ref());
                    Some(Card {
                        name: tap.cloned().unwrap_or_else(|| "-".to_string()),
                        mac: Some(mac),
                        addresses,
                    })
                });
                Ok(cards.collect())
            }
        }
    }
}

impl Manager {
    /// What a running domain called itself when a network of ours gave it an address.
    ///
    /// # Errors
    /// It is not running, or told none.
    pub fn leased_hostname(&self, domain: &Domain) -> Result<String> {
        let guest = self.running(domain)?;
        let (_, model) = self.current_definition(domain, Some(&guest))?;
        for card in &model.interfaces {
            let (Some(mac), Some(port)) = (card.mac, guest.record.ports.get(&card.alias)) else {
                continue;
            };
            let leases = self.networks().leases_of(port.network, &mac.to_string())?;
            if let Some(name) = leases.into_iter().find_map(|lease| lease.hostname) {
                return Ok(name);
            }
        }
        Err(Error::new(
            Kind::NotFound,
            format!("no hostname found for domain '{}'", domain.name),
        )
        .cause("no network of ours was told one when it gave out an address"))
    }

    /// The cards that are plugged into networks of ours, with the addresses that these gave them.
    fn leased_cards(&self, guest: &Guest, model: &model::Domain) -> Result<Vec<Card>> {
        let mut cards = Vec::new();
        for card in &model.interfaces {
            let (Some(mac), Some(port)) = (card.mac, guest.record.ports.get(&card.alias)) else {
                continue;
            };
            let mac = mac.to_string();
            let leases = self.networks().leases_of(port.network, &mac)?;
            if leases.is_empty() {
                continue;
            }
            let tap = guest.record.taps.get(&card.alias);
            cards.push(Card {
                name: tap.cloned().unwrap_or_else(|| "-".to_string()),
                mac: Some(mac),
                addresses: leases
                    .into_iter()
                    .map(|lease| Address {
                        kind: lease.protocol.to_string(),
                        address: lease.address.to_string(),
                        prefix: lease.prefix.into(),
                    })
                    .collect(),
            });
        }
        Ok(cards)
    }
}

/// Addresses by the MAC address that they belong to. The table does not tell the network's part of
/// them: it is 0, as libvirt has it.
fn neighbours(text: &str) -> BTreeMap<String, Vec<Address>> {
    let mut known: BTreeMap<String, Vec<Address>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, flags, mac, ..] = words.as_slice() else {
            continue;
        };
        let flags = flags.strip_prefix("0x").unwrap_or(flags);
        if u32::from_str_radix(flags, 16).unwrap_or(0) & COMPLETE != 0 {
            let address = Address {
                kind: "ipv4".to_string(),
                address: (*address).to_string(),
                prefix: 0,
            };
            let same = known.entry(mac.to_ascii_lowercase()).or_default();
            same.push(address);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_are_known_are_found_by_their_mac() {
        let text = "IP address       HW type     Flags       HW address            Mask     Device\n\
             192.168.122.5    0x1         0x2         52:54:00:00:00:01     *        virbr0\n\
             192.168.122.6    0x1         0x0         00:00:00:00:00:00     *        virbr0\n\
             10.0.0.9         0x1         0x6         52:54:00:00:00:01     *        br0\n\
             nonsense\n";
        let known = neighbours(text);
        assert_eq!(known.len(), 1);
        let found: Vec<&str> = known["52:54:00:00:00:01"]
            .iter()
            .map(|address| address.address.as_str())
            .collect();
        assert_eq!(found, ["192.168.122.5", "10.0.0.9"]);
    }
}
