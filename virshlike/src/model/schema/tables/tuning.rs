//! Tuning of the host side: pins are honoured, the rest is kept for other tools and has no effect so
//! far.

use crate::model::schema::row::Value::{Empty, Number, OneOf, Set, Text, Words, YesNo};
use crate::model::schema::row::{Group, honoured, part, refused, warned, warned_word, word};

pub(super) const GROUPS: &[Group] = &[CPUS, MEMORY, BLOCKS, LABELS, DEVICES, FOREIGN];

const SCHEDULERS: &[&str] = &["batch", "idle", "fifo", "rr"];

const CPUS: Group = Group {
    title: "CPU tuning",
    bases: &[""],
    rows: &[
        honoured(
            "iothreads",
            Number,
            "threads that disks may name; a disk that names none has one of its own",
        ),
        honoured("iothreadids", Empty, "numbers of the iothreads"),
        part("iothreadids/iothread", Empty).many(),
        part(
            "iothreadids/iothread@id,thread_pool_min,thread_pool_max",
            Number,
        ),
        part("iothreadids/iothread/poll", Empty),
        part("iothreadids/iothread/poll@max,grow,shrink", Number),
        warned(
            "defaultiothread",
            Empty,
            "each disk has a worker of its own",
        ),
        part("defaultiothread@thread_pool_min,thread_pool_max", Number),
        part("cputune", Empty),
        honoured(
            "cputune/shares",
            Number,
            "the weight of the guest's cgroup or scope, 1 to 10000",
        ),
        honoured(
            "cputune/global_period",
            Number,
            "microseconds that `<global_quota>` is counted in, 100000 when absent",
        ),
        honoured(
            "cputune/global_quota",
            Text,
            "microseconds of CPU time that the whole process gets in each period; below zero: any",
        ),
        warned(
            "cputune/period,emulator_period,iothread_period",
            Number,
            "CPU time is limited for the whole process only, by `<global_quota>`",
        ),
        warned(
            "cputune/quota,emulator_quota,iothread_quota",
            Text,
            "CPU time is limited for the whole process only, by `<global_quota>`",
        ),
        honoured(
            "cputune/vcpupin",
            Empty,
            "the processors that a vCPU runs on",
        )
        .many(),
        part("cputune/vcpupin@vcpu", Number),
        part("cputune/vcpupin@cpuset", Set),
        honoured(
            "cputune/emulatorpin",
            Empty,
            "the processors that all other threads run on, iothreads without a pin among them",
        ),
        part("cputune/emulatorpin@cpuset", Set),
        honoured(
            "cputune/iothreadpin",
            Empty,
            "the processors that an iothread runs on",
        )
        .many(),
        warned(
            "cputune/vcpusched,iothreadsched",
            Empty,
            "real-time scheduling is not built yet",
        )
        .many(),
        part("cputune/iothreadpin@iothread", Number),
        part("cputune/iothreadpin@cpuset", Set),
        part("cputune/vcpusched@vcpus", Set),
        part("cputune/vcpusched@priority", Number),
        part("cputune/vcpusched@scheduler", OneOf(SCHEDULERS)),
        part("cputune/iothreadsched@iothreads,priority", Text),
        part("cputune/iothreadsched@scheduler", OneOf(SCHEDULERS)),
        warned(
            "cputune/emulatorsched",
            Empty,
            "real-time scheduling is not built yet",
        ),
        part("cputune/emulatorsched@priority", Text),
        part("cputune/emulatorsched@scheduler", OneOf(SCHEDULERS)),
        warned(
            "cputune/cachetune,memorytune",
            Empty,
            "shares of caches and memory bandwidth are not built yet",
        )
        .many(),
        part("cputune/cachetune@vcpus", Set),
        part("cputune/cachetune@id", Text),
        part("cputune/cachetune/cache,monitor", Empty).many(),
        part("cputune/cachetune/cache@id,level,size", Number),
        part(
            "cputune/cachetune/cache@type",
            OneOf(&["both", "code", "data"]),
        ),
        part("cputune/cachetune/cache@unit", Text),
        part("cputune/cachetune/monitor@level", Number),
        part("cputune/cachetune/monitor@vcpus", Text),
        part("cputune/memorytune@vcpus", Text),
        part("cputune/memorytune/node,monitor", Empty).many(),
        part("cputune/memorytune/node@id,bandwidth", Number),
        part("cputune/memorytune/monitor@vcpus", Text),
    ],
};

