//! A driver that does anything to a virtio function: rings, registers, configuration space, MSI-X.

use super::script::Script;
use crate::pci::BarPlan;
use crate::testing::FakeMachine;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_api::spec::PciAddress;

/// Bytes of low RAM.
pub(super) const RAM: usize = 0x10_0000;
/// Queues that are driven at most.
const QUEUES: usize = 6;
/// Entries of every ring.
const SIZE: u16 = 16;
/// The rings of queue n begin here: descriptors, then a page each for available, used and an indirect
/// table.
const RINGS: u64 = 0x1_0000;
const STRIDE: u64 = 0x4000;
pub(super) const DATA: u64 = 0x8_0000;
/// Structures in the BAR, as the transport lays them out.
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;

/// Addresses at which there is no RAM, or its end.
const WRONG: [u64; 10] = [
    RAM as u64 - 8,
    RAM as u64,
    0xb000_0000,
    0xc000_0000,
    0xfec0_0000,
    0xfee0_0000,
    (1 << 32) + (1 << 20) - 4,
    0x70_0000_0000,
    u64::MAX - 4095,
    u64::MAX,
];

/// The driver.
pub(super) struct Attacker<'m> {
    machine: &'m FakeMachine,
    address: PciAddress,
    queues: u16,
    /// What every available ring has come to.
    made: [u16; QUEUES],
}

impl<'m> Attacker<'m> {
    /// A driver of the function at `address` with so many queues; its BAR is enabled.
    pub(super) fn new(machine: &'m FakeMachine, address: PciAddress, queues: u16) -> Self {
        let this = Self {
            machine,
            address,
            queues: queues.min(QUEUES as u16),
            made: [0; QUEUES],
        };
        this.enable();
        this
    }

    /// Puts the BAR where it belongs, answering.
    fn enable(&self) {
        let (base, _) = BarPlan::function(self.address);
        self.machine
            .set_config(self.address, 0x10, &(base as u32).to_le_bytes());
        self.machine
            .set_config(self.address, 0x14, &((base >> 32) as u32).to_le_bytes());
        self.machine.set_config(self.address, 4, &[6, 0]);
    }

    /// A write to the BAR, wherever it is supposed to be.
    fn write(&self, at: u64, data: &[u8]) {
        let (base, _) = BarPlan::function(self.address);
        self.machine.mmio_write(base + at, data);
    }

    fn poke(&self, address: u64, data: &[u8]) {
        // Where there is no RAM nothing is written, as on a machine.
        let _ = self
            .machine
            .memory
            .memory()
            .write_slice(data, GuestAddress(address));
    }

    /// What a proper driver does, from reset to running, with clean rings.
    pub(super) fn start(&mut self, features: u64) {
        self.enable();
        for status in [0_u8, 1, 3] {
            self.write(0x14, &[status]);
        }
        for half in 0..2_u32 {
            self.write(0x08, &half.to_le_bytes());
            self.write(0x0c, &((features >> (32 * half)) as u32).to_le_bytes());
        }
        self.write(0x14, &[11]);
        for queue in 0..self.queues {
            let rings = RINGS + u64::from(queue) * STRIDE;
            self.poke(rings, &[0; STRIDE as usize]);
            self.write(
                TABLE + u64::from(queue) * 16,
                &0xfee0_0000_u64.to_le_bytes(),
            );
            self.write(TABLE + u64::from(queue) * 16 + 8, &0x41_u64.to_le_bytes());
            self.write(0x16, &queue.to_le_bytes());
            self.write(0x18, &SIZE.to_le_bytes());
            self.write(0x1a, &queue.to_le_bytes());
            for (at, ring) in [(0x20, 0), (0x28, 0x1000), (0x30, 0x2000)] {
                self.write(at, &(rings + ring).to_le_bytes());
            }
            self.write(0x1c, &1_u16.to_le_bytes());
        }
        self.write(0x14, &[15]);
        self.made = [0; QUEUES];
    }

