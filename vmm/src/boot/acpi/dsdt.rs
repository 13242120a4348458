//! The DSDT: what an operating system cannot find by probing, in AML.
//!
//! ```text
//! \_S5              power off is sleep type 0
//! \_SB.PCI0         the root bus: windows, interrupt routing, native hot-plug
//! \_SB.PCI0.ISA     00:1f.0, below it the serial ports present, RTC, keyboard, mouse,
//!                   and the panic and firmware configuration devices where they are
//! \_SB.ECAM         claims the ECAM window, without which it would not be used
//! ```
//!
//! Root ports are not named: they are found on the bus, their slots are theirs to describe (native
//! hot-plug), and a `_SUN` here would rename the guest's network interfaces from `enp1s0` to `ens1`.
//! Processors are not named either: the MADT has them, and nothing is throttled or put to sleep by AML.

use crate::boot::{BootBoard, BootError, BootPci, Span};
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal,
    IO, If, Interrupt, Local, Memory32Fixed, Method, Name, NotEqual, ONE, Or, Package,
    PackageBuilder, Path, ResourceTemplate, Return, Scope, Store, Uuid, ZERO,
};
use devices::legacy::{fw_cfg, pvpanic};

/// First GSI of the four that PCI pins share.
const FIRST_PIN_GSI: u32 = 16;
/// Base port and GSI of COM1 to COM4.
const SERIAL_PORTS: [(u16, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];
/// `_OSC` control bits that we give (PCI Firmware 3.2 §4.5.1): native hot-plug, PME, capability
/// structure. Not SHPC and AER, which no device here has.
const OSC_GIVEN: u32 = 0b1_0101;

/// The GSI of pin 0 (INTA) to 3 (INTD) of the device in `slot` of bus 0.
pub(super) fn pin_gsi(slot: u32, pin: u32) -> u32 {
    FIRST_PIN_GSI + (slot + pin) % 4
}

/// The AML of the machine.
pub(super) fn build(input: &BootBoard<'_>) -> Result<Vec<u8>, BootError> {
    let mut aml = Vec::new();
    let s5 = Package::new(vec![&ZERO, &ZERO, &ZERO, &ZERO]);
    Name::new("_S5_".into(), &s5).to_aml_bytes(&mut aml);
    let root = root_bus(input)?;
    let ecam = ecam(input.pci.ecam)?;
    Scope::new("\\_SB_".into(), vec![&root, &ecam]).to_aml_bytes(&mut aml);
    Ok(aml)
}

/// AML already encoded.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn raw(part: &dyn Aml) -> Raw {
    let mut bytes = Vec::new();
    part.to_aml_bytes(&mut bytes);
    Raw(bytes)
}

fn root_bus(input: &BootBoard<'_>) -> Result<Raw, BootError> {
    let isa = isa(input)?;
    Ok(raw(&Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &windows(&input.pci)?),
            &Name::new("_PRT".into(), &routing()),
            &osc(),
            &isa,
        ],
    )))
}

/// What the root bus decodes: the buses that there can be, all ports but the configuration ports, VGA memory, and the
/// windows for BARs.
fn windows(pci: &BootPci<'_>) -> Result<Raw, BootError> {
    let uncached = AddressSpaceCacheable::NotCacheable;
    let mut memory = vec![AddressSpace::new_memory(
        AddressSpaceCacheable::Cacheable,
        true,
        0xa_0000u32,
        0xb_ffff,
        None,
    )];
    for window in pci.mmio32 {
        let (first, last) = ends(*window)?;
        let (Ok(first), Ok(last)) = (u32::try_from(first), u32::try_from(last)) else {
            return Err(window_error(*window));
        };
        memory.push(AddressSpace::new_memory(uncached, true, first, last, None));
    }
    let high = match pci.mmio64 {
        Some(window) => {
            let (first, last) = ends(window)?;
            Some(AddressSpace::new_memory(
                AddressSpaceCacheable::Cacheable,
                true,
                first,
                last,
                None,
            ))
        }
        None => None,
    };
    let buses = AddressSpace::new_bus_number(0, u16::from(pci.last_bus));
    let ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let low_io = AddressSpace::new_io(0u16, 0xcf7, None);
    let high_io = AddressSpace::new_io(0xd00u16, 0xffff, None);
    let mut parts: Vec<&dyn Aml> = vec![&buses, &ports, &low_io, &high_io];
    parts.extend(memory.iter().map(|part| part as &dyn Aml));
    parts.extend(high.iter().map(|part| part as &dyn Aml));
    Ok(raw(&ResourceTemplate::new(parts)))
}

/// First and last address of a window.
fn ends(window: Span) -> Result<(u64, u64), BootError> {
    let last = window
        .len
        .checked_sub(1)
        .and_then(|rest| window.base.checked_add(rest));
    match last {
        // The length of the whole address space has no 64-bit number.
        Some(last) if window.len < u64::MAX => Ok((window.base, last)),
        _ => Err(window_error(window)),
    }
}

fn window_error(window: Span) -> BootError {
    BootError::Machine(format!(
        "its PCI window at {:#x} ({:#x} bytes) is empty or passes its address space",
        window.base, window.len
    ))
}

