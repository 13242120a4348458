//! `<network>`: a virtual network.

use crate::model::schema::row::Value::{AnyBase, Empty, Number, OnOff, OneOf, Text, Words, YesNo};
use crate::model::schema::row::{Group, honoured, kept, kept_word, part, refused, warned, word};

pub(super) const GROUPS: &[Group] = &[GENERAL, FORWARD, BRIDGE, DNS, ADDRESSES, PORTS];

const NO_PASSTHROUGH: &str = "only bridges are plugged into";
const FAMILIES: &[&str] = &["ipv4", "ipv6"];

const GENERAL: Group = Group {
    title: "The network",
    bases: &[""],
    rows: &[
        warned(
            "@ipv6",
            YesNo,
            "guests of a network without addresses of that kind may use IPv6 among themselves",
        ),
        warned(
            "@trustGuestRxFilters",
            YesNo,
            "filters of the guest stay with the guest",
        ),
        part("@connections", Number),
        honoured("name", Text, "what `net-` commands and domains call it"),
        honoured("uuid", Text, "made when absent"),
        honoured("title", Text, "a line about it, kept"),
        honoured("description", Text, "words about it, kept"),
        honoured(
            "metadata",
            Empty,
            "for other programs; anything may stand in it",
        ),
    ],
};

const FORWARD: Group = Group {
    title: "How it reaches the world",
    bases: &[""],
    rows: &[
        honoured(
            "forward",
            Empty,
            "guests reach other networks through the host; without it they reach the host alone",
        ),
        honoured(
            "forward@mode",
            Words(&[
                word("nat"),
                word("route"),
                word("open"),
                word("bridge"),
                kept_word("private", NO_PASSTHROUGH),
                kept_word("vepa", NO_PASSTHROUGH),
                kept_word("passthrough", NO_PASSTHROUGH),
                kept_word("hostdev", NO_PASSTHROUGH),
            ]),
            "`nat` when absent: the host's address stands for those of guests; `route` forwards as \
             it is; `open` forwards without any rule; `bridge` plugs guests into a bridge that the \
             host has",
        ),
        honoured(
            "forward@dev",
            Text,
            "only through this interface of the host",
        ),
        part("forward@managed", YesNo),
        honoured("forward/nat", Empty, "how addresses are translated"),
        honoured(
            "forward/nat@ipv6",
            YesNo,
            "whether IPv6 is translated too; it is routed otherwise",
        ),
        honoured(
            "forward/nat/address",
            Empty,
            "IPv4 addresses that stand for those of guests",
        ),
        part("forward/nat/address@start,end", Text),
        honoured(
            "forward/nat/port",
            Empty,
            "TCP and UDP ports that stand for those of guests",
        ),
        part("forward/nat/port@start,end", Number),
        honoured(
            "forward/interface",
            Empty,
            "the interface of `dev=`; one at most where packets are routed, as in libvirt",
        )
        .many(),
        part("forward/interface@dev", Text),
        part("forward/interface@connections", Number),
        kept("forward/pf,address", Empty, NO_PASSTHROUGH).many(),
        part("forward/pf@dev", Text),
        part("forward/address@type", Text),
        part("forward/address@domain,bus,slot,function", AnyBase),
        kept("forward/driver", Empty, NO_PASSTHROUGH),
        part("forward/driver@name,model", Text),
    ],
};

const BRIDGE: Group = Group {
    title: "The bridge",
    bases: &[""],
    rows: &[
        honoured(
            "bridge",
            Empty,
            "the bridge that is made, or for `bridge` used",
        ),
        honoured(
            "bridge@name",
            Text,
            "its name; the first free one of virbr0, virbr1, ... when absent",
        ),
        honoured(
            "bridge@stp",
            OnOff,
            "the spanning tree protocol; on when absent",
        ),
        honoured(
            "bridge@delay",
            Number,
            "seconds until a new port forwards, 0 to 30; the kernel's least is 2 with stp",
        ),
        warned("bridge@zone", Text, "firewalld is not told of the bridge"),
        warned(
            "bridge@macTableManager",
            OneOf(&["kernel", "libvirt"]),
            "the kernel learns which guest is where",
        ),
        honoured(
            "mtu",
            Empty,
            "the MTU of the bridge, of taps and of the guests' cards",
        ),
        part("mtu@size", Number),
        honoured(
            "mac",
            Empty,
            "the bridge's address; made from the UUID when absent",
        ),
        part("mac@address", Text),
    ],
};

