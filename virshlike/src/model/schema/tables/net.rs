//! `<interface>`.

use crate::model::schema::row::Value::{AnyBase, Empty, Number, OnOff, OneOf, Text, Words, YesNo};
use crate::model::schema::row::{
    Group, Word, honoured, kept, kept_word, part, warned, warned_word, word,
};

pub(super) const GROUPS: &[Group] = &[INTERFACE, DRIVER, PLUMBING];

const NO_PLUG: &str = "only networks, bridges and taps are plugged into";
const NO_MODEL: &str = "only virtio is built; start with --map-to-virtio or say type='virtio'";

/// NIC models that libvirt and QEMU know on a PC.
const MODELS: &[Word] = &[
    word("virtio"),
    word("virtio-non-transitional"),
    kept_word("virtio-transitional", "virtio devices are modern only"),
    kept_word("e1000", NO_MODEL),
    kept_word("e1000e", NO_MODEL),
    kept_word("e1000-82540em", NO_MODEL),
    kept_word("e1000-82544gc", NO_MODEL),
    kept_word("e1000-82545em", NO_MODEL),
    kept_word("i82550", NO_MODEL),
    kept_word("i82557b", NO_MODEL),
    kept_word("i82559er", NO_MODEL),
    kept_word("igb", NO_MODEL),
    kept_word("ne2k_isa", NO_MODEL),
    kept_word("ne2k_pci", NO_MODEL),
    kept_word("netfront", NO_MODEL),
    kept_word("pcnet", NO_MODEL),
    kept_word("rtl8139", NO_MODEL),
    kept_word("tulip", NO_MODEL),
    kept_word("usb-net", NO_MODEL),
    kept_word("vmxnet3", NO_MODEL),
];

const INTERFACE: Group = Group {
    title: "Network interfaces",
    bases: &["devices"],
    rows: &[
        honoured(
            "interface",
            Empty,
            "a virtio network card on a tap device or on passt",
        )
        .many(),
        honoured(
            "interface@type",
            Words(&[
                word("network"),
                word("bridge"),
                word("ethernet"),
                word("user"),
                kept_word("direct", NO_PLUG),
                kept_word("hostdev", NO_PLUG),
                kept_word("internal", NO_PLUG),
                kept_word("vhostuser", NO_PLUG),
                kept_word("vdpa", NO_PLUG),
                kept_word("udp", NO_PLUG),
                kept_word("mcast", NO_PLUG),
                kept_word("server", NO_PLUG),
                kept_word("client", NO_PLUG),
                kept_word("vds", NO_PLUG),
                kept_word("null", NO_PLUG),
            ]),
            "network for a virtual network, bridge, ethernet for a tap that is plugged in by others, or user for networking without rights, through passt",
        ),
        warned("interface@managed", YesNo, "it is for host devices"),
        warned(
            "interface@trustGuestRxFilters",
            YesNo,
            "filters of the guest stay with the guest",
        ),
        honoured(
            "interface/mac",
            Empty,
            "made from the domain's UUID when absent",
        ),
        part("interface/mac@address,currentAddress", Text),
        part("interface/mac@type", OneOf(&["generated", "static"])),
        part("interface/mac@check", YesNo),
        honoured(
            "interface/source",
            Empty,
            "what the interface is plugged into; with type='user' `dev=` names the host's interface whose addresses and routes the guest is shown",
        ),
        part(
            "interface/source@network,bridge,dev,mode,type,path,address,port,portgroup,name,switchid,portid,portgroupid,connectionid",
            Text,
        ),
        part("interface/source/address", Empty),
        part("interface/source/address@type", Text),
        part("interface/source/address@domain,bus,slot,function", AnyBase),
        part("interface/source/local", Empty),
        part("interface/source/local@address,port", Text),
        part("interface/source/ip,route", Empty).many(),
        part("interface/source/ip@address,family,prefix,peer", Text),
        part(
            "interface/source/route@address,family,prefix,netmask,gateway,metric",
            Text,
        ),
        part("interface/source/reconnect", Empty),
        part("interface/source/reconnect@enabled", YesNo),
        part("interface/source/reconnect@timeout", Number),
        honoured("interface/model", Empty, "virtio; virtio when absent"),
        part("interface/model@type", Words(MODELS)),
        honoured("interface/target", Empty, "the name of the tap device"),
        part("interface/target@dev", Text),
        part("interface/target@managed", YesNo),
        honoured("interface/link", Empty, "whether the cable is plugged in"),
        part("interface/link@state", OneOf(&["up", "down"])),
        honoured("interface/mtu", Empty, "the MTU that the guest is told"),
        part("interface/mtu@size", Number),
        honoured(
            "interface/boot",
            Empty,
            "the boot order; a `<kernel>` goes before it",
        ),
        part("interface/boot@order", Number),
        part("interface/boot@loadparm", Text),
    ],
};

