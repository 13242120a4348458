//! `<disk>`.

use crate::model::schema::row::Value::{AnyBase, Empty, Number, OnOff, OneOf, Text, Words, YesNo};
use crate::model::schema::row::{
    Group, Word, honoured, kept, kept_word, part, warned, warned_word, word,
};

pub(super) const GROUPS: &[Group] = &[DISK, DRIVER, SOURCE, REMOTE, CHAIN, GUEST, LIMITS];

const NO_FORMAT: &str = "images of this format are not built yet; convert it to qcow2";

/// Image formats, those that libvirt knows and we do not included.
const FORMATS: &[Word] = &[
    word("raw"),
    word("qcow2"),
    kept_word("bochs", NO_FORMAT),
    kept_word("cloop", NO_FORMAT),
    kept_word("dir", NO_FORMAT),
    kept_word("dmg", NO_FORMAT),
    kept_word("fat", NO_FORMAT),
    kept_word("iso", "an ISO image is raw; say type='raw'"),
    kept_word("luks", NO_FORMAT),
    kept_word("ploop", NO_FORMAT),
    kept_word("qcow", NO_FORMAT),
    kept_word("qed", NO_FORMAT),
    kept_word("vdi", NO_FORMAT),
    kept_word("vhd", NO_FORMAT),
    kept_word("vhdx", NO_FORMAT),
    kept_word("vmdk", NO_FORMAT),
    kept_word("vpc", NO_FORMAT),
];

const NO_SOURCE: &str = "only files and block devices can be opened so far";

/// Where the data of a disk may be.
const TYPES: &[Word] = &[
    word("file"),
    word("block"),
    kept_word("dir", NO_SOURCE),
    kept_word("network", NO_SOURCE),
    kept_word("volume", NO_SOURCE),
    kept_word("nvme", NO_SOURCE),
    kept_word("vhostuser", NO_SOURCE),
    kept_word("vhostvdpa", NO_SOURCE),
];

const ERRORS: &[&str] = &["stop", "report", "ignore", "enospace"];

const DISK: Group = Group {
    title: "Disks",
    bases: &["devices"],
    rows: &[
        part("disk", Empty).many(),
        honoured("disk@type", Words(TYPES), "file or block; file when absent"),
        honoured(
            "disk@device",
            Words(&[
                word("disk"),
                word("cdrom"),
                warned_word("floppy", "there is no floppy drive"),
                kept_word("lun", "SCSI commands are not passed through yet"),
            ]),
            "disk or cdrom; disk when absent",
        ),
        honoured(
            "disk@model",
            Words(&[
                word("virtio"),
                word("virtio-non-transitional"),
                kept_word("virtio-transitional", "virtio devices are modern only"),
            ]),
            "virtio devices are modern (non-transitional)",
        ),
        warned(
            "disk@snapshot",
            OneOf(&["internal", "external", "manual", "no"]),
            "a snapshot takes every disk",
        ),
        warned("disk@rawio", YesNo, "no process has that right"),
        warned(
            "disk@sgio",
            OneOf(&["filtered", "unfiltered"]),
            "SCSI commands are not passed through",
        ),
    ],
};

const DRIVER: Group = Group {
    title: "How a disk is driven",
    bases: &["devices/disk"],
    rows: &[
        part("driver", Empty),
        honoured(
            "driver@name",
            Words(&[
                word("qemu"),
                warned_word("phy", "our own engine serves every disk"),
                warned_word("tap", "our own engine serves every disk"),
                warned_word("tap2", "our own engine serves every disk"),
                warned_word("file", "our own engine serves every disk"),
            ]),
            "qemu, as libvirt writes it; our own engine serves every disk",
        ),
        honoured(
            "driver@type",
            Words(FORMATS),
            "raw or qcow2; raw when absent, and then a qcow2 file is refused. Never probed",
        ),
        honoured(
            "driver@cache",
            OneOf(&[
                "default",
                "none",
                "writeback",
                "writethrough",
                "directsync",
                "unsafe",
            ]),
            "when absent: none where the file system can, else writeback",
        ),
        honoured(
            "driver@io",
            Words(&[
                word("threads"),
                word("io_uring"),
                warned_word(
                    "native",
                    "Linux AIO is not used; io_uring or threads do its work",
                ),
            ]),
            "io_uring where the host allows it, else threads",
        ),
        honoured(
            "driver@discard",
            OneOf(&["unmap", "ignore"]),
            "whether the guest can give space back; unmap when absent",
        ),
        honoured(
            "driver@detect_zeroes",
            OneOf(&["off", "on", "unmap"]),
            "what happens to zeroes that are written",
        ),
        warned(
            "driver@discard_no_unref",
            OnOff,
            "discarded clusters are always given back",
        ),
        honoured(
            "driver@error_policy",
            OneOf(ERRORS),
            "what a write error does; when absent a full disk pauses the guest",
        ),
        honoured(
            "driver@rerror_policy",
            OneOf(&["stop", "report", "ignore"]),
            "what a read error does",
        ),
        honoured("driver@queues", Number, "1 to 256 queues; 1 when absent"),
        honoured(
            "driver@queue_size",
            Number,
            "a power of two from 2 to 1024; 256 when absent",
        ),
        warned("driver@copy_on_read", OnOff, "reads never write"),
        honoured(
            "driver@iothread",
            Number,
            "the thread that serves its queues; one of its own when absent",
        ),
        honoured(
            "driver/iothreads",
            Empty,
            "several threads: queues are dealt out to them in turn",
        ),
        part("driver/iothreads/iothread", Empty).many(),
        part("driver/iothreads/iothread@id", Number),
        part("driver/iothreads/iothread/queue", Empty).many(),
        part("driver/iothreads/iothread/queue@id", Number),
        warned(
            "driver/metadata_cache",
            Empty,
            "the metadata cache sizes itself",
        ),
        part("driver/metadata_cache/max_size", Number),
        part("driver/metadata_cache/max_size@unit", Text),
        warned("driver/statistics", Empty, "statistics are always kept"),
        part("driver/statistics/statistic", Empty).many(),
        part("driver/statistics/statistic@interval", Number),
        part("driver/statistics/latency-histogram", Empty).many(),
        part("driver/statistics/latency-histogram@type", Text),
        part("driver/statistics/latency-histogram/bin", Empty).many(),
        part("driver/statistics/latency-histogram/bin@start", Number),
    ],
};

