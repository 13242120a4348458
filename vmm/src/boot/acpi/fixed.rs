//! The tables without AML: RSDP, XSDT, FADT, FACS, MADT, MCFG, byte by byte as the specification
//! numbers them. They are written here rather than taken from a library, because a library's next
//! version must never change what a saved guest has in its memory.

use crate::boot::{BootCpus, BootError, BootPci, layout};

/// Bytes of an RSDP of revision 2 (ACPI 6.3 §5.2.5.3).
pub(super) const RSDP_LEN: usize = 36;
const OEM_ID: &[u8; 6] = b"VM    ";
const CREATOR: &[u8; 4] = b"VM  ";
const REVISION: u32 = 1;

/// The power management block, as devices serve it: what is said here and what answers there are
/// one and the same.
mod pm {
    use devices::legacy::{pm, rtc};
    pub(super) const EVENT: u16 = pm::PM1A_EVENT;
    pub(super) const EVENT_LEN: u8 = 4;
    pub(super) const CONTROL: u16 = pm::PM1A_CONTROL;
    pub(super) const CONTROL_LEN: u8 = 2;
    pub(super) const TIMER: u16 = pm::TIMER;
    pub(super) const TIMER_LEN: u8 = 4;
    pub(super) const GPE0: u16 = pm::GPE0;
    pub(super) const GPE0_LEN: u8 = pm::GPE0_LEN;
    pub(super) const SCI: u16 = 9;
    pub(super) const RESET_PORT: u16 = pm::RESET_PORT;
    pub(super) const RESET_VALUE: u8 = pm::RESET_VALUE;
    /// RTC register of the century.
    pub(super) const CENTURY: u8 = rtc::CENTURY;
    // The flags below say 32 bits, and the DSDT's _S5 says type 0.
    const _: () = assert!(pm::TIMER_BITS == 32 && pm::SLEEP_TYPE_S5 == 0 && pm::SCI == 9);
}

/// What all tables of one machine say of their maker.
#[derive(Debug, Clone, Copy)]
pub(in crate::boot) struct Header {
    table_id: [u8; 8],
}

impl Header {
    /// The table ID is the machine version without its vendor part, in capitals.
    pub(super) fn of_machine(machine: &str) -> Self {
        let name = machine.strip_prefix("vm-").unwrap_or(machine);
        let mut table_id = [b' '; 8];
        for (slot, byte) in table_id.iter_mut().zip(name.bytes()) {
            *slot = byte.to_ascii_uppercase();
        }
        Self { table_id }
    }

    /// A table with its header and checksum (ACPI 6.3 §5.2.6).
    pub(super) fn table(self, signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 36).unwrap_or(u32::MAX);
        let mut table = Bytes::default();
        table.raw(signature).u32(len).u8(revision).u8(0);
        table.raw(OEM_ID).raw(&self.table_id).u32(REVISION);
        table.raw(CREATOR).u32(REVISION).raw(body);
        seal(&mut table.0, 9);
        table.0
    }
}

/// The byte that makes a sum of all bytes zero.
pub(in crate::boot) fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

/// Bytes in the making, little-endian.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// A generic address in I/O space (ACPI 6.3 §5.2.3.2): `bytes` wide, accessed by `access` bytes.
    fn port(&mut self, address: u16, bytes: u8, access: u8) -> &mut Self {
        let access_size = match access {
            1 => 1,
            2 => 2,
            _ => 3,
        };
        self.u8(1)
            .u8(bytes.saturating_mul(8))
            .u8(0)
            .u8(access_size)
            .u64(u64::from(address))
    }
}

/// RSDP (ACPI 6.3 §5.2.5.3), with the checksum of its first 20 bytes and the one of all.
pub(super) fn rsdp(xsdt: u64) -> Vec<u8> {
    let mut rsdp = Bytes::default();
    rsdp.raw(b"RSD PTR ").u8(0).raw(OEM_ID).u8(2).u32(0);
    seal(&mut rsdp.0, 8);
    rsdp.u32(36).u64(xsdt).u8(0).zeros(3);
    seal(&mut rsdp.0, 32);
    rsdp.0
}

/// Puts the checksum of all bytes at `at`, which is zero so far.
fn seal(bytes: &mut [u8], at: usize) {
    let sum = checksum(bytes);
    if let Some(place) = bytes.get_mut(at) {
        *place = sum;
    }
}

pub(super) fn xsdt(header: Header, tables: &[u64]) -> Vec<u8> {
    let body: Vec<u8> = tables
        .iter()
        .flat_map(|address| address.to_le_bytes())
        .collect();
    header.table(b"XSDT", 1, &body)
}

/// FACS, version 2, without a waking vector: we do not sleep (ACPI 6.3 §5.2.10).
pub(super) fn facs() -> Vec<u8> {
    let mut facs = Bytes::default();
    facs.raw(b"FACS").u32(64).zeros(24).u8(2).zeros(31);
    facs.0
}

mod fadt_flags {
    /// WBINVD works.
    pub(super) const WBINVD: u32 = 1 << 0;
    /// C1 is there on all processors.
    pub(super) const PROC_C1: u32 = 1 << 2;
    /// There is no fixed sleep button. (The power button is fixed hardware: its bit stays clear.)
    pub(super) const SLP_BUTTON: u32 = 1 << 5;
    /// RTC wake-up is not in the fixed registers.
    pub(super) const FIX_RTC: u32 = 1 << 6;
    /// The timer has 32 bits.
    pub(super) const TMR_VAL_EXT: u32 = 1 << 8;
    /// The reset register works.
    pub(super) const RESET_REG_SUP: u32 = 1 << 10;
}

