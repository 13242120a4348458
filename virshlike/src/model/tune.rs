//! `<cputune>`, `<vcpu cpuset=...>` and `<numatune>`: on which of the host's processors a guest's threads run, and
//! the edits by which pins are changed.

use super::schema;
use super::value;
use crate::runtime::limits::CpuMax;
use crate::xml::{Diagnostics, Document, Edits, Element, NewElement, Position};
use std::collections::{BTreeMap, BTreeSet};

/// Processors of the host by number.
pub type CpuList = BTreeSet<u32>;

/// Where a guest's threads may run; a thread without a list runs anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuTune {
    /// `<vcpu cpuset=...>`: threads without a list of their own.
    pub default: Option<CpuList>,
    /// `<vcpupin>` by vCPU.
    pub vcpus: BTreeMap<u32, CpuList>,
    /// `<emulatorpin>`: every thread that is no vCPU, and no iothread with a list of its own.
    pub emulator: Option<CpuList>,
    /// `<iothreadpin>` by iothread.
    pub iothreads: BTreeMap<u32, CpuList>,
    /// `<shares>`: the weight of the whole process beside others, 1 to 10000.
    pub shares: Option<u64>,
    /// `<global_quota>` and `<global_period>`: the most CPU time of the whole process.
    pub global: Option<CpuMax>,
}

/// How `<numatune><memory>` takes memory from the host's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumaMode {
    /// From them and no others.
    Strict,
    /// From the first one while it has any.
    Preferred,
    /// From them in turn.
    Interleave,
}

/// `<numatune><memory>`: from which nodes of the host a guest's memory comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaTune {
    /// How.
    pub mode: NumaMode,
    /// The nodes, by number.
    pub nodes: CpuList,
    /// Where it stands.
    pub at: Position,
}

/// `<memtune>`: limits of the whole process, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemTune {
    /// `<hard_limit>`: beyond it the kernel ends the process.
    pub hard_kib: Option<u64>,
    /// `<soft_limit>`: beyond it the kernel takes memory back.
    pub soft_kib: Option<u64>,
}

impl CpuTune {
    /// Whether any thread is kept to some processors.
    pub fn has_pins(&self) -> bool {
        self.default.is_some()
            || !self.vcpus.is_empty()
            || self.emulator.is_some()
            || !self.iothreads.is_empty()
    }

    /// Where a vCPU may run, when that is limited.
    pub fn vcpu(&self, index: u32) -> Option<&CpuList> {
        self.vcpus.get(&index).or(self.default.as_ref())
    }

    /// Where an iothread may run, when that is limited.
    pub fn iothread(&self, id: u32) -> Option<&CpuList> {
        self.iothreads.get(&id).or(self.others())
    }

    /// Where the other threads may run, when that is limited.
    pub fn others(&self) -> Option<&CpuList> {
        self.emulator.as_ref().or(self.default.as_ref())
    }
}

/// The members of a list such as `0-3,^2,7`; `None` when it is no list or an empty one.
pub fn cpu_list(text: &str) -> Option<CpuList> {
    let members = value::cpu_set(text)?;
    members
        .into_iter()
        .map(|number| u32::try_from(number).ok())
        .collect()
}

/// Which threads a pin is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    /// One vCPU's.
    Vcpu(u32),
    /// Every thread that is no vCPU, and no iothread that has a pin of its own.
    Emulator,
    /// One iothread's.
    Iothread(u32),
}

impl Pinned {
    /// The element that says so, and how it names a thread.
    fn element(self) -> (&'static str, Option<(&'static str, String)>) {
        match self {
            Self::Vcpu(index) => ("vcpupin", Some(("vcpu", index.to_string()))),
            Self::Emulator => ("emulatorpin", None),
            Self::Iothread(id) => ("iothreadpin", Some(("iothread", id.to_string()))),
        }
    }
}