const SOURCE: Group = Group {
    title: "Where the data of a disk is",
    bases: &["devices/disk"],
    rows: &[
        part("source", Empty),
        honoured("source@file", Text, "the absolute path of a file"),
        honoured("source@dev", Text, "the absolute path of a block device"),
        honoured(
            "source@startupPolicy",
            Words(&[
                word("mandatory"),
                warned_word("requisite", "a missing file always stops the start"),
                warned_word("optional", "a missing file always stops the start"),
            ]),
            "mandatory",
        ),
        warned(
            "source@index",
            Number,
            "it numbers the images of a running domain",
        ),
        kept(
            "source@fdgroup",
            Text,
            "descriptors cannot be handed in yet",
        ),
        part(
            "source@dir,protocol,name,pool,volume,mode,type,path,namespace,managed,query,tls,tlsHostname,user",
            Text,
        ),
        warned(
            "source/seclabel",
            Empty,
            "nobody's files are relabelled here",
        )
        .many(),
        part("source/seclabel@model,labelskip", Text),
        part("source/seclabel@relabel", YesNo),
        part("source/seclabel/label", Text),
        kept(
            "source/slices",
            Empty,
            "a part of a file cannot be used yet",
        ),
        part("source/slices/slice", Empty).many(),
        part("source/slices/slice@type", Text),
        part("source/slices/slice@offset,size", Number),
        kept(
            "source/reservations",
            Empty,
            "SCSI reservations are not built yet",
        ),
        part("source/reservations@managed", YesNo),
        part("source/reservations@migration", Text),
        part("source/reservations/source", Empty),
        part("source/reservations/source@type,path,mode", Text),
        kept(
            "source/encryption",
            Empty,
            "encrypted images are not built yet",
        ),
        part("source/encryption@format,engine", Text),
        part("source/encryption/secret", Empty).many(),
        part("source/encryption/secret@type,uuid,usage", Text),
        kept(
            "source/dataStore",
            Empty,
            "a data file is taken from the image's header",
        ),
        part("source/dataStore@type", Text),
    ],
};

const REMOTE: Group = Group {
    title: "Disks on the network",
    bases: &["devices/disk/source"],
    rows: &[
        part("host", Empty).many(),
        part("host@name,port,transport,socket", Text),
        part("snapshot,config", Empty),
        part("snapshot@name", Text),
        part("config@file", Text),
        part("auth", Empty),
        part("auth@username", Text),
        part("auth/secret", Empty),
        part("auth/secret@type,uuid,usage", Text),
        part("initiator", Empty),
        part("initiator/iqn", Empty),
        part("initiator/iqn@name", Text),
        part("address", Empty),
        part("address@type", Text),
        part("address@domain,bus,slot,function", AnyBase),
        part("ssl", Empty),
        part("ssl@verify", YesNo),
        part("cookies", Empty),
        part("cookies/cookie", Text).many(),
        part("cookies/cookie@name", Text),
        part("readahead,timeout,reconnect,identity,knownHosts", Empty),
        part("readahead@size", Number),
        part("timeout@seconds", Number),
        part("reconnect@delay,timeout", Number),
        part("reconnect@enabled", YesNo),
        part("identity@user,group,username,agentsock,keyfile", Text),
        part("knownHosts@path", Text),
    ],
};

