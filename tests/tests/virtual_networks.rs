//! Virtual networks in a network namespace that the test made: the bridge, the rules, addresses by
//! DHCP, guests that are plugged in, repairs, and commands that are killed half-way.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests::serial::PATIENCE;
use tests::world::{Neighbour, World};

/// Where a start and an end may be killed, in the order of their steps.
const START: &[&str] = &["recorded", "bridge-made", "rules-made", "served"];
const DESTROY: &[&str] = &["recorded", "server-gone", "rules-gone", "bridge-gone"];

const MAC: &str = "52:54:00:00:00:05";

fn here(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

/// A world with libvirt's default network defined.
fn world() -> Option<World> {
    for program in ["dnsmasq", "nft", "ip"] {
        if !here(program) {
            println!("skipped: no {program}");
            return None;
        }
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return None;
    }
    let Some(world) = World::with_network() else {
        println!("skipped: no right to make a network namespace");
        return None;
    };
    let default = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../virshlike/dist/default-network.xml"
    );
    world.ok(&["net-define", default]);
    Some(world)
}

/// What the host has of the network: the bridge, the table, the server.
fn there(world: &World) -> [bool; 3] {
    let uuid = world.ok(&["-q", "net-uuid", "default"]);
    let pid = world.path(&format!(
        "store/run/vm/networks/{}/dnsmasq.pid",
        uuid.trim()
    ));
    let serves = fs::read_to_string(pid).is_ok_and(|pid| {
        let line = fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("dnsmasq.conf")
    });
    [
        world.run("ip -o link").contains("virbr0"),
        world.run("nft list tables").contains("vm_virbr0"),
        serves,
    ]
}

/// The process of the network's server.
fn server(world: &World) -> String {
    let uuid = world.ok(&["-q", "net-uuid", "default"]);
    let path = format!("store/run/vm/networks/{}/dnsmasq.pid", uuid.trim());
    let pid = fs::read_to_string(world.path(&path)).expect("a server");
    pid.trim().to_string()
}

