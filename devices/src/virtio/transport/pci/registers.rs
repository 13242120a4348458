//! The common configuration structure (virtio 1.3 §4.1.4.3): what the driver may read and write,
//! as a pure state machine. It decides nothing about queues or threads: a write that means
//! something is answered with an [`Effect`].
//!
//! ```text
//! status: 0 --ACKNOWLEDGE, DRIVER--> --FEATURES_OK (if the features are acceptable)-->
//!         --DRIVER_OK--> live        any --0--> reset       any --device--> NEEDS_RESET
//! ```
//!
//! Rules that a driver cannot talk its way around: status bits are only ever added, except by
//! writing 0; features are fixed once FEATURES_OK is set; a queue's size, addresses and vector are
//! fixed once it is enabled; sizes are powers of two up to the maximum; vectors exist or are
//! "no vector".

use crate::virtio::{FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1};

/// Bytes of the structure.
pub(super) const LENGTH: u64 = 0x40;
/// No interrupt for this queue, or for configuration changes.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// Device status bits (virtio 1.3 §2.1).
pub(super) mod status {
    pub(in super::super) const DRIVER_OK: u8 = 4;
    pub(in super::super) const FEATURES_OK: u8 = 8;
    pub(in super::super) const NEEDS_RESET: u8 = 64;
    /// Bits that a driver sets: ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, FAILED.
    pub(super) const DRIVERS: u8 = 1 | 2 | 4 | 8 | 128;
}

/// One queue's registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueRegisters {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) vector: u16,
    pub(super) enabled: bool,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            vector: NO_VECTOR,
            enabled: false,
            descriptors: 0,
            available: 0,
            used: 0,
        }
    }
}

/// The structure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registers {
    /// Features on offer.
    offered: u64,
    /// Vectors that exist.
    vectors: u16,
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) config_vector: u16,
    pub(super) status: u8,
    pub(super) generation: u8,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<QueueRegisters>,
}

/// What a write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// The driver wrote 0 to the status: the registers still hold what was.
    Reset,
    /// DRIVER_OK was set just now.
    DriverOk,
    /// This queue was enabled just now.
    Enabled,
    /// The configuration vector changed from this.
    ConfigVector(u16),
}

impl Registers {
    /// Power-on values for a device with these features, vectors and queues.
    pub(super) fn new(features: u64, vectors: u16, queue_sizes: &[u16]) -> Self {
        Self {
            offered: features | FEATURE_VERSION_1 | FEATURE_EVENT_IDX | FEATURE_INDIRECT,
            vectors,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            generation: 0,
            queue_select: 0,
            queues: queue_sizes
                .iter()
                .copied()
                .map(QueueRegisters::new)
                .collect(),
        }
    }

