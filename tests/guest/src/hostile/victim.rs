//! A device that is attacked: its rings, and a proper request to see whether it still serves.

use super::console;
use crate::balloon::{self, BALLOON};
use crate::memory::{self, load, store};
use crate::virtio::{Device, INDIRECT_FEATURE};
use core::sync::atomic::{Ordering, fence};

const NETWORK: u16 = 1;
const BLOCK: u16 = 2;
const CONSOLE: u16 = 3;
const GRAPHICS: u16 = 16;
const INPUT: u16 = 18;
/// Queues of a network card.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Queues of a console device with several ports: what the driver says about ports, and what the guest
/// writes to port 1.
const CONTROL: u16 = 3;
const PORT: u16 = 5;
/// Queues of a graphics card: commands, and where the pointer is.
const COMMANDS: u16 = 0;
const CURSOR: u16 = 1;
/// What an input device is told, lamps for example.
const STATUS: u16 = 1;
/// A console has several ports (virtio 1.3, 5.3.3).
const MULTIPORT: u64 = 1 << 1;
/// Entries of the queue.
pub const SIZE: u16 = 16;
/// A place that no memory answers at.
pub const NOWHERE: u64 = 0x70_0000_0000;

/// Flags of a descriptor.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A descriptor: address, length, flags, next.
pub type Descriptor = (u64, u32, u16, u16);

/// A device under attack.
pub struct Victim {
    /// What it is called in messages.
    pub name: &'static str,
    /// Its device type.
    pub kind: u16,
    /// What is agreed on beside indirect tables.
    features: u64,
    /// The queue that is attacked.
    pub queue: u16,
    device: Device,
    /// Its three rings, a page each.
    pub rings: [u64; 3],
    /// A page for indirect tables.
    pub table: u64,
    /// 64 KiB for requests.
    pub data: u64,
    made: u16,
}

impl Victim {
    /// The first disk.
    pub fn disk() -> Self {
        Self::find("the disk", BLOCK, 0)
    }

    /// The entropy source.
    pub fn entropy() -> Self {
        Self::find("the entropy source", crate::simple::ENTROPY, 0)
    }

    /// What a network card receives; frames must come in, or it has nothing to be attacked with.
    pub fn receiver() -> Self {
        Self::find("the network's receiver", NETWORK, RECEIVE)
    }

    /// What a network card sends.
    pub fn transmitter() -> Self {
        Self::find("the network's transmitter", NETWORK, TRANSMIT)
    }

    /// The control queue of a console device.
    pub fn control() -> Self {
        Self::find("the console's control queue", CONSOLE, CONTROL)
    }

    /// What goes to a port of a console device.
    pub fn port() -> Self {
        Self::find("the console's port", CONSOLE, PORT)
    }

    /// Whether it is a console's control queue.
    pub fn is_control(&self) -> bool {
        (self.kind, self.queue) == (CONSOLE, CONTROL)
    }

    /// Where a balloon's driver says which pages it uses again. What is given up by mistake would be the
    /// attacker's own.
    pub fn deflator() -> Self {
        Self::find("the balloon", BALLOON, balloon::DEFLATE)
    }

    /// Where it reports free ones.
    pub fn reporter() -> Self {
        Self::find("the balloon's reports", BALLOON, balloon::REPORTING)
    }

    /// The commands of a graphics card.
    pub fn screen() -> Self {
        Self::find("the graphics card's commands", GRAPHICS, COMMANDS)
    }

    /// Where it is told of the pointer.
    pub fn cursor() -> Self {
        Self::find("the graphics card's pointer", GRAPHICS, CURSOR)
    }

    /// What a keyboard is told.
    pub fn keyboard() -> Self {
        Self::find("the keyboard", INPUT, STATUS)
    }

    fn find(name: &'static str, kind: u16, queue: u16) -> Self {
        let features = match kind {
            CONSOLE => MULTIPORT,
            BALLOON => balloon::FEATURES,
            _ => 0,
        };
        Self {
            name,
            kind,
            queue,
            features,
            device: Device::find(kind, 0),
            rings: [0; 3].map(|_: u64| memory::take(4096)),
            table: memory::take(4096),
            data: memory::take(65536),
            made: 0,
        }
    }

    /// The device itself.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Resets the device and gives it clean rings.
    pub fn arm(&mut self) {
        self.negotiate();
        self.clean();
        self.device.enable_queue(self.queue, SIZE, self.rings);
    }

