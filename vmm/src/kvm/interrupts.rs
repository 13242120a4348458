//! Interrupts on KVM: MSI-X vectors, and the way from our IOAPIC to the local APICs.
//!
//! A message is sent with KVM_SIGNAL_MSI, which costs what an irqfd costs (one system call, the same
//! delivery code), needs no routing entry, and leaves nothing behind that would slow down the end
//! of the process by a grace period. An irqfd is only needed for interrupts that come from outside of this
//! process.

use super::routes::{Routes, halves};
use super::{KvmError, Vm};
use devices::host::{ApicBus, MsiMessage, MsiVector, MsiVectors};
use kvm_bindings::kvm_msi;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// The machine's interrupts as devices see them.
#[derive(Debug)]
pub struct Interrupts {
    vm: Arc<Vm>,
    routes: Mutex<Routes>,
}

impl Interrupts {
    /// Those of `vm`, which has a split irqchip.
    pub fn new(vm: Arc<Vm>) -> Self {
        Self {
            vm,
            routes: Mutex::default(),
        }
    }

    /// Forgets every pin, as a machine reset does.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn reset(&self) -> Result<(), KvmError> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        *routes = Routes::default();
        routes.apply(&self.vm).map_err(|source| KvmError::Call {
            what: "clearing interrupt routes".into(),
            source,
        })
    }
}

fn signal(vm: &Vm, message: MsiMessage) -> io::Result<()> {
    let [address_lo, address_hi] = halves(message.address);
    let msi = kvm_msi {
        address_lo,
        address_hi,
        data: message.data,
        ..Default::default()
    };
    vm.fd.signal_msi(msi).map(drop).map_err(io::Error::from)
}

impl ApicBus for Interrupts {
    fn send(&self, message: MsiMessage) {
        if let Err(error) = signal(&self.vm, message) {
            tracing::warn!(guest = true, %error, "an IOAPIC interrupt could not be delivered");
        }
    }

    fn route_pin(&self, pin: u32, message: Option<MsiMessage>) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.set(pin, message)
            && let Err(error) = routes.apply(&self.vm)
        {
            tracing::warn!(guest = true, pin, %error, "an IOAPIC pin could not be routed");
        }
    }
}

impl MsiVectors for Interrupts {
    fn vector(&self, _requester_id: u16) -> io::Result<Arc<dyn MsiVector>> {
        Ok(Arc::new(Vector {
            vm: Arc::clone(&self.vm),
            message: Mutex::new(None),
        }))
    }
}

struct Vector {
    vm: Arc<Vm>,
    message: Mutex<Option<MsiMessage>>,
}

impl MsiVector for Vector {
    fn route(&self, message: MsiMessage) -> io::Result<()> {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
        Ok(())
    }

    fn unroute(&self) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn trigger(&self) -> io::Result<()> {
        let message = *self.message.lock().unwrap_or_else(PoisonError::into_inner);
        message.map_or(Ok(()), |message| signal(&self.vm, message))
    }
}