/// `_PRT`: the pins of all slots of the root bus, wired straight to the IOAPIC. Devices behind root
/// ports follow by the usual swizzle.
fn routing() -> PackageBuilder {
    let mut routing = PackageBuilder::new();
    for slot in 0..32u32 {
        for pin in 0..4u32 {
            let address = (slot << 16) | 0xffff;
            routing.add_element(&Package::new(vec![
                &address,
                &pin,
                &ZERO,
                &pin_gsi(slot, pin),
            ]));
        }
    }
    routing
}

/// `_OSC` (ACPI 6.3 §6.2.11): gives control of what we have, and says so when more was asked for.
fn osc() -> Raw {
    let given = Local(0);
    let capability = |name: &str| Path::new(name);
    raw(&Method::new(
        "_OSC".into(),
        4,
        true,
        vec![
            &CreateDWordField::new(&capability("CDW1"), &Arg(3), &ZERO),
            &If::new(
                &Equal::new(&Arg(0), &Uuid::new("33DB4D5B-1FF7-401C-9657-7441C03DD766")),
                vec![
                    &CreateDWordField::new(&capability("CDW3"), &Arg(3), &8u8),
                    &And::new(&given, &capability("CDW3"), &OSC_GIVEN),
                    // Only revision 1 is known.
                    &If::new(
                        &NotEqual::new(&Arg(1), &ONE),
                        vec![&Or::new(&capability("CDW1"), &capability("CDW1"), &8u8)],
                    ),
                    // Something was masked.
                    &If::new(
                        &NotEqual::new(&given, &capability("CDW3")),
                        vec![&Or::new(&capability("CDW1"), &capability("CDW1"), &16u8)],
                    ),
                    &Store::new(&capability("CDW3"), &given),
                ],
            ),
            // An interface that is not known.
            &Else::new(vec![&Or::new(
                &capability("CDW1"),
                &capability("CDW1"),
                &4u8,
            )]),
            &Return::new(&Arg(3)),
        ],
    ))
}

fn isa(board: &BootBoard<'_>) -> Result<Raw, BootError> {
    let mut devices = vec![
        device("RTC_", "PNP0B00", None, &[(0x70, 2)], 8),
        device("KBD_", "PNP0303", None, &[(0x60, 1), (0x64, 1)], 1),
        device("MOU_", "PNP0F13", None, &[], 12),
    ];
    for port in board.serial_ports {
        let Some((base, gsi)) = SERIAL_PORTS.get(usize::from(*port)) else {
            return Err(BootError::Machine(format!(
                "serial port {port}: there are 0 to 3"
            )));
        };
        let name = ["COM1", "COM2", "COM3", "COM4"]
            .get(usize::from(*port))
            .copied()
            .unwrap_or("COM1");
        let uid = port.saturating_add(1);
        devices.push(device(name, "PNP0501", Some(uid), &[(*base, 8)], *gsi));
    }
    if board.pvpanic {
        devices.push(named_device("PEVT", "QEMU0001", (pvpanic::PORT, 1)));
    }
    if board.fw_cfg {
        let ports = (fw_cfg::BASE, fw_cfg::LEN as u8);
        devices.push(named_device("FWCF", "QEMU0002", ports));
    }
    let address = Name::new("_ADR".into(), &0x001f_0000u32);
    let mut parts: Vec<&dyn Aml> = vec![&address];
    parts.extend(devices.iter().map(|device| device as &dyn Aml));
    Ok(raw(&Device::new("ISA_".into(), parts)))
}

/// A device that drivers look for by a name, with its ports (base, count).
fn named_device(name: &str, hid: &'static str, (base, count): (u16, u8)) -> Raw {
    let port = IO::new(base, base, 1, count);
    let ports = ResourceTemplate::new(vec![&port]);
    raw(&Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), &hid),
            &Name::new("_CRS".into(), &ports),
            // Present, on and shown.
            &Name::new("_STA".into(), &0x0fu8),
        ],
    ))
}

/// An ISA device with its ports (base, count) and its edge-triggered interrupt.
fn device(name: &str, hid: &str, uid: Option<u8>, ports: &[(u16, u8)], gsi: u32) -> Raw {
    let hid = Name::new("_HID".into(), &EISAName::new(hid));
    let uid = uid.map(|uid| Name::new("_UID".into(), &uid));
    let ports: Vec<IO> = ports
        .iter()
        .map(|(base, count)| IO::new(*base, *base, 1, *count))
        .collect();
    let interrupt = Interrupt::new(true, true, false, false, gsi);
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|part| part as &dyn Aml).collect();
    resources.push(&interrupt);
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    let mut parts: Vec<&dyn Aml> = vec![&hid];
    parts.extend(uid.iter().map(|part| part as &dyn Aml));
    parts.push(&resources);
    raw(&Device::new(name.into(), parts))
}

fn ecam(window: Span) -> Result<Raw, BootError> {
    let (first, last) = ends(window)?;
    let (Ok(base), Ok(len), true) = (
        u32::try_from(first),
        u32::try_from(window.len),
        u32::try_from(last).is_ok(),
    ) else {
        return Err(window_error(window));
    };
    Ok(raw(&Device::new(
        "ECAM".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Memory32Fixed::new(true, base, len)]),
            ),
        ],
    )))
}
