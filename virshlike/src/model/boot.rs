//! What a domain without a `<kernel>` boots from: the devices that its firmware tries, and in which
//! order. libvirt's rules, as a pure function of the definition.
//!
//! ```text
//! any <boot order='N'/> of a device  -> those devices, by N
//! else each <boot dev='...'/> of <os>, or hd where there is none
//!                                    -> the first disk, CD-ROM or network card, in that order
//! ```
//!
//! The first disk is the one that libvirt puts first: buses in the order in which the document comes
//! to them, names (`vda`, `vdb`) in the order of the alphabet on each. A drive without a medium is
//! passed over. Firmware does not try what has no place in the order, as with libvirt, which starts QEMU
//! with `-boot strict=on`: without anything to boot it says so and waits. Its menu still shows everything.

use super::device::{Disk, DiskDevice};
use super::domain::{BootDevice, Domain};
use super::parse::disk_number;
use std::collections::BTreeMap;

impl Domain {
    /// The boot index of each device that has one, by alias; the lowest is tried first. Empty where
    /// a `<kernel>` is started.
    pub fn boot_indices(&self) -> BTreeMap<&str, u32> {
        if self.os.kernel.is_some() {
            return BTreeMap::new();
        }
        let ordered: BTreeMap<&str, u32> = self
            .disks
            .iter()
            .map(|disk| (disk.alias.as_str(), disk.boot_order))
            .chain(
                self.interfaces
                    .iter()
                    .map(|card| (card.alias.as_str(), card.boot_order)),
            )
            .filter_map(|(alias, order)| Some((alias, order?)))
            .collect();
        if !ordered.is_empty() {
            return ordered;
        }
        let kinds: &[BootDevice] = match self.os.boot.as_slice() {
            [] => &[BootDevice::Disk],
            kinds => kinds,
        };
        let mut indices = BTreeMap::new();
        for (kind, index) in kinds.iter().zip(1..) {
            if let Some(alias) = self.first(*kind) {
                indices.entry(alias).or_insert(index);
            }
        }
        indices
    }

    /// The first device of a kind.
    fn first(&self, kind: BootDevice) -> Option<&str> {
        let is_meant = |disk: &Disk| match kind {
            BootDevice::Disk => matches!(disk.device, DiskDevice::Disk | DiskDevice::Lun),
            BootDevice::Cdrom => disk.device == DiskDevice::Cdrom,
            BootDevice::Network | BootDevice::Floppy => false,
        };
        if kind == BootDevice::Network {
            return self.interfaces.first().map(|card| card.alias.as_str());
        }
        let rank = |disk: &Disk| {
            let bus = self.disks.iter().position(|other| other.bus == disk.bus);
            (bus, disk_number(&disk.target))
        };
        self.disks
            .iter()
            .filter(|disk| is_meant(disk) && disk.source.is_some())
            .min_by_key(|disk| rank(disk))
            .map(|disk| disk.alias.as_str())
    }

