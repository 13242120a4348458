//! The CPU model, guest NUMA nodes and the features of the machine.

use crate::model::schema::row::Value::{Empty, Number, OnOff, OneOf, Set, Text, Words, YesNo};
use crate::model::schema::row::{
    Group, honoured, kept, kept_word, part, warned, warned_word, word,
};

pub(super) const GROUPS: &[Group] = &[CPU, NUMA, FEATURES, HYPERV];

const CPU: Group = Group {
    title: "The CPU model",
    bases: &[""],
    rows: &[
        part("cpu", Empty),
        honoured(
            "cpu@mode",
            OneOf(&["custom", "host-model", "host-passthrough", "maximum"]),
            "host-passthrough when absent; host-model is the nearest of our models and what the host has beyond it; maximum also has what cannot migrate",
        ),
        honoured(
            "cpu@match",
            Words(&[word("exact"), word("minimum"), word("strict")]),
            "exact shows what is written; minimum also what the host has beyond; strict refuses a host with more",
        ),
        honoured(
            "cpu@check",
            Words(&[word("none"), word("partial"), word("full")]),
            "all give the same: a CPU that cannot be had in full is refused at start",
        ),
        honoured(
            "cpu@migratable",
            OnOff,
            "whether features that cannot migrate are left out",
        ),
        warned("cpu@deprecated_features", OnOff, "it is for s390"),
        honoured(
            "cpu/model",
            Text,
            "one that `vm cpu-models` lists; qemu64 and kvm64 stand for no choice and give the oldest, x86-64-v1, with a warning; others are kept",
        ),
        honoured(
            "cpu/model@fallback",
            Words(&[word("allow"), word("forbid")]),
            "no model is replaced by another: what the host lacks is refused at start, with a model that works",
        ),
        honoured(
            "cpu/model@vendor_id",
            Text,
            "the twelve letters of the vendor that the guest reads",
        ),
        honoured(
            "cpu/vendor",
            Text,
            "Intel, AMD or Hygon: hosts of another maker are refused at start",
        ),
        honoured(
            "cpu/topology",
            Empty,
            "the product must be the number in `<vcpu>`",
        ),
        part("cpu/topology@sockets,dies,clusters,cores,threads", Number),
        part("cpu/cache", Empty),
        part("cpu/cache@level", Number),
        honoured(
            "cpu/cache@mode",
            Words(&[
                word("passthrough"),
                kept_word("emulate", "made-up caches are not built yet"),
                kept_word("disable", "hiding the caches is not built yet"),
            ]),
            "the host's caches, as every guest sees them",
        ),
        honoured(
            "cpu/maxphysaddr",
            Empty,
            "bits of a guest physical address; the host's when absent",
        ),
        part("cpu/maxphysaddr@mode", OneOf(&["emulate", "passthrough"])),
        part("cpu/maxphysaddr@bits,limit", Number),
        part("cpu/feature", Empty).many(),
        honoured(
            "cpu/feature@policy",
            OneOf(&["force", "require", "optional", "disable", "forbid"]),
            "require and force: the host has it or the start is refused, for no bit is shown that KVM does not offer; optional: where the host has it; disable: hidden; forbid: hidden, and a host that has it is refused",
        ),
        honoured("cpu/feature@name", Text, "libvirt's name of a feature"),
    ],
};

const NUMA: Group = Group {
    title: "NUMA nodes of the guest",
    bases: &["cpu"],
    rows: &[
        kept("numa", Empty, "guest NUMA nodes are not built yet"),
        part("numa/cell", Empty).many(),
        part("numa/cell@id,memory", Number),
        part("numa/cell@cpus", Set),
        part("numa/cell@unit", Text),
        part("numa/cell@memAccess", OneOf(&["shared", "private"])),
        part("numa/cell@discard", YesNo),
        part("numa/cell/distances", Empty),
        part("numa/cell/distances/sibling", Empty).many(),
        part("numa/cell/distances/sibling@id,value", Number),
        part("numa/cell/cache", Empty).many(),
        part("numa/cell/cache@level", Number),
        part(
            "numa/cell/cache@associativity",
            OneOf(&["none", "direct", "full"]),
        ),
        part(
            "numa/cell/cache@policy",
            OneOf(&["none", "writeback", "writethrough"]),
        ),
        part("numa/cell/cache/size,line", Empty),
        part("numa/cell/cache/size@value,unit", Text),
        part("numa/cell/cache/line@value,unit", Text),
        part("numa/interconnects", Empty),
        part("numa/interconnects/latency,bandwidth", Empty).many(),
        part(
            "numa/interconnects/latency@initiator,target,cache,value",
            Number,
        ),
        part(
            "numa/interconnects/latency@type",
            OneOf(&["access", "read", "write"]),
        ),
        part("numa/interconnects/latency@unit", Text),
        part(
            "numa/interconnects/bandwidth@initiator,target,cache,value",
            Number,
        ),
        part(
            "numa/interconnects/bandwidth@type",
            OneOf(&["access", "read", "write"]),
        ),
        part("numa/interconnects/bandwidth@unit", Text),
    ],
};

