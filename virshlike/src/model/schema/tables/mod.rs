//! The tables: every element and attribute of a domain or network definition with its fate.
//!
//! They are the one place that decides what is accepted; checking, `docs/domain-xml.md` and
//! `docs/network-xml.md` come from them. Rows stand in the order in which libvirt writes the elements.

mod chardev;
mod cpu;
mod disk;
mod display;
mod general;
mod hardware;
mod net;
mod network;
mod shared;
mod tuning;

use super::row::Group;

/// Every group. A group comes behind those that make its bases.
pub(super) const GROUPS: &[&[Group]] = &[
    general::GROUPS,
    cpu::GROUPS,
    tuning::GROUPS,
    disk::GROUPS,
    net::GROUPS,
    chardev::GROUPS,
    display::GROUPS,
    hardware::GROUPS,
    shared::GROUPS,
];

/// Every group of network definitions.
pub(super) const NETWORK_GROUPS: &[&[Group]] = &[network::GROUPS];

/// [`LINKS`] of network definitions.
pub(super) const NETWORK_LINKS: &[(&str, &str)] = &[
    ("portgroup/bandwidth", "bandwidth"),
    ("portgroup/vlan", "vlan"),
    ("portgroup/virtualport", "virtualport"),
];

/// Elements whose content is that of another: place and model.
pub(super) const LINKS: &[(&str, &str)] = &[
    ("devices/disk/backingStore/source", "devices/disk/source"),
    (
        "devices/disk/backingStore/backingStore",
        "devices/disk/backingStore",
    ),
    ("devices/disk/mirror/source", "devices/disk/source"),
    (
        "devices/disk/mirror/format",
        "devices/disk/backingStore/format",
    ),
    (
        "devices/disk/mirror/backingStore",
        "devices/disk/backingStore",
    ),
    (
        "devices/disk/source/dataStore/source",
        "devices/disk/source",
    ),
    (
        "devices/disk/source/dataStore/format",
        "devices/disk/backingStore/format",
    ),
    ("os/nvram/source", "devices/disk/source"),
];
