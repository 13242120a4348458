//! Saving and restoring a vCPU: order matters, and so does what this host can do.
//!
//! The multiprocessing state is read first, since reading it lets the local APIC take INIT and
//! start-up interrupts that are on their way. On restore the APIC base (in the system registers)
//! comes before the APIC page, the page before the MSRs (the deadline timer needs the timer's
//! mode), the TSC before the deadline, and events last.

use super::{KvmError, Vcpu};
use crate::arch::state::{VcpuState, from_hex, to_hex};
use kvm_bindings::{
    Xsave, kvm_lapic_state, kvm_mp_state, kvm_xcr, kvm_xcrs, kvm_xsave, kvm_xsave2,
};
use std::io;
use vmm_sys_util::fam::FamStruct;

const MSR_TSC: u32 = 0x10;
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// Memory type range registers (Intel SDM 4 §2.1): part of a guest's state that KVM's list leaves
/// out on some kernels.
const MTRRS: [u32; 28] = [
    0x2ff, 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x200,
    0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d,
    0x20e, 0x20f,
];

/// The MSRs to save, from KVM's list: no duplicates, the TSC first, the deadline last.
pub fn state_msrs(listed: &[u32]) -> Vec<u32> {
    let mut indices: Vec<u32> = listed.iter().chain(&MTRRS).copied().collect();
    indices.sort_unstable();
    indices.dedup();
    indices.sort_by_key(|index| match *index {
        MSR_TSC => 0,
        MSR_TSC_DEADLINE => 2,
        _ => 1,
    });
    indices
}

impl Vcpu {
    /// Reads everything, with the MSRs in `msrs`. The vCPU must stand still.
    ///
    /// # Errors
    /// [`KvmError::Call`] with the part that failed.
    pub fn save(&mut self, msrs: &[u32]) -> Result<VcpuState, KvmError> {
        self.settle()?;
        let has = self.capabilities;
        let mp_state = self.fd.get_mp_state().map_err(self.failed("mp state"))?;
        let regs = self.fd.get_regs().map_err(self.failed("registers"))?;
        let sregs = self.fd.get_sregs().map_err(self.failed("segments"))?;
        let xcrs = if has.xcrs {
            let xcrs = self.fd.get_xcrs().map_err(self.failed("XCRs"))?;
            let count = usize::try_from(xcrs.nr_xcrs).unwrap_or(0);
            Some(
                xcrs.xcrs
                    .iter()
                    .take(count)
                    .map(|x| (x.xcr, x.value))
                    .collect(),
            )
        } else {
            None
        };
        let debug = if has.debugregs {
            let debug = self.fd.get_debug_regs();
            Some((&debug.map_err(self.failed("debug registers"))?).into())
        } else {
            None
        };
        let lapic = self.fd.get_lapic().map_err(self.failed("local APIC"))?;
        let tsc_khz = if has.tsc_khz {
            self.fd.get_tsc_khz().ok()
        } else {
            None
        };
        let xsave = self.save_xsave()?;
        let msrs = self.msrs(msrs)?;
        let events = if has.vcpu_events {
            let events = self.fd.get_vcpu_events();
            Some((&events.map_err(self.failed("events"))?).into())
        } else {
            None
        };
        Ok(VcpuState {
            mp_state: mp_state.mp_state,
            registers: (&regs).into(),
            system: (&sregs).into(),
            xcrs,
            xsave,
            debug,
            lapic: to_hex(&lapic.regs.map(i8::cast_unsigned)),
            msrs,
            events,
            tsc_khz,
            held_interrupt: self.held,
        })
    }

    /// Writes everything. Returns the MSRs that this host would not take.
    ///
    /// # Errors
    /// [`KvmError::Call`] with the part that failed.
    pub fn restore(&mut self, state: &VcpuState) -> Result<Vec<u32>, KvmError> {
        let has = self.capabilities;
        self.held = state.held_interrupt;
        self.given = false;
        if let Some(khz) = state.tsc_khz.filter(|_| has.tsc_control) {
            self.fd
                .set_tsc_khz(khz)
                .map_err(self.failed("TSC frequency"))?;
        }
        self.fd
            .set_sregs(&(&state.system).into())
            .map_err(self.failed("segments"))?;
        self.fd
            .set_regs(&(&state.registers).into())
            .map_err(self.failed("registers"))?;
        self.restore_xcrs(state)?;
        if let Some(text) = &state.xsave {
            self.restore_xsave(text)?;
        }
        if let Some(debug) = state.debug.as_ref().filter(|_| has.debugregs) {
            self.fd
                .set_debug_regs(&debug.into())
                .map_err(self.failed("debug registers"))?;
        }
        self.fd
            .set_lapic(&self.lapic_of(&state.lapic)?)
            .map_err(self.failed("local APIC"))?;
        let mut refused = Vec::new();
        for msr in &state.msrs {
            if !self.set_msr(*msr)? {
                refused.push(msr.index);
            }
        }
        let mp_state = kvm_mp_state {
            mp_state: state.mp_state,
        };
        self.fd
            .set_mp_state(mp_state)
            .map_err(self.failed("mp state"))?;
        if let Some(events) = state.events.as_ref().filter(|_| has.vcpu_events) {
            self.fd
                .set_vcpu_events(&events.into())
                .map_err(self.failed("events"))?;
        }
        Ok(refused)
    }

