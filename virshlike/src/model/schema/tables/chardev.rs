//! Character devices: serial ports, consoles, channels and what else has a stream behind it.

use crate::model::schema::row::Value::{Empty, Number, OneOf, Text, Words, YesNo};
use crate::model::schema::row::{
    Group, Word, honoured, kept_word, part, refused_word, warned, warned_word, word,
};

pub(super) const GROUPS: &[Group] = &[SERIAL, CONSOLE, CHANNEL, OTHERS, STREAM, AGENTS];

const NO_BACKEND: &str = "only a pty can be behind it so far";

/// What a character device can lead to.
const BACKENDS: &[Word] = &[
    word("pty"),
    word("null"),
    kept_word("unix", NO_BACKEND),
    kept_word("tcp", NO_BACKEND),
    kept_word("udp", NO_BACKEND),
    kept_word("file", NO_BACKEND),
    kept_word("dev", NO_BACKEND),
    kept_word("pipe", NO_BACKEND),
    kept_word("stdio", NO_BACKEND),
    kept_word("vc", NO_BACKEND),
    kept_word("spicevmc", NO_BACKEND),
    kept_word("spiceport", NO_BACKEND),
    kept_word("nmdm", NO_BACKEND),
    kept_word("qemu-vdagent", NO_BACKEND),
    kept_word("dbus", NO_BACKEND),
];

/// The same words for devices that have no effect at all.
const STREAMS: &[&str] = &[
    "pty",
    "null",
    "unix",
    "tcp",
    "udp",
    "file",
    "dev",
    "pipe",
    "stdio",
    "vc",
    "spicevmc",
    "spiceport",
    "nmdm",
    "qemu-vdagent",
    "dbus",
];

const NO_CHANNEL: &str = "only a listening Unix socket or a pty can be behind it so far";

/// What a channel can lead to.
const CHANNELS: &[Word] = &[
    word("unix"),
    word("pty"),
    word("null"),
    kept_word("tcp", NO_CHANNEL),
    kept_word("udp", NO_CHANNEL),
    kept_word("file", NO_CHANNEL),
    kept_word("dev", NO_CHANNEL),
    kept_word("pipe", NO_CHANNEL),
    kept_word("stdio", NO_CHANNEL),
    kept_word("vc", NO_CHANNEL),
    warned_word("spicevmc", "there is no SPICE, the guest gets no such port"),
    kept_word("spiceport", NO_CHANNEL),
    kept_word("nmdm", NO_CHANNEL),
    kept_word("qemu-vdagent", NO_CHANNEL),
    kept_word("dbus", NO_CHANNEL),
];

const SERIAL: Group = Group {
    title: "Serial ports",
    bases: &["devices"],
    rows: &[
        honoured(
            "serial",
            Empty,
            "a 16550A port, logged, with a pty and our console",
        )
        .many(),
        honoured("serial@type", Words(BACKENDS), "pty or null"),
        warned("serial@tty", Text, "it is the pty of a running domain"),
        part("serial/target", Empty),
        honoured("serial/target@port", Number, "0 for COM1 to 3 for COM4"),
        honoured(
            "serial/target@type",
            Words(&[
                word("isa-serial"),
                kept_word("pci-serial", "only ISA ports are built"),
                kept_word("usb-serial", "there is no USB"),
                kept_word("isa-debug", "the debug console is not built yet"),
                refused_word("spapr-vio-serial", "it is for POWER"),
                refused_word("system-serial", "it is for ARM"),
                refused_word("sclp-serial", "it is for s390"),
            ]),
            "isa-serial",
        ),
        part("serial/target/model", Empty),
        part(
            "serial/target/model@name",
            OneOf(&[
                "isa-serial",
                "pci-serial",
                "usb-serial",
                "isa-debugcon",
                "spapr-vty",
                "pl011",
                "16550a",
                "sclpconsole",
                "sclplmconsole",
            ]),
        ),
    ],
};

