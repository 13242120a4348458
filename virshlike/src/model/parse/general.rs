//! The parts of `<domain>` beside its devices.

use crate::model::domain::{Backing, Clock, EndAction, Features, Memory, Vcpus};
use crate::model::findings::Findings;
use crate::model::value;
use crate::xml::{Element, Position};
use std::collections::BTreeSet;
use uuid::Uuid;
use vmm_api::spec::{MAX_VCPUS, MIN_MEMORY};

/// Longest name in bytes: it is part of file names.
const MAX_NAME: usize = 255 - ".xml".len();

/// The guest's page: memory is given in whole ones.
const PAGE: u64 = 4096;

pub(super) fn check_type(root: Element<'_>, findings: &mut Findings<'_>) {
    if root.attribute("type").is_none() {
        findings.error_with_hint(
            root.position(),
            "<domain> has no type",
            "write <domain type='kvm'>",
        );
    }
}

/// `<emulator>`: any program other than ours is recorded and not run.
pub(super) fn emulator(
    devices: Option<Element<'_>>,
    findings: &mut Findings<'_>,
) -> Option<String> {
    let element = devices?.child("emulator")?;
    let path = element.text().trim();
    if path.rsplit('/').next() != Some("vmm") {
        findings.warn(
            element.position(),
            format!("<emulator> {path} has no effect: our own vmm runs every domain"),
        );
    }
    Some(path.to_string())
}

pub(super) fn name(root: Element<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let Some(element) = root.child("name") else {
        findings.error_with_hint(
            root.position(),
            "the domain has no <name>",
            "add <name>...</name> as its first element",
        );
        return None;
    };
    let name = element.text();
    match check_name(name) {
        Ok(()) => Some(name.to_string()),
        Err(reason) => {
            findings.error(element.text_position(), reason);
            None
        }
    }
}

/// Whether a domain can have this name: it becomes part of file names and of lines of output.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    if name.len() > MAX_NAME {
        return Err(format!(
            "the name has {} bytes; at most {MAX_NAME} are possible",
            name.len()
        ));
    }
    if name == "." || name == ".." || name.starts_with('.') {
        return Err(format!("the name '{name}' starts with a dot"));
    }
    if let Some(c) = name.chars().find(|c| c.is_control()) {
        return Err(format!(
            "the name contains the control character U+{:04X}",
            u32::from(c)
        ));
    }
    if name.contains('/') {
        return Err(format!("the name '{name}' contains a slash"));
    }
    if name.trim() != name {
        return Err(format!("the name '{name}' starts or ends with white space"));
    }
    Ok(())
}

pub(super) fn uuid(root: Element<'_>, findings: &mut Findings<'_>) -> Option<Uuid> {
    let element = root.child("uuid")?;
    let text = element.text().trim();
    let uuid = Uuid::try_parse(text).ok();
    if uuid.is_none() {
        findings.error_with_hint(
            element.text_position(),
            format!("'{text}' is no UUID"),
            "leave <uuid> out to get a new one",
        );
    }
    uuid
}

pub(super) fn title(root: Element<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let element = root.child("title")?;
    let title = element.text();
    if title.contains('\n') {
        findings.error(element.text_position(), "the title has more than one line");
    }
    Some(title.to_string())
}

/// Bytes of an element such as `<memory unit='KiB'>1024</memory>`; the unit defaults to KiB.
pub(super) fn scaled_bytes(element: Element<'_>, findings: &mut Findings<'_>) -> Option<u64> {
    let text = element.text().trim();
    let Some(number) = value::unsigned(text) else {
        findings.error_with_hint(
            element.text_position(),
            format!("'{text}' is no amount for <{}>", element.name()),
            "it takes a whole number; the unit goes into unit=",
        );
        return None;
    };
    let unit = element.value("unit").unwrap_or("KiB");
    let Some(scale) = value::unit_bytes(unit) else {
        if let Some(attribute) = element.attribute("unit") {
            bad_unit(attribute.value_position(), unit, findings);
        }
        return None;
    };
    let bytes = number.checked_mul(scale);
    if bytes.is_none() {
        findings.error(
            element.text_position(),
            format!("{number} {unit} is more than any machine has"),
        );
    }
    bytes
}

pub(super) fn bad_unit(at: Position, unit: &str, findings: &mut Findings<'_>) {
    let hint = match value::nearest(unit, value::UNITS.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!(
            "it takes {}",
            value::alternatives(value::UNITS.iter().copied())
        ),
    };
    findings.error_with_hint(at, format!("'{unit}' is no unit"), hint);
}

