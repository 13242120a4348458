//! A console device: what its driver says of ports, and a client of a port's socket.

use super::functions::{ADDRESS, attack_with, features};
use super::script::Script;
use crate::registry;
use crate::state::{Origin, Saved, Section};
use crate::testing::FakeMachine;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_api::spec::{ConsoleSpec, DeviceKind, DeviceSpec, Fd, PortSpec, PortStream};

/// The number of the socket's descriptor.
const LISTENER: i32 = 7;
/// Queues of a device with two ports.
const QUEUES: u16 = 6;
/// Messages that are prepared: one in each place of the attacker's data.
pub(super) const MESSAGES: usize = 128;
/// Ports, events and values that messages are made of.
const PORTS: [u32; 5] = [0, 1, 1, 2, u32::MAX];
const EVENTS: [u16; 8] = [0, 1, 3, 3, 4, 6, 6, 9];
const VALUES: [u16; 4] = [0, 1, 1, 0xffff];
/// A client goes after so many looks at it.
const LOOKS: u32 = 9;

/// A console device with a port that is nowhere, and one with a client that comes, talks and goes. Whether
/// it heard anything from the guest.
pub fn virtio_console(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let machine = FakeMachine::new(super::attacker::RAM);
    let Ok(listener) = listener() else {
        return false;
    };
    let address = listener.local_addr().expect("its name");
    machine.context.files.add(LISTENER, listener.into());
    let device = registry::create(&spec(), &machine.context, Origin::Fresh).expect("a device");
    // With several ports more often than not.
    let multiport = if script.below(4) == 0 { 0 } else { 1 << 1 };
    let features = features(&mut script) | multiport;
    let messages = messages(&mut script);
    let mut client = Client::default();
    let host = || {
        let place = GuestAddress(super::attacker::DATA);
        let memory = machine.memory.memory();
        memory.write_slice(&messages, place).expect("RAM");
        client.look(&address, bytes.get(..777).unwrap_or(bytes));
    };
    attack_with(features, &machine, &device, QUEUES, (&mut script, host));
    let sections = sections(device.save().expect("plain data"));
    drop(device);
    // The client is gone then, which the driver has yet to hear of.
    let once = again(&machine, &sections);
    assert_eq!(again(&machine, &once), once);
    client.heard
}

/// A client of the port.
#[derive(Default)]
struct Client {
    stream: Option<UnixStream>,
    looks: u32,
    heard: bool,
}

impl Client {
    /// Comes, talks and listens, or goes.
    fn look(&mut self, address: &SocketAddr, words: &[u8]) {
        self.looks += 1;
        let Some(stream) = &mut self.stream else {
            self.stream = UnixStream::connect_addr(address).ok();
            if let Some(stream) = &self.stream {
                stream.set_nonblocking(true).expect("a socket");
            }
            return;
        };
        // What the port has no room for waits in the socket, and a full one takes no more.
        let _ = stream.write(words);
        let got = stream.read(&mut [0; 4096]);
        self.heard |= matches!(got, Ok(1..));
        if matches!(got, Ok(0)) || self.looks.is_multiple_of(LOOKS) {
            self.stream = None;
        }
    }
}

fn spec() -> DeviceSpec {
    let port = |number: u16, name: Option<&str>, stream| PortSpec {
        number,
        id: format!("port{number}"),
        name: name.map(Into::into),
        console: number == 0,
        stream,
    };
    let channel = PortStream::Socket {
        listener: Fd(LISTENER),
    };
    DeviceSpec {
        id: "virtio-serial0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioConsole(ConsoleSpec {
            max_ports: 2,
            ports: vec![
                port(0, None, PortStream::Null),
                port(1, Some("fuzz.0"), channel),
            ],
        }),
    }
}

/// What a device saves that was made of these sections.
fn again(machine: &FakeMachine, saved: &[Section]) -> Vec<Section> {
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    let listener = listener().expect("another socket");
    other.context.files.add(LISTENER, OwnedFd::from(listener));
    let restored = registry::create(&spec(), &other.context, Origin::Restored(saved));
    sections(restored.expect("its own state").save().expect("plain data"))
}

fn sections(saved: Saved) -> Vec<Section> {
    match saved {
        Saved::Sections(sections) => sections,
        _ => panic!("a console device has state"),
    }
}

/// A listening socket of an abstract name that the kernel has chosen: nothing of it is in a folder.
fn listener() -> io::Result<UnixListener> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed())?;
    rustix::net::listen(&socket, 4)?;
    Ok(UnixListener::from(socket))
}

/// What a driver says of ports (virtio 1.3 §5.3.6.2), one message for each piece of the attacker's data.
fn messages(script: &mut Script<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 1..=MESSAGES {
        bytes.extend(script.pick(&PORTS).to_le_bytes());
        bytes.extend(script.pick(&EVENTS).to_le_bytes());
        bytes.extend(script.pick(&VALUES).to_le_bytes());
        bytes.resize(64 * number, 0);
    }
    bytes
}
