//! What the chipset's surroundings look like to tests and fuzz bodies: everything is written down.
#![allow(dead_code, reason = "each user takes the part that it needs")]

use super::{Chipset, ChipsetHost, ChipsetOptions};
use crate::bus::Bus;
use crate::host::{ApicBus, ExtInt, IrqLine, MsiMessage};
use crate::state::{Origin, Saved, Section};
use crate::testing::FakeRequests;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The local APICs.
#[derive(Default)]
pub(crate) struct FakeApic {
    pub(crate) sent: Mutex<Vec<MsiMessage>>,
    pub(crate) routes: Mutex<BTreeMap<u32, MsiMessage>>,
}

impl FakeApic {
    /// Vectors that were sent since the last call.
    pub(crate) fn vectors(&self) -> Vec<u8> {
        let sent = std::mem::take(&mut *self.sent.lock().unwrap());
        sent.iter().map(|message| message.data as u8).collect()
    }
}

impl ApicBus for FakeApic {
    fn send(&self, message: MsiMessage) {
        self.sent.lock().unwrap().push(message);
    }

    fn route_pin(&self, pin: u32, message: Option<MsiMessage>) {
        let mut routes = self.routes.lock().unwrap();
        let before = routes.remove(&pin);
        assert_ne!(before, message, "pin {pin}: told only when it changes");
        if let Some(message) = message {
            routes.insert(pin, message);
        }
    }
}

/// The boot CPU's INTR pin.
#[derive(Default)]
pub(crate) struct FakeExtInt(pub(crate) Mutex<bool>);

impl FakeExtInt {
    pub(crate) fn asserted(&self) -> bool {
        *self.0.lock().unwrap()
    }
}

impl ExtInt for FakeExtInt {
    fn set_output(&self, asserted: bool) {
        let before = std::mem::replace(&mut *self.0.lock().unwrap(), asserted);
        assert_ne!(before, asserted, "told only when it changes");
    }
}

/// A line that counts its rises.
#[derive(Default)]
pub(crate) struct FakeLine {
    level: Mutex<(bool, u32)>,
}

impl FakeLine {
    pub(crate) fn level(&self) -> bool {
        self.level.lock().unwrap().0
    }

    pub(crate) fn rises(&self) -> u32 {
        self.level.lock().unwrap().1
    }
}

impl IrqLine for FakeLine {
    fn set_level(&self, asserted: bool) {
        let mut level = self.level.lock().unwrap();
        level.1 += u32::from(asserted && !level.0);
        level.0 = asserted;
    }
}

/// A chipset on fakes.
pub(crate) struct Board {
    pub(crate) apic: Arc<FakeApic>,
    pub(crate) ext_int: Arc<FakeExtInt>,
    pub(crate) host: ChipsetHost,
    pub(crate) chipset: Chipset,
}

impl Board {
    pub(crate) fn new(origin: Origin<'_>) -> Self {
        let apic = Arc::new(FakeApic::default());
        let ext_int = Arc::new(FakeExtInt::default());
        let host = ChipsetHost {
            pio: Bus::new(),
            mmio: Bus::new(),
            apic: apic.clone(),
            ext_int: ext_int.clone(),
            requests: Arc::new(FakeRequests::default()),
        };
        let chipset = Chipset::create(&host, &ChipsetOptions::default(), origin)
            .expect("empty buses and good state");
        Self {
            apic,
            ext_int,
            host,
            chipset,
        }
    }

    pub(crate) fn out(&self, port: u16, value: u8) {
        assert!(self.host.pio.write(port.into(), &[value]), "{port:#x}");
    }

    pub(crate) fn read(&self, port: u16) -> u8 {
        let mut byte = [0];
        assert!(self.host.pio.read(port.into(), &mut byte), "{port:#x}");
        byte[0]
    }

    /// Writes an IOAPIC register through the window.
    pub(crate) fn ioapic_write(&self, register: u8, value: u32) {
        let base = super::ioapic::BASE;
        assert!(self.host.mmio.write(base, &[register]));
        assert!(self.host.mmio.write(base + 0x10, &value.to_le_bytes()));
    }

    /// Reads an IOAPIC register through the window.
    pub(crate) fn ioapic_read(&self, register: u8) -> u32 {
        let base = super::ioapic::BASE;
        assert!(self.host.mmio.write(base, &[register]));
        let mut value = [0; 4];
        assert!(self.host.mmio.read(base + 0x10, &mut value));
        u32::from_le_bytes(value)
    }

    /// Initialises both PICs as a PC does: vectors from 0x20 and 0x28, all inputs open.
    pub(crate) fn init_pics(&self) {
        for (port, base, wiring) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
            self.out(port, 0x11);
            self.out(port + 1, base);
            self.out(port + 1, wiring);
            self.out(port + 1, 1);
        }
    }

    /// Pauses everything and saves it.
    pub(crate) fn save(&self) -> Vec<Section> {
        let devices = self.chipset.devices();
        for device in &devices {
            device.pause();
        }
        let mut all = Vec::new();
        for device in &devices {
            match device.save().expect("plain data") {
                Saved::Sections(sections) => all.extend(sections),
                other => panic!("{}: {other:?}", device.id()),
            }
        }
        all
    }
}
