//! A driver for tests: it finds a virtio function by its capabilities and programs it through the
//! buses only, as a guest does. Its rings may be as wrong as a test wants.
#![allow(dead_code, reason = "each device's tests use the part that they need")]

use super::{FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1};
use crate::testing::{FakeMachine, FakeVector};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_api::spec::PciAddress;

pub(crate) const ACKNOWLEDGE: u8 = 1;
pub(crate) const DRIVER: u8 = 2;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const NEEDS_RESET: u8 = 64;

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// The usual features.
pub(crate) const USUAL: u64 = FEATURE_VERSION_1 | FEATURE_INDIRECT | FEATURE_EVENT_IDX;

/// One descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Desc {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Desc {
    pub(crate) fn new(address: u64, len: u32, flags: u16, next: u16) -> Self {
        Self {
            address,
            len,
            flags,
            next,
        }
    }

    pub(crate) fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// Reads guest memory.
pub(crate) fn peek(machine: &FakeMachine, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let memory = machine.memory.memory();
    memory
        .read_slice(&mut bytes, GuestAddress(address))
        .expect("in RAM");
    bytes
}

/// Writes guest memory.
pub(crate) fn poke(machine: &FakeMachine, address: u64, bytes: &[u8]) {
    let memory = machine.memory.memory();
    memory
        .write_slice(bytes, GuestAddress(address))
        .expect("in RAM");
}

/// The driver's side of one split ring.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    pub(crate) index: u16,
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    next_descriptor: u16,
    pub(crate) next_available: u16,
    pub(crate) next_used: u16,
}

impl Ring {
    /// Rings of `size` entries in 32 KiB of RAM from `base` on.
    pub(crate) fn new(machine: &FakeMachine, index: u16, size: u16, base: u64) -> Self {
        poke(machine, base, &vec![0; 0x8000]);
        Self {
            index,
            size,
            descriptors: base,
            available: base + 0x4000,
            used: base + 0x5000,
            next_descriptor: 0,
            next_available: 0,
            next_used: 0,
        }
    }

    /// Writes a descriptor as it is.
    pub(crate) fn set(&self, machine: &FakeMachine, index: u16, desc: Desc) {
        poke(
            machine,
            self.descriptors + u64::from(index) * 16,
            &desc.bytes(),
        );
    }

    /// Offers a head.
    pub(crate) fn offer(&mut self, machine: &FakeMachine, head: u16) {
        let slot = u64::from(self.next_available % self.size);
        poke(machine, self.available + 4 + slot * 2, &head.to_le_bytes());
        self.next_available = self.next_available.wrapping_add(1);
        self.publish(machine, self.next_available);
    }

    /// Writes the available index.
    pub(crate) fn publish(&self, machine: &FakeMachine, index: u16) {
        let memory = machine.memory.memory();
        memory
            .store(
                index.to_le(),
                GuestAddress(self.available + 2),
                std::sync::atomic::Ordering::Release,
            )
            .expect("in RAM");
    }

    /// Offers a proper chain of (address, length, writable); its head.
    pub(crate) fn chain(&mut self, machine: &FakeMachine, parts: &[(u64, u32, bool)]) -> u16 {
        let head = self.next_descriptor;
        for (at, (address, len, writable)) in parts.iter().enumerate() {
            let last = at + 1 == parts.len();
            let here = self.next_descriptor;
            self.next_descriptor = (here + 1) % self.size;
            let flags = if *writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let desc = Desc::new(*address, *len, flags, self.next_descriptor);
            self.set(machine, here, desc);
        }
        self.offer(machine, head);
        head
    }

    pub(crate) fn used_index(&self, machine: &FakeMachine) -> u16 {
        let memory = machine.memory.memory();
        let index: u16 = memory
            .load(
                GuestAddress(self.used + 2),
                std::sync::atomic::Ordering::Acquire,
            )
            .expect("in RAM");
        u16::from_le(index)
    }

    /// The next used entry (head, length), if there is one. Asks for the next interrupt.
    pub(crate) fn used(&mut self, machine: &FakeMachine) -> Option<(u32, u32)> {
        if self.used_index(machine) == self.next_used {
            return None;
        }
        let slot = u64::from(self.next_used % self.size);
        let entry = peek(machine, self.used + 4 + slot * 8, 8);
        self.next_used = self.next_used.wrapping_add(1);
        let event = self.available + 4 + u64::from(self.size) * 2;
        poke(machine, event, &self.next_used.to_le_bytes());
        let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        Some((word(0), word(4)))
    }

    /// Waits for the next used entry.
    pub(crate) fn wait_used(&mut self, machine: &FakeMachine) -> (u32, u32) {
        loop {
            if let Some(entry) = self.used(machine) {
                return entry;
            }
            std::thread::yield_now();
        }
    }
}

/// The driver of one function.
pub(crate) struct Driver<'m> {
    pub(crate) machine: &'m FakeMachine,
    pub(crate) address: PciAddress,
    common: u64,
    isr: u64,
    device: u64,
    notify: u64,
    multiplier: u64,
    table: u64,
    msix: u16,
    pub(crate) window: u16,
}

