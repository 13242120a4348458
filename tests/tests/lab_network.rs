//! A stock Debian kernel on a bridge of its host: answers ping, carries data both ways unharmed, and
//! does so after it stood still. Run in the lab (`cargo xtask test --only-lab`).
//!
//! `VM_TEST_NUMBERS` is how many lines of numbers are carried.

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
    let sum = |command: &str| {
        let mut shell = world.program("sh");
        let output = shell.args(["-c", command]).output().expect("a shell");
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    let right = sum(&format!("seq 1 {count} | md5sum"));
    let serve = format!("seq 1 {count} | socat -u STDIN TCP-LISTEN:5001,reuseaddr");
    let mut server = world.program("sh").args(["-c", &serve]).spawn();
    sum("until ss -ltn | grep -q :5001; do sleep 0.1; done");
    let fetched = console.shell("nc 10.77.7.1 5001 | md5sum");
    assert_eq!(fetched, right);
    let status = server.as_mut().expect("a shell").wait();
    assert!(status.expect("its end").success());

    console.send(&format!("seq 1 {count} | nc -l -p 5002 &"));
    console.shell("until netstat -ltn | grep -q :5002; do usleep 100000; done");
    let sent = sum("socat -u TCP:10.77.7.2:5002 STDOUT | md5sum");
    assert_eq!(sent, right);

    world.ok(&["suspend", "net"]);
    world.ok(&["resume", "net"]);
    world.run("ping -q -c 3 -w 60 10.77.7.2");
    let moved = console.shell("cat /sys/class/net/eth0/statistics/rx_errors");
    assert_eq!(moved, "0");
    world.ok(&["destroy", "net"]);
    assert!(!world.run("ip -o link").contains("vnet"));
}
