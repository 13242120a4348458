//! Changing the limits of a disk in a definition, by a command.

use super::schema;
use crate::xml::{Diagnostics, Document, Edits, NewElement};
use vmm_api::spec::{IoLimits, LIMIT_NAMES};

/// Names of limits that are given anew together: who gives one of them means all.
const GROUPS: [&str; 4] = ["_bytes_sec", "_iops_sec", "_bytes_sec_max", "_iops_sec_max"];

/// `before` with what `given` says. As libvirt has it: of total, read and write of one kind those that are
/// not given end when another one is; what depends on a limit that ends, ends with it.
pub fn changed(before: &IoLimits, given: &[(&str, u64)]) -> IoLimits {
    let mut limits = *before;
    let is_given = |name: &str| given.iter().any(|(other, _)| *other == name);
    for group in GROUPS {
        let names = ["total", "read", "write"].map(|way| format!("{way}{group}"));
        if names.iter().any(|name| is_given(name)) {
            for name in names {
                limits
                    .number(&name)
                    .into_iter()
                    .for_each(|number| *number = 0);
            }
        }
    }
    for (name, value) in given {
        limits
            .number(name)
            .into_iter()
            .for_each(|number| *number = *value);
    }
    for ending in ["_max", "_length"] {
        for name in LIMIT_NAMES.iter().filter(|name| name.ends_with(ending)) {
            let needed = name.trim_end_matches(ending);
            if !is_given(name) && limits.number(needed).is_some_and(|number| *number == 0) {
                limits
                    .number(name)
                    .into_iter()
                    .for_each(|number| *number = 0);
            }
        }
    }
    limits
}

/// Writes the limits of the disk with this target; all of them gone, `<iotune>` goes too.
///
/// # Errors
/// When the result would not parse.
pub fn set_limits(
    document: &mut Document,
    target: &str,
    mut limits: IoLimits,
) -> Result<(), Diagnostics> {
    let mut edits = Edits::new();
    let devices = document.root().child("devices");
    let disk = devices.and_then(|devices| {
        devices.children_named("disk").find(|disk| {
            let found = disk.child("target").and_then(|target| target.value("dev"));
            found == Some(target)
        })
    });
    let Some(disk) = disk else { return Ok(()) };
    let number = |limits: &mut IoLimits, name: &str| limits.number(name).map_or(0, |n| *n);
    let Some(iotune) = disk.child("iotune") else {
        let mut iotune = NewElement::new("iotune");
        for name in LIMIT_NAMES {
            let value = number(&mut limits, name);
            if value > 0 {
                iotune = iotune.child(NewElement::new(name).text(value.to_string()));
            }
        }
        if !limits.is_none() {
            edits.insert(disk.id(), iotune, schema::order("devices/disk"));
        }
        return document.apply(edits);
    };
    if limits.is_none() && iotune.child("group_name").is_none() {
        edits.remove(iotune.id());
        return document.apply(edits);
    }
    for name in LIMIT_NAMES {
        match (iotune.child(name), number(&mut limits, name)) {
            (None, 0) => {}
            (Some(element), 0) => edits.remove(element.id()),
            (Some(element), value) => edits.set_text(element.id(), &value.to_string()),
            (None, value) => {
                let element = NewElement::new(name).text(value.to_string());
                edits.insert(iotune.id(), element, schema::order("devices/disk/iotune"));
            }
        }
    }
    document.apply(edits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Domain;

    const START: &str = "<domain type='kvm'>\n  <name>a</name>\n  <memory unit='MiB'>64</memory>\n  \
         <vcpu>1</vcpu>\n  <os>\n    <type>hvm</type>\n    <kernel>/k</kernel>\n  </os>\n  <devices>\n    \
         <disk type='file'>\n      <source file='/a'/>\n      <target dev='vda' bus='virtio'/>\n    \
         </disk>\n  </devices>\n</domain>\n";

    fn limits_of(document: &Document) -> IoLimits {
        let domain = Domain::parse(document).expect("a definition").0;
        domain.disks[0].limits
    }

    #[test]
    fn limits_come_change_and_go_and_leave_nothing() {
        let mut document = Document::parse(START, "a.xml").expect("XML");
        type Numbers = &'static [(&'static str, u64)];
        let steps: [(Numbers, Numbers); 5] = [
            (
                &[("read_bytes_sec", 5), ("total_iops_sec", 7)],
                &[("read_bytes_sec", 5), ("total_iops_sec", 7)],
            ),
            // Of bytes everything is given anew; requests stay.
            (
                &[("total_bytes_sec", 9)],
                &[("total_bytes_sec", 9), ("total_iops_sec", 7)],
            ),
            (
                &[
                    ("total_bytes_sec_max", 90),
                    ("total_bytes_sec_max_length", 3),
                ],
                &[
                    ("total_bytes_sec", 9),
                    ("total_iops_sec", 7),
                    ("total_bytes_sec_max", 90),
                    ("total_bytes_sec_max_length", 3),
                ],
            ),
            // A burst ends with its limit.
            (&[("total_bytes_sec", 0)], &[("total_iops_sec", 7)]),
            (&[("total_iops_sec", 0)], &[]),
        ];
        for (given, expected) in steps {
            let next = changed(&limits_of(&document), given);
            assert_eq!(next.check(), Ok(()));
            set_limits(&mut document, "vda", next).expect("sense");
            let mut now = limits_of(&document);
            for name in LIMIT_NAMES {
                let wanted = expected.iter().find(|(other, _)| *other == name);
                let wanted = wanted.map_or(0, |(_, value)| *value);
                assert_eq!(
                    now.number(name),
                    Some(&mut wanted.clone()),
                    "{given:?}: {name}"
                );
            }
        }
        assert_eq!(document.as_str(), START);
    }
}
