//! The host's end of a network card: a tap that is made, set up and plugged into its bridge, or one
//! that somebody else made, and precisely why not.
//!
//! A tap of ours lives as long as the guest's process: nothing has to be cleaned up after it. Must
//! never change an interface that it did not make.

use crate::error::{Error, Kind, Result, plain_io};
use crate::spawn::{self, Tap};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// What libvirt calls the taps that it names itself; the kernel counts.
const GENERATED: &str = "vnet";
/// How long the tap of a guest that was killed may stay after its lock is free.
const LINGERS: Duration = Duration::from_millis(500);
/// What taps come with.
const USUAL_MTU: u16 = 1500;

/// A tap that a guest needs.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its name; made up when absent, or when it looks like a name that was made up before.
    pub name: Option<&'a str>,
    /// The bridge to plug it into.
    pub bridge: Option<&'a str>,
    /// Pairs of queues.
    pub queues: u16,
    /// The address of the guest's card.
    pub mac: [u8; 6],
    /// The MTU; else the bridge's.
    pub mtu: Option<u16>,
    /// Made here; else it exists and is only opened.
    pub made_here: bool,
}

/// Opens the tap.
///
/// # Errors
/// No such bridge or tap, a name that is taken, no right to make one, or no tap device on this host.
pub fn plug(wanted: Wanted<'_>) -> Result<Tap> {
    if !wanted.made_here {
        return open_existing(wanted);
    }
    let bridge_mtu = wanted.bridge.map(mtu_of_bridge).transpose()?;
    let name = match wanted.name {
        Some(name) if !is_generated(name) => {
            refuse_taken(name)?;
            name
        }
        _ => "vnet%d",
    };
    let tap =
        Tap::open(name, wanted.queues).map_err(|error| cannot_open(name, wanted.queues, &error))?;
    set_up(&tap, wanted, bridge_mtu).map_err(|(what, error)| {
        let base = Error::new(kind(&error), format!("cannot {what} the tap {}", tap.name));
        if error.kind() == io::ErrorKind::Unsupported {
            return with_bridges(base.cause("that interface is no Linux bridge"));
        }
        base.cause(plain_io(&error))
    })?;
    Ok(tap)
}

type Step = (String, io::Error);

fn set_up(tap: &Tap, wanted: Wanted<'_>, bridge_mtu: Option<u16>) -> Result<(), Step> {
    let failed = |what: &str| {
        let what = what.to_string();
        move |error: io::Error| (what, error)
    };
    let address = host_address(wanted.mac);
    tap.set_mac(address).map_err(failed("address"))?;
    // Before it joins, or the bridge's own MTU would follow it down.
    if let Some(mtu) = wanted.mtu.or(bridge_mtu).filter(|mtu| *mtu != USUAL_MTU) {
        tap.set_mtu(mtu)
            .map_err(failed(&format!("set the MTU {mtu} of")))?;
    }
    if let Some(bridge) = wanted.bridge {
        tap.join(bridge)
            .map_err(failed(&format!("plug into bridge '{bridge}'")))?;
    }
    tap.bring_up().map_err(failed("switch on"))
}

/// The host's end differs from the guest's card in its first byte. A bridge takes the lowest of its
/// ports' addresses, so a high one keeps the bridge's own where it is.
fn host_address(mut guest: [u8; 6]) -> [u8; 6] {
    guest[0] = if guest[0] == 0xfe { 0xfa } else { 0xfe };
    guest
}