    /// One thing; false when the device must be asked by its host instead (pause, serve, ...).
    pub(super) fn step(&mut self, script: &mut Script<'_>, features: u64) {
        let queue = script.below(self.queues.max(1));
        match script.below(16) {
            0..=4 => self.describe(script, queue),
            5..=7 => self.offer(script, queue),
            8 => {
                let index = script.value() as u16;
                self.publish(queue, index);
            }
            9 => self.data(script),
            10 => self.register(script),
            11 => {
                let offset = u16::from(script.byte());
                self.machine.set_config(
                    self.address,
                    offset & !3 | offset & 3,
                    &script.access()[..1],
                );
            }
            12 => {
                let offset = u16::from(script.byte()) & !3;
                self.machine
                    .set_config(self.address, offset, &script.long().to_le_bytes());
            }
            13 => {
                let at = u64::from(script.word()) % 0x8000;
                self.write(at, &script.access());
            }
            14 => {
                let at = u64::from(script.word()) % 0x8000;
                let (base, _) = BarPlan::function(self.address);
                let length = script.access().len();
                self.machine
                    .context
                    .mmio
                    .read(base + at, &mut [0; 8][..length]);
            }
            _ => self.start(features),
        }
    }

    fn place(&self, script: &mut Script<'_>) -> u64 {
        match script.below(12) {
            0 => script.value(),
            1 => script.pick(&WRONG),
            2 => RINGS + u64::from(script.word()),
            3 => (1 << 32) + u64::from(script.word()) * 16,
            _ => DATA + u64::from(script.byte()) * 64,
        }
    }

    fn describe(&self, script: &mut Script<'_>, queue: u8) {
        let rings = RINGS + u64::from(queue) * STRIDE;
        let table = script.pick(&[rings, rings, rings, rings + 0x3000]);
        let at = u64::from(script.below(SIZE));
        let address = match script.below(6) {
            0 => rings + 0x3000,
            _ => self.place(script),
        };
        let length = match script.below(6) {
            0 => script.value() as u32,
            1 => u32::from(script.below(20)) * 16,
            _ => script.pick(&[1, 12, 16, 17, 512, 1526, 4096]),
        };
        let flags = script.pick(&[0, 1, 1, 2, 2, 3, 4, 5, 0xffff_u16]);
        let next = match script.below(4) {
            0 => script.value() as u16,
            _ => u16::from(script.below(SIZE)),
        };
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.poke(table + 16 * at, &bytes);
    }

    fn offer(&mut self, script: &mut Script<'_>, queue: u8) {
        let head = match script.below(8) {
            0 => script.value() as u16,
            _ => u16::from(script.below(SIZE)),
        };
        let made = &mut self.made[usize::from(queue)];
        let slot = u64::from(*made % SIZE);
        *made = made.wrapping_add(1);
        let index = *made;
        let available = RINGS + u64::from(queue) * STRIDE + 0x1000;
        self.poke(available + 4 + 2 * slot, &head.to_le_bytes());
        self.publish(queue, index);
    }

    fn publish(&self, queue: u8, index: u16) {
        let available = RINGS + u64::from(queue) * STRIDE + 0x1000;
        self.poke(available + 2, &index.to_le_bytes());
        let doorbell = NOTIFY + 4 * u64::from(queue);
        self.write(doorbell, &u16::from(queue).to_le_bytes());
    }

    /// Bytes that a device takes for a header.
    fn data(&self, script: &mut Script<'_>) {
        let address = DATA + u64::from(script.byte()) * 64;
        let kind = script.pick(&[0_u32, 1, 4, 8, 11, 13, 0x0104, 0x0001_0004]);
        self.poke(address, &kind.to_le_bytes());
        self.poke(address + 4, &script.array::<4>());
        self.poke(address + 8, &script.value().to_le_bytes());
        self.poke(address + 16, &script.value().to_le_bytes());
        self.poke(address + 24, &script.value().to_le_bytes());
    }

    /// A register of the common configuration, often of a queue that is live.
    fn register(&self, script: &mut Script<'_>) {
        if script.flag() {
            self.write(
                0x16,
                &script.pick(&[0_u16, 1, 2, 3, 7, 0xffff]).to_le_bytes(),
            );
        }
        let at = u64::from(script.below(0x40));
        self.write(at, &script.access());
    }
}