    /// Whether the order leads to a disk or a CD-ROM at all.
    pub(super) fn boots_from_a_disk(&self) -> bool {
        let indices = self.boot_indices();
        self.disks.iter().any(|disk| {
            disk.device != DiskDevice::Floppy
                && disk.source.is_some()
                && indices.contains_key(disk.alias.as_str())
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::model::Domain;
    use crate::xml::{Diagnostics, Document};

    fn parse(os: &str, devices: &str) -> Result<(Domain, Diagnostics), Diagnostics> {
        let text = format!(
            "<domain type='kvm'>\n<name>a</name>\n<memory>65536</memory>\n<os>\n\
             <type>hvm</type>\n{os}\n</os>\n<devices>\n{devices}\n</devices>\n</domain>"
        );
        Domain::parse(&Document::parse(&text, "a.xml").expect("XML"))
    }

    fn order(os: &str, devices: &str) -> Vec<(String, u32)> {
        let (domain, _) = parse(os, devices).unwrap_or_else(|errors| panic!("{errors}"));
        let mut indices: Vec<_> = domain
            .boot_indices()
            .into_iter()
            .map(|(alias, index)| (alias.to_string(), index))
            .collect();
        indices.sort_by_key(|(_, index)| *index);
        indices
    }

    fn disk(device: &str, target: &str, more: &str) -> String {
        format!(
            "<disk type='file' device='{device}'><source file='/i/{target}'/>\
             <target dev='{target}' bus='virtio'/>{more}</disk>\n"
        )
    }

    fn three() -> String {
        disk("disk", "vdb", "") + &disk("cdrom", "vdc", "") + &disk("disk", "vda", "")
    }

    fn named(list: &[(&str, u32)]) -> Vec<(String, u32)> {
        let owned = list
            .iter()
            .map(|(alias, index)| ((*alias).to_string(), *index));
        owned.collect()
    }

    #[test]
    fn the_first_disk_is_the_one_of_the_first_name() {
        let first = named(&[("virtio-disk0", 1)]);
        assert_eq!(order("", &three()), first);
        assert_eq!(order("<boot dev='hd'/>", &three()), first);
        assert_eq!(order("<kernel>/k</kernel><boot dev='hd'/>", &three()), []);
    }

    #[test]
    fn kinds_are_tried_in_the_order_of_os() {
        let network = "<interface type='bridge'><source bridge='br0'/></interface>";
        let kinds = "<boot dev='network'/><boot dev='cdrom'/><boot dev='hd'/><boot dev='fd'/>";
        assert_eq!(
            order(kinds, &(three() + network)),
            named(&[("net0", 1), ("virtio-disk2", 2), ("virtio-disk0", 3)])
        );
        // A kind of which there is nothing leaves a gap and no mistake.
        assert_eq!(
            order(
                "<boot dev='cdrom'/><boot dev='hd'/>",
                &disk("disk", "vda", "")
            ),
            named(&[("virtio-disk0", 2)])
        );
        let empty = "<disk type='file' device='cdrom'><target dev='vdz' bus='virtio'/></disk>";
        assert_eq!(order("<boot dev='cdrom'/>", empty), []);
    }

    #[test]
    fn orders_of_devices_stand_alone() {
        let devices = disk("disk", "vda", "<boot order='7'/>")
            + &disk("cdrom", "vdb", "<boot order='2'/>")
            + &disk("disk", "vdc", "");
        assert_eq!(
            order("", &devices),
            named(&[("virtio-disk1", 2), ("virtio-disk0", 7)])
        );
        let both = parse("<boot dev='hd'/>", &devices)
            .expect_err("both")
            .to_string();
        assert!(both.contains("a.xml:9:"), "{both}");
        assert!(both.contains("exclude each other"), "{both}");
        let twice =
            disk("disk", "vda", "<boot order='1'/>") + &disk("disk", "vdb", "<boot order='1'/>");
        let twice = parse("", &twice).expect_err("twice").to_string();
        assert!(
            twice.contains("a.xml:10:") && twice.contains("line 9"),
            "{twice}"
        );
        let zero = disk("disk", "vda", "<boot order='0'/>");
        let zero = parse("", &zero).expect_err("zero").to_string();
        assert!(
            zero.contains("a.xml:9:") && zero.contains("from 1"),
            "{zero}"
        );
    }

    #[test]
    fn what_cannot_be_booted_is_told_by_name() {
        let network = "<interface type='bridge'><source bridge='br0'/></interface>\n";
        let disk = disk("disk", "vda", "");
        for (os, devices, warned, kept) in [
            ("<boot dev='hd'/>", disk.as_str(), "", ""),
            ("", "", "", "neither a <kernel> nor a disk"),
            (
                "<boot dev='cdrom'/>",
                &disk,
                "",
                "the boot order has no disk",
            ),
            (
                "<boot dev='network'/>",
                &format!("{disk}{network}"),
                "PXE",
                "the boot order has no disk",
            ),
            (
                "<boot dev='network'/><boot dev='hd'/>",
                &format!("{disk}{network}"),
                "PXE",
                "",
            ),
            ("<boot dev='fd'/><boot dev='hd'/>", &disk, "floppy", ""),
            (
                "<boot dev='hd'/><boot dev='hd'/>",
                &disk,
                "there already",
                "",
            ),
        ] {
            let (domain, warnings) = parse(os, devices).unwrap_or_else(|errors| panic!("{errors}"));
            let (warnings, refusals) =
                (warnings.to_string(), domain.refusals_at_start().to_string());
            for (text, wanted) in [(&warnings, warned), (&refusals, kept)] {
                let right = if wanted.is_empty() {
                    text.is_empty()
                } else {
                    text.contains(wanted)
                };
                assert!(right, "{os}: {wanted:?}: {text}");
            }
        }
    }

    #[test]
    fn a_firmware_is_configured_as_in_libvirt() {
        let disk = disk("disk", "vda", "") + "<serial type='pty'/>";
        let os = |text: &str| {
            parse(text, &disk)
                .unwrap_or_else(|errors| panic!("{errors}"))
                .0
                .os
        };
        let all = "<loader type='rom'>/rom</loader><bootmenu enable='yes' timeout='900'/>\
                   <bios useserial='yes' rebootTimeout='1500'/>";
        let read = os(all);
        assert_eq!(read.loader.as_deref(), Some("/rom"));
        assert_eq!(read.boot_menu, Some(900));
        assert_eq!(
            (read.use_serial, read.reboot_timeout),
            (Some(true), Some(1500))
        );
        let none = os("<bootmenu enable='no' timeout='900'/><bios rebootTimeout='-1'/>");
        assert_eq!((none.boot_menu, none.reboot_timeout), (None, None));
        assert_eq!(os("<bootmenu enable='yes'/>").boot_menu, Some(2500));
        for (text, right) in [
            (
                "<bootmenu enable='yes' timeout='65536'/>",
                "from 0 to 65535",
            ),
            ("<bios rebootTimeout='-2'/>", "from -1 to 65535"),
            ("<bios rebootTimeout='soon'/>", "from -1 to 65535"),
        ] {
            let found = parse(text, &disk).expect_err(text).to_string();
            assert!(
                found.contains("a.xml:6:") && found.contains(right),
                "{found}"
            );
        }
        let alone = parse("<bios useserial='yes'/>", "")
            .expect_err("no port")
            .to_string();
        assert!(
            alone.contains("a.xml:6:") && alone.contains("<serial"),
            "{alone}"
        );
    }

    #[test]
    fn other_firmware_is_kept_and_refused_at_start() {
        let disk = disk("disk", "vda", "");
        for (os, kept) in [
            ("<loader type='pflash'>/f</loader>", "in flash"),
            ("<loader type='rom' secure='yes'>/f</loader>", "secure boot"),
            ("<loader type='rom' format='qcow2'>/f</loader>", "qcow2"),
            ("<loader type='rom'>/f</loader>", ""),
        ] {
            let (domain, _) = parse(os, &disk).unwrap_or_else(|errors| panic!("{errors}"));
            let refusals = domain.refusals_at_start().to_string();
            assert_eq!(refusals.is_empty(), kept.is_empty(), "{os}: {refusals}");
            assert!(refusals.contains(kept), "{os}: {refusals}");
        }
        let text = "<kernel>/k</kernel><bootmenu enable='yes'/><loader type='rom'>/f</loader>";
        let (_, warnings) = parse(text, &disk).expect("valid");
        assert_eq!(warnings.len(), 2, "{warnings}");
        assert!(
            warnings.to_string().contains("without firmware"),
            "{warnings}"
        );
    }
}
