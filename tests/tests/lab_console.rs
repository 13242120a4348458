//! A stock Debian kernel with a virtio console and an agent's channel, and one with a screen and a
//! keyboard. Run in the lab (`cargo xtask test --only-lab`).

use std::collections::BTreeSet;
use tests::console::Console;
use tests::linux::until;
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
         <cpu mode='custom'><model>x86-64-v2</model><feature policy='disable' name='popcnt'/></cpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel>\
         <initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet panic=-1 nokaslr</cmdline></os>\
         <devices><serial type='pty'/><console type='pty'><target type='virtio'/></console>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         </devices></domain>"
    ));
    world.ok(&["start", "talk"]);
    let mut serial = Console::open(&world, "talk");
    serial.wait_for("guest# ");
    has_the_processor_it_was_given(&mut serial);
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
    until("the agent's channel is not connected", || {
        let shown = world.ok(&["dumpxml", "talk"]);
        shown.contains("state='connected'")
    });
    world.ok(&["shutdown", "talk", "--mode", "agent", "--wait", "120"]);
    assert!(world.ok(&["domstate", "talk"]).contains("shut off"));
}

/// The model's features but for the one that was taken out, and nothing else of the host's.
fn has_the_processor_it_was_given(serial: &mut Console) {
    let flags = |text: &str| -> BTreeSet<String> {
        let line = text.lines().find(|line| line.starts_with("flags"));
        let line = line.unwrap_or_else(|| panic!("no flags: {text}"));
        line.split_whitespace().skip(2).map(String::from).collect()
    };
    let host = flags(&std::fs::read_to_string("/proc/cpuinfo").expect("the host's processors"));
    let guest = flags(&serial.shell("grep ^flags /proc/cpuinfo"));
    for (name, is_given) in [("sse4_2", true), ("popcnt", false), ("avx2", false)] {
        assert!(host.contains(name), "the host has no {name}: {host:?}");
        assert_eq!(guest.contains(name), is_given, "{name}: {guest:?}");
    }
}

/// The colours of what a domain shows, and how many pixels are not of the first one.
fn picture(world: &World, name: &str) -> (BTreeSet<[u8; 3]>, usize) {
    let file = world.path("screen.ppm");
    world.ok(&["screenshot", name, file.to_str().expect("a path")]);
    let bytes = std::fs::read(&file).expect("a picture");
    // Three lines, then three bytes a pixel.
    let mut lines = bytes.splitn(4, |byte| *byte == b'\n');
    let pixels = lines.nth(3).expect("pixels").chunks_exact(3);
    let pixels: Vec<[u8; 3]> = pixels.map(|p| [p[0], p[1], p[2]]).collect();
    let drawn = pixels.iter().filter(|pixel| **pixel != pixels[0]).count();
    (pixels.into_iter().collect(), drawn)
}

#[test]
fn the_console_on_the_screen_is_seen_and_typed_on() {
    let variables = ["LAB_KERNEL_GENERIC", "LAB_INITRD_GENERIC"];
    let [Some(kernel), Some(initrd)] = variables.map(|name| std::env::var(name).ok()) else {
        println!(
            "skipped: LAB_KERNEL_GENERIC and LAB_INITRD_GENERIC are not set: run this in the lab"
        );
        return;
    };
    let world = World::new();
    world.define_xml(&format!(
        "<domain type='kvm'><name>seen</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel>\
         <initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet panic=-1 nokaslr</cmdline></os>\
         <devices><serial type='pty'/><graphics type='vnc'/>\
         <video><model type='virtio'><resolution x='800' y='600'/></model></video></devices></domain>"
    ));
    world.ok(&["start", "seen"]);
    let mut serial = Console::open(&world, "seen");
    serial.wait_for("guest# ");
    let cards =
        serial.shell("cat /sys/class/graphics/fb0/name /sys/class/graphics/fb0/virtual_size");
    assert!(
        cards.contains("virtio") && cards.contains("800,600"),
        "{cards}"
    );
    // What the console draws arrives.
    serial.shell("(setsid sh -i </dev/tty1 >/dev/tty1 2>&1 &)");
    serial.shell("seq 1 20 >/dev/tty1");
    until("the screen stays of one colour", || {
        picture(&world, "seen").1 > 500
    });
    // What is typed arrives. A key that is held too long by a slow host repeats itself: typed again.
    until("what is typed has no effect", || {
        for key in ["ENTER", "M", "K", "D", "I", "R", "SPACE", "K", "ENTER"] {
            world.ok(&["send-key", "seen", &format!("KEY_{key}"), "--holdtime", "1"]);
        }
        serial.shell("sleep 1; ls -d /root/k 2>/dev/null") == "/root/k"
    });
    let (colours, _) = picture(&world, "seen");
    assert!(
        (2..=64).contains(&colours.len()),
        "{} colours",
        colours.len()
    );
    world.ok(&["destroy", "seen"]);
}
