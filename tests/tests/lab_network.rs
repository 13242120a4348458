//! A stock Debian kernel on a bridge of its host: answers ping, carries data both ways unharmed, and
//! does so after it stood still. Run in the lab (`cargo xtask test --only-lab`).
//!
//! `VM_TEST_NUMBERS` is how many lines of numbers are carried each way: 2200000 (16 MiB) when not said. The
//! ignored test carries 1 GiB each way in one connection: `cargo xtask test --only-lab --scenario gibibyte --all`.

use std::time::{Duration, Instant};
use tests::console::Console;
use tests::linux::until;
use tests::world::World;

/// Some 16 MiB.
const NUMBERS: &str = "2200000";

/// How long a gibibyte may take one way, on a host that is emulated and has other things to do.
const CARRIED: Duration = Duration::from_secs(900);

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

/// Waits until the host's port 5001 can be connected to.
#[track_caller]
fn listens(world: &World) {
    until("the host does not listen on port 5001", || {
        sum(world, "ss -ltn").contains(":5001 ")
    });
}

/// What is carried each way at once: so many times 16 MiB.
const ROUNDS: u32 = 64;

/// Runs `command` in the guest while a server of the host's runs; what both print. What the connection
/// was like is said where it does not come to an end.
#[track_caller]
fn over(world: &World, console: &mut Console, server: &str, command: &str) -> [String; 2] {
    let mut host = world.program("busybox");
    host.args(["nc", "-l", "-p", "5001", "-e", "sh", "-c", server]);
    let mut host = host.spawn().expect("busybox");
    listens(world);
    let there = format!(
        "rm -f /tmp/said; nc 10.77.7.1 5001 -e sh -c '{command}'; cat /tmp/said 2>/dev/null"
    );
    let said = console
        .shell_within(&there, CARRIED)
        .unwrap_or_else(|error| {
            let facts = ["ss -tino", "ip -s link", "ps ax"].map(|facts| sum(world, facts));
            let card = world.ok(&["domifstat", "net", "52:54:00:77:07:02"]);
            panic!("{error}\n{card}\n{}", facts.join("\n"));
        });
    // The guest has said its last, so nobody comes any more who has not come.
    until("the host's side does not end", || {
        host.try_wait().expect("its state").is_some()
    });
    assert!(host.wait().expect("its end").success());
    let here = std::fs::read_to_string(world.path("said")).unwrap_or_default();
    [here, said].map(|text| text.trim().into())
}

/// What the host does with what the guest sends.
fn sink(world: &World) -> String {
    format!("md5sum > {}", world.path("said").display())
}

/// One connection each way. Nothing of it is left to the guest's shell while another line is typed: a
/// job of the background that ends takes busybox's shell with it, and perhaps what is typed meanwhile.
#[test]
#[ignore = "1 GiB each way: minutes under emulation"]
fn a_gibibyte_comes_and_goes_unharmed() {
    let Some((world, mut console)) = guest() else {
        return;
    };
    let data = world.path("data").display().to_string();
    sum(&world, &format!("head -c 16777216 /dev/urandom > {data}"));
    let all = |file: &str| format!("for i in $(seq {ROUNDS}); do cat {file}; done");
    let right = sum(&world, &format!("({}) | md5sum", all(&data)));
    // Both have the 16 MiB.
    over(
        &world,
        &mut console,
        &format!("cat {data}"),
        "cat > /tmp/data; md5sum < /tmp/data > /tmp/said",
    );
    let print =
        |way: &str, started: Instant| println!("1 GiB {way} in {} s", started.elapsed().as_secs());

    let started = Instant::now();
    let [_, took] = over(&world, &mut console, &all(&data), "md5sum > /tmp/said");
    assert_eq!(took, right, "to the guest");
    print("to the guest", started);
    let started = Instant::now();
    let sink = sink(&world);
    let [took, _] = over(&world, &mut console, &sink, &all("/tmp/data"));
    assert_eq!(took, right, "from the guest");
    print("from the guest", started);
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
    let [_, took] = over(&world, &mut console, &numbers, "md5sum > /tmp/said");
    assert_eq!(took, right, "to the guest");
    let sink = sink(&world);
    let [took, _] = over(&world, &mut console, &sink, &numbers);
    assert_eq!(took, right, "from the guest");

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
    listens(world);
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