const FEATURES: Group = Group {
    title: "Features of the machine",
    bases: &[""],
    rows: &[
        part("features", Empty),
        honoured("features/acpi", Empty, "ACPI; every machine has it"),
        honoured("features/apic", Empty, "the APIC; every machine has it"),
        warned("features/apic@eoi", OnOff, "KVM decides"),
        warned("features/pae", Empty, "every 64-bit CPU has it"),
        warned(
            "features/hap",
            Empty,
            "KVM uses nested paging where the host has it",
        ),
        part("features/hap@state", OnOff),
        warned(
            "features/viridian,privnet",
            Empty,
            "it is for other hypervisors",
        ),
        warned("features/pvspinlock", Empty, "KVM decides"),
        part("features/pvspinlock@state", OnOff),
        honoured("features/vmport", Empty, "there is no VMware port"),
        part(
            "features/vmport@state",
            Words(&[word("off"), warned_word("on", "there is no VMware port")]),
        ),
        honoured("features/smm", Empty, "there is no system management mode"),
        part(
            "features/smm@state",
            Words(&[
                word("off"),
                warned_word("on", "there is no system management mode"),
            ]),
        ),
        part("features/smm/tseg", Text),
        part("features/smm/tseg@unit", Text),
        warned("features/ioapic", Empty, "the IOAPIC is ours"),
        part("features/ioapic@driver", OneOf(&["kvm", "qemu"])),
        kept(
            "features/kvm",
            Empty,
            "what KVM tells the guest cannot be chosen yet",
        ),
        part(
            "features/kvm/hidden,hint-dedicated,poll-control,pv-ipi,dirty-ring",
            Empty,
        ),
        part("features/kvm/hidden@state", OnOff),
        part("features/kvm/hint-dedicated@state", OnOff),
        part("features/kvm/poll-control@state", OnOff),
        part("features/kvm/pv-ipi@state", OnOff),
        part("features/kvm/dirty-ring@state", OnOff),
        part("features/kvm/dirty-ring@size", Number),
        kept(
            "features/pmu",
            Empty,
            "whether there is a PMU cannot be chosen yet",
        ),
        part("features/pmu@state", OnOff),
        kept(
            "features/vmcoreinfo",
            Empty,
            "the vmcoreinfo device is not built yet",
        ),
        part("features/vmcoreinfo@state", OnOff),
        warned("features/msrs", Empty, "unknown MSRs fault"),
        part("features/msrs@unknown", OneOf(&["ignore", "fault"])),
        warned("features/tcg", Empty, "nothing is emulated"),
        part("features/tcg/tb-cache", Text),
        part("features/tcg/tb-cache@unit", Text),
        warned(
            "features/async-teardown",
            Empty,
            "how a process ends is ours to choose",
        ),
        part("features/async-teardown@enabled", YesNo),
        warned(
            "features/ps2",
            Empty,
            "the i8042 controller is always there",
        ),
        part("features/ps2@state", OnOff),
        warned("features/aia", Text, "it is for RISC-V"),
        warned("features/gic", Empty, "it is for ARM"),
        part("features/gic@version", Text),
        warned(
            "features/hpt,htm,nested-hv,ccf-assist,cfpc,sbbc,ibs,ras,capabilities,xen",
            Empty,
            "it is for other machines",
        ),
        part("features/hpt@resizing", Text),
        part("features/htm@state", OnOff),
        part("features/nested-hv@state", OnOff),
        part("features/ccf-assist@state", OnOff),
        part("features/cfpc@value", Text),
        part("features/sbbc@value", Text),
        part("features/ibs@value", Text),
        part("features/ras@state", OnOff),
        part("features/capabilities@policy", Text),
    ],
};

const HYPERV: Group = Group {
    title: "Hyper-V enlightenments",
    bases: &["features"],
    rows: &[
        warned("hyperv", Empty, "there are no Hyper-V enlightenments"),
        part(
            "hyperv@mode",
            OneOf(&["custom", "passthrough", "host-model"]),
        ),
        part(
            "hyperv/relaxed,vapic,spinlocks,vpindex,runtime,synic,stimer,reset,vendor_id,frequencies,reenlightenment,tlbflush,ipi,evmcs,avic,emsr_bitmap,xmm_input",
            Empty,
        ),
        part("hyperv/relaxed@state", OnOff),
        part("hyperv/vapic@state", OnOff),
        part("hyperv/spinlocks@state", OnOff),
        part("hyperv/spinlocks@retries", Number),
        part("hyperv/vpindex@state", OnOff),
        part("hyperv/runtime@state", OnOff),
        part("hyperv/synic@state", OnOff),
        part("hyperv/stimer@state", OnOff),
        part("hyperv/stimer/direct", Empty),
        part("hyperv/stimer/direct@state", OnOff),
        part("hyperv/reset@state", OnOff),
        part("hyperv/vendor_id@state", OnOff),
        part("hyperv/vendor_id@value", Text),
        part("hyperv/frequencies@state", OnOff),
        part("hyperv/reenlightenment@state", OnOff),
        part("hyperv/tlbflush@state", OnOff),
        part("hyperv/tlbflush/direct,extended", Empty),
        part("hyperv/tlbflush/direct@state", OnOff),
        part("hyperv/tlbflush/extended@state", OnOff),
        part("hyperv/ipi@state", OnOff),
        part("hyperv/evmcs@state", OnOff),
        part("hyperv/avic@state", OnOff),
        part("hyperv/emsr_bitmap@state", OnOff),
        part("hyperv/xmm_input@state", OnOff),
    ],
};
