//! Reading and writing model-specific registers, one failure at a time.
//!
//! KVM stops at the first register that it does not take and says how many it did. Which ones it
//! takes differs between hosts (a paravirtual host lists some that it will not set), so a short
//! answer is never fatal here: the register is skipped and the rest goes on.

use super::{KvmError, Vcpu};
use crate::arch::state::Msr;
use kvm_bindings::{Msrs, kvm_msr_entry};

impl Vcpu {
    /// Reads `indices`; those that this host does not have are left out.
    ///
    /// # Errors
    /// [`KvmError::Call`] when the call itself fails.
    pub fn msrs(&self, indices: &[u32]) -> Result<Vec<Msr>, KvmError> {
        let mut found = Vec::with_capacity(indices.len());
        let mut rest = indices;
        while !rest.is_empty() {
            let entries: Vec<_> = rest
                .iter()
                .take(MAX_AT_ONCE)
                .map(|index| kvm_msr_entry {
                    index: *index,
                    ..Default::default()
                })
                .collect();
            let mut msrs = wrap(&entries)?;
            let count = self
                .fd
                .get_msrs(&mut msrs)
                .map_err(KvmError::call("reading MSRs"))?;
            found.extend(msrs.as_slice().iter().take(count).map(|entry| Msr {
                index: entry.index,
                value: entry.data,
            }));
            // The one after the last that was read is the one that cannot be.
            let done = if count == entries.len() {
                count
            } else {
                count + 1
            };
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(found)
    }

    /// Writes one register; false when this host does not take the value.
    ///
    /// # Errors
    /// [`KvmError::Call`] when the call itself fails.
    pub fn set_msr(&self, msr: Msr) -> Result<bool, KvmError> {
        let msrs = wrap(&[kvm_msr_entry {
            index: msr.index,
            data: msr.value,
            ..Default::default()
        }])?;
        let count = self
            .fd
            .set_msrs(&msrs)
            .map_err(KvmError::call(format!("writing MSR {:#x}", msr.index)))?;
        Ok(count == 1)
    }
}

/// KVM takes at most 256 in one call.
const MAX_AT_ONCE: usize = 256;

fn wrap(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries).map_err(|error| KvmError::Call {
        what: format!("{} MSRs in one call", entries.len()),
        source: std::io::Error::other(format!("{error:?}")),
    })
}
