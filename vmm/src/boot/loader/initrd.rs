//! Where the initrd goes: as high as its limit allows, page aligned, so that the kernel has the low
//! RAM in one piece. It must never touch the kernel's own span.

use super::Plan;
use crate::boot::memory_map::{Entry, Kind};
use crate::boot::{BootError, BootFile, Span, guest};

const PAGE_MASK: u64 = 0xfff;

/// The span for `file`, which begins on a page; its length is the file's.
pub(super) fn place(file: BootFile<'_>, plan: &Plan, map: &[Entry]) -> Result<Span, BootError> {
    let size = guest::length(file)?;
    let floor = plan.end;
    let ceiling = plan.initrd_ceiling;
    map.iter()
        .rev()
        .filter(|entry| entry.kind == Kind::Ram)
        .find_map(|entry| fit(entry.span, floor, ceiling, size))
        .ok_or_else(|| BootError::InitrdTooLarge {
            name: file.name.to_string(),
            size,
            floor,
            ceiling: ceiling.min(ram_end(map, ceiling)),
        })
}

fn fit(ram: Span, floor: u64, ceiling: u64, size: u64) -> Option<Span> {
    let top = ram.end().min(ceiling);
    let base = top.checked_sub(size)? & !PAGE_MASK;
    let lowest = ram.base.max(floor);
    (base >= lowest).then(|| Span::new(base, size))
}

/// Where usable RAM below `ceiling` ends.
fn ram_end(map: &[Entry], ceiling: u64) -> u64 {
    map.iter()
        .filter(|entry| entry.kind == Kind::Ram && entry.span.base < ceiling)
        .map(|entry| entry.span.end())
        .max()
        .unwrap_or(0)
}
