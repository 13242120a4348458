//! A document against the tables: unknown names, wrong words, and what has no effect.

use super::row::{Fate, Row, Value, Word};
use super::{DOMAIN, NETWORK, Place, Schema};
use crate::model::findings::{Findings, shown};
use crate::model::value::{alternatives, any_base, cpu_set, nearest, unsigned};
use crate::xml::{Attribute, Element, Position};
use std::collections::BTreeSet;

/// QEMU's namespace in a domain definition.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";
/// dnsmasq's namespace in a network definition.
const DNSMASQ: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

/// More names than this are not listed in a hint.
const MAX_LISTED: usize = 12;

/// Checks a whole domain definition.
pub(in crate::model) fn check(root: Element<'_>, findings: &mut Findings<'_>) {
    check_against(&DOMAIN, root, findings);
}

/// Checks a whole network definition.
pub(in crate::model) fn check_network(root: Element<'_>, findings: &mut Findings<'_>) {
    check_against(&NETWORK, root, findings);
}

fn check_against(schema: &'static Schema, root: Element<'_>, findings: &mut Findings<'_>) {
    let checker = Checker {
        schema,
        namespace: root.namespace(),
    };
    checker.element(root, 0, false, findings);
}

struct Checker<'a> {
    schema: &'static Schema,
    /// The namespace of the definition itself, usually none.
    namespace: Option<&'a str>,
}

impl Checker<'_> {
    /// `quiet` inside an element whose own fate has been told.
    fn element(
        &self,
        element: Element<'_>,
        place: usize,
        quiet: bool,
        findings: &mut Findings<'_>,
    ) {
        let Some(place) = self.schema.places.get(place) else {
            return;
        };
        if findings.is_full() {
            return;
        }
        for attribute in element.attributes() {
            self.attribute(element, attribute, place, quiet, findings);
        }
        let mut seen = BTreeSet::new();
        for child in element.children() {
            self.child(child, place, quiet, &mut seen, findings);
        }
    }

    fn attribute(
        &self,
        element: Element<'_>,
        attribute: Attribute<'_>,
        place: &Place,
        quiet: bool,
        findings: &mut Findings<'_>,
    ) {
        let name = attribute.name();
        let value = shown(attribute.value());
        if attribute.is_namespace_declaration() {
            return;
        }
        if let Some((prefix, _)) = name.split_once(':') {
            if prefix != "xml" && element.resolve_prefix(Some(prefix)).is_none() {
                let message = format!("the prefix '{prefix}' is not declared");
                findings.error(attribute.position(), message);
            }
            return;
        }
        let Some(rule) = place.attributes.get(name) else {
            let hint = match nearest(name, place.attributes.keys()) {
                Some(near) => format!("did you mean '{near}'?"),
                None if place.attributes.is_empty() => "it has no attributes".to_string(),
                None => list("it has", place.attributes.keys()),
            };
            findings.error_with_hint(
                attribute.position(),
                format!("<{}> has no attribute '{}'", element.name(), shown(name)),
                hint,
            );
            return;
        };
        let subject = format!("{name}='{value}' of <{}>", element.name());
        let at = attribute.value_position();
        match judge(rule, attribute.value()) {
            Verdict::Fine => tell((rule.fate, rule.doc), &subject, at, quiet, findings),
            Verdict::Word(word) => tell((word.fate, word.doc), &subject, at, quiet, findings),
            Verdict::Wrong(expected) => findings.error_with_hint(
                at,
                format!("'{value}' is no value for {name}= of <{}>", element.name()),
                expected,
            ),
        }
    }

    fn child<'a>(
        &self,
        child: Element<'a>,
        place: &Place,
        quiet: bool,
        seen: &mut BTreeSet<&'a str>,
        findings: &mut Findings<'_>,
    ) {
        if child.namespace() != self.namespace {
            self.foreign(child, findings);
            return;
        }
        if let Some(prefix) = child.prefix() {
            let message = format!("the prefix '{prefix}' is not declared");
            findings.error(child.position(), message);
            return;
        }
        let name = child.name();
        let Some((rule, next)) = place.children.get(name) else {
            self.unknown_child(child, place, findings);
            return;
        };
        if !seen.insert(name) && !rule.many {
            findings.error_with_hint(
                child.position(),
                format!("<{name}> is there twice; only one counts"),
                "remove one of them",
            );
        }
        if name == "metadata" {
            return;
        }
        self.text(child, rule, findings);
        let subject = format!("<{name}>");
        tell(
            (rule.fate, rule.doc),
            &subject,
            child.position(),
            quiet,
            findings,
        );
        let told = !matches!(rule.fate, Fate::Honoured | Fate::Part);
        self.element(child, *next, quiet || told, findings);
    }

    fn text(&self, element: Element<'_>, rule: &Row, findings: &mut Findings<'_>) {
        let text = element.text().trim();
        match rule.value {
            Value::Empty if element.has_text() => findings.error(
                element.text_position(),
                format!("<{}> takes no text", element.name()),
            ),
            Value::Empty | Value::Text => {}
            _ => {
                if let Verdict::Wrong(expected) = judge(rule, text) {
                    findings.error_with_hint(
                        element.text_position(),
                        format!("'{}' is no value for <{}>", shown(text), element.name()),
                        expected,
                    );
                }
            }
        }
    }

    fn unknown_child(&self, child: Element<'_>, place: &Place, findings: &mut Findings<'_>) {
        let name = child.name();
        let parent = child.parent().map_or(self.schema.root, Element::name);
        let hint = match nearest(name, place.children.keys()) {
            Some(near) => match singular_or_plural(near, place.children.keys()) {
                Some(other) => format!("did you mean <{near}> or <{other}>?"),
                None => format!("did you mean <{near}>?"),
            },
            None => match self.schema.parents_of(name) {
                Some(right) => format!("<{name}> belongs into <{right}>"),
                None if place.children.is_empty() => format!("<{parent}> contains no elements"),
                None => list(&format!("<{parent}> may contain"), place.children.keys()),
            },
        };
        findings.error_with_hint(
            child.position(),
            format!("<{}> is not known in <{parent}>", shown(name)),
            hint,
        );
    }

    /// An element of a namespace that is not the definition's.
    fn foreign(&self, element: Element<'_>, findings: &mut Findings<'_>) {
        let namespace = element.namespace().unwrap_or_default();
        if namespace == QEMU {
            let canonical = format!("qemu:{}", element.local_name());
            let doc = self.schema.places[0]
                .children
                .get(canonical.as_str())
                .map_or(
                    "nothing of QEMU's own namespace can be honoured",
                    |(rule, _)| rule.doc,
                );
            findings.error_with_hint(
                element.position(),
                format!("<{}> is refused: {doc}", element.name()),
                "remove it",
            );
        } else if namespace == DNSMASQ {
            findings.error_with_hint(
                element.position(),
                format!(
                    "<{}> is refused: options of dnsmasq's own cannot be honoured",
                    element.name()
                ),
                "remove it; <dns> and <dhcp> say what can be said",
            );
        } else {
            findings.warn(
                element.position(),
                format!(
                    "<{}> has no effect: it belongs to the namespace '{namespace}', which means nothing here",
                    element.name()
                ),
            );
        }
    }
}

