//! A display end to end on raw KVM: the real `vm` and `vmm`, a VNC client's first words, a picture, a key.
//! The test guest draws nothing; what a stock kernel draws is seen with `cargo xtask lab run`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use tests::skip_unless;
use tests::world::World;

/// Names of a process's threads.
fn threads(pid: impl std::fmt::Display) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    let names = tasks.flatten().filter_map(name);
    names.map(|name| name.trim_end().to_string()).collect()
}

/// Defines a domain that runs the test guest without any disk.
fn define(world: &World, name: &str, devices: &str) {
    let kernel = tests::guest::build().expect("the test guest");
    world.define_xml(&format!(
        "<domain type='kvm'><name>{name}</name><memory unit='MiB'>64</memory>
         <os><type arch='x86_64'>hvm</type><kernel>{}</kernel><cmdline>test=idle</cmdline></os>
         <devices><serial type='pty'/>{devices}</devices></domain>",
        kernel.display()
    ));
}

/// The port of a domain's display.
fn port_of(world: &World, name: &str) -> u16 {
    let shown = world.ok(&["-q", "vncdisplay", name]);
    let number = shown.trim().strip_prefix("127.0.0.1:").expect("its place");
    5900 + number.parse::<u16>().expect("a number")
}

#[test]
fn a_display_is_served_pictured_and_typed_on() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    define(&world, "shown", "<graphics type='vnc' websocket='-1'/>");
    define(&world, "other", "<graphics type='vnc'/>");
    define(&world, "plain", "");
    // A display is there whether the guest runs or not, and one that stands costs nobody time.
    for name in ["shown", "other", "plain"] {
        world.ok(&["start", name, "--paused"]);
    }
    let port = port_of(&world, "shown");
    assert_ne!(port, port_of(&world, "other"));
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("a VNC server");
    let mut greeting = [0; 12];
    client.read_exact(&mut greeting).expect("a greeting");
    assert_eq!(&greeting, b"RFB 003.008\n");
    client.write_all(&greeting).expect("written");
    let mut security = [0; 2];
    client.read_exact(&mut security).expect("security types");
    assert_eq!(security, [1, 1]);
    client.write_all(&[1, 1]).expect("written");
    let mut welcome = [0; 8];
    client.read_exact(&mut welcome).expect("a welcome");
    // Right, and 640 by 480: nobody has drawn yet.
    assert_eq!(welcome, [0, 0, 0, 0, 2, 0x80, 1, 0xe0]);

    let file = world.path("picture.ppm");
    let path = file.to_str().expect("a path");
    let said = world.ok(&["screenshot", "shown", path]);
    assert!(said.starts_with("Screenshot saved to "), "{said}");
    let picture = fs::read(&file).expect("a picture");
    assert!(picture.starts_with(b"P6\n640 480\n255\n"));
    assert_eq!(picture.len(), 15 + 640 * 480 * 3);
    let file = world.path("picture.png");
    let said = world.ok(&["screenshot", "shown", file.to_str().expect("a path")]);
    assert!(said.contains("type of image/png"), "{said}");
    let picture = fs::read(&file).expect("a picture");
    // The head, and 640 by 480 behind the first chunk's.
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"));
    assert_eq!(picture[16..24], [0, 0, 2, 0x80, 0, 0, 1, 0xe0]);
    // A web page comes in by another port, and HTTP.
    let shown = world.ok(&["-q", "domdisplay", "shown", "--type", "ws"]);
    let address = shown.trim().strip_prefix("ws://").expect("an address");
    let mut page = TcpStream::connect(address).expect("a WebSocket");
    page.write_all(
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .expect("written");
    let mut answer = [0; 12];
    page.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");
    world.ok(&[
        "send-key",
        "shown",
        "KEY_LEFTCTRL",
        "KEY_C",
        "--holdtime",
        "1",
    ]);
    assert!(
        world
            .fails(&["send-key", "plain", "KEY_C"])
            .contains("no virtio keyboard")
    );

    assert!(threads(world.pid("shown")).contains(&"vnc".to_string()));
    let idle = threads(world.pid("plain"));
    assert!(!idle.contains(&"vnc".to_string()), "{idle:?}");
    world.ok(&["destroy", "shown"]);
    let gone = TcpStream::connect(("127.0.0.1", port));
    assert!(gone.is_err(), "the display outlives its guest");
}