const CONSOLE: Group = Group {
    title: "Consoles",
    bases: &["devices"],
    rows: &[
        honoured(
            "console",
            Empty,
            "the first one is the first serial port seen from another side, and makes one where there is none",
        )
        .many(),
        honoured("console@type", Words(BACKENDS), "pty or null"),
        warned("console@tty", Text, "it is the pty of a running domain"),
        part("console/target", Empty),
        part("console/target@port", Number),
        honoured(
            "console/target@type",
            Words(&[
                word("serial"),
                word("virtio"),
                kept_word("xen", "this is no Xen host"),
                kept_word("uml", "this is no UML host"),
                kept_word("lxc", "containers are not run here"),
                kept_word("openvz", "containers are not run here"),
                kept_word("sclp", "it is for s390"),
                kept_word("sclplm", "it is for s390"),
            ]),
            "serial, or virtio for a port of a virtio-serial controller (hvc0)",
        ),
    ],
};

const CHANNEL: Group = Group {
    title: "Channels",
    bases: &["devices"],
    rows: &[
        honoured(
            "channel",
            Empty,
            "a port of a virtio-serial controller; the first channel or virtio console brings a controller along",
        )
        .many(),
        honoured(
            "channel@type",
            Words(CHANNELS),
            "unix: a socket that is listened on, at source/@path or in the run directory; one client at a time",
        ),
        part("channel/target", Empty),
        honoured(
            "channel/target@type",
            Words(&[
                word("virtio"),
                kept_word("guestfwd", "there is no user network to forward from"),
                kept_word("xen", "this is no Xen host"),
            ]),
            "virtio",
        ),
        honoured(
            "channel/target@name",
            Text,
            "the port's name in the guest: /dev/virtio-ports/NAME",
        ),
        part("channel/target@address,port", Text),
        warned(
            "channel/target@state",
            OneOf(&["connected", "disconnected"]),
            "it is what a running guest does",
        ),
    ],
};

const OTHERS: Group = Group {
    title: "Other devices with a stream",
    bases: &["devices"],
    rows: &[
        warned("parallel", Empty, "there is no parallel port").many(),
        part("parallel@type", OneOf(STREAMS)),
        part("parallel/target", Empty),
        part("parallel/target@type", Text),
        part("parallel/target@port", Number),
        warned("smartcard", Empty, "there is no smartcard reader").many(),
        part(
            "smartcard@mode",
            OneOf(&["host", "host-certificates", "passthrough"]),
        ),
        part("smartcard@type", OneOf(STREAMS)),
        part("smartcard/certificate", Text).many(),
        part("smartcard/database", Text),
        warned("redirdev", Empty, "there is no USB redirection").many(),
        part("redirdev@bus", OneOf(&["usb"])),
        part("redirdev@type", OneOf(STREAMS)),
        part("redirdev/boot", Empty),
        part("redirdev/boot@order", Number),
        warned("redirfilter", Empty, "there is no USB redirection"),
        part("redirfilter/usbdev", Empty).many(),
        part("redirfilter/usbdev@class,vendor,product,version", Text),
        part("redirfilter/usbdev@allow", YesNo),
    ],
};

const STREAM: Group = Group {
    title: "The stream behind a character device",
    bases: &[
        "devices/serial",
        "devices/console",
        "devices/channel",
        "devices/parallel",
        "devices/smartcard",
        "devices/redirdev",
    ],
    rows: &[
        part("source", Empty).many(),
        part(
            "source@path,host,service,channel,master,slave,wiremode",
            Text,
        ),
        part(
            "source@mode",
            OneOf(&["bind", "connect", "client", "server"]),
        ),
        part("source@tls", YesNo),
        part("source@append", Text),
        part("source/reconnect", Empty),
        part("source/reconnect@enabled", YesNo),
        part("source/reconnect@timeout", Number),
        warned(
            "source/seclabel",
            Empty,
            "nobody's files are relabelled here",
        )
        .many(),
        part("source/seclabel@model,labelskip", Text),
        part("source/seclabel@relabel", YesNo),
        part("source/seclabel/label", Text),
        part("protocol", Empty),
        part("protocol@type", OneOf(&["raw", "telnet", "telnets", "tls"])),
        honoured("log", Empty, "a log of one's own beside ours"),
        part("log@file", Text),
        part("log@append", OneOf(&["on", "off"])),
    ],
};

const AGENTS: Group = Group {
    title: "The clipboard agent's channel",
    bases: &["devices/channel"],
    rows: &[
        part("source/clipboard,mouse", Empty),
        part("source/clipboard@copypaste", YesNo),
        part("source/mouse@mode", OneOf(&["client", "server"])),
    ],
};