    /// Resets the device and agrees on features; no queue is enabled.
    pub fn negotiate(&mut self) {
        self.device.restart(INDIRECT_FEATURE | self.features, 0);
    }

    fn clean(&mut self) {
        for page in self.rings.iter().chain([&self.table]) {
            for at in (0..4096).step_by(8) {
                store(page + at, 0u64);
            }
        }
        self.made = 0;
    }

    /// Writes a descriptor of the queue.
    pub fn describe(&self, at: u16, descriptor: Descriptor) {
        write(self.rings[0] + 16 * u64::from(at), descriptor);
    }

    /// Writes a descriptor of the indirect table.
    pub fn describe_indirect(&self, at: u16, descriptor: Descriptor) {
        write(self.table + 16 * u64::from(at), descriptor);
    }

    /// Makes `head` available and tells the device.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.made % SIZE);
        store(self.rings[1] + 4 + 2 * slot, head);
        self.made = self.made.wrapping_add(1);
        self.publish(self.made);
    }

    /// Says that the available ring has come to `index`, and tells the device.
    pub fn publish(&self, index: u16) {
        fence(Ordering::SeqCst);
        store(self.rings[1] + 2, index);
        fence(Ordering::SeqCst);
        self.device.ring_doorbell(self.queue);
    }

    /// Offers a chain of descriptors; the last has no next.
    pub fn send(&mut self, chain: &[Descriptor]) {
        let last = chain.len() - 1;
        for (at, &(address, length, flags, _)) in chain.iter().enumerate() {
            let next = if at < last { NEXT } else { 0 };
            self.describe(at as u16, (address, length, flags | next, at as u16 + 1));
        }
        self.offer(0);
    }

    /// Gives the device time to run into what was laid out.
    pub fn wait(&self) {
        let start = crate::simple::cycles();
        while crate::simple::cycles().wrapping_sub(start) < 200_000 {
            core::hint::spin_loop();
        }
    }

    /// Waits until everything that was offered is used.
    pub fn wait_for_all(&self) {
        let used = self.rings[2];
        let done = || (load::<u16>(used + 2) == self.made).then_some(());
        memory::wait_for("an answer", done);
    }

    /// After a reset the device serves a proper request.
    pub fn serves(&mut self, after: &str) {
        self.wait();
        self.arm();
        store(self.data + 16, 0xeeu8);
        for word in 0..2 {
            store(self.data + 8 * word, 0u64);
        }
        match (self.kind, self.queue) {
            (BLOCK, _) => self.send(&[
                (self.data, 16, 0, 0),
                (self.data + 512, 512, WRITE, 0),
                (self.data + 16, 1, WRITE, 0),
            ]),
            (NETWORK, TRANSMIT) => self.send(&[(self.data, 12, 0, 0), (self.data + 512, 64, 0, 0)]),
            (BALLOON, balloon::DEFLATE) => self.send(&[(self.data + 512, 512, 0, 0)]),
            (NETWORK, _) => self.send(&[(self.data + 512, 2048, WRITE, 0)]),
            (CONSOLE, CONTROL) => {
                console::message(self, (0, console::DEVICE_READY, 1));
                self.send(&[(self.data, console::MESSAGE, 0, 0)]);
            }
            (CONSOLE, _) => self.send(&[(self.data, 16, 0, 0)]),
            (GRAPHICS, COMMANDS) => {
                self.send(&[(self.data, 24, 0, 0), (self.data + 512, 512, WRITE, 0)]);
            }
            (GRAPHICS, _) => self.send(&[(self.data, 56, 0, 0)]),
            (INPUT, _) => self.send(&[(self.data, 8, 0, 0)]),
            _ => self.send(&[(self.data + 512, 512, WRITE, 0)]),
        }
        let used = self.rings[2];
        memory::wait_for(after, || (load::<u16>(used + 2) == 1).then_some(()));
        if self.kind == BLOCK {
            let status: u8 = load(self.data + 16);
            assert!(status == 0, "status {status} after {after}");
        }
        assert!(!self.device.needs_reset(), "wants a reset after {after}");
    }
}

fn write(entry: u64, (address, length, flags, next): Descriptor) {
    store(entry, address);
    store(entry + 8, length);
    store(entry + 12, flags);
    store(entry + 14, next);
}
