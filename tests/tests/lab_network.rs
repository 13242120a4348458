//! A stock Debian kernel on a bridge of its host: answers ping, carries data both ways unharmed, and
//! does so after it stood still. Run in the lab (`cargo xtask test --only-lab`).
//!
//! `VM_TEST_NUMBERS` is how many lines of numbers are carried each way: 2200000 (16 MiB) when not said. The
//! ignored test carries 1 GiB each way: `cargo xtask test --only-lab --scenario gibibyte --all`.

use std::time::Instant;
use tests::console::Console;
use tests::world::World;

/// Some 16 MiB.
const NUMBERS: &str = "2200000";

/// A guest called `net` on the bridge `br7`, whose host has the address 10.77.7.1.
fn guest() -> Option<(World, Console)> {
    let variables = ["LAB_KERNEL", "LAB_INITRD"].map(|name| std::env::var(name).ok());
    let [Some(kernel), Some(initrd)] = variables else {
        println!("skipped: LAB_KERNEL and LAB_INITRD are not set: run this in the lab");
        return None;
    };
    let world = World::with_network().expect("a network namespace");
    world.run("ip link add br7 type bridge");
    world.run("ip addr add 10.77.7.1/24 dev br7");
    world.run("ip link set br7 up");
    world.define_xml(&format!(
        "<domain type='kvm'><name>net</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel>\
         <initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet panic=-1 nokaslr</cmdline></os>\
         <devices><interface type='bridge'><mac address='52:54:00:77:07:02'/>\
         <source bridge='br7'/><mtu size='1400'/></interface><serial type='pty'/></devices></domain>"
    ));
    world.ok(&["start", "net"]);
    let mut console = Console::open(&world, "net");
    console.wait_for("guest# ");
    console.shell("ip addr add 10.77.7.2/24 dev eth0; ip link set eth0 up; stty -echo");
    Some((world, console))
}