const CHAIN: Group = Group {
    title: "Backing chains",
    bases: &["devices/disk"],
    rows: &[
        honoured(
            "backingStore",
            Empty,
            "the image below; empty says that there is none, absent lets the image's header decide",
        ),
        honoured("backingStore@type", Words(TYPES), "file or block"),
        warned(
            "backingStore@index",
            Number,
            "it numbers the images of a running domain",
        ),
        part("backingStore/format", Empty),
        honoured("backingStore/format@type", Words(FORMATS), "raw or qcow2"),
        warned(
            "backingStore/format/metadata_cache",
            Empty,
            "the metadata cache sizes itself",
        ),
        part("backingStore/format/metadata_cache/max_size", Number),
        part("backingStore/format/metadata_cache/max_size@unit", Text),
        warned(
            "mirror",
            Empty,
            "a running copy job is no part of a definition",
        ),
        part("mirror@type,job,file,format,ready", Text),
    ],
};

const GUEST: Group = Group {
    title: "What the guest sees of a disk",
    bases: &["devices/disk"],
    rows: &[
        part("target", Empty),
        honoured(
            "target@dev",
            Text,
            "the name of the disk here, such as vda; unique in the domain",
        ),
        honoured(
            "target@bus",
            Words(&[
                word("virtio"),
                kept_word(
                    "scsi",
                    "SCSI disks are not built yet; start with --map-to-virtio or say bus='virtio'",
                ),
                kept_word(
                    "ide",
                    "there is no IDE; start with --map-to-virtio or say bus='virtio'",
                ),
                kept_word(
                    "sata",
                    "SATA disks are not built yet; start with --map-to-virtio or say bus='virtio'",
                ),
                kept_word(
                    "usb",
                    "there is no USB; start with --map-to-virtio or say bus='virtio'",
                ),
                warned_word("fdc", "there is no floppy drive"),
                kept_word("sd", "there are no SD cards"),
                kept_word("nvme", "NVMe disks are not built yet"),
                kept_word("xen", "this is no Xen host"),
                kept_word("uml", "this is no UML host"),
            ]),
            "virtio; when absent it follows from the name",
        ),
        honoured(
            "target@tray",
            Words(&[
                word("closed"),
                warned_word("open", "every tray starts closed"),
            ]),
            "closed",
        ),
        warned("target@removable", OnOff, "it is for USB disks"),
        warned(
            "target@rotation_rate",
            Number,
            "it is for SCSI and SATA disks",
        ),
        honoured(
            "readonly",
            Empty,
            "the guest cannot write; a CD-ROM never can",
        ),
        honoured(
            "shareable",
            Empty,
            "other domains may use the image at the same time",
        ),
        kept(
            "transient",
            Empty,
            "disks that forget what was written are not built yet",
        ),
        part("transient@shareBacking", YesNo),
        honoured(
            "serial",
            Text,
            "what the guest reads as serial number, at most 20 bytes",
        ),
        warned("wwn", Text, "virtio disks have no world wide name"),
        warned(
            "vendor,product",
            Text,
            "virtio disks have no vendor and product",
        ),
        honoured("boot", Empty, "the boot order; a `<kernel>` goes before it"),
        part("boot@order", Number),
        part("boot@loadparm", Text),
        kept("blockio", Empty, "block sizes cannot be chosen yet"),
        part(
            "blockio@logical_block_size,physical_block_size,discard_granularity",
            Number,
        ),
        warned("geometry", Empty, "no guest of today reads a geometry"),
        part("geometry@cyls,heads,secs", Number),
        part("geometry@trans", Text),
        kept("encryption", Empty, "encrypted images are not built yet"),
        part("encryption@format,engine", Text),
        part("encryption/secret", Empty).many(),
        part("encryption/secret@type,uuid,usage", Text),
        part("auth", Empty),
        part("auth@username", Text),
        part("auth/secret", Empty),
        part("auth/secret@type,uuid,usage", Text),
    ],
};

const LIMITS: Group = Group {
    title: "Limits of a disk",
    bases: &["devices/disk"],
    rows: &[
        part("iotune", Empty),
        honoured(
            "iotune/total_bytes_sec,read_bytes_sec,write_bytes_sec,total_iops_sec,read_iops_sec,write_iops_sec,total_bytes_sec_max,read_bytes_sec_max,write_bytes_sec_max,total_iops_sec_max,read_iops_sec_max,write_iops_sec_max,size_iops_sec,total_bytes_sec_max_length,read_bytes_sec_max_length,write_bytes_sec_max_length,total_iops_sec_max_length,read_iops_sec_max_length,write_iops_sec_max_length",
            Number,
            "bytes or requests a second, of this disk; without a _max a tenth of a second's may come at once",
        ),
        warned(
            "iotune/group_name",
            Text,
            "disks do not share limits yet: each has its own",
        ),
        warned(
            "throttlefilters",
            Empty,
            "limits that disks share are not built yet",
        ),
        part("throttlefilters/throttlefilter", Empty).many(),
        part("throttlefilters/throttlefilter@group", Text),
    ],
};
