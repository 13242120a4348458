//! Values of attributes and texts. Parsers take exactly what is meant and nothing beside it: no
//! signs, no rounding, no clamping, no trailing characters.

use std::collections::BTreeSet;

/// A decimal number.
pub(super) fn unsigned(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Linux's limit for the name of an interface, without the terminating zero.
const MAX_INTERFACE: usize = 15;

/// Whether an interface of the host may have this name, and nothing may be taken for more than it
/// is where it is written.
pub(super) fn is_interface_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    begins && name.len() <= MAX_INTERFACE && name.chars().all(good)
}

/// A decimal number that fits into 32 bits.
pub(super) fn unsigned32(text: &str) -> Option<u32> {
    unsigned(text).and_then(|number| number.try_into().ok())
}

/// A decimal number, or a hexadecimal one with `0x` before it.
pub(super) fn any_base(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => {
            let digits = !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(hex, 16).ok()).flatten()
        }
        None => unsigned(text),
    }
}

/// The same, as a byte.
pub(super) fn any_base8(text: &str) -> Option<u8> {
    any_base(text).and_then(|number| number.try_into().ok())
}

/// The members of a set such as `0-3,^2,7`; `None` when it is no set, or an empty one.
pub(super) fn cpu_set(text: &str) -> Option<BTreeSet<u64>> {
    // More than any host has, and a bound on the work.
    const MOST: u64 = 16384;
    const LONGEST: usize = 4096;
    if text.len() > LONGEST {
        return None;
    }
    let mut members = BTreeSet::new();
    for part in text.split(',') {
        let part = part.trim();
        let (excluded, range) = match part.strip_prefix('^') {
            Some(range) => (true, range),
            None => (false, part),
        };
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let (low, high) = (unsigned(low)?, unsigned(high)?);
        if low > high || high >= MOST {
            return None;
        }
        for number in low..=high {
            if excluded {
                members.remove(&number);
            } else {
                members.insert(number);
            }
        }
    }
    (!members.is_empty()).then_some(members)
}

/// `on` or `off`.
pub(super) fn on_off(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// Bytes of one of libvirt's units: 1024-based with `KiB` or `K`, 1000-based with `KB`.
pub(super) fn unit_bytes(unit: &str) -> Option<u64> {
    let lower = unit.to_ascii_lowercase();
    if matches!(lower.as_str(), "b" | "byte" | "bytes") {
        return Some(1);
    }
    let power = "kmgtpe".find(lower.chars().next()?)? + 1;
    let base: u64 = match lower.get(1..)? {
        "" | "ib" => 1024,
        "b" => 1000,
        _ => return None,
    };
    base.checked_pow(u32::try_from(power).ok()?)
}

/// The units that [`unit_bytes`] knows, for messages.
pub(super) const UNITS: &[&str] = &[
    "b", "bytes", "KB", "k", "KiB", "MB", "M", "MiB", "GB", "G", "GiB", "TB", "T", "TiB", "PB",
    "P", "PiB", "EB", "E", "EiB",
];

/// Nobody means a word that is longer than this, and comparing it would take long.
const LONGEST_WORD: usize = 64;

/// The candidate nearest to `word`, when it is near enough to be meant.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.len() > LONGEST_WORD {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::osa_distance(&lower, &candidate.to_lowercase());
            let prefix = shared_prefix(&lower, candidate);
            (distance, std::cmp::Reverse(prefix), candidate)
        })
        .filter(|(distance, prefix, candidate)| {
            let length = candidate.chars().count().max(lower.chars().count());
            // A third of the letters wrong, or a whole word with something stuck to it.
            *distance <= length.div_ceil(3) || (prefix.0 >= 4 && prefix.0 == candidate.len())
        })
        .min()
        .map(|(_, _, candidate)| candidate)
}

fn shared_prefix(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}

/// `'a', 'b' or 'c'`.
pub(super) fn alternatives<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| format!("'{word}'")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}
