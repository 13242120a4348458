//! What the transport saves: registers, where its queues stand, interrupts. A running device is
//! never saved: it is paused, so nothing is in flight except requests that were parked, and those
//! are named by their heads.

use super::registers::{QueueRegisters, Registers, status};
use crate::pci::config::ConfigState;
use crate::pci::msix::MsixState;
use crate::state::{Origin, StateError};
use crate::virtio::queue::QueuePosition;
use serde::{Deserialize, Serialize};

pub(super) const KIND: &str = "virtio-pci";
pub(super) const VERSION: u32 = 1;

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueueState {
    size: u16,
    vector: u16,
    enabled: bool,
    descriptors: u64,
    available: u64,
    used: u64,
    next_available: u16,
    next_used: u16,
    parked: Vec<u16>,
}

/// The transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TransportState {
    pub(super) config: ConfigState,
    pub(super) msix: MsixState,
    pub(super) isr: u8,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    generation: u8,
    queue_select: u16,
    queues: Vec<QueueState>,
}

impl TransportState {
    /// The state of `registers`, with `positions` of the queues that are on.
    pub(super) fn new(
        config: ConfigState,
        msix: MsixState,
        isr: u8,
        registers: &Registers,
        positions: &[Option<QueuePosition>],
    ) -> Self {
        let queues = registers.queues.iter().enumerate().map(|(index, queue)| {
            let position = positions.get(index).and_then(Option::as_ref);
            QueueState {
                size: queue.size,
                vector: queue.vector,
                enabled: queue.enabled,
                descriptors: queue.descriptors,
                available: queue.available,
                used: queue.used,
                next_available: position.map_or(0, |position| position.next_available),
                next_used: position.map_or(0, |position| position.next_used),
                parked: position.map_or_else(Vec::new, |position| position.parked.clone()),
            }
        });
        Self {
            config,
            msix,
            isr,
            device_feature_select: registers.device_feature_select,
            driver_feature_select: registers.driver_feature_select,
            driver_features: registers.driver_features,
            config_vector: registers.config_vector,
            status: registers.status,
            generation: registers.generation,
            queue_select: registers.queue_select,
            queues: queues.collect(),
        }
    }

    /// Fills power-on registers with what was saved, and answers where the queues stood.
    ///
    /// # Errors
    /// What does not fit this device.
    pub(super) fn restore(&self, registers: &mut Registers) -> Result<Vec<QueuePosition>, String> {
        if self.queues.len() != registers.queues.len() {
            return Err(format!(
                "{} queues were saved, the device has {}",
                self.queues.len(),
                registers.queues.len()
            ));
        }
        let missing = self.driver_features & !registers.offered();
        let agreed = self.status & status::FEATURES_OK != 0;
        if agreed && !registers.acceptable(self.driver_features) {
            return Err(format!(
                "the guest uses features {missing:#x} that this device does not offer"
            ));
        }
        for (saved, queue) in self.queues.iter().zip(&mut registers.queues) {
            if !saved.size.is_power_of_two() || saved.size > queue.max_size {
                return Err(format!(
                    "a queue of {} entries, the device has at most {}",
                    saved.size, queue.max_size
                ));
            }
            *queue = QueueRegisters {
                max_size: queue.max_size,
                size: saved.size,
                vector: saved.vector,
                enabled: saved.enabled,
                descriptors: saved.descriptors,
                available: saved.available,
                used: saved.used,
            };
        }
        registers.device_feature_select = self.device_feature_select;
        registers.driver_feature_select = self.driver_feature_select;
        registers.driver_features = self.driver_features;
        registers.config_vector = self.config_vector;
        registers.status = self.status;
        registers.generation = self.generation;
        registers.queue_select = self.queue_select;
        let position = |saved: &QueueState| QueuePosition {
            next_available: saved.next_available,
            next_used: saved.next_used,
            parked: saved.parked.clone(),
        };
        Ok(self.queues.iter().map(position).collect())
    }
}

/// The saved state, if there is any.
pub(super) fn load(id: &str, origin: Origin<'_>) -> Result<Option<TransportState>, StateError> {
    origin.payload(id, KIND, VERSION)
}

/// The error for state that does not fit.
pub(super) fn invalid(id: &str, reason: String) -> StateError {
    StateError::Invalid {
        device: id.into(),
        kind: KIND.into(),
        reason,
    }
}
