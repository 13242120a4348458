//! A console device through the buses, with real sockets behind its ports.

use super::create;
use super::device::feature;
use crate::device::Device;
use crate::state::{Origin, Saved};
use crate::testing::FakeMachine;
use crate::virtio::testing::{Driver, NEEDS_RESET, Ring, USUAL, peek, poke};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use vmm_api::console::{Attach, to_line};
use vmm_api::spec::{ConsoleSpec, Fd, PciAddress, PortSpec, PortStream};

const ADDRESS: PciAddress = PciAddress {
    bus: 0,
    slot: 6,
    function: 0,
};
const RINGS: u64 = 0x1_0000;
const DATA: u64 = 0x10_0000;
const FEATURES: u64 = USUAL | feature::MULTIPORT;
const SIZES: [u16; 6] = [128, 128, 32, 32, 128, 128];
/// Queues of port 1.
const RECEIVE: usize = 4;
const TRANSMIT: usize = 5;
/// Blocks of 64 KiB, more than any socket's buffer holds.
const BLOCKS: usize = 60;

/// A console on port 0, an agent's channel on port 1, and their sockets.
struct Host {
    folder: TempDir,
    listeners: Vec<UnixListener>,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listen = |name| UnixListener::bind(folder.path().join(name)).expect("a socket");
        let listeners = vec![listen("console"), listen("channel")];
        Self { folder, listeners }
    }

    fn device(&self, machine: &FakeMachine, origin: Origin<'_>) -> Arc<dyn Device> {
        for (number, listener) in (70..).zip(&self.listeners) {
            let listener = listener.try_clone().expect("a descriptor");
            machine.context.files.add(number, OwnedFd::from(listener));
        }
        create("virtio-serial0", ADDRESS, &spec(), &machine.context, origin).expect("a device")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path("channel")).expect("the channel's socket")
    }
}

fn spec() -> ConsoleSpec {
    ConsoleSpec {
        max_ports: 2,
        ports: vec![
            PortSpec {
                number: 0,
                id: "console1".into(),
                name: None,
                console: true,
                stream: PortStream::Console {
                    log: None,
                    socket: Some(Fd(70)),
                    pty: None,
                },
            },
            PortSpec {
                number: 1,
                id: "channel0".into(),
                name: Some("org.qemu.guest_agent.0".into()),
                console: false,
                stream: PortStream::Socket { listener: Fd(71) },
            },
        ],
    }
}

/// A driver's side of the device.
struct Guest<'m> {
    machine: &'m FakeMachine,
    driver: Driver<'m>,
    rings: Vec<Ring>,
}

impl<'m> Guest<'m> {
    /// A driver that has done everything up to taking the ports.
    fn start(machine: &'m FakeMachine) -> Self {
        let driver = Driver::find(machine, ADDRESS);
        let rings = driver.start(FEATURES, &SIZES, RINGS);
        let mut this = Self {
            machine,
            driver,
            rings,
        };
        this.say(0, 0, 1);
        assert_eq!(this.hear(), [0, 0, 0, 0, 1, 0, 1, 0], "port 0 is added");
        assert_eq!(this.hear(), [1, 0, 0, 0, 1, 0, 1, 0], "port 1 is added");
        this
    }

    /// A message over the control queue.
    fn say(&mut self, port: u32, event: u16, value: u16) {
        let mut bytes = port.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        self.send(3, &bytes);
    }

    /// The next message of the device.
    fn hear(&mut self) -> Vec<u8> {
        self.offer(2, 64);
        self.take(2)
    }

    fn place(ring: usize) -> u64 {
        DATA + ring as u64 * 0x2_0000
    }

    fn offer(&mut self, ring: usize, room: u32) {
        self.rings[ring].chain(self.machine, &[(Self::place(ring), room, true)]);
        self.driver.kick(ring as u16);
    }

    fn take(&mut self, ring: usize) -> Vec<u8> {
        let (_, length) = self.rings[ring].wait_used(self.machine);
        peek(self.machine, Self::place(ring), length as usize)
    }

    fn offer_bytes(&mut self, ring: usize, bytes: &[u8]) {
        poke(self.machine, Self::place(ring), bytes);
        let part = (Self::place(ring), bytes.len() as u32, false);
        self.rings[ring].chain(self.machine, &[part]);
        self.driver.kick(ring as u16);
    }

    fn send(&mut self, ring: usize, bytes: &[u8]) {
        self.offer_bytes(ring, bytes);
        assert_eq!(self.rings[ring].wait_used(self.machine).1, 0);
    }

