//! What a guest's agent says, as types and as libvirt's names. All of it is the guest's word.

use crate::model::Disk;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vmm_api::spec::PciAddress;

/// The answer of `guest-get-host-name`.
#[derive(Debug, Clone, Deserialize)]
pub struct HostName {
    /// The name.
    #[serde(rename = "host-name")]
    pub name: String,
}

/// A network card as the guest sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Card {
    /// The guest's name for it, such as `eth0`.
    pub name: String,
    /// Its MAC address.
    #[serde(rename(deserialize = "hardware-address", serialize = "mac"))]
    pub mac: Option<String>,
    /// Its addresses.
    #[serde(rename(deserialize = "ip-addresses", serialize = "addresses"))]
    pub addresses: Vec<Address>,
}

/// An address of a card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    /// `ipv4` or `ipv6`.
    #[serde(rename(deserialize = "ip-address-type", serialize = "type"))]
    pub kind: String,
    /// The address.
    #[serde(rename(deserialize = "ip-address", serialize = "address"))]
    pub address: String,
    /// Bits of its network's part.
    pub prefix: u32,
}

/// A file system that a guest has mounted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FileSystem {
    /// Where.
    pub mountpoint: String,
    /// The guest's name for the device.
    pub name: String,
    /// Such as `ext4`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes in use.
    #[serde(rename(deserialize = "used-bytes", serialize = "used_bytes"))]
    pub used: Option<u64>,
    /// Its size in bytes.
    #[serde(rename(deserialize = "total-bytes", serialize = "total_bytes"))]
    pub total: Option<u64>,
    /// The disks it lies on.
    #[serde(rename(deserialize = "disk", serialize = "disks"))]
    pub disks: Vec<DiskOf>,
}

/// A disk that a file system lies on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskOf {
    /// Its name in the definition, such as `vda`, when it is one of it.
    #[serde(skip_deserializing)]
    pub target: Option<String>,
    /// The guest's name for it.
    #[serde(rename(deserialize = "dev", serialize = "device"))]
    pub device: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    #[serde(rename = "pci-controller", skip_serializing)]
    pci: Option<Pci>,
}

/// Where the guest found a device; -1 where it does not know.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct Pci {
    domain: i64,
    bus: i64,
    slot: i64,
    function: i64,
}

impl Pci {
    fn is(self, address: PciAddress) -> bool {
        (self.domain, self.bus, self.slot, self.function)
            == (
                0,
                i64::from(address.bus),
                i64::from(address.slot),
                i64::from(address.function),
            )
    }
}

impl DiskOf {
    /// Finds it among the disks of the definition, by its address, else by its serial number.
    pub fn name_from(&mut self, disks: &[Disk]) {
        let by_address = |pci: Pci| {
            let here = |disk: &&Disk| disk.address.is_some_and(|address| pci.is(address));
            disks.iter().find(here)
        };
        let by_serial = |serial: &String| {
            let same = |disk: &&Disk| disk.serial.as_ref() == Some(serial);
            disks.iter().find(same).filter(|_| !serial.is_empty())
        };
        let found = self.pci.and_then(by_address);
        let found = found.or_else(|| self.serial.as_ref().and_then(by_serial));
        self.target = found.map(|disk| disk.target.clone());
    }
}

/// A processor as the guest sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Vcpu {
    /// Its number.
    pub logical_id: u32,
    /// Whether the guest uses it.
    pub online: bool,
    /// Whether it can stop to.
    pub can_offline: bool,
}

/// Why file systems were not trimmed: `guest-fstrim` says it per path.
pub(super) fn trim_failures(answer: &Value) -> Vec<String> {
    let paths = answer["paths"].as_array().into_iter().flatten();
    let failed = paths.filter_map(|path| {
        let why = path["error"].as_str()?;
        let at = path["path"].as_str().unwrap_or("?");
        Some(super::talk::printable(&format!("{at}: {why}")))
    });
    // File systems that cannot be trimmed at all are named so by every agent.
    failed
        .filter(|line| !line.ends_with("trim not supported"))
        .take(20)
        .collect()
}

/// What `guestinfo` can tell, in libvirt's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Info {
    /// Who is logged in.
    Users,
    /// The operating system.
    Os,
    /// Its time zone.
    Timezone,
    /// Its name.
    Hostname,
    /// What it has mounted.
    FileSystems,
    /// Its disks.
    Disks,
    /// Its network cards.
    Interfaces,
}