const DNS: Group = Group {
    title: "Names",
    bases: &[""],
    rows: &[
        honoured("domain", Empty, "the domain of guests' names"),
        honoured("domain@name", Text, "its name"),
        honoured(
            "domain@localOnly",
            YesNo,
            "whether names of that domain are never asked for elsewhere",
        ),
        warned(
            "domain@register",
            YesNo,
            "systemd-resolved is not told of it",
        ),
        honoured(
            "dns",
            Empty,
            "the DNS server for guests, on the bridge's addresses",
        ),
        honoured("dns@enable", YesNo, "whether there is one; yes when absent"),
        honoured(
            "dns@forwardPlainNames",
            YesNo,
            "whether names without a dot are asked for elsewhere; yes when absent",
        ),
        honoured("dns/forwarder", Empty, "whom it asks").many(),
        part("dns/forwarder@addr,domain", Text),
        honoured("dns/txt", Empty, "a TXT record").many(),
        part("dns/txt@name,value", Text),
        honoured("dns/srv", Empty, "an SRV record").many(),
        part("dns/srv@service,domain,target", Text),
        part("dns/srv@protocol", Text),
        part("dns/srv@port,priority,weight", Number),
        honoured("dns/host", Empty, "names of an address").many(),
        part("dns/host@ip", Text),
        honoured("dns/host/hostname", Text, "one of its names").many(),
    ],
};

const ADDRESSES: Group = Group {
    title: "Addresses",
    bases: &[""],
    rows: &[
        honoured(
            "ip",
            Empty,
            "an address of the host on the bridge, and its network",
        )
        .many(),
        honoured("ip@address", Text, "the address"),
        honoured("ip@netmask", Text, "the network's mask, IPv4 only"),
        honoured("ip@prefix", Number, "or the length of its prefix"),
        honoured("ip@family", OneOf(FAMILIES), "ipv4 when absent"),
        warned(
            "ip@localPtr",
            YesNo,
            "reverse names are asked for elsewhere where there are no own ones",
        ),
        kept(
            "ip/tftp",
            Empty,
            "booting over the network is not built yet",
        ),
        part("ip/tftp@root", Text),
        honoured("ip/dhcp", Empty, "guests get addresses"),
        honoured("ip/dhcp/range", Empty, "from the first to the last").many(),
        part("ip/dhcp/range@start,end", Text),
        honoured(
            "ip/dhcp/range/lease",
            Empty,
            "how long they last; an hour when absent",
        ),
        part("ip/dhcp/range/lease@expiry", Number),
        part(
            "ip/dhcp/range/lease@unit",
            OneOf(&["seconds", "minutes", "hours"]),
        ),
        honoured("ip/dhcp/host", Empty, "an address for one guest").many(),
        part("ip/dhcp/host@mac,id,name,ip", Text),
        honoured("ip/dhcp/host/lease", Empty, "how long it lasts"),
        part("ip/dhcp/host/lease@expiry", Number),
        part(
            "ip/dhcp/host/lease@unit",
            OneOf(&["seconds", "minutes", "hours"]),
        ),
        kept(
            "ip/dhcp/bootp",
            Empty,
            "booting over the network is not built yet",
        ),
        part("ip/dhcp/bootp@file,server", Text),
        honoured("route", Empty, "a route of the host through a guest").many(),
        part("route@address,netmask,gateway", Text),
        part("route@prefix,metric", Number),
        part("route@family", OneOf(FAMILIES)),
    ],
};

const PORTS: Group = Group {
    title: "What guests are plugged in with",
    bases: &[""],
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
        kept("port", Empty, "isolated ports are not built yet"),
        part("port@isolated", YesNo),
        kept("virtualport", Empty, "virtual ports are not built yet"),
        part("virtualport@type", Text),
        part("virtualport/parameters", Empty),
        part(
            "virtualport/parameters@managerid,typeid,typeidversion,instanceid,interfaceid,profileid",
            Text,
        ),
        warned("portgroup", Empty, "port groups have no effect yet").many(),
        part("portgroup@name", Text),
        part("portgroup@default,trustGuestRxFilters", YesNo),
        refused("portgroup/port", "isolated ports are not built yet"),
    ],
};