    /// Power-on values; the generation goes on counting.
    pub(super) fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        let mut fresh = Self::new(self.offered, self.vectors, &sizes);
        fresh.generation = self.generation;
        *self = fresh;
    }

    /// Features on offer.
    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    /// Whether the driver may and did turn the device on.
    pub(super) fn is_live(&self) -> bool {
        self.status & status::DRIVER_OK != 0 && self.status & status::NEEDS_RESET == 0
    }

    /// Whether a feature was negotiated.
    pub(super) fn has(&self, feature: u64) -> bool {
        self.driver_features & feature != 0
    }

    /// Whether this set of features can be had.
    pub(super) fn acceptable(&self, features: u64) -> bool {
        features & !self.offered == 0 && features & FEATURE_VERSION_1 != 0
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// Fills `data` from `offset`; any width and alignment, zero behind the end.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let image = self.image();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut bytes = image.iter().skip(start);
        for byte in data {
            *byte = bytes.next().copied().unwrap_or(0);
        }
    }

    /// The structure as the driver sees it now.
    fn image(&self) -> [u8; LENGTH as usize] {
        let mut image = [0; LENGTH as usize];
        let mut put = |offset: usize, bytes: &[u8]| {
            for (target, byte) in image.iter_mut().skip(offset).zip(bytes) {
                *target = *byte;
            }
        };
        put(0x00, &self.device_feature_select.to_le_bytes());
        put(
            0x04,
            &half(self.offered, self.device_feature_select).to_le_bytes(),
        );
        put(0x08, &self.driver_feature_select.to_le_bytes());
        put(
            0x0c,
            &half(self.driver_features, self.driver_feature_select).to_le_bytes(),
        );
        put(0x10, &self.config_vector.to_le_bytes());
        let queues = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        put(0x12, &queues.to_le_bytes());
        put(0x14, &[self.status, self.generation]);
        put(0x16, &self.queue_select.to_le_bytes());
        // A queue that does not exist has size 0 and no vector.
        put(0x1a, &NO_VECTOR.to_le_bytes());
        if let Some(queue) = self.selected() {
            put(0x18, &queue.size.to_le_bytes());
            put(0x1a, &queue.vector.to_le_bytes());
            put(0x1c, &u16::from(queue.enabled).to_le_bytes());
            // Each queue has its own doorbell.
            put(0x1e, &self.queue_select.to_le_bytes());
            put(0x20, &queue.descriptors.to_le_bytes());
            put(0x28, &queue.available.to_le_bytes());
            put(0x30, &queue.used.to_le_bytes());
        }
        image
    }

    /// Takes a write; accesses of another width than the field's are dropped, except that the
    /// 64-bit addresses may be written whole or in halves.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        match (offset, data) {
            (0x14, [value]) => return self.write_status(*value),
            (_, [a, b]) => return self.write_u16(offset, u16::from_le_bytes([*a, *b])),
            (_, [a, b, c, d]) => self.write_u32(offset, u32::from_le_bytes([*a, *b, *c, *d])),
            (0x20 | 0x28 | 0x30, [a, b, c, d, high @ ..]) => {
                self.write_u32(offset, u32::from_le_bytes([*a, *b, *c, *d]));
                return self.write(offset + 4, high);
            }
            _ => {}
        }
        Effect::None
    }

    fn write_status(&mut self, value: u8) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        let before = self.status;
        let mut added = value & status::DRIVERS & !before;
        if added & status::FEATURES_OK != 0 && !self.acceptable(self.driver_features) {
            added &= !status::FEATURES_OK;
        }
        if (before | added) & status::FEATURES_OK == 0 {
            // A device without agreed features does not go live.
            added &= !status::DRIVER_OK;
        }
        self.status |= added;
        if added & status::DRIVER_OK != 0 {
            Effect::DriverOk
        } else {
            Effect::None
        }
    }

    fn write_u16(&mut self, offset: u64, value: u16) -> Effect {
        let vector = if value < self.vectors {
            value
        } else {
            NO_VECTOR
        };
        match offset {
            0x10 => {
                let before = std::mem::replace(&mut self.config_vector, vector);
                return Effect::ConfigVector(before);
            }
            0x16 => self.queue_select = value,
            _ => {
                let select = usize::from(self.queue_select);
                let Some(queue) = self.queues.get_mut(select).filter(|queue| !queue.enabled) else {
                    return Effect::None;
                };
                match offset {
                    0x18 if value.is_power_of_two() && value <= queue.max_size => {
                        queue.size = value;
                    }
                    0x1a => queue.vector = vector,
                    0x1c if value == 1 => {
                        queue.enabled = true;
                        return Effect::Enabled;
                    }
                    _ => {}
                }
            }
        }
        Effect::None
    }

    fn write_u32(&mut self, offset: u64, value: u32) {
        match offset {
            0x00 => self.device_feature_select = value,
            0x08 => self.driver_feature_select = value,
            0x0c if self.status & status::FEATURES_OK == 0 => {
                set_half(&mut self.driver_features, self.driver_feature_select, value);
            }
            0x20..0x38 => {
                let select = usize::from(self.queue_select);
                let Some(queue) = self.queues.get_mut(select).filter(|queue| !queue.enabled) else {
                    return;
                };
                let address = match offset & !7 {
                    0x20 => &mut queue.descriptors,
                    0x28 => &mut queue.available,
                    _ => &mut queue.used,
                };
                match offset & 7 {
                    0 => set_half(address, 0, value),
                    4 => set_half(address, 1, value),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// The low (0) or high (1) half; others are zero.
fn half(value: u64, which: u32) -> u32 {
    match which {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(target: &mut u64, which: u32, value: u32) {
    match which {
        0 => *target = (*target & !0xffff_ffff) | u64::from(value),
        1 => *target = (*target & 0xffff_ffff) | u64::from(value) << 32,
        _ => {}
    }
}
