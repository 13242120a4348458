//! How drivers reach virtio devices.

pub mod pci;
