//! bzImage (Linux, Documentation/arch/x86/boot.rst): the setup header, checked and understood.
//!
//! The real-mode part is left behind; the rest is loaded and entered at its 64-bit entry point, 0x200
//! bytes in. Nothing of the header is believed before it was held against the file's length.

use super::{FOUR_GIB, Piece, Plan, Start, le};
use crate::boot::{Span, layout};
use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

/// The setup header as both protocol and zero page have it.
pub(super) type SetupHeader = setup_header;

/// Where the header lies in the file and in the zero page.
const HEADER: usize = 0x1f1;
/// The jump's target is the header's end: 0x202 plus this byte.
const HEADER_END: usize = 0x201;
const MAGIC_AT: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
/// First version whose header says where the kernel may be loaded and how it may be entered.
const OLDEST: u16 = 0x0206;
/// First version with `xloadflags`.
const WITH_XLOADFLAGS: u16 = 0x020c;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
const SECTOR: u64 = 512;
/// Offset of the 64-bit entry in the loaded part.
const ENTRY64: u64 = 0x200;

/// The header of a file that says it is a bzImage, whatever is wrong with it otherwise.
pub(super) fn find(head: &[u8]) -> Option<SetupHeader> {
    let magic = head.get(MAGIC_AT..)?.get(..MAGIC.len())?;
    if magic != MAGIC {
        return None;
    }
    let mut header = SetupHeader::default();
    let known = header.as_slice().len();
    // Newer kernels may have a longer header, older ones a shorter one with code behind it.
    let said = MAGIC_AT + usize::from(*head.get(HEADER_END)?) - HEADER;
    let bytes = head.get(HEADER..)?;
    let bytes = bytes.get(..known.min(said).min(bytes.len()))?;
    header
        .as_mut_slice()
        .get_mut(..bytes.len())?
        .copy_from_slice(bytes);
    Some(header)
}

/// What to load of a file with this header and `file_len` bytes.
///
/// # Errors
/// What the kernel lacks, in words.
pub(super) fn plan(mut header: SetupHeader, file_len: u64) -> Result<Plan, String> {
    check_version(&header)?;
    let setup_sectors = match header.setup_sects {
        0 => 4, // the protocol's rule for the oldest kernels
        sectors => u64::from(sectors),
    };
    let offset = (setup_sectors + 1) * SECTOR;
    let bytes = file_len
        .checked_sub(offset)
        .filter(|bytes| *bytes > ENTRY64)
        .ok_or_else(|| {
            format!("the file is cut short: {file_len} bytes, of which {offset} are set-up code")
        })?;

    // A relocatable kernel is put where it wants to run and stays there; another one moves itself.
    let preferred = header.pref_address;
    let load = match header.relocatable_kernel {
        0 => layout::HIGH_RAM,
        _ => preferred,
    };
    let runs_in = Span::new(preferred, u64::from(header.init_size));
    let to = Span::new(load, bytes);
    let whole = Span::new(
        to.base.min(runs_in.base),
        to.end().max(runs_in.end()) - to.base.min(runs_in.base),
    );
    if whole.end() > FOUR_GIB || whole.base < layout::HIGH_RAM {
        return Err(format!(
            "its header asks for {:#x} to {:#x}; only 1 MiB to 4 GiB can be had",
            whole.base,
            whole.end()
        ));
    }
    let code32 = u32::try_from(load).map_err(|_| format!("it wants to be loaded at {load:#x}"))?;
    header.code32_start = code32;
    let cmdline_limit = usize::try_from(header.cmdline_size).unwrap_or(usize::MAX);
    let initrd_ceiling = u64::from(header.initrd_addr_max) + 1;
    Ok(Plan {
        pieces: vec![Piece { offset, bytes, to }],
        room: vec![whole],
        start: Start::Linux64 {
            entry: load + ENTRY64,
            header: Box::new(header),
        },
        end: whole.end(),
        cmdline_limit,
        initrd_ceiling,
    })
}

fn check_version(header: &SetupHeader) -> Result<(), String> {
    let version = header.version;
    let (major, minor) = (version >> 8, version & 0xff);
    if version < OLDEST {
        return Err(format!(
            "its boot protocol is {major}.{minor:02}; 2.06 (Linux 2.6.22) is the oldest that is known"
        ));
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err("it is a zImage, which loads below 1 MiB; build a bzImage".into());
    }
    if version < WITH_XLOADFLAGS || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(format!(
            "it has no 64-bit entry (boot protocol {major}.{minor:02}): a 32-bit kernel, or one \
             older than Linux 3.8; use a newer 64-bit kernel"
        ));
    }
    Ok(())
}

/// A header for a kernel that has none, with what the protocol makes mandatory.
pub(super) fn made_up() -> SetupHeader {
    SetupHeader {
        boot_flag: 0xaa55,
        header: le::u32(MAGIC, 0).unwrap_or_default(),
        version: WITH_XLOADFLAGS,
        loadflags: LOADED_HIGH,
        kernel_alignment: 0x20_0000,
        ..SetupHeader::default()
    }
}
