//! A driver for modern virtio devices over PCI (virtio 1.3: 3.1 set-up, 4.1 PCI, 2.7 split queues).
//!
//! Used rings are polled: on a paravirtual KVM an exit from ring 3 costs as much as thousands of
//! native instructions, memory costs nothing. A queue may be given an MSI-X vector to test that path.

use core::sync::atomic::{Ordering, fence};

use crate::memory::{self, load, store};
use crate::pci::{self, Function};
use crate::port;

const VENDOR: u16 = 0x1af4;
const MODERN: u16 = 0x1040;
const CAP_VENDOR: u8 = 0x09;
const CAP_MSIX: u8 = 0x11;
const VERSION_1: u64 = 1 << 32;
/// Descriptors may be in tables of their own.
pub const INDIRECT_FEATURE: u64 = 1 << 28;
/// Either side names the index that it wants to hear of (2.7.7, 2.7.10).
pub const EVENT_INDEX_FEATURE: u64 = 1 << 29;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// In the available ring's flags: used entries are polled for.
const NO_INTERRUPT: u16 = 1;
const NO_VECTOR: u16 = 0xffff;
/// The vector that `entry` counts.
const COUNTED_VECTOR: u32 = 0x40;

/// Descriptors that each request owns; its first is its identity.
const PER_REQUEST: u16 = 4;
/// Requests that fit into a queue at most.
pub const MAX_REQUESTS: u16 = 32;
/// Entries of a queue whose requests are one descriptor each, at most.
const MAX_SINGLE: u16 = 256;

/// A device before it is set up. Clones are the same device.
#[derive(Clone)]
pub struct Device {
    function: Function,
    common: u64,
    notify: u64,
    multiplier: u32,
    /// Its own configuration.
    pub config: u64,
    /// The features that were agreed on.
    pub features: u64,
}

impl Device {
    /// The `index`-th device of a type.
    pub fn find(kind: u16, index: u64) -> Self {
        let mut found = None;
        let mut seen = 0;
        pci::each(|function| {
            if function.vendor() == VENDOR && function.device() == MODERN + kind {
                if seen == index {
                    found = Some(function);
                }
                seen += 1;
            }
        });
        let Some(function) = found else {
            panic!("no virtio device of type {kind} number {index}")
        };
        function.enable();
        Self::locate(function)
    }

    fn locate(function: Function) -> Self {
        let mut places = [0; 5];
        let mut multiplier = 0;
        for cap in function.capabilities(CAP_VENDOR) {
            let kind = usize::from(function.read::<u8>(cap + 3));
            if (1..=4).contains(&kind) && places[kind] == 0 {
                let offset: u32 = function.read(cap + 8);
                places[kind] = function.bar(function.read(cap + 4)) + u64::from(offset);
                if kind == 2 {
                    multiplier = function.read(cap + 16);
                }
            }
        }
        let [_, common, notify, _isr, config] = places;
        assert!(
            common != 0 && notify != 0,
            "a virtio device without its structures"
        );
        Self {
            function,
            common,
            notify,
            multiplier,
            config,
            features: 0,
        }
    }

    /// Resets the device and agrees on `wanted` features; those in `needed` must be there.
    pub fn start(mut self, wanted: u64, needed: u64) -> Self {
        self.restart(wanted, needed);
        self
    }

