//! The memory map, as both boot protocols hand it over: RAM less what the legacy area and the
//! firmware tables keep, plus the ECAM window as reserved (PCI Firmware 3.2 §4.1.2 wants it out of
//! RAM and claimed). It must never offer an address that is not RAM.

use super::layout::{HIGH_RAM, LOW_RAM_END};
use super::{BootBoard, BootError, Span};

/// Entries that fit into the zero page's table.
pub(super) const MAX_ENTRIES: usize = 128;

/// What a span of the map is; the numbers are the E820 and PVH types (ACPI 6.3 §15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// RAM that the guest may use.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
}

/// One entry of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) span: Span,
    pub(super) kind: Kind,
}

/// The map, ascending and without overlaps.
pub(super) fn entries(input: &BootBoard<'_>) -> Result<Vec<Entry>, BootError> {
    check(input)?;
    let hole = Span::new(LOW_RAM_END, HIGH_RAM - LOW_RAM_END);
    let mut map = Vec::with_capacity(input.ram.len() + 4);
    for ram in input.ram {
        for part in without(*ram, hole).into_iter().flatten() {
            map.push(Entry {
                span: part,
                kind: Kind::Ram,
            });
        }
    }
    for span in [
        Span::new(LOW_RAM_END, 0xa_0000 - LOW_RAM_END),
        Span::new(
            super::layout::ACPI.base,
            HIGH_RAM - super::layout::ACPI.base,
        ),
        input.pci.ecam,
    ] {
        map.push(Entry {
            span,
            kind: Kind::Reserved,
        });
    }
    map.sort_by_key(|entry| entry.span.base);
    if map.len() > MAX_ENTRIES {
        return Err(BootError::Machine(format!(
            "its memory map has {} parts; a boot protocol takes {MAX_ENTRIES}",
            map.len()
        )));
    }
    Ok(map)
}

/// The one or two parts of `span` outside `hole`.
fn without(span: Span, hole: Span) -> [Option<Span>; 2] {
    let below = Span::new(
        span.base,
        span.end().min(hole.base).saturating_sub(span.base),
    );
    let above_base = span.base.max(hole.end());
    let above = Span::new(above_base, span.end().saturating_sub(above_base));
    [below, above].map(|part| (part.len > 0).then_some(part))
}

fn check(input: &BootBoard<'_>) -> Result<(), BootError> {
    let wrong = |text: String| Err(BootError::Machine(text));
    match input.ram.first() {
        Some(first) if first.base == 0 && first.len >= HIGH_RAM => {}
        _ => return wrong("its RAM does not begin with the first megabyte".into()),
    }
    let mut end = 0;
    for ram in input.ram {
        if ram.len == 0 || ram.base < end || ram.base.checked_add(ram.len).is_none() {
            return wrong(format!(
                "RAM at {:#x} ({} bytes) is empty or not above the RAM before it",
                ram.base, ram.len
            ));
        }
        if ram.overlaps(input.pci.ecam) {
            return wrong(format!(
                "RAM at {:#x} lies over the ECAM window at {:#x}",
                ram.base, input.pci.ecam.base
            ));
        }
        end = ram.end();
    }
    Ok(())
}
