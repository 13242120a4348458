//! The host's forwarding of packets: switched on where a network needs it and it is off. It stays on
//! when the network ends, since others may rely on it by then.

use super::link::Links;
use crate::error::{Error, Kind, Result};
use std::fs;
use std::path::{Path, PathBuf};

const SETTINGS: &str = "/proc/sys/net";
const IPV4: &str = "ipv4/ip_forward";
const IPV6: &str = "ipv6/conf/all/forwarding";

/// Switches forwarding on, of IPv6 only where `v6`; says which was off. What stands in the way of IPv6
/// is looked for before anything is changed.
///
/// # Errors
/// No right to, or a way out of the host that IPv6 forwarding would take from it.
pub fn switch_on(v6: bool) -> Result<Vec<String>> {
    let mut wanted = vec![(IPV4, "IPv4")];
    if v6 {
        if is_off(IPV6) {
            refuse_loss_of_routes(&advertised()?)?;
        }
        wanted.push((IPV6, "IPv6"));
    }
    let mut told = Vec::new();
    for (file, family) in wanted.into_iter().filter(|(file, _)| is_off(file)) {
        let path = Path::new(SETTINGS).join(file);
        fs::write(&path, "1").map_err(|error| {
            Error::io("switch on forwarding in", &path, &error)
                .hint("guests reach other networks only through a host that forwards")
        })?;
        told.push(format!(
            "this host did not forward {family} packets; it does now ({})",
            path.display()
        ));
    }
    Ok(told)
}

fn is_off(file: &str) -> bool {
    let now = fs::read_to_string(Path::new(SETTINGS).join(file));
    now.is_ok_and(|now| now.trim() == "0")
}

/// The interfaces with a default route that a router's advertisement made, and what each does with
/// advertisements.
fn advertised() -> Result<Vec<(String, String)>> {
    let links = Links::open()?;
    let found = links.advertised_defaults()?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut names = links.names()?;
    let named = found.into_iter().filter_map(|index| names.remove(&index));
    Ok(named
        .map(|name| {
            let setting = fs::read_to_string(accept_ra(&name)).unwrap_or_default();
            (name, setting.trim().to_string())
        })
        .collect())
}

fn accept_ra(interface: &str) -> PathBuf {
    Path::new(SETTINGS).join(format!("ipv6/conf/{interface}/accept_ra"))
}

/// A host that forwards is a router, and takes no advertisements with accept_ra=1: the kernel drops the
/// default routes that it has from them (Documentation/networking/ip-sysctl.rst, accept_ra).
fn refuse_loss_of_routes(interfaces: &[(String, String)]) -> Result<()> {
    let lost: Vec<&str> = interfaces
        .iter()
        .filter(|(_, accept)| accept == "1")
        .map(|(name, _)| name.as_str())
        .collect();
    let Some(first) = lost.first() else {
        return Ok(());
    };
    Err(Error::new(
        Kind::Host,
        "Check the host setup: enabling IPv6 forwarding with RA routes without accept_ra set to 2 \
         is likely to cause routes loss",
    )
    .cause(format!("Interfaces to look at: {}", lost.join(", ")))
    .hint(format!(
        "keep its routes: echo 2 > {}",
        accept_ra(first).display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routes_that_would_be_lost_are_in_the_way() {
        let one = |name: &str, accept: &str| (name.to_string(), accept.to_string());
        for fine in [
            vec![],
            vec![one("eth0", "2")],
            // Somebody else than the kernel listens to routers there.
            vec![one("eth0", "0"), one("eth1", "")],
        ] {
            assert!(refuse_loss_of_routes(&fine).is_ok(), "{fine:?}");
        }
        let error = refuse_loss_of_routes(&[one("eth0", "2"), one("wlan0", "1")]).unwrap_err();
        assert_eq!(error.causes, ["Interfaces to look at: wlan0"]);
        assert!(error.hints[0].contains("wlan0/accept_ra"), "{error}");
    }
}