/// Writes a pin into a definition; `None` takes it out.
///
/// # Errors
/// When the result would not parse, which this edit does not bring about.
pub fn set_pin(
    document: &mut Document,
    pinned: Pinned,
    list: Option<&str>,
) -> Result<(), Diagnostics> {
    let mut edits = Edits::new();
    let root = document.root();
    let tune = root.child("cputune");
    let (element, thread) = pinned.element();
    let is_it = |pin: &Element<'_>| match &thread {
        Some((name, number)) => pin.value(name) == Some(number),
        None => true,
    };
    let found = tune.and_then(|tune| tune.children_named(element).find(is_it));
    match (found, list) {
        (Some(pin), Some(list)) => edits.set_attribute(pin.id(), "cpuset", list),
        (Some(pin), None) => edits.remove(pin.id()),
        (None, None) => {}
        (None, Some(list)) => {
            let pin = NewElement::new(element);
            let pin = match thread {
                Some((name, number)) => pin.attribute(name, number),
                None => pin,
            };
            let pin = pin.attribute("cpuset", list);
            match tune {
                Some(tune) => edits.insert(tune.id(), pin, schema::order("cputune")),
                None => {
                    let tune = NewElement::new("cputune").child(pin);
                    edits.insert(root.id(), tune, schema::order(""));
                }
            }
        }
    }
    document.apply(edits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Domain;

    const START: &str = "<domain type='kvm'>\n  <name>a</name>\n  <memory>65536</memory>\n  \
         <vcpu>4</vcpu>\n  <os>\n    <type>hvm</type>\n    <kernel>/k</kernel>\n  </os>\n</domain>\n";

    #[test]
    fn pins_are_put_in_changed_and_taken_out() {
        let mut document = Document::parse(START, "a.xml").expect("XML");
        let mut pin = |pinned, list| {
            set_pin(&mut document, pinned, list).expect("an edit");
            let (domain, warnings) = Domain::parse(&document).expect("a definition");
            assert!(warnings.is_empty(), "{warnings}");
            domain.cputune
        };
        let tune = pin(Pinned::Vcpu(2), Some("0-1"));
        assert_eq!(tune.vcpu(2), Some(&[0, 1].into()));
        assert_eq!((tune.vcpu(0), tune.others()), (None, None));
        let tune = pin(Pinned::Vcpu(2), Some("1"));
        assert_eq!(tune.vcpu(2), Some(&[1].into()));
        let tune = pin(Pinned::Emulator, Some("3"));
        assert_eq!(tune.others(), Some(&[3].into()));
        assert!(pin(Pinned::Vcpu(2), None).vcpus.is_empty());
        assert!(!pin(Pinned::Emulator, None).has_pins());
        let tune = pin(Pinned::Iothread(2), Some("0-1"));
        assert_eq!(tune.iothread(2), Some(&[0, 1].into()));
        assert_eq!(tune.iothread(1), None);
        assert!(!pin(Pinned::Iothread(2), None).has_pins());
    }

    #[test]
    fn a_list_for_all_gives_way_to_a_pin() {
        let text = START.replace("<vcpu>4<", "<vcpu placement='static' cpuset='0-3,^2'>4<");
        let mut document = Document::parse(&text, "a.xml").expect("XML");
        set_pin(&mut document, Pinned::Vcpu(1), Some("2")).expect("an edit");
        let (domain, _) = Domain::parse(&document).expect("a definition");
        assert_eq!(domain.cputune.vcpu(0), Some(&[0, 1, 3].into()));
        assert_eq!(domain.cputune.vcpu(1), Some(&[2].into()));
        assert_eq!(domain.cputune.others(), Some(&[0, 1, 3].into()));
    }

    #[test]
    fn limits_are_read_exactly() {
        let tune = "<cputune><shares>2048</shares><global_period>50000</global_period>\
                    <global_quota>25000</global_quota></cputune>\
                    <memtune><hard_limit unit='MiB'>128</hard_limit></memtune>";
        let text = START.replace("</vcpu>", &format!("</vcpu>{tune}"));
        let document = Document::parse(&text, "a.xml").expect("XML");
        let (domain, warnings) = Domain::parse(&document).expect("a definition");
        assert!(warnings.is_empty(), "{warnings}");
        assert_eq!(domain.cputune.shares, Some(2048));
        let max = CpuMax {
            quota_us: Some(25_000),
            period_us: 50_000,
        };
        assert_eq!(domain.cputune.global, Some(max));
        assert_eq!(domain.memtune.hard_kib, Some(128 << 10));
        let none = text.replace(">25000<", ">-1<");
        let document = Document::parse(&none, "a.xml").expect("XML");
        let (domain, _) = Domain::parse(&document).expect("a definition");
        let any = CpuMax {
            quota_us: None,
            ..max
        };
        assert_eq!(domain.cputune.global, Some(any));
        for (right, wrong) in [(">25000<", ">10<"), (">50000<", ">5<"), (">2048<", ">0<")] {
            let text = text.replace(right, wrong);
            let document = Document::parse(&text, "a.xml").expect("XML");
            assert!(Domain::parse(&document).is_err(), "{wrong}");
        }
        let heavy = text.replace(">2048<", ">20000<");
        let document = Document::parse(&heavy, "a.xml").expect("XML");
        let (domain, warnings) = Domain::parse(&document).expect("a definition");
        assert_eq!((domain.cputune.shares, warnings.len()), (None, 1));
    }

    #[test]
    fn mistakes_in_pins_have_a_place() {
        for (pins, message) in [
            (
                "<vcpupin vcpu='0' cpuset='1'/><vcpupin vcpu='0' cpuset='2'/>",
                "twice",
            ),
            ("<vcpupin vcpu='0'/>", "no cpuset"),
            ("<iothreadpin cpuset='1'/>", "no iothread"),
            ("<iothreadpin iothread='0' cpuset='1'/>", "'0'"),
            (
                "<iothreadpin iothread='1' cpuset='1'/><iothreadpin iothread='1' cpuset='2'/>",
                "twice",
            ),
            ("<vcpupin cpuset='1'/>", "no vcpu"),
            ("<emulatorpin cpuset='a'/>", "'a'"),
        ] {
            let tune = format!("</vcpu><cputune>{pins}</cputune>");
            let text = START.replace("</vcpu>", &tune);
            let document = Document::parse(&text, "a.xml").expect("XML");
            let found = Domain::parse(&document).expect_err(pins).to_string();
            assert!(found.contains(message), "{found}");
        }
    }
}
