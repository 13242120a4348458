//! The built-in devices of every machine, put together.
//!
//! ```text
//!  device lines --> GSI router --+--> PIC ----> ExtInt (boot vCPU's INTR)
//!                                +--> IOAPIC -> ApicBus (local APICs)
//!  PIT: GSI 0    i8042: GSI 1    RTC: GSI 8    PM: GSI 9
//! ```
//!
//! They are here whatever the spec says, have fixed aliases (their section kinds), and are made
//! before all others, because the others' interrupt lines end here.

use super::{gsi, i8042, ioapic, pic, pit, pm, rtc};
use crate::bus::Bus;
use crate::device::Device;
use crate::host::{ApicBus, ExtInt, IrqLines, MachineRequests};
use crate::registry::CreateError;
use crate::state::{Origin, Section};
use std::sync::Arc;

/// What the machine lends to its chipset.
#[derive(Clone)]
pub struct ChipsetHost {
    /// Ports.
    pub pio: Bus,
    /// Memory-mapped registers.
    pub mmio: Bus,
    /// The way to the local APICs.
    pub apic: Arc<dyn ApicBus>,
    /// The way to the boot CPU's INTR pin.
    pub ext_int: Arc<dyn ExtInt>,
    /// The machine's ear.
    pub requests: Arc<dyn MachineRequests>,
}

/// What may differ between chipsets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChipsetOptions {
    /// Seconds that the RTC is ahead of UTC: 0, or the zone's offset for guests that keep local
    /// time.
    pub rtc_offset: i64,
    /// Bytes of the CMOS memory at the first start, as (register, value); all others are 0.
    pub cmos: Vec<(u8, u8)>,
}

/// The chipset. Dropping it takes the devices off the buses.
pub struct Chipset {
    pub(super) pic: Arc<pic::Controller>,
    pub(super) ioapic: Arc<ioapic::Controller>,
    pm: Arc<pm::Controller>,
    lines: Arc<dyn IrqLines>,
    devices: Vec<Arc<dyn Device>>,
}

impl Chipset {
    /// Makes all built-in devices. `origin` may hold sections of other devices too. Restored
    /// timers stand until their devices are resumed.
    ///
    /// # Errors
    /// [`CreateError`]; nothing is left behind on any bus.
    pub fn create(
        host: &ChipsetHost,
        options: &ChipsetOptions,
        origin: Origin<'_>,
    ) -> Result<Self, CreateError> {
        let parts = Parts { origin };
        let pic = parts.make(pic::KIND, |origin| {
            pic::Pic::create(&host.pio, Arc::clone(&host.ext_int), origin)
        })?;
        let ioapic = parts.make(ioapic::KIND, |origin| {
            ioapic::Ioapic::create(&host.mmio, Arc::clone(&host.apic), origin)
        })?;
        let (pic_controller, ioapic_controller) = (pic.controller(), ioapic.controller());
        let router = gsi::Router::new(Arc::clone(&pic_controller), Arc::clone(&ioapic_controller));
        let lines: Arc<dyn IrqLines> = Arc::new(gsi::Gsis(router));
        let pit = parts.make(pit::KIND, |origin| {
            pit::Pit::create(&host.pio, lines.line(0), origin)
        })?;
        let rtc = parts.make(rtc::KIND, |origin| {
            let fresh = rtc::Fresh {
                ahead: options.rtc_offset,
                memory: &options.cmos,
            };
            rtc::Rtc::create(&host.pio, lines.line(rtc::GSI), fresh, origin)
        })?;
        let i8042 = parts.make(i8042::KIND, |origin| {
            let line = lines.line(i8042::KEYBOARD_GSI);
            i8042::I8042::create(&host.pio, line, Arc::clone(&host.requests), origin)
        })?;
        let pm = parts.make(pm::KIND, |origin| {
            let requests = Arc::clone(&host.requests);
            pm::Pm::create(&host.pio, lines.line(pm::SCI), requests, origin)
        })?;
        Ok(Self {
            pm: pm.controller(),
            pic: pic_controller,
            ioapic: ioapic_controller,
            lines,
            devices: vec![
                Arc::new(pic),
                Arc::new(ioapic),
                Arc::new(pit),
                Arc::new(rtc),
                Arc::new(i8042),
                Arc::new(pm),
            ],
        })
    }

    /// The wired interrupt lines, for [`crate::registry::Context::irqs`].
    pub fn irq_lines(&self) -> Arc<dyn IrqLines> {
        Arc::clone(&self.lines)
    }

    /// A local APIC has ended the level-triggered interrupt with this vector
    /// (KVM_EXIT_IOAPIC_EOI).
    pub fn ioapic_eoi(&self, vector: u8) {
        self.ioapic.eoi(vector);
    }

    /// Whether the PIC asks the boot vCPU for attention.
    pub fn pic_pending(&self) -> bool {
        self.pic.pending()
    }

    /// The vector that the boot vCPU takes from the PIC now; the spurious one when nothing is left.
    pub fn pic_acknowledge(&self) -> u8 {
        self.pic.acknowledge()
    }

    /// Presses and releases the ACPI power button; the guest decides what follows.
    pub fn press_power_button(&self) {
        self.pm.press_power_button();
    }

    /// The power management block, for devices that raise general-purpose events.
    pub fn pm(&self) -> Arc<pm::Controller> {
        Arc::clone(&self.pm)
    }

    /// The built-in devices, in the order in which they are to be reset, saved and resumed.
    pub fn devices(&self) -> Vec<Arc<dyn Device>> {
        self.devices.clone()
    }
}

struct Parts<'a> {
    origin: Origin<'a>,
}

impl Parts<'_> {
    /// Makes the device with this alias from its own sections.
    fn make<T>(
        &self,
        id: &str,
        create: impl FnOnce(Origin<'_>) -> Result<T, CreateError>,
    ) -> Result<T, CreateError> {
        match self.origin {
            Origin::Fresh => create(Origin::Fresh),
            Origin::Restored(sections) => {
                let own: Vec<Section> = sections
                    .iter()
                    .filter(|section| section.device == id)
                    .cloned()
                    .collect();
                create(Origin::Restored(&own))
            }
        }
    }
}
