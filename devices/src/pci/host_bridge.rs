//! The host bridge 00:00.0: Intel's Q35 MCH (8086:29c0), as firmware expects it.
//!
//! Only PCIEXBAR (offset 0x60, Intel 3 Series datasheet §5.1.16) does something: it moves the ECAM.
//! The PAM and SMRAM registers can be written and read back: what they would hide is RAM, always.

use super::config::{ConfigBuilder, ConfigSpace, Identity};
use super::{ECAM_BASE, ECAM_SIZE};

const PCIEXBAR: u16 = 0x60;
/// The area answers.
const PCIEXBAR_ENABLE: u64 = 1;
/// Bits 2:1 choose its length; 00 is 256 MiB.
const PCIEXBAR_LENGTH: u64 = 0b110;

/// The register file at power-on; without firmware the ECAM has its place already.
pub(super) fn config(firmware: bool) -> ConfigSpace {
    let mut builder = ConfigBuilder::endpoint(Identity {
        vendor: 0x8086,
        device: 0x29c0,
        revision: 0,
        class: 0x06_0000,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
    });
    if !firmware {
        builder.set(PCIEXBAR, &(ECAM_BASE | PCIEXBAR_ENABLE).to_le_bytes());
    }
    // 36 address bits, as the chip has; 256 MiB steps.
    builder.allow(PCIEXBAR, &0xf_f000_0007_u64.to_le_bytes());
    builder.allow(0x90, &[0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]); // PAM0 to PAM6
    builder.allow(0x9d, &[0x48, 0xff]); // SMRAM, ESMRAMC
    builder.build()
}

/// Where the ECAM answers, if it does, and how long it is.
pub(super) fn ecam(config: &ConfigSpace) -> Option<(u64, u64)> {
    let value = u64::from(config.u32(PCIEXBAR)) | u64::from(config.u32(PCIEXBAR + 4)) << 32;
    let length = match (value & PCIEXBAR_LENGTH) >> 1 {
        0 => ECAM_SIZE,
        1 => ECAM_SIZE / 2,
        2 => ECAM_SIZE / 4,
        _ => return None,
    };
    (value & PCIEXBAR_ENABLE != 0).then_some((value & 0xf_f000_0000, length))
}