fn is_generated(name: &str) -> bool {
    name.strip_prefix(GENERATED)
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn exists(interface: &str) -> bool {
    spawn::mtu(interface).is_ok()
}

fn refuse_taken(name: &str) -> Result<()> {
    let deadline = Instant::now() + LINGERS;
    while Instant::now() < deadline {
        if !exists(name) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(
        Error::new(Kind::Exists, format!("the interface {name} exists already"))
            .hint("leave out <target dev='...'/> to have a name made up")
            .hint(format!(
                "if it is a tap for this guest: <interface type='ethernet'> with <target dev='{name}' managed='no'/>"
            )),
    )
}

fn mtu_of_bridge(bridge: &str) -> Result<u16> {
    spawn::mtu(bridge).map_err(|error| {
        let missing = Error::new(Kind::NotFound, format!("there is no bridge '{bridge}'"));
        with_bridges(missing.cause(plain_io(&error))).hint(format!(
            "make it: ip link add {bridge} type bridge && ip link set {bridge} up"
        ))
    })
}

fn with_bridges(error: Error) -> Error {
    match bridges().as_slice() {
        [] => error,
        some => error.hint(format!("bridges of this host: {}", some.join(", "))),
    }
}

/// The bridges of this host, a few of them.
fn bridges() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("bridge").is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        // The files may be those of another network namespace.
        .filter(|name| exists(name))
        .collect();
    names.sort();
    names.truncate(10);
    names
}

fn open_existing(wanted: Wanted<'_>) -> Result<Tap> {
    let Some(name) = wanted.name else {
        return Err(Error::new(
            Kind::Definition,
            "an interface has managed='no' and no name",
        )
        .hint("name the tap that exists: <target dev='tap0' managed='no'/>"));
    };
    if !exists(name) {
        return Err(
            Error::new(Kind::NotFound, format!("there is no tap '{name}'"))
                .cause("managed='no' says that somebody else makes it")
                .hint(format!("make it: {}", recipe(name, wanted.queues))),
        );
    }
    Tap::open(name, wanted.queues).map_err(|error| cannot_open(name, wanted.queues, &error))
}

fn recipe(name: &str, queues: u16) -> String {
    let user = rustix::process::geteuid();
    let many = if queues > 1 { " multi_queue" } else { "" };
    format!("ip tuntap add dev {name} mode tap user {user} vnet_hdr{many}")
}

fn kind(error: &io::Error) -> Kind {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Kind::Permission,
        io::ErrorKind::ResourceBusy => Kind::Busy,
        io::ErrorKind::InvalidInput => Kind::Definition,
        _ => Kind::Host,
    }
}

/// Why a tap cannot be opened, and what helps.
fn cannot_open(name: &str, queues: u16, error: &io::Error) -> Error {
    let shown = if name.contains('%') { "" } else { name };
    let message = format!("cannot open the tap {shown}");
    let base = Error::new(kind(error), message.trim_end());
    match error.kind() {
        io::ErrorKind::NotFound => base
            .cause("/dev/net/tun is not there")
            .hint("load the module: modprobe tun"),
        io::ErrorKind::PermissionDenied => base
            .cause("making a tap needs the right CAP_NET_ADMIN")
            .hint("run it as root")
            .hint(format!(
                "or have root make one for you: {}, and write <interface type='ethernet'> with <target dev='tap0' managed='no'/>",
                recipe("tap0", queues)
            )),
        io::ErrorKind::ResourceBusy => base
            .cause("another process has it open")
            .hint("a tap serves one guest; give this one its own"),
        io::ErrorKind::InvalidInput if exists(name) => base
            .cause("it is no tap, or was made with another number of queues")
            .hint(format!("a tap that fits: {}", recipe(name, queues))),
        _ => base.cause(plain_io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'static> = Wanted {
        name: None,
        bridge: None,
        queues: 1,
        mac: [0x52, 0x54, 0, 1, 2, 3],
        mtu: None,
        made_here: true,
    };

    #[test]
    fn the_hosts_end_has_an_address_of_its_own_above_those_of_cards() {
        assert_eq!(host_address(WANTED.mac), [0xfe, 0x54, 0, 1, 2, 3]);
        assert_eq!(host_address([0xfe, 0, 0, 0, 0, 1])[0], 0xfa);
    }

    #[test]
    fn names_that_were_made_up_before_are_made_up_again() {
        assert!(is_generated("vnet0") && is_generated("vnet17") && is_generated("vnet"));
        assert!(!is_generated("vnet-web") && !is_generated("tap0"));
    }

    #[test]
    fn a_bridge_that_is_not_there_is_refused_before_anything_is_made() {
        for bridge in ["no-such-br", "../../../etc", "a name much too long for one"] {
            let error = plug(Wanted {
                bridge: Some(bridge),
                ..WANTED
            });
            let error = error.expect_err("refused");
            assert_eq!(error.kind, Kind::NotFound);
            assert!(error.message.contains(bridge) && !error.hints.is_empty());
        }
    }

    #[test]
    fn a_name_that_is_taken_and_a_tap_that_is_missing_are_refused() {
        let error = plug(Wanted {
            name: Some("lo"),
            ..WANTED
        });
        assert_eq!(error.expect_err("refused").kind, Kind::Exists);
        let error = plug(Wanted {
            name: Some("no-such-tap"),
            made_here: false,
            ..WANTED
        });
        let error = error.expect_err("refused");
        assert!(
            error.hints[0].contains("ip tuntap add dev no-such-tap"),
            "{error}"
        );
    }
}
