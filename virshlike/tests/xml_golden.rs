//! One definition per element, and what becomes of it: the definition as it is stored, warnings,
//! refusals at start, and the dump of a running domain. `UPDATE_GOLDEN=1` writes the files anew.

use std::fmt::Write;
use std::path::Path;
use virshlike::model::{Domain, DumpOptions, Live, complete, inactive_xml, live_xml};
use virshlike::xml::{Diagnostics, Document};

/// Lines of `new` that `old` has not, in order, with their numbers.
fn added(old: &str, new: &str) -> String {
    let mut out = String::new();
    let mut rest = old.lines().peekable();
    for (number, line) in new.lines().enumerate() {
        if rest.peek() == Some(&line) {
            rest.next();
        } else {
            // A changed line stands for the old one when the lines behind it agree again.
            let next = new.lines().nth(number + 1);
            if next.is_some() && rest.clone().nth(1) == next {
                rest.next();
            }
            writeln!(out, "{:4} {line}", number + 1).expect("a string takes everything");
        }
    }
    out
}

fn list(out: &mut String, title: &str, findings: &Diagnostics) {
    writeln!(out, "\n== {title}\n{findings}").expect("a string takes everything");
}

fn story(name: &str, text: &str) -> String {
    let mut document = Document::parse(text, name).unwrap_or_else(|errors| panic!("{errors}"));
    let (mut domain, warnings) =
        Domain::parse(&document).unwrap_or_else(|errors| panic!("{errors}"));
    let mut out = String::new();
    list(&mut out, "warnings", &warnings);
    list(&mut out, "refused at start", &domain.refusals_at_start());
    complete(&mut document, &mut domain).unwrap_or_else(|errors| panic!("{errors}"));
    let stored = document.text();
    writeln!(
        out,
        "\n== added to the definition\n{}",
        added(text, &stored)
    )
    .expect("room");
    let inactive = inactive_xml(&document, DumpOptions::default()).expect("a dump");
    if inactive != stored {
        writeln!(out, "== differs in dumpxml\n{}", added(&stored, &inactive)).expect("room");
    }
    let live = Live {
        id: 3,
        ttys: [("serial0".into(), "/dev/pts/4".into())].into(),
        taps: [("net0".into(), "vnet0".into())].into(),
        ..Live::default()
    };
    let shown = live_xml(&document, &domain, &live, DumpOptions::default()).expect("a dump");
    writeln!(
        out,
        "== shown of a running domain\n{}",
        added(&inactive, &shown)
    )
    .expect("room");
    let again = Document::parse(&inactive, name).expect("well-formed");
    let (mut same, _) = Domain::parse(&again).expect("valid");
    if inactive == stored {
        assert_eq!(same, domain, "{name}");
    } else {
        same.graphics.clone_from(&domain.graphics);
        assert_eq!(same.disks, domain.disks, "{name}");
    }
    out.trim_start().to_string()
}

#[test]
fn every_element_keeps_its_story() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/xml");
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).expect("golden files") {
        let input = entry.expect("an entry").path();
        if input.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        count += 1;
        let name = input
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let story = story(&name, &std::fs::read_to_string(&input).expect("text"));
        let golden = input.with_extension("story");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &story).expect("the golden file can be written");
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(
            story, expected,
            "{name}; UPDATE_GOLDEN=1 accepts the new story"
        );
    }
    assert!(count >= 12, "{count} golden files");
}
