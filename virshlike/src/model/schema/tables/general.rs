//! `<domain>` itself, its memory, what it boots, its clock and how it ends.

use crate::model::schema::row::Value::{AnyBase, Empty, Number, OneOf, Set, Text, Words, YesNo};
use crate::model::schema::row::{
    Group, honoured, kept, kept_word, part, refused_word, warned, warned_word, word,
};

const END: &[&str] = &[
    "destroy",
    "restart",
    "preserve",
    "rename-restart",
    "coredump-destroy",
    "coredump-restart",
];

pub(super) const GROUPS: &[Group] = &[
    DOMAIN, MEMORY, BACKING, VCPU, OS, FIRMWARE, CLOCK, ENDS, METADATA,
];

const DOMAIN: Group = Group {
    title: "The domain",
    bases: &[""],
    rows: &[
        honoured(
            "@type",
            Words(&[
                word("kvm"),
                warned_word("qemu", "nothing is emulated, the domain runs under KVM"),
                refused_word("xen", "this is no Xen host"),
                refused_word("lxc", "containers are not run here"),
                refused_word("hvf", "that is for macOS"),
                refused_word("test", "that is libvirt's test driver"),
            ]),
            "the hypervisor",
        ),
        warned(
            "@id",
            Number,
            "it is the number of a running domain; a start gives a new one",
        ),
        honoured(
            "name",
            Text,
            "the name: no slash, no control characters, at most 251 bytes",
        ),
        honoured(
            "uuid",
            Text,
            "the UUID; a new one is written when there is none",
        ),
        kept("genid", Text, "the generation ID device is not built yet"),
        honoured("title", Text, "one line for lists"),
        honoured("description", Text, "free text"),
        warned("bootloader", Text, "it is for Xen"),
        warned("bootloader_args", Text, "it is for Xen"),
    ],
};

const METADATA: Group = Group {
    title: "Metadata",
    bases: &[""],
    rows: &[honoured(
        "metadata",
        Text,
        "kept as it is, whatever it contains; our own elements in it are told below",
    )],
};

const MEMORY: Group = Group {
    title: "Memory",
    bases: &[""],
    rows: &[
        honoured(
            "maxMemory",
            Text,
            "addresses that are kept free for memory; plugging it in is not built yet",
        ),
        part("maxMemory@slots", Number),
        part("maxMemory@unit", Text),
        honoured(
            "memory",
            Text,
            "the guest's RAM: a whole number of 4 KiB pages, never rounded",
        ),
        part("memory@unit", Text),
        honoured(
            "memory@dumpCore",
            Words(&[
                word("off"),
                warned_word("on", "guest RAM is never part of a core dump"),
            ]),
            "whether RAM is part of core dumps",
        ),
        honoured(
            "currentMemory",
            Text,
            "what the balloon leaves to the guest; never more than `<memory>`",
        ),
        part("currentMemory@unit", Text),
    ],
};

const BACKING: Group = Group {
    title: "What RAM is made of",
    bases: &[""],
    rows: &[
        part("memoryBacking", Empty),
        honoured(
            "memoryBacking/hugepages",
            Empty,
            "RAM comes from the host's huge pages",
        ),
        honoured(
            "memoryBacking/hugepages/page",
            Empty,
            "the size of a huge page",
        )
        .many(),
        part("memoryBacking/hugepages/page@size", Number),
        part("memoryBacking/hugepages/page@unit", Text),
        warned(
            "memoryBacking/hugepages/page@nodeset",
            Set,
            "there is one size for all of RAM",
        ),
        honoured(
            "memoryBacking/nosharepages",
            Empty,
            "the host never merges equal pages",
        ),
        honoured(
            "memoryBacking/locked",
            Empty,
            "RAM is locked into host memory",
        ),
        part("memoryBacking/source", Empty),
        honoured(
            "memoryBacking/source@type",
            Words(&[
                word("anonymous"),
                word("memfd"),
                warned_word("file", "RAM is anonymous, or a memfd when it is shared"),
            ]),
            "anonymous or memfd",
        ),
        part("memoryBacking/access", Empty),
        honoured(
            "memoryBacking/access@mode",
            OneOf(&["shared", "private"]),
            "shared RAM can be given to other processes",
        ),
        part("memoryBacking/allocation", Empty),
        honoured(
            "memoryBacking/allocation@mode",
            OneOf(&["immediate", "ondemand"]),
            "immediate touches every page before the guest starts",
        ),
        warned(
            "memoryBacking/allocation@threads",
            Number,
            "the number of threads is ours to choose",
        ),
        warned(
            "memoryBacking/discard",
            Empty,
            "RAM is given back when the process ends",
        ),
    ],
};

