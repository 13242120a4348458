//! PCI configuration through ECAM (PCIe base specification, 7.2.2), and as much set-up as a guest
//! without firmware must do itself: bus numbers behind bridges, and addresses for BARs.

use crate::boot::Boot;
use crate::memory::{load, map, store};
use crate::say;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where the machine has its configuration space, unless `ecam=` says otherwise.
const USUAL_ECAM: u64 = 0xb000_0000;
static ECAM: AtomicU64 = AtomicU64::new(USUAL_ECAM);
/// BARs without an address get one from here upwards; a bridge gets a piece of it as its window.
const WINDOW: u64 = 0xd000_0000;
const BRIDGE_WINDOW: u64 = 2 << 20;
const COMMAND_MEMORY_AND_MASTER: u16 = 0x6;

/// Takes the place of the configuration space from the command line.
pub fn locate(boot: &Boot) {
    ECAM.store(boot.number("ecam", USUAL_ECAM), Ordering::Relaxed);
}

/// One function, by the address of its configuration space.
#[derive(Clone, Copy)]
pub struct Function {
    config: u64,
    bus: u8,
    slot: u8,
    number: u8,
}

impl Function {
    fn at(bus: u8, slot: u8, number: u8) -> Option<Self> {
        let place = (u64::from(bus) << 20) | (u64::from(slot) << 15) | (u64::from(number) << 12);
        let function = Self {
            config: ECAM.load(Ordering::Relaxed) + place,
            bus,
            slot,
            number,
        };
        (function.vendor() != 0xffff).then_some(function)
    }

    pub fn read<T: Copy>(self, offset: u16) -> T {
        load(self.config + u64::from(offset))
    }

    pub fn write<T: Copy>(self, offset: u16, value: T) {
        store(self.config + u64::from(offset), value);
    }

    pub fn vendor(self) -> u16 {
        self.read(0)
    }

    pub fn device(self) -> u16 {
        self.read(2)
    }

    fn is_bridge(self) -> bool {
        self.read::<u8>(0x0e) & 0x7f == 1
    }

    fn has_more_functions(self) -> bool {
        self.read::<u8>(0x0e) & 0x80 != 0
    }

    /// Lets the function decode memory and write to it.
    pub fn enable(self) {
        self.write(4, self.read::<u16>(4) | COMMAND_MEMORY_AND_MASTER);
    }

    /// Offsets of the capabilities with this identity.
    pub fn capabilities(self, identity: u8) -> impl Iterator<Item = u16> {
        let has_list = self.read::<u16>(6) & 0x10 != 0;
        let mut next = if has_list {
            self.read::<u8>(0x34) & 0xfc
        } else {
            0
        };
        core::iter::from_fn(move || {
            let here = u16::from(next);
            (here != 0).then(|| {
                next = self.read::<u8>(here + 1) & 0xfc;
                here
            })
        })
        .take(48)
        .filter(move |at| self.read::<u8>(*at) == identity)
    }

    /// The address of a memory BAR.
    pub fn bar(self, number: u8) -> u64 {
        let offset = 0x10 + 4 * u16::from(number);
        let low: u32 = self.read(offset);
        let mut address = u64::from(low & !0xf);
        if low & 0x6 == 0x4 {
            address |= u64::from(self.read::<u32>(offset + 4)) << 32;
        }
        assert!(address != 0, "BAR {number} has no address");
        map(address);
        address
    }

    /// Gives addresses to the BARs that have none.
    fn place_bars(self, next: &mut u64) {
        let mut number = 0;
        while number < 6 {
            let offset = 0x10 + 4 * number;
            let low: u32 = self.read(offset);
            let wide = low & 0x7 == 0x4;
            let high: u32 = if wide { self.read(offset + 4) } else { 0 };
            if low & 1 == 0 && low & !0xf == 0 && high == 0 {
                self.write(offset, u32::MAX);
                let size = u64::from(!(self.read::<u32>(offset) & !0xf)) + 1;
                self.write(offset, low);
                if size > 1 && size <= 1 << 28 {
                    *next = (*next + size - 1) & !(size - 1);
                    self.write(offset, *next as u32);
                    *next += size;
                }
            }
            number += if wide { 2 } else { 1 };
        }
    }
}

/// Calls `visit` for every function, in the order of their addresses.
pub fn each(mut visit: impl FnMut(Function)) {
    let mut next_bus = 1;
    let mut next_address = WINDOW;
    walk(0, &mut next_bus, &mut next_address, &mut visit);
}

fn walk(bus: u8, next_bus: &mut u8, next: &mut u64, visit: &mut dyn FnMut(Function)) {
    for slot in 0..32 {
        for number in 0..8 {
            let Some(function) = Function::at(bus, slot, number) else {
                if number == 0 {
                    break;
                }
                continue;
            };
            if function.is_bridge() {
                let behind = open_bridge(function, next_bus, next);
                if behind > bus {
                    walk(behind, next_bus, next, visit);
                }
            } else {
                function.place_bars(next);
            }
            visit(function);
            if number == 0 && !function.has_more_functions() {
                break;
            }
        }
    }
}

/// Gives a bridge its bus number and a memory window where nobody has, and returns the bus.
fn open_bridge(bridge: Function, next_bus: &mut u8, next: &mut u64) -> u8 {
    let mut secondary: u8 = bridge.read(0x19);
    if secondary == 0 {
        secondary = *next_bus;
        bridge.write(0x18, bridge.bus);
        bridge.write(0x19, secondary);
        bridge.write(0x1a, secondary);
        *next = (*next + BRIDGE_WINDOW - 1) & !(BRIDGE_WINDOW - 1);
        bridge.write(0x20, (*next >> 16) as u16);
        bridge.write(0x22, ((*next + BRIDGE_WINDOW - 1) >> 16) as u16);
    }
    *next_bus = secondary.max(*next_bus).saturating_add(1);
    bridge.enable();
    secondary
}

/// Test: prints all functions.
pub fn list() {
    let mut count = 0;
    each(|f| {
        say!(
            "{:02x}:{:02x}.{} {:04x}:{:04x}",
            f.bus,
            f.slot,
            f.number,
            f.vendor(),
            f.device()
        );
        count += 1;
    });
    say!("{count} functions");
}