/// KiB of an element, which must be whole pages.
fn pages_kib(element: Element<'_>, findings: &mut Findings<'_>) -> Option<u64> {
    let bytes = scaled_bytes(element, findings)?;
    if !bytes.is_multiple_of(PAGE) {
        let below = bytes / PAGE * PAGE;
        let above = below.saturating_add(PAGE);
        findings.error_with_hint(
            element.text_position(),
            format!(
                "<{}> of {bytes} bytes is no whole number of 4 KiB pages",
                element.name()
            ),
            format!(
                "the nearest are {} KiB and {} KiB",
                below / 1024,
                above / 1024
            ),
        );
        return None;
    }
    Some(bytes / 1024)
}

pub(super) fn memory(root: Element<'_>, findings: &mut Findings<'_>) -> Option<Memory> {
    let Some(element) = root.child("memory") else {
        if let Some(size_kib) = numa_kib(root) {
            return Some(Memory {
                size_kib,
                current_kib: size_kib,
                max_kib: max_kib(root, size_kib, findings),
                backing: backing(root),
                at: root.position(),
            });
        }
        findings.error_with_hint(
            root.position(),
            "the domain has no <memory>",
            "add <memory unit='GiB'>1</memory>",
        );
        return None;
    };
    let size_kib = pages_kib(element, findings)?;
    enough(element, size_kib, findings);
    let mut current_kib = size_kib;
    if let Some(current) = root.child("currentMemory") {
        current_kib = pages_kib(current, findings)?;
        enough(current, current_kib, findings);
        if current_kib > size_kib {
            findings.error_with_hint(
                current.text_position(),
                format!(
                    "<currentMemory> of {current_kib} KiB is more than the <memory> of {size_kib} KiB"
                ),
                "raise <memory> or lower <currentMemory>",
            );
        }
    }
    Some(Memory {
        size_kib,
        current_kib,
        max_kib: max_kib(root, size_kib, findings),
        backing: backing(root),
        at: element.position(),
    })
}

/// A PC has a whole first MiB, whatever a balloon takes.
fn enough(element: Element<'_>, kib: u64, findings: &mut Findings<'_>) {
    if kib < MIN_MEMORY / 1024 {
        findings.error_with_hint(
            element.text_position(),
            format!(
                "<{}> of {kib} KiB is less than the 1 MiB that a PC starts with",
                element.name()
            ),
            "a number without unit= counts KiB",
        );
    }
}

/// `<maxMemory>`: what there may be after hot-plug.
fn max_kib(root: Element<'_>, size_kib: u64, findings: &mut Findings<'_>) -> Option<u64> {
    let element = root.child("maxMemory")?;
    let max_kib = pages_kib(element, findings)?;
    if max_kib < size_kib {
        findings.error_with_hint(
            element.text_position(),
            format!("<maxMemory> of {max_kib} KiB is less than the <memory> of {size_kib} KiB"),
            "raise <maxMemory> or lower <memory>",
        );
    }
    Some(max_kib)
}

/// The most iothreads that a domain may have.
const MAX_IOTHREADS: u32 = 256;

/// Numbers of the iothreads: those that `<iothreadids>` gives, filled up from 1 to the count.
pub(super) fn iothreads(root: Element<'_>, findings: &mut Findings<'_>) -> BTreeSet<u32> {
    let mut ids = BTreeSet::new();
    let listed = root.child("iothreadids").into_iter();
    for iothread in listed.flat_map(|list| list.children_named("iothread")) {
        let id = findings.parsed(iothread, "id", "a number from 1", |text| {
            value::unsigned32(text).filter(|id| *id > 0)
        });
        if let Some(id) = id
            && !ids.insert(id)
        {
            findings.error(
                iothread.position(),
                format!("the iothread {id} is there twice"),
            );
        }
    }
    let Some(element) = root.child("iothreads") else {
        return ids;
    };
    let count = value::unsigned32(element.text().trim()).filter(|count| *count <= MAX_IOTHREADS);
    let Some(count) = count else {
        findings.error(
            element.text_position(),
            format!("a domain may have 0 to {MAX_IOTHREADS} iothreads"),
        );
        return ids;
    };
    let mut next = 1;
    while ids.len() < count as usize {
        ids.insert(next);
        next += 1;
    }
    ids
}

/// The sum of the guest's NUMA nodes, which stands for a missing `<memory>`.
fn numa_kib(root: Element<'_>) -> Option<u64> {
    let numa = root.child("cpu")?.child("numa")?;
    let mut bytes: u64 = 0;
    for cell in numa.children_named("cell") {
        let unit = value::unit_bytes(cell.value("unit").unwrap_or("KiB"))?;
        let cell = value::unsigned(cell.value("memory")?)?.checked_mul(unit)?;
        bytes = bytes.checked_add(cell)?;
    }
    (bytes.is_multiple_of(PAGE) && bytes > 0).then_some(bytes / 1024)
}