    /// As [`Device::start`], again.
    pub fn restart(&mut self, wanted: u64, needed: u64) {
        self.set_status(0);
        memory::wait_for("the reset", || (self.status() == 0).then_some(()));
        self.set_status(ACKNOWLEDGE | DRIVER);
        let mut offered = 0;
        for half in 0..2u32 {
            store(self.common, half);
            offered |= u64::from(load::<u32>(self.common + 4)) << (32 * half);
        }
        let needed = needed | VERSION_1;
        assert!(
            offered & needed == needed,
            "offers {offered:#x}, needed {needed:#x}"
        );
        self.features = offered & (wanted | needed);
        for half in 0..2u32 {
            store(self.common + 8, half);
            store(self.common + 12, (self.features >> (32 * half)) as u32);
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert!(
            self.status() & FEATURES_OK != 0,
            "the device refuses the features"
        );
    }

    /// Sets up queue `index` and lets the device run. `vector` is an entry of its MSI-X table.
    pub fn queue(&mut self, index: u16, vector: Option<u16>) -> Queue {
        let queue = self.queue_of(index, vector, (PER_REQUEST, MAX_REQUESTS * PER_REQUEST));
        self.go();
        queue
    }

    /// Sets up the first queues, and lets the device run.
    pub fn queues<const N: usize>(&mut self) -> [Queue; N] {
        let shape = (PER_REQUEST, MAX_REQUESTS * PER_REQUEST);
        let queues = core::array::from_fn(|index| self.queue_of(index as u16, None, shape));
        self.go();
        queues
    }

    /// As [`Device::queue`], for many requests of one descriptor each; it never interrupts.
    pub fn single_queue(&mut self, index: u16) -> Queue {
        let queue = self.queue_of(index, None, (1, MAX_SINGLE));
        store(queue.available, NO_INTERRUPT);
        self.go();
        queue
    }

    /// A queue of requests with so many descriptors each, and at most so many entries.
    fn queue_of(
        &mut self,
        index: u16,
        vector: Option<u16>,
        (per_request, most): (u16, u16),
    ) -> Queue {
        store(self.common + 0x16, index);
        let offered: u16 = load(self.common + 0x18);
        assert!(
            offered >= per_request,
            "queue {index} has {offered} entries"
        );
        let size = offered.min(most);
        store(self.common + 0x18, size);
        if let Some(vector) = vector {
            self.route(vector);
            store(self.common + 0x1a, vector);
            let set: u16 = load(self.common + 0x1a);
            assert!(set != NO_VECTOR, "the device refuses MSI-X vector {vector}");
        }
        let rings = [
            memory::take(16 * u64::from(size)),
            memory::take(6 + 2 * u64::from(size)),
            memory::take(6 + 8 * u64::from(size)),
        ];
        let [descriptors, available, used] = rings;
        let queue = Queue {
            size,
            per_request,
            event_index: self.features & EVENT_INDEX_FEATURE != 0,
            descriptors,
            available,
            used,
            doorbell: self.doorbell(index),
            index,
            made: 0,
            told: 0,
            taken: 0,
        };
        self.set_queue(index, size, rings);
        queue
    }

    /// Gives queue `index` its size and its descriptor, available and used rings, and lets the device
    /// run.
    pub fn enable_queue(&self, index: u16, size: u16, rings: [u64; 3]) {
        self.set_queue(index, size, rings);
        self.go();
    }

    fn set_queue(&self, index: u16, size: u16, rings: [u64; 3]) {
        store(self.common + 0x16, index);
        store(self.common + 0x18, size);
        for (register, address) in [0x20, 0x28, 0x30].into_iter().zip(rings) {
            store(self.common + register, address as u32);
            store(self.common + register + 4, (address >> 32) as u32);
        }
        store(self.common + 0x1c, 1u16);
    }

    fn go(&self) {
        self.set_status(self.status() | DRIVER_OK);
    }

    fn doorbell(&self, index: u16) -> u64 {
        store(self.common + 0x16, index);
        let offset: u16 = load(self.common + 0x1e);
        self.notify + u64::from(offset) * u64::from(self.multiplier)
    }

    /// Tells the device of queue `index`, whatever it is.
    pub fn ring_doorbell(&self, index: u16) {
        self.ring_doorbell_of(index, index);
    }

    /// Writes `index` to the doorbell of another queue.
    pub fn ring_doorbell_of(&self, doorbell: u16, index: u16) {
        let place = match doorbell {
            // There are no more than these behind a BAR.
            0..8 => self.doorbell(doorbell),
            _ => self.notify,
        };
        store(place, index);
    }

    /// Writes any value to a register of the common configuration.
    pub fn register<T: Copy>(&self, at: u64, value: T) {
        store(self.common + at, value);
    }

    /// The first 256 bytes of configuration space.
    pub fn configuration(&self) -> [u32; 64] {
        let mut words = [0; 64];
        for (at, word) in (0..).step_by(4).zip(&mut words) {
            *word = self.function.read(at);
        }
        words
    }

    /// Writes a word of configuration space.
    pub fn configure(&self, at: u16, value: u32) {
        self.function.write(at, value);
    }

    /// Puts back what [`Device::configuration`] has read.
    pub fn set_configuration(&self, words: &[u32; 64]) {
        for (at, word) in (0..).step_by(4).zip(words) {
            self.function.write(at, *word);
        }
    }

    /// Writes an entry of the MSI-X table: any address, any data, any mask.
    pub fn write_vector(&self, entry: u64, value: u64) {
        let Some(cap) = self.function.capabilities(CAP_MSIX).next() else {
            return;
        };
        let table: u32 = self.function.read(cap + 4);
        let base = self.function.bar((table & 7) as u8) + u64::from(table & !7) + 16 * entry;
        store(base, value as u32);
        store(base + 8, (value >> 32) as u32);
        store(base + 12, (value >> 40) as u32 & 1);
    }

    /// Points an entry of the MSI-X table at the counted interrupt of this processor.
    fn route(&self, vector: u16) {
        let Some(cap) = self.function.capabilities(CAP_MSIX).next() else {
            panic!("the device has no MSI-X")
        };
        let table: u32 = self.function.read(cap + 4);
        let base = self.function.bar((table & 7) as u8) + u64::from(table & !7);
        let entry = base + 16 * u64::from(vector);
        store(entry, 0xfee0_0000u32);
        store(entry + 4, 0u32);
        store(entry + 8, COUNTED_VECTOR);
        store(entry + 12, 0u32);
        let control: u16 = self.function.read(cap + 2);
        self.function.write(cap + 2, (control | 0x8000) & !0x4000);
        store(0xfee0_00f0, 0x1ffu32); // local APIC on, spurious vector 0xff
        port::allow_interrupts();
    }

    /// Whether the device has given up on us.
    pub fn needs_reset(&self) -> bool {
        self.status() & NEEDS_RESET != 0
    }

    fn status(&self) -> u8 {
        load(self.common + 0x14)
    }

    fn set_status(&self, status: u8) {
        store(self.common + 0x14, status);
    }
}

/// One piece of a request.
#[derive(Clone, Copy)]
pub struct Part {
    address: u64,
    length: u32,
    flags: u16,
}

impl Part {
    /// Bytes that the device reads.
    pub fn to_device(address: u64, length: u32) -> Self {
        Self {
            address,
            length,
            flags: 0,
        }
    }

