//! Network cards on bridges and taps, in a network namespace that the test made.

use rustix::process::{Signal, pidfd_send_signal};
use std::time::{Duration, Instant};
use tests::skip_unless;
use tests::world::World;

const MAC: &str = "52:54:00:12:34:56";

/// A bridge `br7` with jumbo frames, in a network of its own.
fn world() -> Option<World> {
    if !tests::have_kvm() {
        eprintln!("skipped: no /dev/kvm");
        return None;
    }
    let Some(world) = World::with_network() else {
        eprintln!("skipped: no right to make a network namespace");
        return None;
    };
    world.run("ip link add br7 type bridge");
    world.run("ip link set br7 mtu 9000 up");
    Some(world)
}

fn on_bridge(more: &str) -> String {
    format!(
        "<interface type='bridge'><mac address='{MAC}'/><source bridge='br7'/>\
         <model type='virtio'/>{more}</interface>"
    )
}

fn links(world: &World) -> String {
    world.run("ip -o link")
}

#[test]
fn a_card_is_plugged_into_its_bridge_and_its_tap_goes_with_the_guest() {
    let Some(world) = world() else { return };
    // The name is one that was made up elsewhere, as in a definition from another host.
    world.define_with("web", "test=idle", &on_bridge("<target dev='vnet7'/>"));
    assert!(world.ok(&["domiflist", "web"]).contains(" vnet7 "));
    world.ok(&["start", "web"]);
    let listed = world.ok(&["-q", "domiflist", "web"]);
    let words: Vec<&str> = listed.split_whitespace().collect();
    assert_eq!(words, ["vnet0", "bridge", "br7", "virtio", MAC]);
    assert!(
        world
            .ok(&["dumpxml", "web"])
            .contains("<target dev='vnet0'/>")
    );
    assert!(
        world
            .ok(&["dumpxml", "--inactive", "web"])
            .contains("'vnet7'")
    );
    let tap = world.run("ip -o link show vnet0");
    for fact in ["master br7", "mtu 9000", ",UP", "fe:54:00:12:34:56"] {
        assert!(tap.contains(fact), "{fact}: {tap}");
    }
    let bridge = world.run("ip -o link show br7");
    assert!(bridge.contains("mtu 9000"), "{bridge}");
    let figures = world.ok(&["domstats", "web"]);
    for figure in [
        "state.state=1",
        "vcpu.0.time=",
        "net.0.name=vnet0",
        "net.0.rx.bytes=",
        "block.0.rd.reqs=",
        "block.0.capacity=16777216",
    ] {
        assert!(
            figures.contains(&format!("  {figure}")),
            "{figure}: {figures}"
        );
    }
    let counted = world.ok(&["domifstat", "web", MAC]);
    assert!(counted.contains(&format!("{MAC} rx_bytes ")), "{counted}");
    let times = world.ok(&["domifstat", "web", MAC, "--histogram"]);
    assert!(
        times.contains(" Interface") && times.contains("Bursts"),
        "{times}"
    );
    let errors = world.fails(&["domifstat", "web", "vnet9"]);
    assert!(errors.contains("it has vnet0"), "{errors}");
    world.ok(&["destroy", "web"]);
    assert!(!links(&world).contains("vnet"), "{}", links(&world));

    world.ok(&["start", "web"]);
    pidfd_send_signal(world.process("web"), Signal::KILL).expect("a kill");
    // The kernel takes it away in the course of the process's end.
    let deadline = Instant::now() + Duration::from_secs(10);
    while links(&world).contains("vnet") {
        assert!(Instant::now() < deadline, "{}", links(&world));
    }
}

