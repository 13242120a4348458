//! The owner of KVM's interrupt routing table.
//!
//! With a split irqchip the table has one use: KVM reads from it which vectors are level-triggered
//! IOAPIC interrupts, so that it tells us when the guest ends one. Messages themselves are sent
//! directly ([`super::interrupts`]), so edge-triggered pins and MSI vectors need no entry, and a
//! guest whose devices are all message-signalled costs one table or none. Every change waits for a
//! grace period in the kernel, hence no change is made that KVM would not see.

use super::Vm;
use devices::host::MsiMessage;
use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_msi,
};
use std::collections::BTreeMap;
use std::io;

/// Trigger mode bit of MSI data (Intel SDM 3A §12.11.2): 1 is level.
const LEVEL: u32 = 1 << 15;

/// Routes of the IOAPIC's level-triggered pins.
#[derive(Debug, Default)]
pub(super) struct Routes {
    level_pins: BTreeMap<u32, MsiMessage>,
}

impl Routes {
    /// Notes what `pin` stands for now; true when KVM must be told.
    ///
    /// A masked pin keeps its entry: an interrupt that the guest is still serving must be able to
    /// end after the pin was masked, and an entry too many only costs an exit.
    pub(super) fn set(&mut self, pin: u32, message: Option<MsiMessage>) -> bool {
        match message {
            None => false,
            Some(message) if message.data & LEVEL == 0 => self.level_pins.remove(&pin).is_some(),
            Some(message) => self.level_pins.insert(pin, message) != Some(message),
        }
    }

    /// Tells KVM.
    pub(super) fn apply(&self, vm: &Vm) -> io::Result<()> {
        let entries: Vec<_> = self.level_pins.iter().map(entry).collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
        vm.fd.set_gsi_routing(&table).map_err(io::Error::from)
    }
}

fn entry((pin, message): (&u32, &MsiMessage)) -> kvm_irq_routing_entry {
    let [low, high] = halves(message.address);
    kvm_irq_routing_entry {
        gsi: *pin,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: low,
                address_hi: high,
                data: message.data,
                ..Default::default()
            },
        },
        ..Default::default()
    }
}

/// The low and the high half of an address.
pub(super) fn halves(address: u64) -> [u32; 2] {
    let low = u32::try_from(address & 0xffff_ffff).unwrap_or(u32::MAX);
    let high = u32::try_from(address >> 32).unwrap_or(u32::MAX);
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: u32) -> MsiMessage {
        MsiMessage {
            address: 0xfee0_0000,
            data,
        }
    }

    #[test]
    fn only_changes_of_level_pins_are_told() {
        let mut routes = Routes::default();
        assert!(!routes.set(4, Some(message(0x30))), "edge");
        assert!(routes.set(9, Some(message(LEVEL | 0x31))));
        assert!(!routes.set(9, Some(message(LEVEL | 0x31))), "as before");
        assert!(!routes.set(9, None), "masked pins keep their entry");
        assert!(routes.set(9, Some(message(LEVEL | 0x32))), "new vector");
        assert!(routes.set(9, Some(message(0x32))), "edge now");
        assert!(routes.level_pins.is_empty());
    }

    #[test]
    fn addresses_are_split() {
        assert_eq!(halves(0x1_fee0_1000), [0xfee0_1000, 1]);
        assert_eq!(halves(u64::MAX), [u32::MAX, u32::MAX]);
    }
}