/// What `vm` says on standard error while it succeeds.
fn told(world: &World, arguments: &[&str]) -> String {
    let output = world.vm(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Nothing of a network is left, not even a record.
fn nothing_is_left(world: &World, when: &str) {
    assert_eq!(there(world), [false; 3], "{when}");
    let left: Vec<_> = fs::read_dir(world.path("store/run/vm/networks"))
        .expect("a folder")
        .flatten()
        .filter(|entry| entry.path().join("state.json").exists())
        .collect();
    assert!(left.is_empty(), "{when}: {left:?}");
}

#[test]
fn a_started_network_is_a_bridge_with_rules_and_a_server() {
    let Some(world) = world() else { return };
    let listed = world.ok(&["-q", "net-list", "--all"]);
    let words: Vec<&str> = listed.split_whitespace().collect();
    assert_eq!(words, ["default", "inactive", "no", "yes"]);
    world.ok(&["net-start", "default"]);
    assert_eq!(there(&world), [true; 3]);
    let address = world.run("ip -o addr show virbr0");
    assert!(address.contains("192.168.122.1/24"), "{address}");
    assert!(!address.contains("inet6"), "{address}");
    let link = world.run("ip -d -o link show virbr0");
    for fact in [",UP", "stp_state 1", "52:54:00:"] {
        assert!(link.contains(fact), "{fact}: {link}");
    }
    assert_eq!(world.run("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    let rules = world.run("nft list table inet vm_virbr0");
    assert!(
        rules.contains("masquerade") && rules.contains("reject"),
        "{rules}"
    );
    let errors = world.fails(&["net-start", "default"]);
    assert!(errors.contains("network is already active"), "{errors}");
    let info = world.ok(&["net-info", "default"]);
    assert!(info.contains("Bridge:         virbr0"), "{info}");
    world.ok(&["net-destroy", "default"]);
    nothing_is_left(&world, "after its end");
}

/// A client on a cable of its own, as a guest would be.
#[test]
fn a_client_gets_the_address_that_is_kept_for_it() {
    let Some(world) = world() else { return };
    if !here("udhcpc") {
        println!("skipped: no udhcpc");
        return;
    }
    // Without the spanning tree a port forwards at once.
    let xml = world.ok(&["-q", "net-dumpxml", "default"]);
    let path = world.path("default.xml");
    fs::write(&path, xml.replace("stp='on'", "stp='off'")).expect("a definition");
    world.ok(&["net-define", &path.display().to_string()]);
    world.ok(&["net-start", "default"]);
    let host = format!("<host mac='{MAC}' name='web05' ip='192.168.122.5'/>");
    let update = ["net-update", "default", "add-last", "ip-dhcp-host", &host];
    world.ok(&[&update[..], &["--live", "--config"]].concat());
    world.run("ip link add v0 type veth peer name v1");
    world.run(&format!("ip link set v1 address {MAC} up"));
    world.run("ip link set v0 master virbr0 up");
    let mut client = world.program("udhcpc");
    client.args([
        "-i",
        "v1",
        "-n",
        "-q",
        "-f",
        "-t",
        "60",
        "-T",
        "1",
        "-s",
        "/bin/true",
    ]);
    let output = client.output().expect("a client");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("192.168.122.5 obtained"), "{said}");
    let leases = world.ok(&["net-dhcp-leases", "default", "--mac", MAC]);
    for word in [MAC, "192.168.122.5/24", "ipv4", "web05"] {
        assert!(leases.contains(word), "{word}: {leases}");
    }
    let others = world.ok(&[
        "-q",
        "net-dhcp-leases",
        "default",
        "--mac",
        "52:54:00:00:00:06",
    ]);
    assert_eq!(others, "");
    let both = world.ok(&["net-dumpxml", "default"])
        + &world.ok(&["net-dumpxml", "default", "--inactive"]);
    assert_eq!(both.matches(&host).count(), 2, "{both}");
    world.ok(&["net-destroy", "default"]);
}

#[test]
fn a_guest_is_plugged_in_and_stays_when_its_network_comes_back() {
    let Some(world) = world() else { return };
    if !tests::have_kvm() {
        println!("skipped: no /dev/kvm");
        return;
    }
    let card =
        "<interface type='network'><source network='default'/><model type='virtio'/></interface>";
    world.define_with("web", "test=idle", card);
    let errors = world.fails(&["start", "web"]);
    for word in ["network 'default' is not active", "vm net-start default"] {
        assert!(errors.contains(word), "{word}: {errors}");
    }
    world.ok(&["net-start", "default"]);
    world.ok(&["start", "web"]);
    let tap = world.run("ip -o link show vnet0");
    assert!(tap.contains("master virbr0"), "{tap}");
    let live = world.ok(&["dumpxml", "web"]);
    assert!(
        live.contains("<source network='default' portid='"),
        "{live}"
    );
    assert!(live.contains("bridge='virbr0'/>"), "{live}");
    assert!(
        !world
            .ok(&["dumpxml", "web", "--inactive"])
            .contains("portid")
    );
    let listed = world.ok(&["-q", "domiflist", "web"]);
    assert!(listed.contains("network   default"), "{listed}");
    let known = world.ok(&["-q", "domifaddr", "web", "--source", "lease"]);
    assert_eq!(known, "", "it has asked for none");
    let xml = world.ok(&["net-dumpxml", "default"]);
    assert!(xml.starts_with("<network connections='1'>"), "{xml}");
    let output = world.vm(&["net-destroy", "default"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("'web'"), "{told}");
    assert!(!world.run("ip -o link show vnet0").contains("master"));
    world.ok(&["net-start", "default"]);
    let tap = world.run("ip -o link show vnet0");
    assert!(tap.contains("master virbr0"), "{tap}");
    world.ok(&["destroy", "web"]);
    world.ok(&["net-destroy", "default"]);
}

#[test]
fn what_somebody_takes_away_is_told_and_put_back() {
    let Some(world) = world() else { return };
    world.ok(&["net-start", "default"]);
    let take = ["nft delete table inet vm_virbr0", "ip link delete virbr0"];
    for (command, what) in take.into_iter().zip(["rules are gone", "bridge is gone"]) {
        world.run(command);
        let output = world.vm(&["net-info", "default"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(what), "{what}: {told}");
        let said = world.ok(&["net-start", "default"]);
        assert!(said.contains("Network default repaired"), "{said}");
        assert_eq!(there(&world), [true; 3], "{what}");
    }
    world.ok(&["net-destroy", "default"]);
    nothing_is_left(&world, "after its end");
}

#[test]
fn what_others_have_is_refused_and_left_alone() {
    let Some(world) = world() else { return };
    world.run("ip link add br7 type bridge");
    world.run("ip addr add 192.168.0.7/16 dev br7");
    world.run("ip link set br7 up");
    let errors = world.fails(&["net-start", "default"]);
    for word in [
        "Network is already in use by interface br7",
        "192.168.122.0/24",
    ] {
        assert!(errors.contains(word), "{word}: {errors}");
    }
    nothing_is_left(&world, "refused");
    world.run("ip link delete br7");
    world.run("ip link add virbr0 type bridge");
    let errors = world.fails(&["net-start", "default"]);
    assert!(errors.contains("virbr0 exists already"), "{errors}");
    assert!(world.run("ip -o link").contains("virbr0"));
}

/// `kill -9` at every step: the next command that changes something leaves nothing of the network, and
/// it can be started.
#[test]
fn interrupted_starts_and_ends_leave_nothing() {
    let Some(world) = world() else { return };
    let killed = |verb: &str, point: &str| {
        let mut command = world.command(&[verb, "default"]);
        let status = command.env("VM_FAULT", point).output().expect("vm").status;
        assert_eq!(status.code(), None, "{point} was not reached");
        assert!(!world.ok(&["net-list"]).contains("default"), "{point}");
    };
    for step in START {
        killed("net-start", &format!("net-start.{step}"));
        let xml = world.ok(&["-q", "net-dumpxml", "default"]);
        let path = world.path("again.xml");
        fs::write(&path, xml).expect("a definition");
        world.ok(&["net-define", &path.display().to_string()]);
        nothing_is_left(&world, step);
    }
    for step in DESTROY {
        world.ok(&["net-start", "default"]);
        killed("net-destroy", &format!("net-destroy.{step}"));
        let path = world.path("again.xml");
        world.ok(&["net-define", &path.display().to_string()]);
        nothing_is_left(&world, step);
    }
    world.ok(&["net-start", "default"]);
    assert_eq!(there(&world), [true; 3]);
    world.ok(&["net-destroy", "default"]);
}

#[test]
fn a_server_that_dies_is_told_and_put_back() {
    let Some(world) = world() else { return };
    world.ok(&["net-start", "default"]);
    let first = server(&world);
    world.run(&format!("kill -KILL {first}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while there(&world)[2] {
        assert!(Instant::now() < deadline, "it does not die");
        std::thread::sleep(Duration::from_millis(20));
    }
    let gone = "network 'default': its DHCP and DNS server is gone";
    for words in [&["net-list"][..], &["net-info", "default"]] {
        let said = told(&world, words);
        assert!(said.contains(gone), "{words:?}: {said}");
        assert!(said.contains("vm net-start default"), "{words:?}: {said}");
    }
    let facts = world.ok(&["--format", "json", "net-info", "default"]);
    assert!(facts.contains("its DHCP and DNS server is gone"), "{facts}");
    let said = world.ok(&["net-start", "default"]);
    assert!(said.contains("Network default repaired"), "{said}");
    assert_eq!(there(&world), [true; 3]);
    assert_ne!(server(&world), first);
    assert_eq!(told(&world, &["net-info", "default"]), "");
    world.ok(&["net-destroy", "default"]);
    nothing_is_left(&world, "after its end");
}

/// What a network without a definition remembers goes with it, whenever its end is interrupted.
#[test]
fn a_transient_networks_leases_go_with_it() {
    let Some(world) = world() else { return };
    let path = world.path("passing.xml");
    let text = "<network><name>passing</name><bridge name='virbr9'/><ip address='10.79.0.1' prefix='24'>\
                <dhcp><range start='10.79.0.2' end='10.79.0.9'/></dhcp></ip></network>";
    fs::write(&path, text).expect("a definition");
    let file = path.display().to_string();
    for step in DESTROY {
        world.ok(&["net-create", &file]);
        let uuid = world.ok(&["-q", "net-uuid", "passing"]);
        let leases = format!("store/var/lib/vm/networks/{}.leases", uuid.trim());
        let leases = world.path(&leases);
        fs::write(&leases, "").expect("leases");
        let mut command = world.command(&["net-destroy", "passing"]);
        command.env("VM_FAULT", format!("net-destroy.{step}"));
        assert_eq!(command.output().expect("vm").status.code(), None, "{step}");
        // Any command that changes something.
        world.ok(&["net-start", "default"]);
        world.ok(&["net-destroy", "default"]);
        assert!(!leases.exists(), "{step}");
        assert!(!world.run("ip -o link").contains("virbr9"), "{step}");
    }
}

/// A started network of this mode, and a guest that is plugged in.
fn plugged_in(world: &World, mode: &str) -> Neighbour {
    let forward = match mode {
        "isolated" => String::new(),
        mode => format!("<forward mode='{mode}'/>"),
    };
    let text = format!(
        "<network><name>{mode}</name>{forward}<bridge name='br-{mode}' stp='off' delay='0'/>\
         <dns enable='no'/><ip address='10.77.0.1' prefix='24'/>\
         <ip family='ipv6' address='fd77::1' prefix='64'/></network>"
    );
    let path = world.path("mode.xml");
    fs::write(&path, text).expect("a definition");
    world.ok(&["net-create", &path.display().to_string()]);
    let guest = world.neighbour("guest");
    world.run(&format!("ip link set guest master br-{mode}"));
    for line in [
        "ip addr add 10.77.0.2/24 dev eth0",
        "ip route add default via 10.77.0.1",
        "ip -6 addr add fd77::2/64 dev eth0 nodad",
        "ip -6 route add default via fd77::1",
    ] {
        guest.run(line);
    }
    guest
}

/// Another host on the other side, which knows the way back.
fn outside(world: &World) -> Neighbour {
    let outside = world.neighbour("cable");
    world.run("ip addr add 10.88.0.1/24 dev cable");
    world.run("ip -6 addr add fd88::1/64 dev cable nodad");
    for line in [
        "ip addr add 10.88.0.2/24 dev eth0",
        "ip route add default via 10.88.0.1",
        "ip -6 addr add fd88::2/64 dev eth0 nodad",
        "ip -6 route add default via fd88::1",
    ] {
        outside.run(line);
    }
    outside
}

#[test]
fn routed_and_open_networks_forward_and_isolated_ones_do_not() {
    let Some(world) = world() else { return };
    if !here("busybox") || !fs::exists("/proc/net/if_inet6").unwrap_or(false) {
        println!("skipped: no busybox, or no IPv6");
        return;
    }
    let outside = outside(&world);
    for mode in ["route", "open", "isolated"] {
        let guest = plugged_in(&world, mode);
        assert!(guest.reaches("10.77.0.1", 30), "{mode}: the host");
        assert!(guest.reaches("fd77::1", 30), "{mode}: the host");
        // A host that forwards nothing would make an isolated network look right.
        assert_eq!(world.run("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
        let (forwards, times) = if mode == "isolated" {
            (false, 2)
        } else {
            (true, 30)
        };
        for address in ["10.88.0.2", "fd88::2"] {
            assert_eq!(guest.reaches(address, times), forwards, "{mode}: {address}");
        }
        for address in ["10.77.0.2", "fd77::2"] {
            assert_eq!(
                outside.reaches(address, times),
                forwards,
                "{mode}: {address}"
            );
        }
        world.ok(&["net-destroy", mode]);
    }
}

/// A router's advertisement made the host's way out, and forwarding would take it away.
#[test]
fn ipv6_forwarding_is_not_switched_on_where_it_loses_the_way_out() {
    let Some(world) = world() else { return };
    if !fs::exists("/proc/net/if_inet6").unwrap_or(false) {
        println!("skipped: no IPv6");
        return;
    }
    let _router = world.neighbour("cable");
    world.run("ip -6 route add default via fe80::1 dev cable proto ra");
    let accept = "/proc/sys/net/ipv6/conf/cable/accept_ra";
    let set = |value: &str| {
        let mut shell = world.program("sh");
        shell.args(["-c", &format!("echo {value} > {accept}")]);
        assert!(shell.status().expect("a shell").success());
    };
    let forwarding = || world.run("cat /proc/sys/net/ipv6/conf/all/forwarding");
    let path = world.path("six.xml");
    let text = "<network><name>six</name><forward mode='route'/><bridge name='virbr6'/><dns enable='no'/>\
                <ip family='ipv6' address='fd66::1' prefix='64'/></network>";
    fs::write(&path, text).expect("a definition");
    let file = path.display().to_string();
    set("1");
    let errors = world.fails(&["net-create", &file]);
    for words in [
        "without accept_ra set to 2 is likely to cause routes loss",
        "Interfaces to look at: cable",
        accept,
    ] {
        assert!(errors.contains(words), "{words}: {errors}");
    }
    assert_eq!(forwarding().trim(), "0");
    assert_eq!(world.run("cat /proc/sys/net/ipv4/ip_forward").trim(), "0");
    assert!(!world.run("ip -o link").contains("virbr6"));
    set("2");
    world.ok(&["net-create", &file]);
    assert_eq!(forwarding().trim(), "1");
    world.ok(&["net-destroy", "six"]);
}

/// What is changed of a started network reaches the host, and what it cannot do leaves it as it was.
#[test]
fn a_started_network_goes_through_another_interface_when_it_is_told() {
    let Some(world) = world() else { return };
    world.ok(&["net-start", "default"]);
    let serving = server(&world);
    let rules = || world.run("nft list table inet vm_virbr0");
    assert!(!rules().contains("\"eth7\""));
    let update = |verb: &'static str, dev: &str| {
        let entry = format!("<interface dev='{dev}'/>");
        let words = ["net-update", "default", verb, "forward-interface"];
        world.vm(&[&words[..], &[&entry, "--live"]].concat())
    };
    assert!(update("add", "eth7").status.success());
    assert!(rules().contains("oifname \"eth7\""), "{}", rules());
    let refused = update("add", "eth8");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("one interface at most"),
        "{said}"
    );
    assert!(!rules().contains("eth8"));
    assert!(update("delete", "eth7").status.success());
    assert!(!rules().contains("eth7"));
    let group = [
        "net-update",
        "default",
        "add",
        "portgroup",
        "<portgroup name='web'/>",
    ];
    world.ok(&[&group[..], &["--live", "--config"]].concat());
    // Nothing of this concerns the server.
    assert_eq!(server(&world), serving);
    let events = world.fails(&[
        "net-update",
        "default",
        "add",
        "bridge",
        "<bridge name='x'/>",
    ]);
    assert!(
        events.contains("can't update 'bridge' section of network 'default'"),
        "{events}"
    );
    world.ok(&["net-destroy", "default"]);
}

#[test]
fn starts_and_ends_of_networks_are_told() {
    let Some(world) = world() else { return };
    let mut listener = world
        .command(&[
            "net-event",
            "--loop",
            "--timeout",
            "300",
            "--format",
            "json",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("vm");
    let output = BufReader::new(listener.stdout.take().expect("its output"));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = output.lines().map_while(Result::ok);
        lines.try_for_each(|line| tell.send(line))
    });
    // It watches once it tells of another network, which comes and goes until then.
    let path = world.path("other.xml");
    fs::write(&path, "<network><name>other</name></network>").expect("a definition");
    let deadline = Instant::now() + PATIENCE;
    let file = path.display().to_string();
    let turns = [["net-define", file.as_str()], ["net-undefine", "other"]];
    for words in turns.iter().cycle() {
        world.ok(words);
        if told.recv_timeout(Duration::from_millis(500)).is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "it tells of nothing");
    }
    for (verb, wanted) in [("net-start", "Started"), ("net-destroy", "Stopped")] {
        world.ok(&[verb, "default"]);
        let mut lines = std::iter::from_fn(|| told.recv_timeout(PATIENCE).ok());
        let line = lines.find(|line| line.contains("\"network\":\"default\""));
        let line = line.unwrap_or_else(|| panic!("{verb} is not told"));
        for word in ["\"event\":\"lifecycle\"", wanted] {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
    listener.kill().expect("it runs");
    listener.wait().expect("it ends");
}