#[test]
fn two_guests_with_several_queues_get_taps_of_their_own() {
    let Some(world) = world() else { return };
    let card = "<interface type='bridge'><source bridge='br7'/><driver queues='2'/>\
                <mtu size='1400'/></interface>";
    let named = "<interface type='bridge'><source bridge='br7'/><target dev='lan'/></interface>";
    world.define_with("one", "test=idle", card);
    world.ok(&["start", "one"]);
    let tap = world.run("ip -d -o link show vnet0");
    assert!(
        tap.contains("mtu 1400") && tap.contains("multi_queue"),
        "{tap}"
    );
    let disk = world.path("second.raw");
    std::fs::copy(world.path("disk.raw"), &disk).expect("a disk");
    let xml = world.ok(&["dumpxml", "one", "--inactive"]);
    let uuid = world.ok(&["-q", "domuuid", "one"]);
    let second = xml
        .replace("<name>one<", "<name>two<")
        .replace(uuid.trim(), "5f1b34a8-6a0b-4d0c-9d9a-3a7d3f0c5a11")
        .replace("disk.raw", "second.raw")
        .replace("</interface>", &format!("</interface>{named}"))
        .replacen("<mac address='52:", "<mac address='56:", 1);
    world.define_xml(&second);
    world.ok(&["start", "two"]);
    let names: Vec<String> = world
        .ok(&["-q", "domiflist", "two"])
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_string))
        .collect();
    assert_eq!(names, ["vnet1", "lan"]);
}

#[test]
fn a_tap_of_somebody_else_is_used_and_left_as_it_was() {
    let Some(world) = world() else { return };
    world.define_with(
        "plain",
        "test=idle",
        "<interface type='ethernet'><target dev='tap3' managed='no'/></interface>",
    );
    let errors = world.fails(&["start", "plain"]);
    assert!(
        errors.contains("there is no tap 'tap3'") && errors.contains("ip tuntap add dev tap3"),
        "{errors}"
    );
    world.run("ip tuntap add dev tap3 mode tap vnet_hdr");
    world.run("ip link set tap3 address 02:00:00:00:00:07");
    world.ok(&["start", "plain"]);
    let tap = world.run("ip -o link show tap3");
    assert!(
        tap.contains("02:00:00:00:00:07") && !tap.contains(",UP"),
        "{tap}"
    );
    world.ok(&["destroy", "plain"]);
    assert!(links(&world).contains("tap3"));
}

#[test]
fn what_cannot_be_plugged_in_is_refused_and_nothing_is_left() {
    let Some(world) = world() else { return };
    world.define_with("none", "test=idle", &on_bridge("").replace("br7", "br8"));
    let errors = world.fails(&["start", "none"]);
    for word in ["there is no bridge 'br8'", ".xml:", "ip link add br8"] {
        assert!(errors.contains(word), "{word}: {errors}");
    }
    world.run("ip tuntap add dev dum0 mode tap");
    world.define_with("dummy", "test=idle", &on_bridge("").replace("br7", "dum0"));
    let errors = world.fails(&["start", "dummy"]);
    assert!(errors.contains("no Linux bridge"), "{errors}");
    world.define_with("taken", "test=idle", &on_bridge("<target dev='dum0'/>"));
    let errors = world.fails(&["start", "taken"]);
    assert!(errors.contains("dum0 exists already"), "{errors}");
    assert!(!links(&world).contains("vnet"), "{}", links(&world));
    assert_eq!(world.ok(&["-q", "list"]), "");
}

#[test]
fn an_unprivileged_user_hears_what_root_can_do() {
    let Some(world) = world() else { return };
    skip_unless!(rustix::process::geteuid().is_root(), "not root");
    world.define_with("web", "test=idle", &on_bridge(""));
    // All rights but that over networks.
    let mut command = world.program("setpriv");
    command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]);
    let vm = world.command(&["start", "web"]);
    command
        .arg(tests::program::vm().expect("vm"))
        .args(["start", "web"]);
    for (name, value) in vm.get_envs() {
        command.env(name, value.expect("a value"));
    }
    let output = command.output().expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("CAP_NET_ADMIN") && errors.contains("ip tuntap add dev tap0"),
        "{errors}"
    );
}
