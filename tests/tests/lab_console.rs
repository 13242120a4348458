//! A stock Debian kernel with a virtio console and an agent's channel. Run in the lab
//! (`cargo xtask test --only-lab`).

use tests::console::Console;
use tests::world::World;

/// An agent in shell: it answers a sync, and powers the guest off when it is told to. A port whose
/// host's side is not there reads as ended.
const AGENT: &str = r#"exec 3<>/dev/vport0p1; while :; do read -r line <&3 || { sleep 1; continue; }; case "$line" in *sync*) id=${line##*\"id\":}; printf '\377{"return": %s}\n' ${id%%[!0-9]*} >&3;; *shutdown*) poweroff -f;; esac; done"#;

#[test]
fn hvc0_is_a_console_and_the_agent_is_asked_over_its_channel() {
    let variables = ["LAB_KERNEL", "LAB_INITRD"].map(|name| std::env::var(name).ok());
    let [Some(kernel), Some(initrd)] = variables else {
        println!("skipped: LAB_KERNEL and LAB_INITRD are not set: run this in the lab");
        return;
    };
    let world = World::new();
    world.define_xml(&format!(
        "<domain type='kvm'><name>talk</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel>\
         <initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet panic=-1 nokaslr</cmdline></os>\
         <devices><serial type='pty'/><console type='pty'><target type='virtio'/></console>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         </devices></domain>"
    ));
    world.ok(&["start", "talk"]);
    let mut serial = Console::open(&world, "talk");
    serial.wait_for("guest# ");
    let name = serial.shell("cat /sys/class/virtio-ports/vport0p1/name");
    assert_eq!(name, "org.qemu.guest_agent.0");

    serial.shell("(setsid sh -i </dev/hvc0 >/dev/hvc0 2>&1 &)");
    let mut hvc = Console::open_device(&world, "talk", "console0");
    assert_eq!(hvc.shell("tty"), "/dev/hvc0");
    let long = hvc.shell("seq 1 2000 | md5sum");
    assert_eq!(long, serial.shell("seq 1 2000 | md5sum"));

    let error = world.fails(&["shutdown", "talk", "--mode", "agent"]);
    assert!(error.contains("guest agent is not connected"), "{error}");
    let shown = world.ok(&["dumpxml", "talk"]);
    assert!(shown.contains("state='disconnected'"), "{shown}");
    serial.send(AGENT);
    while !world.ok(&["dumpxml", "talk"]).contains("state='connected'") {
        std::thread::yield_now();
    }
    world.ok(&["shutdown", "talk", "--mode", "agent", "--wait", "120"]);
    assert!(world.ok(&["domstate", "talk"]).contains("shut off"));
}
