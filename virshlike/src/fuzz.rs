//! A body for fuzzing: a plain function from bytes, run bounded by tests and longer by a fuzzer.

use crate::model::{Domain, DumpOptions, Live, complete, inactive_xml, live_xml};
use crate::xml::{Diagnostics, Document};

/// Any bytes as a domain definition. Reading it never panics; every refusal has a place inside the
/// document; what is accepted is completed, stays what it is when it is written and read again, and its
/// live form is a definition too.
pub fn domain_xml(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        read(text);
    }
}

fn read(text: &str) {
    let mut document = match Document::parse(text, "t") {
        Ok(document) => document,
        Err(errors) => return check_places(text, &errors),
    };
    assert_eq!(document.as_str(), text);
    let mut domain = match Domain::parse(&document) {
        Ok((domain, warnings)) => {
            check_places(text, &warnings);
            check_places(text, &domain.refusals_at_start());
            domain
        }
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            return check_places(text, &errors);
        }
    };
    if let Err(errors) = complete(&mut document, &mut domain) {
        return check_places(text, &errors);
    }
    let all = DumpOptions {
        security_info: true,
        migratable: false,
    };
    let dump = inactive_xml(&document, all).expect("a dump");
    let mut again = Document::parse(&dump, "t").expect("well-formed");
    let (mut same, _) = Domain::parse(&again).expect("a dump is a definition");
    assert_eq!(same, domain);
    complete(&mut again, &mut same).expect("complete");
    assert_eq!(again.as_str(), dump);
    let live = live_xml(&document, &domain, &Live::default(), DumpOptions::default());
    let live = Document::parse(&live.expect("a dump"), "t").expect("well-formed");
    Domain::parse(&live).expect("a live dump is a definition");
}

/// Every finding is somewhere in the text.
fn check_places(text: &str, findings: &Diagnostics) {
    for finding in findings {
        let number = (finding.line as usize).wrapping_sub(1);
        let Some(line) = text.split('\n').nth(number) else {
            panic!("no such line: {finding}")
        };
        let columns = 1..=line.chars().count() + 1;
        assert!(columns.contains(&(finding.column as usize)), "{finding}");
        assert!(!finding.message.is_empty(), "a finding without words");
    }
}