    fn restore_xcrs(&self, state: &VcpuState) -> Result<(), KvmError> {
        let Some(saved) = state.xcrs.as_ref().filter(|saved| !saved.is_empty()) else {
            return Ok(());
        };
        let mut xcrs = kvm_xcrs::default();
        for (slot, (xcr, value)) in xcrs.xcrs.iter_mut().zip(saved) {
            *slot = kvm_xcr {
                xcr: *xcr,
                value: *value,
                ..Default::default()
            };
            xcrs.nr_xcrs += 1;
        }
        if !self.capabilities.xcrs {
            return Err(self.unusable("XCRs", "this host's KVM has none"));
        }
        self.fd.set_xcrs(&xcrs).map_err(self.failed("XCRs"))
    }

    fn save_xsave(&self) -> Result<Option<String>, KvmError> {
        if self.capabilities.xsave2 > 0 {
            let mut area = self.xsave_area()?;
            // SAFETY: the area has the size that KVM_CAP_XSAVE2 asks for, and no feature is
            // enabled dynamically after it was asked.
            unsafe { self.fd.get_xsave2(&mut area) }.map_err(self.failed("XSAVE area"))?;
            let base = area.as_fam_struct_ref().xsave.region.iter();
            let words = base.chain(area.as_slice().iter());
            return Ok(Some(words_to_hex(words)));
        }
        if !self.capabilities.xsave {
            return Ok(None);
        }
        let area = self.fd.get_xsave().map_err(self.failed("XSAVE area"))?;
        Ok(Some(words_to_hex(area.region.iter())))
    }

    fn restore_xsave(&self, text: &str) -> Result<(), KvmError> {
        let bytes = from_hex(text)
            .ok_or_else(|| self.unusable("XSAVE area", "it is no hexadecimal text"))?;
        let room = self.capabilities.xsave2.max(size_of::<kvm_xsave>());
        if bytes.len() > room && bytes.iter().skip(room).any(|byte| *byte != 0) {
            let reason = format!("{} bytes, this host takes {room}", bytes.len());
            return Err(self.unusable("XSAVE area", reason));
        }
        let mut words = bytes.chunks_exact(4).map(|four| {
            four.iter()
                .rev()
                .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
        });
        let mut area = self.xsave_area()?;
        let mut base = kvm_xsave::default();
        for word in &mut base.region {
            *word = words.next().unwrap_or(0);
        }
        // SAFETY: the flexible part keeps its length; only the fixed part is replaced.
        unsafe { area.as_mut_fam_struct() }.xsave.region = base.region;
        for word in area.as_mut_slice() {
            *word = words.next().unwrap_or(0);
        }
        // SAFETY: the area has the size that KVM_CAP_XSAVE2 asks for, or the fixed 4096 bytes on
        // a kernel that knows no other.
        unsafe { self.fd.set_xsave2(&area) }.map_err(self.failed("XSAVE area"))
    }

    fn xsave_area(&self) -> Result<Xsave, KvmError> {
        let extra = self
            .capabilities
            .xsave2
            .saturating_sub(size_of::<kvm_xsave>())
            .div_ceil(size_of::<<kvm_xsave2 as FamStruct>::Entry>());
        Xsave::new(extra).map_err(|error| self.unusable("XSAVE area", format!("{error:?}")))
    }

    fn lapic_of(&self, text: &str) -> Result<kvm_lapic_state, KvmError> {
        let bytes = from_hex(text);
        let bytes = bytes.filter(|bytes| bytes.len() == size_of::<kvm_lapic_state>());
        let bytes = bytes.ok_or_else(|| self.unusable("local APIC", "it is not 1024 bytes"))?;
        let mut lapic = kvm_lapic_state::default();
        for (register, byte) in lapic.regs.iter_mut().zip(bytes) {
            *register = byte.cast_signed();
        }
        Ok(lapic)
    }

    fn failed(&self, part: &str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
        KvmError::call(format!("{part} of vCPU {}", self.index))
    }

    fn unusable(&self, part: &str, reason: impl Into<String>) -> KvmError {
        KvmError::Call {
            what: format!("saved {part} of vCPU {}", self.index),
            source: io::Error::new(io::ErrorKind::InvalidData, reason.into()),
        }
    }
}

fn words_to_hex<'a>(words: impl Iterator<Item = &'a u32>) -> String {
    let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
    to_hex(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tsc_comes_first_and_the_deadline_last() {
        let order = state_msrs(&[0x174, 0x6e0, 0x10, 0x174, 0xc000_0081]);
        assert_eq!(order.first(), Some(&MSR_TSC));
        assert_eq!(order.last(), Some(&MSR_TSC_DEADLINE));
        assert_eq!(order.iter().filter(|index| **index == 0x174).count(), 1);
        assert!(order.contains(&0x2ff));
    }
}