const MEMORY: Group = Group {
    title: "Memory tuning",
    bases: &[""],
    rows: &[
        part("memtune", Empty),
        honoured(
            "memtune/hard_limit",
            Number,
            "the most memory of the guest's cgroup or scope, RAM and all else; beyond it the kernel ends the guest",
        ),
        honoured(
            "memtune/soft_limit",
            Number,
            "from here on the kernel takes memory back from the guest's cgroup or scope",
        ),
        warned(
            "memtune/min_guarantee,swap_hard_limit",
            Number,
            "memory that is kept for a guest, and its swap, are not limited yet",
        ),
        part("memtune/hard_limit@unit", Text),
        part("memtune/soft_limit@unit", Text),
        part("memtune/min_guarantee@unit", Text),
        part("memtune/swap_hard_limit@unit", Text),
        part("numatune", Empty),
        honoured(
            "numatune/memory",
            Empty,
            "the host's nodes that all memory of the guest comes from; `placement='auto'` and `mode='restrictive'` have no effect, and say so",
        ),
        part(
            "numatune/memory@mode",
            OneOf(&["strict", "preferred", "interleave", "restrictive"]),
        ),
        part("numatune/memory@placement", OneOf(&["static", "auto"])),
        part("numatune/memory@nodeset", Set),
        warned(
            "numatune/memnode",
            Empty,
            "nodes of the guest have no memory of their own yet",
        )
        .many(),
        part("numatune/memnode@cellid", Number),
        part(
            "numatune/memnode@mode",
            OneOf(&["strict", "preferred", "interleave", "restrictive"]),
        ),
        part("numatune/memnode@nodeset", Set),
    ],
};

const BLOCKS: Group = Group {
    title: "Block tuning",
    bases: &[""],
    rows: &[
        part("blkiotune", Empty),
        honoured(
            "blkiotune/weight",
            Number,
            "the weight of the guest's disk requests in its cgroup or scope, 1 to 10000",
        ),
        warned(
            "blkiotune/device",
            Empty,
            "limits of a single device of the host are not built yet",
        )
        .many(),
        part("blkiotune/device/path", Text),
        part(
            "blkiotune/device/weight,read_bytes_sec,write_bytes_sec,read_iops_sec,write_iops_sec",
            Number,
        ),
        warned("throttlegroups", Empty, "block limits are not built yet"),
        part("throttlegroups/throttlegroup", Empty).many(),
        part("throttlegroups/throttlegroup/group_name", Text),
        part(
            "throttlegroups/throttlegroup/total_bytes_sec,read_bytes_sec,write_bytes_sec,total_iops_sec,read_iops_sec,write_iops_sec,total_bytes_sec_max,read_bytes_sec_max,write_bytes_sec_max,total_iops_sec_max,read_iops_sec_max,write_iops_sec_max,size_iops_sec,total_bytes_sec_max_length,read_bytes_sec_max_length,write_bytes_sec_max_length,total_iops_sec_max_length,read_iops_sec_max_length,write_iops_sec_max_length",
            Number,
        ),
    ],
};

const LABELS: Group = Group {
    title: "Where and as whom it runs",
    bases: &[""],
    rows: &[
        warned("resource", Empty, "each guest has a scope of its own"),
        part("resource/partition", Text),
        part("resource/fibrechannel", Empty),
        part("resource/fibrechannel@appid", Text),
        part("seclabel", Empty).many(),
        honoured(
            "seclabel@type",
            Words(&[
                word("none"),
                warned_word("dynamic", "nobody's files are relabelled here"),
                warned_word("static", "nobody's files are relabelled here"),
            ]),
            "none: files keep their labels and owners",
        ),
        part("seclabel@model", Text),
        part("seclabel@relabel", YesNo),
        part("seclabel/label,imagelabel,baselabel", Text),
        warned("idmap", Empty, "it is for containers"),
        part("idmap/uid,gid", Empty).many(),
        part("idmap/uid@start,target,count", Number),
        part("idmap/gid@start,target,count", Number),
        warned("keywrap", Empty, "it is for s390"),
        part("keywrap/cipher", Empty).many(),
        part("keywrap/cipher@name", Text),
        part("keywrap/cipher@state", Text),
    ],
};

const DEVICES: Group = Group {
    title: "Devices",
    bases: &[""],
    rows: &[
        part("devices", Empty),
        honoured(
            "devices/emulator",
            Text,
            "recorded and never run: `vmm` runs every domain, and another path gets a warning",
        ),
    ],
};

const FOREIGN: Group = Group {
    title: "QEMU's own namespace",
    bases: &[""],
    rows: &[
        refused("qemu:commandline", "raw QEMU arguments cannot be honoured"),
        refused(
            "qemu:capabilities",
            "raw QEMU capabilities cannot be honoured",
        ),
        refused("qemu:override", "raw QEMU properties cannot be honoured"),
        refused(
            "qemu:deprecation",
            "there is no QEMU whose warnings could be changed",
        ),
    ],
};