    /// Bytes that the device writes.
    pub fn from_device(address: u64, length: u32) -> Self {
        Self {
            address,
            length,
            flags: WRITE,
        }
    }
}

/// A split queue. Request `n` owns `per_request` descriptors from `n * per_request`.
pub struct Queue {
    size: u16,
    per_request: u16,
    /// The device says which index it wants to hear of.
    event_index: bool,
    descriptors: u64,
    available: u64,
    used: u64,
    doorbell: u64,
    index: u16,
    made: u16,
    /// What the device was told of.
    told: u16,
    taken: u16,
}

impl Queue {
    /// Requests that can be under way at a time.
    pub fn requests(&self) -> u16 {
        self.size / self.per_request
    }

    /// Makes a request available; `kick` tells the device.
    pub fn submit(&mut self, request: u16, parts: &[Part]) {
        assert!(parts.len() <= usize::from(self.per_request) && request < self.requests());
        let head = request * self.per_request;
        for (at, part) in (head..).zip(parts) {
            let entry = self.descriptors + 16 * u64::from(at);
            let more = usize::from(at - head) + 1 < parts.len();
            store(entry, part.address);
            store(entry + 8, part.length);
            store(entry + 12, part.flags | if more { NEXT } else { 0 });
            store(entry + 14, at + 1);
        }
        let slot = u64::from(self.made % self.size);
        store(self.available + 4 + 2 * slot, head);
        self.made = self.made.wrapping_add(1);
        fence(Ordering::SeqCst);
        store(self.available + 2, self.made);
    }

    /// Tells the device, unless it asked not to be told or knows of everything.
    pub fn kick(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let wanted = self.told != self.made && self.is_heard();
        if wanted {
            store(self.doorbell, self.index);
            self.told = self.made;
        }
        wanted
    }

    /// Whether the device wants to hear of what was made available since it was last told.
    fn is_heard(&self) -> bool {
        if !self.event_index {
            return load::<u16>(self.used) & 1 == 0;
        }
        let event: u16 = load(self.used + 4 + 8 * u64::from(self.size));
        let new = self.made.wrapping_sub(self.told);
        self.made.wrapping_sub(event).wrapping_sub(1) < new
    }

    /// Asks for no interrupt about what is still to be finished.
    fn stay_silent(&self) {
        // An index that was passed already is not reached again.
        let passed = self.taken.wrapping_sub(1);
        store(self.available + 4 + 2 * u64::from(self.size), passed);
    }

    /// A finished request and the number of bytes that the device wrote.
    pub fn done(&mut self) -> Option<(u16, u32)> {
        let finished: u16 = load(self.used + 2);
        if finished == self.taken {
            return None;
        }
        let ahead = finished.wrapping_sub(self.taken);
        assert!(
            ahead <= self.size,
            "{ahead} answers in a queue of {}",
            self.size
        );
        fence(Ordering::SeqCst);
        let entry = self.used + 4 + 8 * u64::from(self.taken % self.size);
        let (head, length): (u32, u32) = (load(entry), load(entry + 4));
        self.taken = self.taken.wrapping_add(1);
        if self.event_index {
            self.stay_silent();
        }
        let per_request = u32::from(self.per_request);
        let request = head / per_request;
        assert!(
            head % per_request == 0 && request < u32::from(self.requests()),
            "an answer to descriptor {head}, which begins no request"
        );
        Some((request as u16, length))
    }
}