/// What a command line prints on the host.
fn sum(world: &World, command: &str) -> String {
    let mut shell = world.program("sh");
    let output = shell.args(["-c", command]).output().expect("a shell");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// Has the guest take over the network what `source` prints on the host; what its `sink` prints.
fn fetch(world: &World, console: &mut Console, source: &str, sink: &str) -> String {
    let serve = format!("({source}) | socat -u STDIN TCP-LISTEN:5001,reuseaddr");
    let mut server = world.program("sh").args(["-c", &serve]).spawn();
    sum(world, "until ss -ltn | grep -q :5001; do sleep 0.1; done");
    let said = console.shell(&format!("nc 10.77.7.1 5001 | {sink}"));
    let status = server.as_mut().expect("a shell").wait();
    assert!(status.expect("its end").success());
    said
}

/// Takes over the network what `source` prints in the guest; its checksum on the host.
fn give(world: &World, console: &mut Console, source: &str) -> String {
    console.send(&format!("({source}) | nc -l -p 5002 &"));
    console.shell("until netstat -ltn | grep -q :5002; do usleep 100000; done");
    sum(world, "socat -u TCP:10.77.7.2:5002 STDOUT | md5sum")
}

#[test]
#[ignore = "1 GiB each way: many minutes under emulation"]
fn a_gibibyte_comes_and_goes_unharmed() {
    let Some((world, mut console)) = guest() else {
        return;
    };
    // 16 MiB that both sides have, four times in a connection, sixteen connections each way.
    let data = world.path("data");
    let host = format!("for i in 1 2 3 4; do cat {}; done", data.display());
    let there = "for i in 1 2 3 4; do cat /tmp/data; done";
    let make = format!("head -c 16777216 /dev/urandom > {}", data.display());
    sum(&world, &make);
    let once = format!("cat {}", data.display());
    let right = sum(&world, &format!("{once} | md5sum"));
    let took = fetch(&world, &mut console, &once, "tee /tmp/data | md5sum");
    assert_eq!(took, right);
    let right = sum(&world, &format!("({host}) | md5sum"));
    for (way, incoming) in [("to the guest", true), ("from the guest", false)] {
        let started = Instant::now();
        for round in 1..=16 {
            let got = match incoming {
                true => fetch(&world, &mut console, &host, "md5sum"),
                false => give(&world, &mut console, there),
            };
            assert_eq!(got, right, "round {round} {way}");
        }
        println!("1 GiB {way} in {} s", started.elapsed().as_secs());
    }
    let errors = console.shell("cat /sys/class/net/eth0/statistics/?x_errors");
    assert_eq!(errors, "0\n0");
    world.ok(&["destroy", "net"]);
}

#[test]
fn a_stock_kernel_talks_over_its_hosts_bridge() {
    let Some((world, mut console)) = guest() else {
        return;
    };
    let facts = console.shell("cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu");
    assert_eq!(facts, "52:54:00:77:07:02\n1400");
    world.run("ping -q -c 3 -w 60 10.77.7.2");
    let answer = console.shell("ping -q -c 3 -w 60 10.77.7.1");
    assert!(answer.contains(" 0% packet loss"), "{answer}");

    let count = std::env::var("VM_TEST_NUMBERS").unwrap_or_else(|_| NUMBERS.into());
    let numbers = format!("seq 1 {count}");
    let right = sum(&world, &format!("{numbers} | md5sum"));
    assert_eq!(fetch(&world, &mut console, &numbers, "md5sum"), right);
    assert_eq!(give(&world, &mut console, &numbers), right);

    world.ok(&["suspend", "net"]);
    world.ok(&["resume", "net"]);
    world.run("ping -q -c 3 -w 60 10.77.7.2");
    let moved = console.shell("cat /sys/class/net/eth0/statistics/rx_errors");
    assert_eq!(moved, "0");
    world.ok(&["destroy", "net"]);
    assert!(!world.run("ip -o link").contains("vnet"));
}

/// libvirt's default network, as the package has it.
const DEFAULT: &str = include_str!("../../virshlike/dist/default-network.xml");

/// What a client of DHCP does with its answer.
const SETTLE: &str = "#!/bin/sh\\n[ $1 = bound ] || exit 0\\nip addr add $ip/24 dev $interface\\n\
                      ip route add default via $router\\n";

/// A card without rights, with a port of the host that leads to the guest.
const USER_CARD: &str = "<interface type='user'><mac address='52:54:00:77:07:04'/>\
     <portForward proto='tcp'><range start='5004' to='5002'/></portForward>\
     <backend type='passt'/></interface>";

/// The second card gets its address from passt, and data from the host unharmed.
fn over_passt(world: &World, console: &mut Console) {
    console.shell("ip addr flush dev eth0; ip link set eth0 down; ip link set eth1 up");
    let said = console.shell("udhcpc -i eth1 -n -q -t 60 -T 2 -s /tmp/settle 2>&1");
    assert!(said.contains("192.168.122.1 obtained"), "{said}");
    let numbers = "seq 1 200000";
    let right = sum(world, &format!("{numbers} | md5sum"));
    // The gateway's address is the host's own for what the guest sends.
    let serve = format!("{numbers} | socat -u STDIN TCP-LISTEN:5001,reuseaddr");
    let mut server = world
        .program("sh")
        .args(["-c", &serve])
        .spawn()
        .expect("sh");
    sum(world, "until ss -ltn | grep -q :5001; do sleep 0.1; done");
    let took = console.shell("nc 192.168.122.254 5001 | md5sum");
    assert_eq!(took, right);
    assert!(server.wait().expect("its end").success());
    assert!(world.run("ss -ltn").contains(":5004 "), "a forwarded port");
    let counted = world.ok(&["domifstat", "web01", "52:54:00:77:07:04"]);
    assert!(!counted.contains("rx_packets 0\n"), "{counted}");
}

#[test]
fn a_stock_kernel_gets_its_address_from_the_default_network() {
    let variables = ["LAB_KERNEL", "LAB_INITRD"].map(|name| std::env::var(name).ok());
    let [Some(kernel), Some(initrd)] = variables else {
        println!("skipped: LAB_KERNEL and LAB_INITRD are not set: run this in the lab");
        return;
    };
    let world = World::with_network().expect("a network namespace");
    let path = world.path("default.xml");
    std::fs::write(&path, DEFAULT).expect("a definition");
    world.ok(&["net-define", &path.display().to_string()]);
    world.ok(&["net-start", "default"]);
    let host = "<host mac='52:54:00:77:07:03' name='web01' ip='192.168.122.33'/>";
    world.ok(&["net-update", "default", "add-last", "ip-dhcp-host", host]);
    world.define_xml(&format!(
        "<domain type='kvm'><name>web01</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel>\
         <initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet panic=-1 nokaslr</cmdline></os>\
         <devices><interface type='network'><mac address='52:54:00:77:07:03'/>\
         <source network='default'/></interface>{USER_CARD}<serial type='pty'/></devices></domain>"
    ));
    // passt shows its guest a host with a way out.
    world.run("ip route add default via 192.168.122.254");
    world.ok(&["start", "web01"]);
    let mut console = Console::open(&world, "web01");
    console.wait_for("guest# ");
    console.shell(&format!(
        "printf '{SETTLE}' > /tmp/settle; chmod +x /tmp/settle; stty -echo"
    ));
    console.shell("ip link set eth0 up");
    let said = console.shell("udhcpc -i eth0 -n -q -t 60 -T 2 -s /tmp/settle 2>&1");
    assert!(said.contains("192.168.122.33 obtained"), "{said}");
    let answer = console.shell("ping -q -c 3 -w 60 192.168.122.1");
    assert!(answer.contains(" 0% packet loss"), "{answer}");
    let leases = world.ok(&["net-dhcp-leases", "default"]);
    assert!(leases.contains("192.168.122.33/24"), "{leases}");
    let known = world.ok(&["domifaddr", "web01", "--source", "lease"]);
    assert!(known.contains("192.168.122.33/24"), "{known}");
    world.run("ping -q -c 3 -w 60 192.168.122.33");
    over_passt(&world, &mut console);
    world.ok(&["destroy", "web01"]);
    world.ok(&["net-destroy", "default"]);
    assert!(!world.run("ip -o link").contains("virbr0"));
}
