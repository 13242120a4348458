//! What many devices have: aliases, addresses, options of virtio devices.

use crate::model::schema::row::Value::{AnyBase, Empty, OnOff, Text, Words};
use crate::model::schema::row::{
    Group, Row, honoured, kept, kept_word, part, refused_word, warned, word,
};

pub(super) const GROUPS: &[Group] = &[ADDRESS, ROM, VIRTIO, VIRTIO_FS];

const DEVICES: &[&str] = &[
    "devices/disk",
    "devices/controller",
    "devices/lease",
    "devices/filesystem",
    "devices/interface",
    "devices/smartcard",
    "devices/serial",
    "devices/parallel",
    "devices/console",
    "devices/channel",
    "devices/input",
    "devices/tpm",
    "devices/graphics",
    "devices/sound",
    "devices/audio",
    "devices/video",
    "devices/hostdev",
    "devices/redirdev",
    "devices/hub",
    "devices/watchdog",
    "devices/memballoon",
    "devices/rng",
    "devices/panic",
    "devices/shmem",
    "devices/memory",
    "devices/nvram",
    "devices/iommu",
    "devices/vsock",
    "devices/crypto",
    "devices/pstore",
];

const ADDRESS: Group = Group {
    title: "Aliases and addresses",
    bases: DEVICES,
    rows: &[
        honoured(
            "alias",
            Empty,
            "the device's name in messages and saved state; unique",
        ),
        part("alias@name", Text),
        honoured(
            "address",
            Empty,
            "where the device sits; a PCI address is kept for ever, a missing one is assigned once",
        ),
        part(
            "address@type",
            Words(&[
                word("pci"),
                word("drive"),
                word("virtio-serial"),
                word("ccid"),
                word("usb"),
                word("isa"),
                word("dimm"),
                word("unassigned"),
                refused_word("spapr-vio", "it is for POWER"),
                refused_word("ccw", "it is for s390"),
                refused_word("virtio-s390", "it is for s390"),
                refused_word("virtio-mmio", "it is for ARM"),
            ]),
        ),
        part(
            "address@domain,slot,function,controller,target,unit,base,iobase,irq,reg",
            AnyBase,
        ),
        part("address@bus,port", Text),
        part("address@cssid,ssid,devno", AnyBase),
        part("address@multifunction", OnOff),
        part("address/zpci", Empty),
        part("address/zpci@uid,fid", AnyBase),
        kept("acpi", Empty, "ACPI indices are not built yet"),
        part("acpi@index", AnyBase),
        part("acpi@nodeset", Text),
    ],
};

const ROM: Group = Group {
    title: "Option ROMs",
    bases: &["devices/interface", "devices/hostdev"],
    rows: &[
        warned("rom", Empty, "there are no option ROMs"),
        part("rom@bar", OnOff),
        part("rom@file", Text),
        part("rom@enabled", Text),
    ],
};

const VIRTIO_ROWS: &[Row] = &[
    honoured(
        "driver@iommu,ats,packed,page_per_vq",
        Words(&[
            word("off"),
            kept_word("on", "this option of virtio is not built yet"),
        ]),
        "off",
    ),
    honoured(
        "driver@event_idx",
        Words(&[
            word("on"),
            kept_word("off", "the event index is always offered"),
        ]),
        "on",
    ),
    warned("driver@ioeventfd", OnOff, "every queue has an eventfd"),
];

const VIRTIO: Group = Group {
    title: "Options of virtio devices",
    bases: &[
        "devices/disk",
        "devices/controller",
        "devices/interface",
        "devices/input",
        "devices/sound",
        "devices/video",
        "devices/memballoon",
        "devices/rng",
        "devices/vsock",
        "devices/crypto",
    ],
    rows: VIRTIO_ROWS,
};

const VIRTIO_FS: Group = Group {
    title: "Options of shared directories",
    bases: &["devices/filesystem"],
    rows: VIRTIO_ROWS,
};