impl Info {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Users,
        Self::Os,
        Self::Timezone,
        Self::Hostname,
        Self::FileSystems,
        Self::Disks,
        Self::Interfaces,
    ];

    pub(super) fn command(self) -> &'static str {
        match self {
            Self::Users => "guest-get-users",
            Self::Os => "guest-get-osinfo",
            Self::Timezone => "guest-get-timezone",
            Self::Hostname => "guest-get-host-name",
            Self::FileSystems => "guest-get-fsinfo",
            Self::Disks => "guest-get-disks",
            Self::Interfaces => "guest-network-get-interfaces",
        }
    }

    /// An answer under libvirt's names (virDomainGetGuestInfo).
    pub(super) fn fields(self, answer: Value, disks: &[Disk], out: &mut Vec<(String, Value)>) {
        let mut fields = Fields { out };
        match self {
            Self::Users => fields.list("user", &answer, |fields, at, user| {
                fields.copy(at, "name", &user["user"]);
                fields.copy(at, "domain", &user["domain"]);
                if let Some(seconds) = user["login-time"].as_f64() {
                    // Milliseconds, as libvirt tells it; a guest's nonsense ends at the edges.
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    let milliseconds = (seconds * 1000.0) as u64;
                    fields.add(format!("{at}.login-time"), milliseconds.into());
                }
            }),
            Self::Os => {
                let names = [
                    "id",
                    "name",
                    "pretty-name",
                    "version",
                    "version-id",
                    "machine",
                    "variant",
                    "variant-id",
                    "kernel-release",
                    "kernel-version",
                ];
                for name in names {
                    fields.copy("os", name, &answer[name]);
                }
            }
            Self::Timezone => {
                fields.copy("timezone", "name", &answer["zone"]);
                fields.copy("timezone", "offset", &answer["offset"]);
            }
            Self::Hostname => {
                if answer["host-name"].is_string() {
                    fields.add("hostname".into(), answer["host-name"].clone());
                }
            }
            Self::FileSystems => fields.file_systems(&answer, disks),
            Self::Disks => fields.list("disk", &answer, |fields, at, disk| {
                fields.copy(at, "name", &disk["name"]);
                fields.copy(at, "partition", &disk["partition"]);
                fields.list(
                    &format!("{at}.dependency"),
                    &disk["dependencies"],
                    |fields, at, name| fields.copy(at, "name", name),
                );
                fields.copy(at, "serial", &disk["address"]["serial"]);
                fields.copy(at, "guest_alias", &disk["alias"]);
            }),
            Self::Interfaces => fields.list("if", &answer, |fields, at, card| {
                fields.copy(at, "name", &card["name"]);
                fields.copy(at, "hwaddr", &card["hardware-address"]);
                fields.list(
                    &format!("{at}.addr"),
                    &card["ip-addresses"],
                    |fields, at, address| {
                        fields.copy(at, "type", &address["ip-address-type"]);
                        fields.copy(at, "addr", &address["ip-address"]);
                        fields.copy(at, "prefix", &address["prefix"]);
                    },
                );
            }),
        }
    }
}

/// Fields under construction.
struct Fields<'a> {
    out: &'a mut Vec<(String, Value)>,
}

impl Fields<'_> {
    fn add(&mut self, name: String, value: Value) {
        self.out.push((name, value));
    }

    /// A text, number or truth; anything else is left out.
    fn copy(&mut self, at: &str, name: &str, value: &Value) {
        if value.is_string() || value.is_number() || value.is_boolean() {
            self.add(format!("{at}.{name}"), value.clone());
        }
    }

    fn list(&mut self, name: &str, list: &Value, each: impl Fn(&mut Self, &str, &Value)) {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        self.add(format!("{name}.count"), list.len().into());
        for (index, item) in list.iter().enumerate() {
            each(self, &format!("{name}.{index}"), item);
        }
    }

    fn file_systems(&mut self, answer: &Value, disks: &[Disk]) {
        self.list("fs", answer, |fields, at, system| {
            for (name, theirs) in [
                ("name", "name"),
                ("mountpoint", "mountpoint"),
                ("fstype", "type"),
                ("total-bytes", "total-bytes"),
                ("used-bytes", "used-bytes"),
            ] {
                fields.copy(at, name, &system[theirs]);
            }
            fields.list(
                &format!("{at}.disk"),
                &system["disk"],
                |fields, at, disk| {
                    let known = serde_json::from_value::<DiskOf>(disk.clone());
                    let mut known = known.unwrap_or_default();
                    known.name_from(disks);
                    if let Some(target) = known.target {
                        fields.add(format!("{at}.alias"), target.into());
                    }
                    fields.copy(at, "serial", &disk["serial"]);
                    fields.copy(at, "device", &disk["dev"]);
                },
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_card_is_told_under_libvirts_names() {
        let answer = json!([{"name": "eth0", "hardware-address": "52:54:00:00:00:01",
            "ip-addresses": [{"ip-address": "10.0.0.5", "ip-address-type": "ipv4", "prefix": 24}]},
            {"name": "sit0"}]);
        let cards: Vec<Card> = serde_json::from_value(answer.clone()).unwrap();
        assert_eq!(cards[0].addresses[0].prefix, 24);
        assert_eq!(cards[1].mac, None);
        let mut fields = Vec::new();
        Info::Interfaces.fields(answer, &[], &mut fields);
        let lines: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            lines,
            [
                "if.count=2",
                "if.0.name=\"eth0\"",
                "if.0.hwaddr=\"52:54:00:00:00:01\"",
                "if.0.addr.count=1",
                "if.0.addr.0.type=\"ipv4\"",
                "if.0.addr.0.addr=\"10.0.0.5\"",
                "if.0.addr.0.prefix=24",
                "if.1.name=\"sit0\"",
                "if.1.addr.count=0",
            ]
        );
    }

    #[test]
    fn what_could_not_be_trimmed_is_told() {
        let answer = json!({"paths": [{"path": "/", "trimmed": 5}, {"path": "/a", "error": "no\n way"},
            {"path": "/boot", "error": "trim not supported"}]});
        assert_eq!(trim_failures(&answer), ["/a: no way"]);
    }

    proptest! {
        #[test]
        fn no_answer_is_a_surprise(text in "[\\[\\]{}\":,a-z0-9-]{0,200}") {
            let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
            for kind in Info::ALL {
                kind.fields(value.clone(), &[], &mut Vec::new());
            }
            trim_failures(&value);
        }
    }
}