/// Reports a fate that is worth a word.
fn tell(
    (fate, doc): (Fate, &str),
    subject: &str,
    at: Position,
    quiet: bool,
    findings: &mut Findings<'_>,
) {
    match fate {
        Fate::Refused => findings.error(at, format!("{subject} is refused: {doc}")),
        Fate::Warned if !quiet => findings.warn(at, format!("{subject} has no effect: {doc}")),
        Fate::Kept if !quiet => findings.keep(at, format!("{subject}: {doc}")),
        _ => {}
    }
}

enum Verdict {
    Fine,
    Word(Word),
    Wrong(String),
}

fn judge(rule: &Row, text: &str) -> Verdict {
    let fine = |good: bool, expected: &str| {
        if good {
            Verdict::Fine
        } else {
            Verdict::Wrong(expected.to_string())
        }
    };
    match rule.value {
        Value::Empty | Value::Text => Verdict::Fine,
        Value::YesNo => one_of(text, &["yes", "no"]),
        Value::OnOff => one_of(text, &["on", "off"]),
        Value::OneOf(words) => one_of(text, words),
        Value::Words(words) => match words.iter().find(|word| word.word == text) {
            Some(word) => Verdict::Word(*word),
            None => Verdict::Wrong(suggestion(text, words.iter().map(|word| word.word))),
        },
        Value::Number => fine(unsigned(text).is_some(), "it takes a whole number"),
        Value::Set => fine(
            cpu_set(text).is_some(),
            "it takes numbers and ranges, such as 0-3,^2,7",
        ),
        Value::AnyBase => fine(
            any_base(text).is_some(),
            "it takes a whole number, hexadecimal with 0x before it",
        ),
    }
}

fn one_of(text: &str, words: &[&str]) -> Verdict {
    if words.contains(&text) {
        Verdict::Fine
    } else {
        Verdict::Wrong(suggestion(text, words.iter().copied()))
    }
}

fn suggestion<'a>(text: &str, words: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(text, words.clone()) {
        Some(near) => format!("did you mean '{near}'? It takes {}", alternatives(words)),
        None => format!("it takes {}", alternatives(words)),
    }
}

fn list<'a>(intro: &str, names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.filter(|name| !name.contains(':')).collect();
    let more = names.len() > MAX_LISTED;
    names.truncate(MAX_LISTED);
    let tail = if more { ", ..." } else { "" };
    format!("{intro} {}{tail}", names.join(", "))
}

/// The other one where an element is known in two numbers, as `<vcpu>` and `<vcpus>` are.
fn singular_or_plural<'a>(near: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .find(|name| name.strip_suffix('s') == Some(near) || near.strip_suffix('s') == Some(*name))
}
