//! Doorbells on KVM: guest writes that ring an eventfd without an exit to user space.

use super::Vm;
use devices::host::{Doorbell, DoorbellAddress, Doorbells};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// Registers doorbells with one machine.
#[derive(Debug)]
pub struct KvmDoorbells {
    vm: Arc<Vm>,
}

impl KvmDoorbells {
    /// Doorbells of `vm`.
    pub fn new(vm: Arc<Vm>) -> Self {
        Self { vm }
    }
}

/// The width and value that a write must have. KVM matches a width only together with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Any,
    Byte(u8),
    Word(u16),
    Dword(u32),
    Qword(u64),
}

impl Match {
    fn new(len: u32, value: Option<u64>) -> Option<Self> {
        let Some(value) = value else {
            return matches!(len, 0 | 1 | 2 | 4 | 8).then_some(Self::Any);
        };
        match len {
            1 => u8::try_from(value).ok().map(Self::Byte),
            2 => u16::try_from(value).ok().map(Self::Word),
            4 => u32::try_from(value).ok().map(Self::Dword),
            8 => Some(Self::Qword(value)),
            _ => None,
        }
    }
}

impl Doorbells for KvmDoorbells {
    fn register(
        &self,
        address: DoorbellAddress,
        len: u32,
        value: Option<u64>,
        bell: &EventFd,
    ) -> io::Result<Box<dyn Doorbell>> {
        let matching = Match::new(len, value).ok_or_else(|| {
            let message = format!("a doorbell cannot match {len} bytes with value {value:?}");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        let registered = Registered {
            vm: Arc::clone(&self.vm),
            address: match address {
                DoorbellAddress::Pio(port) => IoEventAddress::Pio(u64::from(port)),
                DoorbellAddress::Mmio(address) => IoEventAddress::Mmio(address),
            },
            matching,
            bell: bell.try_clone()?,
        };
        registered.assign()?;
        Ok(Box::new(registered))
    }
}

struct Registered {
    vm: Arc<Vm>,
    address: IoEventAddress,
    matching: Match,
    bell: EventFd,
}

impl Registered {
    fn assign(&self) -> io::Result<()> {
        let (fd, bell, at) = (&self.vm.fd, &self.bell, &self.address);
        match self.matching {
            Match::Any => fd.register_ioevent(bell, at, NoDatamatch),
            Match::Byte(value) => fd.register_ioevent(bell, at, value),
            Match::Word(value) => fd.register_ioevent(bell, at, value),
            Match::Dword(value) => fd.register_ioevent(bell, at, value),
            Match::Qword(value) => fd.register_ioevent(bell, at, value),
        }
        .map_err(io::Error::from)
    }
}

impl Doorbell for Registered {}

impl Drop for Registered {
    fn drop(&mut self) {
        let (fd, bell, at) = (&self.vm.fd, &self.bell, &self.address);
        let result = match self.matching {
            Match::Any => fd.unregister_ioevent(bell, at, NoDatamatch),
            Match::Byte(value) => fd.unregister_ioevent(bell, at, value),
            Match::Word(value) => fd.unregister_ioevent(bell, at, value),
            Match::Dword(value) => fd.unregister_ioevent(bell, at, value),
            Match::Qword(value) => fd.unregister_ioevent(bell, at, value),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "a doorbell could not be taken away");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_and_values_fit_together() {
        assert_eq!(Match::new(0, None), Some(Match::Any));
        assert_eq!(Match::new(2, None), Some(Match::Any));
        assert_eq!(Match::new(2, Some(7)), Some(Match::Word(7)));
        assert_eq!(Match::new(4, Some(7)), Some(Match::Dword(7)));
        assert_eq!(Match::new(2, Some(0x1_0000)), None, "wider than the write");
        assert_eq!(Match::new(3, Some(1)), None);
        assert_eq!(Match::new(0, Some(1)), None);
    }
}
