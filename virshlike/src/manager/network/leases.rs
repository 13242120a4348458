//! Which guest has which address: the file in which a network's DHCP server remembers its leases.
//!
//! ```text
//! 1700000000 52:54:00:aa:00:01 192.168.122.15 web01 01:52:54:00:aa:00:01
//! duid 00:01:00:01:...
//! 1700000000 1234567 fd00::15 web01 00:04:7e:...
//! ```
//!
//! The server's user writes it and a guest chooses its words (names, ids), so it is hostile input:
//! lines that are not like these are left out.

use super::{Found, Networks};
use crate::error::{Error, Result};
use crate::model::Network;
use crate::store::journal::seconds_now;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use uuid::Uuid;

/// More than any network's leases take, in bytes.
const MOST: u64 = 16 << 20;

/// An address that a guest has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// Seconds since the Unix epoch; `None` for ever.
    pub expiry: Option<u64>,
    /// The guest's card; unknown of IPv6 leases.
    pub mac: Option<String>,
    /// `ipv4` or `ipv6`.
    pub protocol: &'static str,
    /// The address.
    pub address: IpAddr,
    /// Bits of its network's prefix.
    pub prefix: u8,
    /// The name that the guest gave itself, or that the definition gives it.
    pub hostname: Option<String>,
    /// The client's id, or its DUID.
    pub client_id: Option<String>,
}

/// The leases in the text of a server's file that have not run out at `now`, in seconds since the
/// Unix epoch, by address.
pub fn parse(text: &str, network: &Network, now: u64) -> Vec<Lease> {
    let mut leases: Vec<Lease> = text
        .lines()
        .filter_map(|line| lease(line, network))
        .filter(|lease| lease.expiry.is_none_or(|expiry| expiry > now))
        .collect();
    leases.sort_by_key(|lease| lease.address);
    leases
}

fn lease(line: &str, network: &Network) -> Option<Lease> {
    let mut words = line.split_ascii_whitespace();
    let expiry: u64 = words.next()?.parse().ok()?;
    let who = words.next()?;
    let address: IpAddr = words.next()?.parse().ok()?;
    let known = |word: Option<&str>| word.filter(|word| *word != "*").map(str::to_string);
    let hostname = known(words.next());
    let client_id = known(words.next());
    // Another kind of hardware stands before the address: `06-52:54:...`.
    let mac = who.rsplit('-').next().filter(|who| who.contains(':'));
    let subnet = network
        .subnets
        .iter()
        .find(|subnet| subnet.contains(address));
    let usual = if address.is_ipv4() { 24 } else { 64 };
    Some(Lease {
        expiry: (expiry != 0).then_some(expiry),
        mac: mac.map(str::to_ascii_lowercase),
        protocol: if address.is_ipv4() { "ipv4" } else { "ipv6" },
        address,
        prefix: subnet.map_or(usual, |subnet| subnet.prefix),
        hostname,
        client_id,
    })
}

impl Networks<'_> {
    /// The leases of a network; those of one card with `mac`.
    ///
    /// # Errors
    /// The network is not active, or its file cannot be read; one that is not there is empty.
    pub fn leases(&self, found: &Found, mac: Option<&str>) -> Result<Vec<Lease>> {
        if found.record.is_none() {
            let why = format!("network '{}' is not active", found.name);
            return Err(Error::invalid_operation(&why));
        }
        let path = self.store.layout().leases(found.uuid);
        let text = read(&path)?;
        let network = self.current(found)?.model;
        let mut leases = parse(&text, &network, seconds_now());
        if let Some(mac) = mac {
            let mac = mac.to_ascii_lowercase();
            leases.retain(|lease| lease.mac.as_ref() == Some(&mac));
        }
        Ok(leases)
    }

    /// The leases of a card with this address in a network; none when that is not active.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn leases_of(&self, network: Uuid, mac: &str) -> Result<Vec<Lease>> {
        let Some(record) = self.active(network) else {
            return Ok(Vec::new());
        };
        let found = Found {
            name: record.name.clone(),
            uuid: network,
            persistent: !record.transient,
            record: Some(record),
        };
        self.leases(&found, Some(mac))
    }
}

fn read(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::io("read", path, &error)),
        Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::Document;
    use proptest::prelude::*;

    fn network() -> Network {
        let text = "<network><name>n</name><ip address='10.0.0.1' prefix='20'/></network>";
        let document = Document::parse(text, "n.xml").unwrap();
        Network::parse(&document).unwrap().0
    }

    #[test]
    fn leases_of_both_families_are_read_and_old_ones_left_out() {
        let text = "2000 52:54:00:AA:00:01 10.0.0.15 web01 01:52:54:00:aa:00:01\n\
                    900 52:54:00:aa:00:02 10.0.0.16 * *\n\
                    0 52:54:00:aa:00:03 10.0.0.9 * *\n\
                    duid 00:01:00:01\n2000 1234567 fd00::15 web01 00:04:7e\nnonsense\n";
        let leases = parse(text, &network(), 1000);
        let shown: Vec<String> = leases
            .iter()
            .map(|l| {
                format!(
                    "{} {}/{} {:?} {:?}",
                    l.protocol, l.address, l.prefix, l.mac, l.expiry
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "ipv4 10.0.0.9/20 Some(\"52:54:00:aa:00:03\") None",
                "ipv4 10.0.0.15/20 Some(\"52:54:00:aa:00:01\") Some(2000)",
                "ipv6 fd00::15/64 None Some(2000)",
            ]
        );
        assert_eq!(leases[1].hostname.as_deref(), Some("web01"));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,200}") {
            parse(&text, &network(), 0);
        }
    }
}
