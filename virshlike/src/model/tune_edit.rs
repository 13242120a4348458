//! Changing the limits of the whole process in a definition, by a command: `<cputune>`, `<memtune>` and
//! `<blkiotune>`. Must never touch another line of it.

use super::schema;
use crate::runtime::limits::{CpuMax, Limit};
use crate::xml::{Diagnostics, Document, Edits, NewElement};

/// An element in one of the domain's, and what it says; none takes it out.
type Setting = (&'static str, &'static str, Option<u64>);

fn settings(limit: Limit) -> Vec<Setting> {
    let kib = |bytes: Option<u64>| bytes.map(|bytes| bytes.div_ceil(1024));
    match limit {
        Limit::CpuWeight(weight) => vec![("cputune", "shares", weight)],
        Limit::CpuMax(max) => {
            let period = (max != CpuMax::ANY).then_some(max.period_us);
            vec![
                ("cputune", "global_period", period),
                ("cputune", "global_quota", max.quota_us),
            ]
        }
        Limit::MemoryMax(bytes) => vec![("memtune", "hard_limit", kib(bytes))],
        Limit::MemoryHigh(bytes) => vec![("memtune", "soft_limit", kib(bytes))],
        Limit::IoWeight(weight) => vec![("blkiotune", "weight", weight)],
    }
}

/// Writes a limit into a definition, or takes it out. An element that is empty then goes too.
///
/// # Errors
/// When the result would not parse, which this edit does not bring about.
pub fn set_limit(document: &mut Document, limit: Limit) -> Result<(), Diagnostics> {
    settings(limit)
        .into_iter()
        .try_for_each(|setting| set(document, setting))
}

fn set(document: &mut Document, (group, name, value): Setting) -> Result<(), Diagnostics> {
    let mut edits = Edits::new();
    let root = document.root();
    let found = root.child(group);
    let element = found.and_then(|group| group.child(name));
    match (found, element, value) {
        (_, Some(element), Some(value)) => {
            edits.set_text(element.id(), &value.to_string());
            // The number is in KiB, whatever it was in before.
            if element.attribute("unit").is_some() {
                edits.set_attribute(element.id(), "unit", "KiB");
            }
        }
        (group, Some(element), None) => {
            let alone = group.filter(|group| group.children().count() == 1);
            edits.remove(alone.unwrap_or(element).id());
        }
        (_, None, None) => return Ok(()),
        (Some(found), None, Some(value)) => {
            edits.insert(found.id(), new(group, name, value), schema::order(group));
        }
        (None, None, Some(value)) => {
            let group = NewElement::new(group).child(new(group, name, value));
            edits.insert(root.id(), group, schema::order(""));
        }
    }
    document.apply(edits)
}

fn new(group: &str, name: &'static str, value: u64) -> NewElement {
    let element = NewElement::new(name);
    let element = match group {
        "memtune" => element.attribute("unit", "KiB"),
        _ => element,
    };
    element.text(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Domain;

    const START: &str = "<domain type='kvm'>\n  <name>a</name>\n  <memory>65536</memory>\n  \
         <vcpu>4</vcpu>\n  <os>\n    <type>hvm</type>\n    <kernel>/k</kernel>\n  </os>\n</domain>\n";

    #[test]
    fn limits_come_change_and_go_and_leave_nothing() {
        let mut document = Document::parse(START, "a.xml").expect("XML");
        let max = CpuMax {
            quota_us: Some(25_000),
            period_us: 50_000,
        };
        for (weight, memory) in [(200, 1 << 30), (300, 2 << 30)] {
            let limits = [
                Limit::CpuWeight(Some(weight)),
                Limit::CpuMax(max),
                Limit::MemoryMax(Some(memory)),
                Limit::MemoryHigh(Some(1 << 20)),
                Limit::IoWeight(Some(weight)),
            ];
            for limit in limits {
                set_limit(&mut document, limit).expect("an edit");
            }
            let (domain, warnings) = Domain::parse(&document).expect("a definition");
            assert!(warnings.is_empty(), "{warnings}");
            let tune = &domain.cputune;
            assert_eq!((tune.shares, tune.global), (Some(weight), Some(max)));
            assert_eq!(domain.memtune.hard_kib, Some(memory >> 10));
            assert_eq!(domain.memtune.soft_kib, Some(1024));
            assert_eq!(domain.io_weight, Some(weight));
        }
        for limit in [
            Limit::CpuMax(CpuMax::ANY),
            Limit::CpuWeight(None),
            Limit::MemoryHigh(None),
            Limit::MemoryMax(None),
            Limit::IoWeight(None),
            Limit::IoWeight(None),
        ] {
            set_limit(&mut document, limit).expect("an edit");
        }
        assert_eq!(document.as_str(), START);
    }

    #[test]
    fn a_number_that_had_a_unit_is_in_kib_afterwards() {
        let text = START.replace(
            "</vcpu>",
            "</vcpu><memtune><hard_limit unit='G'>1</hard_limit></memtune>",
        );
        let mut document = Document::parse(&text, "a.xml").expect("XML");
        set_limit(&mut document, Limit::MemoryMax(Some(1 << 29))).expect("an edit");
        let (domain, _) = Domain::parse(&document).expect("a definition");
        assert_eq!(domain.memtune.hard_kib, Some(1 << 19));
    }
}