const VCPU: Group = Group {
    title: "Virtual CPUs",
    bases: &[""],
    rows: &[
        honoured(
            "vcpu",
            Number,
            "how many there can ever be, 1 to 254; 1 when absent",
        ),
        honoured("vcpu@current", Number, "how many there are at start"),
        honoured(
            "vcpu@placement",
            Words(&[
                word("static"),
                warned_word("auto", "the host's scheduler places vCPUs"),
            ]),
            "static",
        ),
        honoured(
            "vcpu@cpuset",
            Set,
            "the processors that threads without a pin of their own run on",
        ),
        kept(
            "vcpus",
            Empty,
            "which vCPUs are there cannot be chosen yet, only how many",
        ),
        part("vcpus/vcpu", Empty).many(),
        part("vcpus/vcpu@id,order", Number),
        part("vcpus/vcpu@enabled,hotpluggable", YesNo),
    ],
};

const OS: Group = Group {
    title: "What is booted",
    bases: &[""],
    rows: &[
        part("os", Empty),
        honoured(
            "os/type",
            OneOf(&["hvm", "xen", "linux", "exe", "uml", "xenpvh"]),
            "hvm",
        ),
        honoured("os/type@arch", Text, "x86_64"),
        honoured(
            "os/type@machine",
            Text,
            "q35, pc and their versions become the newest machine of ours, which is written back",
        ),
        honoured(
            "os/kernel",
            Text,
            "a bzImage, an ELF vmlinux or a PVH kernel",
        ),
        honoured("os/initrd", Text, "the initial RAM disk"),
        honoured("os/cmdline", Text, "the kernel's command line"),
        kept("os/shim", Text, "a shim is not built yet"),
        honoured(
            "os/boot",
            Empty,
            "the boot order by kind: the first disk, CD-ROM or network card; `hd` when nothing says otherwise. What is not in it is tried last. A `<kernel>` goes before it",
        )
        .many(),
        part("os/boot@dev", OneOf(&["hd", "cdrom", "network", "fd"])),
        honoured(
            "os/bootmenu",
            Empty,
            "the BIOS shows a menu of what can be booted, for `timeout` milliseconds, 2500 when it does not say",
        ),
        part("os/bootmenu@enable", YesNo),
        part("os/bootmenu@timeout", Number),
        part("os/bios", Empty),
        honoured(
            "os/bios@useserial",
            YesNo,
            "the BIOS and what it starts show on the first serial port, and read keys there, what they show on a screen; yes when absent, for no virtio graphics card can show it",
        ),
        honoured(
            "os/bios@rebootTimeout",
            Text,
            "milliseconds after which a BIOS that found nothing to boot starts again, at most 65535; -1, as when absent: never",
        ),
        part("os/smbios", Empty),
        honoured(
            "os/smbios@mode",
            Words(&[
                word("emulate"),
                kept_word("sysinfo", "SMBIOS strings of one's own are not built yet"),
                kept_word("host", "the host's SMBIOS strings are not passed on yet"),
            ]),
            "emulate",
        ),
        kept("os/acpi", Empty, "further ACPI tables are not built yet"),
        part("os/acpi/table", Text).many(),
        part("os/acpi/table@type", Text),
        warned("os/init", Text, "it is for containers"),
        warned("os/initarg", Text, "it is for containers").many(),
        warned("os/initenv", Text, "it is for containers").many(),
        part("os/initenv@name", Text),
        warned(
            "os/initdir,inituser,initgroup",
            Text,
            "it is for containers",
        ),
        warned("os/idmap", Empty, "it is for containers"),
    ],
};

const NO_UEFI: &str =
    "UEFI is not built yet; BIOS (firmware='bios', or nothing said) and `<kernel>` are";

const FIRMWARE: Group = Group {
    title: "Firmware",
    bases: &["os"],
    rows: &[
        honoured(
            "@firmware",
            Words(&[word("bios"), kept_word("efi", NO_UEFI)]),
            "bios, as when absent: SeaBIOS",
        ),
        kept("firmware", Empty, NO_UEFI),
        part("firmware@type", OneOf(&["bios", "efi"])),
        part("firmware/feature", Empty).many(),
        part(
            "firmware/feature@name",
            OneOf(&["enrolled-keys", "secure-boot"]),
        ),
        part("firmware/feature@enabled", YesNo),
        honoured(
            "loader",
            Text,
            "the image of a BIOS in place of the host's SeaBIOS: a whole number of 64 KiB, at most 256 KiB",
        ),
        honoured(
            "loader@type",
            Words(&[
                word("rom"),
                kept_word(
                    "pflash",
                    "firmware in flash, which UEFI needs, is not built yet",
                ),
            ]),
            "rom, as when absent",
        ),
        honoured(
            "loader@secure",
            Words(&[word("no"), kept_word("yes", "secure boot is not built yet")]),
            "no",
        ),
        honoured(
            "loader@format",
            Words(&[
                word("raw"),
                kept_word("qcow2", "firmware in a qcow2 image is not built yet"),
            ]),
            "raw",
        ),
        part("loader@readonly,stateless", YesNo),
        kept("nvram", Text, "firmware variables are not built yet"),
        part("nvram@template,templateFormat", Text),
        part(
            "nvram@type",
            OneOf(&["file", "block", "network", "dir", "volume"]),
        ),
        part("nvram@format", OneOf(&["raw", "qcow2"])),
        kept("varstore", Empty, "firmware variables are not built yet"),
        part("varstore@path,template", Text),
    ],
};