const DRIVER: Group = Group {
    title: "How an interface is driven",
    bases: &["devices/interface"],
    rows: &[
        part("driver", Empty),
        honoured(
            "driver@name",
            Words(&[
                word("qemu"),
                warned_word("vhost", "frames are carried by the guest's own process"),
                warned_word("vfio", "it is for host devices"),
                warned_word("kvm", "it is for host devices"),
            ]),
            "frames are carried by the guest's own process",
        ),
        warned(
            "driver@txmode",
            OneOf(&["iothread", "timer"]),
            "packets are sent as they come",
        ),
        honoured("driver@queues", Number, "pairs of queues"),
        kept(
            "driver@rx_queue_size,tx_queue_size",
            Number,
            "queue sizes cannot be chosen yet",
        ),
        kept(
            "driver@rss,rss_hash_report",
            OnOff,
            "receive side scaling is not built yet",
        ),
        kept("driver/host,guest", Empty, "offloads cannot be chosen yet"),
        part("driver/host@csum,gso,tso4,tso6,ecn,ufo,mrg_rxbuf", OnOff),
        part("driver/guest@csum,tso4,tso6,ecn,ufo", OnOff),
        honoured("backend", Empty, "passt, with type='user'"),
        part("backend@type", OneOf(&["default", "passt"])),
        honoured(
            "backend@logFile",
            Text,
            "where passt writes its log: an absolute path that it may write to",
        ),
        warned(
            "backend@hostname,fqdn",
            Text,
            "passt is not told the guest's name",
        ),
        warned(
            "backend@tap,vhost",
            Text,
            "which device files are opened is ours to choose",
        ),
        warned("tune", Empty, "send buffers size themselves"),
        part("tune/sndbuf", Number),
        warned("coalesce", Empty, "packets are not coalesced"),
        part("coalesce/rx", Empty),
        part("coalesce/rx/frames", Empty),
        part("coalesce/rx/frames@max", Number),
    ],
};

const PLUMBING: Group = Group {
    title: "What surrounds an interface",
    bases: &["devices/interface"],
    rows: &[
        warned("bandwidth", Empty, "bandwidth limits are not built yet"),
        part("bandwidth/inbound,outbound", Empty),
        part("bandwidth/inbound@average,peak,floor,burst", Number),
        part("bandwidth/outbound@average,peak,floor,burst", Number),
        kept("vlan", Empty, "VLAN tags are not built yet"),
        part("vlan@trunk", YesNo),
        part("vlan/tag", Empty).many(),
        part("vlan/tag@id", Number),
        part("vlan/tag@nativeMode", Text),
        kept("virtualport", Empty, "virtual ports are not built yet"),
        part("virtualport@type", Text),
        part("virtualport/parameters", Empty),
        part(
            "virtualport/parameters@managerid,typeid,typeidversion,instanceid,interfaceid,profileid,vlan",
            Text,
        ),
        kept("filterref", Empty, "network filters are not built yet"),
        part("filterref@filter", Text),
        part("filterref/parameter", Empty).many(),
        part("filterref/parameter@name,value", Text),
        honoured(
            "portForward",
            Empty,
            "ports of the host that passt hands to the guest, all of them without a `<range>`; with type='user' only",
        )
        .many(),
        part("portForward@proto", OneOf(&["tcp", "udp"])),
        part("portForward@address,dev", Text),
        part("portForward/range", Empty).many(),
        part("portForward/range@start,end,to", Number),
        part("portForward/range@exclude", YesNo),
        kept("port", Empty, "isolated ports are not built yet"),
        part("port@isolated", YesNo),
        kept("teaming", Empty, "teaming is not built yet"),
        part("teaming@type", OneOf(&["persistent", "transient"])),
        part("teaming@persistent", Text),
        honoured(
            "ip",
            Empty,
            "the address that the guest is given, one of each family; with type='user' only",
        )
        .many(),
        kept(
            "route",
            Empty,
            "routes inside the guest are not configured from here",
        )
        .many(),
        part("ip@address,family,prefix,peer", Text),
        part("route@address,family,prefix,netmask,gateway,metric", Text),
        warned("script,downscript", Empty, "scripts are not run"),
        part("script@path", Text),
        part("downscript@path", Text),
        warned("guest", Empty, "it is for containers"),
        part("guest@dev,actual", Text),
        warned(
            "actual",
            Empty,
            "it is libvirt's own record of a running domain",
        ),
    ],
};
