//! Changing what a definition says of memory, by a command. Like every edit it leaves alone what it
//! is not about.

use super::domain::Memory;
use super::schema;
use super::value::{unit_bytes, unsigned};
use crate::xml::{Diagnostics, Document, Edits, NewElement};

/// KiB that memory is made of: a page.
const PAGE_KIB: u64 = 4;

/// An amount of memory as it is typed for virsh: a number of KiB, or of the unit behind it (`2G`,
/// `512MiB`, `1048576`). In KiB, rounded up to whole pages.
pub fn amount_kib(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = match unit.trim_start() {
        "" => 1024,
        unit => unit_bytes(unit)?,
    };
    let kib = unsigned(number)?.checked_mul(unit)?.div_ceil(1024);
    kib.checked_next_multiple_of(PAGE_KIB)
}

/// Writes into `<currentMemory>` what the balloon leaves to the guest.
///
/// # Errors
/// When the result would not parse: more than there is.
pub fn set_current_memory(document: &mut Document, kib: u64) -> Result<(), Diagnostics> {
    let mut edits = Edits::new();
    amount(document, "currentMemory", kib, &mut edits);
    document.apply(edits)
}

/// Writes how much memory there is. What the guest has of it stays as it was, as far as that goes.
///
/// # Errors
/// When the result would not parse.
pub fn set_max_memory(
    document: &mut Document,
    before: &Memory,
    kib: u64,
) -> Result<(), Diagnostics> {
    let mut edits = Edits::new();
    amount(document, "memory", kib, &mut edits);
    let said = document.root().child("currentMemory").is_some();
    if said || before.current_kib < kib {
        amount(
            document,
            "currentMemory",
            before.current_kib.min(kib),
            &mut edits,
        );
    }
    document.apply(edits)
}

/// Writes how often the guest is asked for its statistics; 0 takes it out.
///
/// # Errors
/// When the result would not parse.
pub fn set_stats_period(document: &mut Document, seconds: u32) -> Result<(), Diagnostics> {
    let mut edits = Edits::new();
    let devices = document.root().child("devices");
    let Some(balloon) = devices.and_then(|devices| devices.child("memballoon")) else {
        return Ok(());
    };
    match (balloon.child("stats"), seconds) {
        (None, 0) => {}
        (Some(stats), 0) => edits.remove(stats.id()),
        (Some(stats), _) => edits.set_attribute(stats.id(), "period", &seconds.to_string()),
        (None, _) => {
            let stats = NewElement::new("stats").attribute("period", seconds.to_string());
            edits.insert(balloon.id(), stats, schema::order("devices/memballoon"));
        }
    }
    document.apply(edits)
}

/// Notes that an element below the root is to say so many KiB.
pub(super) fn amount(document: &Document, name: &str, kib: u64, edits: &mut Edits) {
    let root = document.root();
    match root.child(name) {
        Some(element) => {
            edits.set_attribute(element.id(), "unit", "KiB");
            edits.set_text(element.id(), &kib.to_string());
        }
        None => {
            let element = NewElement::new(name)
                .attribute("unit", "KiB")
                .text(kib.to_string());
            edits.insert(root.id(), element, schema::order(""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Domain;

    const START: &str = "<domain type='kvm'>\n  <name>a</name>\n  <memory unit='MiB'>64</memory>\n  \
         <vcpu>1</vcpu>\n  <os>\n    <type>hvm</type>\n    <kernel>/k</kernel>\n  </os>\n  <devices>\n    \
         <memballoon model='virtio'/>\n  </devices>\n</domain>\n";

    fn parse(document: &Document) -> Domain {
        Domain::parse(document).expect("a definition").0
    }

    #[test]
    fn amounts_are_kib_unless_they_say_otherwise() {
        for (text, kib) in [
            ("1048576", Some(1 << 20)),
            ("2G", Some(2 << 20)),
            ("512MiB", Some(512 << 10)),
            ("1 GB", Some(976_564)),
            ("1", Some(4)),
            ("4097b", Some(8)),
            ("", None),
            ("G", None),
            ("-1", None),
            ("1.5G", None),
            ("2X", None),
            ("99999999999999999999", None),
            ("17179869184G", None),
        ] {
            assert_eq!(amount_kib(text), kib, "{text}");
        }
    }

    #[test]
    fn memory_is_changed_and_nothing_else() {
        let mut document = Document::parse(START, "a.xml").expect("XML");
        set_current_memory(&mut document, 32 << 10).expect("an edit");
        let expected = START.replace(
            "</memory>",
            "</memory>\n  <currentMemory unit='KiB'>32768</currentMemory>",
        );
        assert_eq!(document.as_str(), expected);
        let before = parse(&document).memory;
        set_max_memory(&mut document, &before, 128 << 10).expect("an edit");
        let memory = parse(&document).memory;
        assert_eq!((memory.size_kib, memory.current_kib), (128 << 10, 32 << 10));
        set_max_memory(&mut document, &memory, 16 << 10).expect("an edit");
        let memory = parse(&document).memory;
        assert_eq!((memory.size_kib, memory.current_kib), (16 << 10, 16 << 10));
    }

    #[test]
    fn more_memory_is_not_given_out_at_once() {
        let mut document = Document::parse(START, "a.xml").expect("XML");
        let before = parse(&document).memory;
        set_max_memory(&mut document, &before, 128 << 10).expect("an edit");
        let memory = parse(&document).memory;
        assert_eq!((memory.size_kib, memory.current_kib), (128 << 10, 64 << 10));
        let mut document = Document::parse(START, "a.xml").expect("XML");
        set_max_memory(&mut document, &before, 32 << 10).expect("an edit");
        assert_eq!(
            document.as_str(),
            START.replace("'MiB'>64<", "'KiB'>32768<")
        );
    }

    #[test]
    fn a_period_comes_and_goes() {
        let mut document = Document::parse(START, "a.xml").expect("XML");
        for seconds in [10, 5] {
            set_stats_period(&mut document, seconds).expect("an edit");
            let balloon = parse(&document).memballoon.expect("a balloon");
            assert_eq!(balloon.stats_period, Some(seconds));
        }
        set_stats_period(&mut document, 0).expect("an edit");
        set_stats_period(&mut document, 0).expect("an edit");
        let balloon = parse(&document).memballoon.expect("a balloon");
        assert_eq!(balloon.stats_period, None);
    }
}
