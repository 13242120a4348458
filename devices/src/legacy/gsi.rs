//! Wired interrupts: from a device's line to the pins of both interrupt controllers.
//!
//! ```text
//! device A --+                       +--> PIC input n      (n < 16; not 2, which is the cascade)
//! device B --+--> OR of line GSI n --+
//!                                    +--> IOAPIC pin n     (0 goes to pin 2, as the MADT says)
//! ```
//!
//! The guest has only one of the two controllers unmasked; both always see the line. GSI 0 is the
//! ISA timer interrupt, wired to IOAPIC pin 2 as on every PC with an MADT override; GSI 2 is
//! therefore wired to nothing.
//!
//! Lock order: line, then this router's GSI, then PIC or IOAPIC. The controllers never call back.

use super::{ioapic, lock, pic};
use crate::host::{IrqLine, IrqLines};
use std::sync::{Arc, Mutex};

/// How many GSIs there are: the pins of the one IOAPIC.
pub const GSI_COUNT: u32 = 24;
const GSI_SLOTS: usize = GSI_COUNT as usize;
/// Interrupts of the two PICs.
const ISA_COUNT: u32 = 16;
/// The PIC's cascade input.
const CASCADE: u32 = 2;

/// The wires.
pub(super) struct Router {
    pic: Arc<pic::Controller>,
    ioapic: Arc<ioapic::Controller>,
    /// How many lines hold each GSI asserted.
    asserted: [Mutex<u32>; GSI_SLOTS],
}

impl Router {
    pub(super) fn new(pic: Arc<pic::Controller>, ioapic: Arc<ioapic::Controller>) -> Arc<Self> {
        Arc::new(Self {
            pic,
            ioapic,
            asserted: Default::default(),
        })
    }

    /// One line of `gsi` rose or fell.
    fn change(&self, gsi: u32, rose: bool) {
        let Some(slot) = usize::try_from(gsi)
            .ok()
            .and_then(|index| self.asserted.get(index))
        else {
            return;
        };
        // Held while the pins are set, so that two sources cannot leave the wrong level behind.
        let mut count = lock(slot);
        let before = *count;
        *count = if rose {
            before.saturating_add(1)
        } else {
            before.saturating_sub(1)
        };
        if (before > 0) != (*count > 0) {
            self.set_pins(gsi, *count > 0);
        }
    }

    fn set_pins(&self, gsi: u32, level: bool) {
        if gsi == CASCADE {
            return;
        }
        if gsi < ISA_COUNT {
            self.pic.set_input(gsi, level);
        }
        let pin = if gsi == 0 { CASCADE } else { gsi };
        self.ioapic.set_pin(pin, level);
    }
}

/// Hands out lines of the router.
pub(super) struct Gsis(pub(super) Arc<Router>);

impl IrqLines for Gsis {
    /// The line of `gsi`. One beyond [`GSI_COUNT`] leads nowhere, which is logged.
    fn line(&self, gsi: u32) -> Arc<dyn IrqLine> {
        if gsi >= GSI_COUNT || gsi == CASCADE {
            tracing::warn!(gsi, "an interrupt line that no controller has");
        }
        Arc::new(Line {
            router: Arc::clone(&self.0),
            gsi,
            level: Mutex::new(false),
        })
    }
}

/// One source's end of a wire; dropping it lets the wire fall.
struct Line {
    router: Arc<Router>,
    gsi: u32,
    level: Mutex<bool>,
}

impl IrqLine for Line {
    fn set_level(&self, asserted: bool) {
        let mut level = lock(&self.level);
        if *level != asserted {
            *level = asserted;
            self.router.change(self.gsi, asserted);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.set_level(false);
    }
}