fn backing(root: Element<'_>) -> Backing {
    let Some(element) = root.child("memoryBacking") else {
        return Backing::default();
    };
    let mode = |name: &str, attribute: &str| {
        element
            .child(name)
            .and_then(|child| child.value(attribute))
            .unwrap_or_default()
            .to_string()
    };
    let hugepages_kib = element.child("hugepages").map(|hugepages| {
        hugepages
            .child("page")
            .and_then(|page| {
                let size = value::unsigned(page.value("size")?)?;
                let unit = value::unit_bytes(page.value("unit").unwrap_or("KiB"))?;
                Some(size.checked_mul(unit)? / 1024)
            })
            .unwrap_or(0)
    });
    Backing {
        hugepages_kib,
        nosharepages: element.child("nosharepages").is_some(),
        locked: element.child("locked").is_some(),
        memfd: mode("source", "type") == "memfd",
        shared: mode("access", "mode") == "shared",
        immediate: mode("allocation", "mode") == "immediate",
        discard: element.child("discard").is_some(),
    }
}

pub(super) fn vcpus(root: Element<'_>, findings: &mut Findings<'_>) -> Option<Vcpus> {
    let Some(element) = root.child("vcpu") else {
        return Some(Vcpus {
            max: 1,
            current: 1,
            at: root.position(),
        });
    };
    let text = element.text().trim();
    let expected = format!("a number of vCPUs from 1 to {MAX_VCPUS}");
    let in_range = |text: &str| value::unsigned32(text).filter(|n| (1..=MAX_VCPUS).contains(n));
    let max = in_range(text);
    if max.is_none() {
        findings.error_with_hint(
            element.text_position(),
            format!("'{text}' is no number of vCPUs"),
            format!("it takes {expected}"),
        );
    }
    let current = findings.parsed(element, "current", &expected, in_range);
    if let (Some(max), Some(current), Some(attribute)) =
        (max, current, element.attribute("current"))
        && current > max
    {
        findings.error_with_hint(
            attribute.value_position(),
            format!("{current} vCPUs at start are more than the {max} there can be"),
            "raise the number in <vcpu> or lower current=",
        );
    }
    Some(Vcpus {
        max: max?,
        current: current.or(max)?,
        at: element.position(),
    })
}

pub(super) fn features(root: Element<'_>) -> Features {
    let has = |name: &str| {
        root.child("features")
            .is_some_and(|features| features.child(name).is_some())
    };
    Features {
        acpi: has("acpi"),
        apic: has("apic"),
    }
}

/// The tables have told about the other offsets.
pub(super) fn clock(root: Element<'_>, findings: &mut Findings<'_>) -> Clock {
    for timer in root
        .child("clock")
        .into_iter()
        .flat_map(|clock| clock.children_named("timer"))
    {
        match (timer.value("name"), timer.value("present")) {
            (Some("hpet"), Some("yes") | None) => findings.warn(
                timer.position(),
                "<timer name='hpet'> has no effect: there is no HPET",
            ),
            (Some("kvmclock"), Some("no")) => findings.keep(
                timer.position(),
                "<timer name='kvmclock' present='no'>: the kvmclock cannot be taken away yet",
            ),
            (None, _) => findings.error(timer.position(), "<timer> has no name"),
            _ => {}
        }
    }
    match root.child("clock").and_then(|clock| clock.value("offset")) {
        None | Some("utc") => Clock::Utc,
        Some("localtime") => Clock::LocalTime,
        Some(_) => Clock::Other,
    }
}

/// `<on_crash>`, and whether a core is written before.
pub(super) fn crash_action(root: Element<'_>, findings: &mut Findings<'_>) -> (EndAction, bool) {
    const NAME: &str = "on_crash";
    match root.child(NAME).map(|element| element.text()) {
        Some(text) if text.trim() == "coredump-destroy" => (EndAction::Destroy, true),
        Some(text) if text.trim() == "coredump-restart" => (EndAction::Restart, true),
        _ => (end_action(root, NAME, EndAction::Destroy, findings), false),
    }
}

pub(super) fn end_action(
    root: Element<'_>,
    name: &str,
    default: EndAction,
    findings: &mut Findings<'_>,
) -> EndAction {
    let Some(element) = root.child(name) else {
        return default;
    };
    match element.text().trim() {
        "destroy" => EndAction::Destroy,
        "restart" => EndAction::Restart,
        "preserve" => EndAction::Preserve,
        "rename-restart" => {
            findings.keep(
                element.position(),
                format!("<{name}> rename-restart is not built yet"),
            );
            default
        }
        "coredump-destroy" | "coredump-restart" => {
            findings.keep(
                element.position(),
                format!(
                    "<{name}> leaves no core dump: only a guest that crashed does, by <on_crash>"
                ),
            );
            default
        }
        other => {
            findings.error_with_hint(
                element.text_position(),
                format!("'{other}' is no action for <{name}>"),
                "it takes 'destroy', 'restart' or 'preserve'",
            );
            default
        }
    }
}