impl<'m> Driver<'m> {
    /// Finds everything by walking the capability list.
    pub(crate) fn find(machine: &'m FakeMachine, address: PciAddress) -> Self {
        let mut this = Self {
            machine,
            address,
            common: 0,
            isr: 0,
            device: 0,
            notify: 0,
            multiplier: 0,
            table: 0,
            msix: 0,
            window: 0,
        };
        let base = u64::from_le_bytes(machine.config(address, 0x10)) & !0xf;
        let [mut next] = machine.config::<1>(address, 0x34);
        while next != 0 {
            let at = u16::from(next);
            let [id, following] = machine.config::<2>(address, at);
            let word = |offset: u16| u32::from_le_bytes(machine.config(address, at + offset));
            match id {
                0x09 => {
                    let [kind] = machine.config::<1>(address, at + 3);
                    let place = base + u64::from(word(8));
                    match kind {
                        1 => this.common = place,
                        2 => {
                            this.notify = place;
                            this.multiplier = u64::from(word(16));
                        }
                        3 => this.isr = place,
                        4 => this.device = place,
                        5 => this.window = at,
                        other => panic!("capability type {other}"),
                    }
                }
                0x11 => {
                    this.msix = at;
                    this.table = base + u64::from(word(4) & !7);
                }
                _ => {}
            }
            next = following;
        }
        this
    }

    pub(crate) fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        assert!(
            self.machine
                .context
                .mmio
                .read(self.common + offset, &mut data)
        );
        data
    }

    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        assert!(self.machine.context.mmio.write(self.common + offset, data));
    }

    pub(crate) fn status(&self) -> u8 {
        self.read::<1>(0x14)[0]
    }

    pub(crate) fn set_status(&self, status: u8) {
        self.write(0x14, &[status]);
    }

    /// Waits until the device says that it was reset.
    pub(crate) fn reset(&self) {
        self.set_status(0);
        while self.status() != 0 {
            std::thread::yield_now();
        }
    }

    pub(crate) fn offered(&self) -> u64 {
        self.write(0, &0_u32.to_le_bytes());
        let low = u32::from_le_bytes(self.read(4));
        self.write(0, &1_u32.to_le_bytes());
        u64::from(low) | u64::from(u32::from_le_bytes(self.read(4))) << 32
    }

    /// From reset to FEATURES_OK; whether the device agreed.
    pub(crate) fn negotiate(&self, features: u64) -> bool {
        self.reset();
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        for half in 0..2_u32 {
            self.write(8, &half.to_le_bytes());
            self.write(0xc, &((features >> (32 * half)) as u32).to_le_bytes());
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.status() & FEATURES_OK != 0
    }

    /// Enables a queue with `ring` and MSI-X vector `vector`.
    pub(crate) fn enable(&self, ring: &Ring, vector: u16) {
        self.write(0x16, &ring.index.to_le_bytes());
        self.write(0x18, &ring.size.to_le_bytes());
        self.write(0x1a, &vector.to_le_bytes());
        for (offset, address) in [
            (0x20, ring.descriptors),
            (0x28, ring.available),
            (0x30, ring.used),
        ] {
            self.write(offset, &(address as u32).to_le_bytes());
            self.write(offset + 4, &((address >> 32) as u32).to_le_bytes());
        }
        self.write(0x1c, &1_u16.to_le_bytes());
    }

    pub(crate) fn go(&self) {
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Everything: negotiation, MSI-X with vector N delivering data 0x40 + N, queues in RAM from
    /// `base` on, DRIVER_OK.
    pub(crate) fn start(&self, features: u64, queues: &[u16], base: u64) -> Vec<Ring> {
        assert!(self.negotiate(features), "features are refused");
        self.msix_on();
        let rings: Vec<Ring> = (0_u16..)
            .zip(queues)
            .map(|(index, size)| {
                let at = base + u64::from(index) * 0x8000;
                let ring = Ring::new(self.machine, index, *size, at);
                self.unmask(index);
                self.enable(&ring, index);
                ring
            })
            .collect();
        self.go();
        rings
    }

    pub(crate) fn msix_on(&self) {
        self.machine
            .set_config(self.address, self.msix + 2, &[0, 0x80]);
    }

    /// Fills and unmasks table entry `vector`.
    pub(crate) fn unmask(&self, vector: u16) {
        let at = self.table + u64::from(vector) * 16;
        let mmio = &self.machine.context.mmio;
        assert!(mmio.write(at, &0xfee0_0000_u64.to_le_bytes()));
        assert!(mmio.write(at + 8, &(0x40 + u32::from(vector)).to_le_bytes()));
        assert!(mmio.write(at + 12, &0_u32.to_le_bytes()));
    }

    /// The host's side of vector `vector`.
    pub(crate) fn vector(&self, vector: u16) -> Arc<FakeVector> {
        self.machine
            .msis
            .by_data(0x40 + u32::from(vector))
            .expect("a routed vector")
    }

    pub(crate) fn doorbell(&self, queue: u16) -> u64 {
        self.notify + u64::from(queue) * self.multiplier
    }

    pub(crate) fn kick(&self, queue: u16) {
        assert!(
            self.machine
                .mmio_write(self.doorbell(queue), &queue.to_le_bytes())
        );
    }

    pub(crate) fn isr(&self) -> u8 {
        let mut data = [0];
        assert!(self.machine.context.mmio.read(self.isr, &mut data));
        data[0]
    }

    pub(crate) fn config<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        assert!(
            self.machine
                .context
                .mmio
                .read(self.device + offset, &mut data)
        );
        data
    }

    pub(crate) fn set_device_config(&self, offset: u64, data: &[u8]) {
        assert!(self.machine.context.mmio.write(self.device + offset, data));
    }
}
