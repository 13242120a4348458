//! Virtual networks in a network namespace that the test made: the bridge, the rules, addresses by
//! DHCP, guests that are plugged in, repairs, and commands that are killed half-way.

use std::fs;
use std::process::{Command, Stdio};
use tests::world::World;

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