mod boot_arch {
    /// Legacy devices are there: serial ports, RTC.
    pub(super) const LEGACY_DEVICES: u16 = 1 << 0;
    /// An 8042 is there.
    pub(super) const I8042: u16 = 1 << 1;
    /// No VGA: probing for it would only cost time.
    pub(super) const NO_VGA: u16 = 1 << 2;
    /// ASPM must not be turned on.
    pub(super) const NO_ASPM: u16 = 1 << 4;
}

/// FADT of revision 6.3 (ACPI 6.3 §5.2.9). Not hardware-reduced: stock firmware and Windows drive
/// the fixed registers. No SMI command port: the machine is in ACPI mode from the start.
pub(super) fn fadt(header: Header, facs: u64, dsdt: u64) -> Vec<u8> {
    let low = |address: u64| u32::try_from(address).unwrap_or_default();
    let mut fadt = Bytes::default();
    fadt.u32(low(facs)).u32(low(dsdt));
    fadt.u8(0).u8(0).u16(pm::SCI); // reserved; profile unspecified; SCI
    fadt.u32(0).zeros(4); // SMI command; enable, disable, S4BIOS, P-state
    for block in [pm::EVENT, 0, pm::CONTROL, 0, 0, pm::TIMER, pm::GPE0, 0] {
        fadt.u32(u32::from(block));
    }
    fadt.u8(pm::EVENT_LEN).u8(pm::CONTROL_LEN).u8(0);
    fadt.u8(pm::TIMER_LEN).u8(pm::GPE0_LEN).u8(0).u8(0).u8(0);
    fadt.u16(0xfff).u16(0xfff); // C2 and C3 are not there
    fadt.u16(0).u16(0).u8(0).u8(0); // cache flush sizes, duty cycle
    fadt.u8(0).u8(0).u8(pm::CENTURY); // day and month alarms: none
    fadt.u16(boot_arch::LEGACY_DEVICES | boot_arch::I8042 | boot_arch::NO_VGA | boot_arch::NO_ASPM);
    fadt.u8(0).u32(
        fadt_flags::WBINVD
            | fadt_flags::PROC_C1
            | fadt_flags::SLP_BUTTON
            | fadt_flags::FIX_RTC
            | fadt_flags::TMR_VAL_EXT
            | fadt_flags::RESET_REG_SUP,
    );
    fadt.port(pm::RESET_PORT, 1, 1).u8(pm::RESET_VALUE);
    fadt.u16(0).u8(3); // ARM; minor version
    fadt.u64(0).u64(dsdt); // one FACS address only may be given
    fadt.port(pm::EVENT, pm::EVENT_LEN, 2).zeros(12);
    fadt.port(pm::CONTROL, pm::CONTROL_LEN, 2).zeros(12);
    fadt.zeros(12).port(pm::TIMER, pm::TIMER_LEN, 4);
    fadt.port(pm::GPE0, pm::GPE0_LEN, 1).zeros(12);
    fadt.zeros(24).u64(0); // sleep registers, hypervisor
    header.table(b"FACP", 6, &fadt.0)
}

/// MADT of revision 5 (ACPI 6.3 §5.2.12): the first with the online-capable bit.
pub(super) fn madt(header: Header, cpus: &BootCpus<'_>) -> Result<Vec<u8>, BootError> {
    const PCAT_COMPAT: u32 = 1;
    const ENABLED: u32 = 1;
    const ONLINE_CAPABLE: u32 = 2;
    const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
    let mut madt = Bytes::default();
    madt.u32(layout::LOCAL_APIC).u32(PCAT_COMPAT);
    for (number, id) in (0u32..).zip(cpus.apic_ids) {
        let (Ok(uid), Ok(apic)) = (u8::try_from(number), u8::try_from(*id)) else {
            return Err(no_such_cpu(number, *id));
        };
        if uid == u8::MAX || apic == u8::MAX {
            return Err(no_such_cpu(number, *id));
        }
        let present = number < cpus.present;
        let flags = if present { ENABLED } else { ONLINE_CAPABLE };
        madt.u8(0).u8(8).u8(uid).u8(apic).u32(flags);
    }
    madt.u8(1).u8(12).u8(0).u8(0).u32(layout::IOAPIC).u32(0);
    // The PIT's interrupt is on pin 2; the SCI stays where it is but is level-triggered.
    madt.u8(2).u8(10).u8(0).u8(0).u32(2).u16(0);
    madt.u8(2).u8(10).u8(0).u8(9);
    madt.u32(u32::from(pm::SCI)).u16(ACTIVE_HIGH_LEVEL);
    // NMI on LINT1 of all processors.
    madt.u8(4).u8(6).u8(0xff).u16(0).u8(1);
    Ok(header.table(b"APIC", 5, &madt.0))
}

fn no_such_cpu(number: u32, id: u32) -> BootError {
    BootError::Machine(format!(
        "vCPU {number} has APIC ID {id}; 0 to 254 can be described"
    ))
}

/// MCFG (PCI Firmware 3.2 §4.1.2): one segment, with the buses that there can be.
pub(super) fn mcfg(header: Header, pci: &BootPci<'_>) -> Result<Vec<u8>, BootError> {
    let buses = u64::from(pci.last_bus) + 1;
    if buses << 20 > pci.ecam.len {
        return Err(BootError::Machine(format!(
            "its ECAM window has {:#x} bytes, too few for {buses} buses of 1 MiB",
            pci.ecam.len
        )));
    }
    let mut mcfg = Bytes::default();
    mcfg.zeros(8).u64(pci.ecam.base).u16(0);
    mcfg.u8(0).u8(pci.last_bus).zeros(4);
    Ok(header.table(b"MCFG", 1, &mcfg.0))
}