const CLOCK: Group = Group {
    title: "The clock",
    bases: &[""],
    rows: &[
        part("clock", Empty),
        honoured(
            "clock@offset",
            Words(&[
                word("utc"),
                word("localtime"),
                kept_word("timezone", "a clock in another time zone is not built yet"),
                kept_word(
                    "variable",
                    "a clock with an offset of its own is not built yet",
                ),
                kept_word(
                    "absolute",
                    "a clock that starts at a given time is not built yet",
                ),
            ]),
            "what the RTC shows: UTC or the host's local time",
        ),
        part("clock@timezone,adjustment,basis,start", Text),
        part("clock/timer", Empty).many(),
        honoured(
            "clock/timer@name",
            Words(&[
                warned_word("rtc", "lost ticks are not caught up"),
                warned_word("pit", "lost ticks are not caught up"),
                word("hpet"),
                warned_word("hypervclock", "there are no Hyper-V enlightenments"),
                warned_word("platform", "it is for Xen"),
                word("kvmclock"),
                kept_word("tsc", "the TSC cannot be configured yet"),
                warned_word("armvtimer", "it is for ARM"),
            ]),
            "there is a kvmclock and no HPET",
        ),
        part("clock/timer@present", YesNo),
        part(
            "clock/timer@tickpolicy",
            OneOf(&["delay", "catchup", "merge", "discard"]),
        ),
        part("clock/timer@track,mode", Text),
        part("clock/timer@frequency", Number),
        part("clock/timer/catchup", Empty),
        part("clock/timer/catchup@threshold,slew,limit", Number),
    ],
};

const ENDS: Group = Group {
    title: "When the guest ends",
    bases: &[""],
    rows: &[
        honoured(
            "on_poweroff",
            OneOf(END),
            "destroy, restart or preserve; destroy when absent",
        ),
        honoured(
            "on_reboot",
            OneOf(END),
            "destroy, restart or preserve; restart when absent",
        ),
        honoured(
            "on_crash",
            OneOf(END),
            "destroy, restart or preserve; destroy when absent. coredump-destroy and coredump-restart leave a core first, in the store's folder dump (/var/lib/vm/dump): the guest is held meanwhile, and should it not fit, the log and the end say so and the action follows. The files are made at the start, one, or four for a guest that restarts, which afterwards restarts without; those without a core go after the end",
        ),
        warned(
            "on_lockfailure",
            OneOf(&["poweroff", "restart", "pause", "ignore"]),
            "a lost image lock pauses the guest",
        ),
        part("pm", Empty),
        part("pm/suspend-to-mem,suspend-to-disk", Empty),
        honoured(
            "pm/suspend-to-mem@enabled",
            Words(&[
                word("no"),
                warned_word("yes", "the guest is offered no sleep states"),
            ]),
            "no",
        ),
        honoured(
            "pm/suspend-to-disk@enabled",
            Words(&[
                word("no"),
                warned_word("yes", "the guest is offered no sleep states"),
            ]),
            "no",
        ),
        warned("perf", Empty, "performance counters are not read"),
        part("perf/event", Empty).many(),
        part("perf/event@name", Text),
        part("perf/event@enabled", YesNo),
        kept(
            "sysinfo",
            Empty,
            "SMBIOS strings and fw_cfg files of one's own are not built yet",
        )
        .many(),
        part("sysinfo@type", OneOf(&["smbios", "fwcfg"])),
        part("sysinfo/bios,system,processor,chassis,oemStrings", Empty),
        part("sysinfo/baseBoard", Empty).many(),
        part("sysinfo/bios/entry", Text).many(),
        part("sysinfo/bios/entry@name", Text),
        part("sysinfo/system/entry", Text).many(),
        part("sysinfo/system/entry@name", Text),
        part("sysinfo/baseBoard/entry", Text).many(),
        part("sysinfo/baseBoard/entry@name", Text),
        part("sysinfo/processor/entry", Text).many(),
        part("sysinfo/processor/entry@name", Text),
        part("sysinfo/chassis/entry", Text).many(),
        part("sysinfo/chassis/entry@name", Text),
        part("sysinfo/oemStrings/entry", Text).many(),
        part("sysinfo/entry", Text).many(),
        part("sysinfo/entry@name,file", Text),
        kept(
            "launchSecurity",
            Empty,
            "encrypted guests are not built yet",
        ),
        part(
            "launchSecurity@type",
            OneOf(&["sev", "sev-snp", "s390-pv", "tdx"]),
        ),
        part("launchSecurity@kernelHashes,authorKey,vcek", YesNo),
        part("launchSecurity/cbitpos,reducedPhysBits", Number),
        part("launchSecurity/policy", AnyBase),
        part(
            "launchSecurity/dhCert,session,guestVisibleWorkarounds,idBlock,idAuth,hostData,mrConfigId,mrOwner,mrOwnerConfig",
            Text,
        ),
        part("launchSecurity/quoteGenerationService", Empty),
        part("launchSecurity/quoteGenerationService@path", Text),
    ],
};