    /// Takes port 1 and opens it.
    fn open_channel(&mut self) {
        self.say(1, 3, 1);
        let mut name = vec![1, 0, 0, 0, 7, 0, 1, 0];
        name.extend(b"org.qemu.guest_agent.0");
        assert_eq!(self.hear(), name);
        self.say(1, 6, 1);
    }
}

/// Waits until the counters of port `index` have this value.
fn wait_for(device: &Arc<dyn Device>, index: usize, name: &str, value: &serde_json::Value) {
    while device.stats()["ports"][index][name] != *value {
        std::thread::yield_now();
    }
}

#[test]
fn the_driver_learns_of_ports_names_and_consoles() {
    let (machine, host) = (FakeMachine::new(0x40_0000), Host::new());
    let _device = host.device(&machine, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    assert_eq!(driver.config::<12>(0), [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_ne!(driver.offered() & feature::EMERGENCY, 0);
    let mut guest = Guest::start(&machine);
    guest.say(0, 3, 1);
    assert_eq!(guest.hear(), [0, 0, 0, 0, 4, 0, 1, 0], "a console");
    assert_eq!(guest.hear(), [0, 0, 0, 0, 6, 0, 1, 0], "it is always there");
    guest.open_channel();
}

#[test]
fn a_channel_carries_bytes_both_ways_and_tells_who_is_there() {
    let (machine, host) = (FakeMachine::new(0x40_0000), Host::new());
    let device = host.device(&machine, Origin::Fresh);
    let mut guest = Guest::start(&machine);
    guest.open_channel();
    guest.send(TRANSMIT, b"to nobody");
    wait_for(&device, 1, "bytes_dropped", &9.into());
    for round in 0..3 {
        let mut client = host.connect();
        assert_eq!(guest.hear(), [1, 0, 0, 0, 6, 0, 1, 0], "round {round}");
        guest.send(TRANSMIT, b"hello host");
        let mut got = [0; 10];
        client.read_exact(&mut got).expect("bytes");
        assert_eq!(&got, b"hello host");
        client.write_all(b"hello guest").expect("written");
        guest.offer(RECEIVE, 5);
        assert_eq!(guest.take(RECEIVE), b"hello");
        guest.offer(RECEIVE, 100);
        assert_eq!(guest.take(RECEIVE), b" guest");
        drop(client);
        assert_eq!(guest.hear(), [1, 0, 0, 0, 6, 0, 0, 0]);
    }
    assert_eq!(guest.driver.status() & NEEDS_RESET, 0);
}

#[test]
fn a_client_that_does_not_read_makes_the_guest_wait_and_loses_nothing() {
    let (machine, host) = (FakeMachine::new(0x40_0000), Host::new());
    let device = host.device(&machine, Origin::Fresh);
    let mut guest = Guest::start(&machine);
    guest.open_channel();
    let mut client = host.connect();
    wait_for(&device, 1, "host_open", &true.into());
    let block: Vec<u8> = (0..0x1_0000_u32).map(|at| (at % 251) as u8).collect();
    for _ in 0..BLOCKS {
        guest.offer_bytes(TRANSMIT, &block);
    }
    // The socket's buffer and the port's are full long before all is taken.
    let all = (BLOCKS * block.len()) as u64;
    for _ in 0..200 {
        device.pause();
        device.resume();
        let taken = device.stats()["ports"][1]["bytes_written"].as_u64();
        assert!(taken.expect("a number") < all, "a port takes without end");
    }
    let mut got = vec![0; block.len()];
    for _ in 0..BLOCKS {
        client.read_exact(&mut got).expect("bytes");
        assert_eq!(got, block);
    }
    assert_eq!(device.stats()["ports"][1]["bytes_dropped"], 0);
}

#[test]
fn what_comes_waits_until_the_guest_opens_the_port() {
    let (machine, host) = (FakeMachine::new(0x40_0000), Host::new());
    let device = host.device(&machine, Origin::Fresh);
    let mut guest = Guest::start(&machine);
    let mut client = host.connect();
    client.write_all(b"early").expect("written");
    guest.offer(RECEIVE, 100);
    wait_for(&device, 1, "host_open", &true.into());
    device.pause();
    assert_eq!(guest.rings[RECEIVE].used(&machine), None);
    device.resume();
    guest.say(1, 3, 1);
    guest.say(1, 6, 1);
    assert_eq!(guest.take(RECEIVE), b"early");
}

#[test]
fn a_console_shows_and_types_without_control_queues_too() {
    let (machine, host) = (FakeMachine::new(0x40_0000), Host::new());
    let _device = host.device(&machine, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let rings = driver.start(USUAL, &[128, 128], RINGS);
    let mut guest = Guest {
        machine: &machine,
        driver,
        rings,
    };
    let mut viewer = UnixStream::connect(host.path("console")).expect("the console");
    let wish = Attach {
        write: true,
        force: false,
    };
    viewer.write_all(&to_line(&wish)).expect("written");
    viewer.write_all(b"typed").expect("written");
    guest.offer(0, 100);
    assert_eq!(guest.take(0), b"typed");
    guest.send(1, b"said\n");
    guest.driver.set_device_config(8, &[b'!', 0, 0, 0]);
    let mut seen = Vec::new();
    while !seen.ends_with(b"said\n!") {
        let mut byte = [0];
        viewer.read_exact(&mut byte).expect("output");
        seen.push(byte[0]);
    }
}

#[test]
fn a_driver_that_asks_again_and_again_costs_nothing_and_makes_sense_later() {
    let (machine, host) = (FakeMachine::new(0x40_0000), Host::new());
    let _device = host.device(&machine, Origin::Fresh);
    let mut guest = Guest::start(&machine);
    for round in 0..2000_u32 {
        guest.say(round % 3, 3, 1);
        guest.say(round, 6, 1);
        guest.say(0, 0, (round % 2) as u16);
        guest.say(7, 77, 7);
    }
    guest.send(3, b"");
    guest.send(3, b"short");
    // One message of each kind and port at most is left: ports are announced once more.
    assert_eq!(guest.hear(), [0, 0, 0, 0, 1, 0, 1, 0]);
    assert_eq!(guest.hear(), [1, 0, 0, 0, 1, 0, 1, 0]);
    guest.say(1, 3, 1);
    assert_eq!(guest.hear()[4], 7, "its name");
    assert_eq!(guest.driver.status() & NEEDS_RESET, 0);
}

#[test]
fn a_saved_port_goes_on_and_knows_that_its_client_is_gone() {
    let (machine, host) = (FakeMachine::new(0x40_0000), Host::new());
    let device = host.device(&machine, Origin::Fresh);
    let mut guest = Guest::start(&machine);
    guest.open_channel();
    let mut client = host.connect();
    assert_eq!(guest.hear(), [1, 0, 0, 0, 6, 0, 1, 0]);
    client.write_all(b"on its way").expect("written");
    // What has come is with the device when the guest has got the first of it.
    guest.offer(RECEIVE, 1);
    assert_eq!(guest.take(RECEIVE), b"o");
    device.pause();
    let saved = device.save().expect("state");
    assert_eq!(saved, device.save().expect("state"), "nothing moves");
    let Saved::Sections(sections) = &saved else {
        panic!("a console has state");
    };
    let port = &sections[1].payload["ports"][1];
    assert_eq!(port["input"].as_array().map(Vec::len), Some(9));
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    let restored = Host::new();
    let device = restored.device(&other, Origin::Restored(sections));
    let Ok(Saved::Sections(again)) = device.save() else {
        panic!("a console has state");
    };
    assert_eq!(again[0], sections[0]);
    assert_eq!(again[1].payload["ports"][1]["news"]["closed"], true);
    device.resume();
    let mut guest = Guest {
        machine: &other,
        driver: Driver::find(&other, ADDRESS),
        rings: guest.rings,
    };
    guest.offer(RECEIVE, 100);
    assert_eq!(guest.take(RECEIVE), b"n its way");
    assert_eq!(guest.hear(), [1, 0, 0, 0, 6, 0, 0, 0], "its client is gone");
    let _client = restored.connect();
    assert_eq!(guest.hear(), [1, 0, 0, 0, 6, 0, 1, 0]);
}

#[test]
fn a_reset_keeps_the_client_and_forgets_the_rest() {
    let (machine, host) = (FakeMachine::new(0x40_0000), Host::new());
    let device = host.device(&machine, Origin::Fresh);
    let mut client = host.connect();
    for round in 0..20_u8 {
        let mut guest = Guest::start(&machine);
        guest.say(1, 3, 1);
        assert_eq!(guest.hear()[4], 7, "its name");
        wait_for(&device, 1, "host_open", &true.into());
        if round > 0 {
            assert_eq!(guest.hear(), [1, 0, 0, 0, 6, 0, 1, 0]);
        }
        guest.say(1, 6, 1);
        guest.send(TRANSMIT, &[round]);
        let mut got = [0];
        client.read_exact(&mut got).expect("a byte");
        assert_eq!(got, [round]);
        guest.driver.reset();
    }
}
