//! PCI addresses, as libvirt writes them: domain, bus, slot, function.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Where a PCI function sits. The domain (segment) is always 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Bus 0 to 255; 0 is the root bus, others hang below root ports.
    pub bus: u8,
    /// Slot 0 to 31.
    pub slot: u8,
    /// Function 0 to 7.
    pub function: u8,
}

/// A text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no PCI address; write it as 0000:BB:SS.F, such as 0000:00:03.0")]
pub struct PciAddressError(String);

impl PciAddress {
    /// An address, or `None` when slot or function is out of range.
    pub fn new(bus: u8, slot: u8, function: u8) -> Option<Self> {
        (slot < 32 && function < 8).then_some(Self {
            bus,
            slot,
            function,
        })
    }

    /// Slot and function as the PCI specification packs them.
    pub fn devfn(self) -> u8 {
        (self.slot << 3) | self.function
    }

    /// Bus, slot and function as a requester ID.
    pub fn requester_id(self) -> u16 {
        (u16::from(self.bus) << 8) | u16::from(self.devfn())
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "0000:{:02x}:{:02x}.{:x}",
            self.bus, self.slot, self.function
        )
    }
}

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let rest = text.strip_prefix("0000:").unwrap_or(text);
            let (bus, rest) = rest.split_once(':')?;
            let (slot, function) = rest.split_once('.')?;
            Self::new(
                u8::from_str_radix(bus, 16).ok()?,
                u8::from_str_radix(slot, 16).ok()?,
                u8::from_str_radix(function, 16).ok()?,
            )
        };
        parse().ok_or_else(|| PciAddressError(text.to_string()))
    }
}

impl Serialize for PciAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
