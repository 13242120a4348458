//! What our own elements in `<metadata>` ask of the host: when a domain starts with it, and whether
//! one that ended is started again. libvirt's XML has no words for either.
//!
//! ```xml
//! <metadata>
//!   <vm:autostart xmlns:vm='urn:vm:domain:1' order='1' delay='10'/>
//!   <vm:restart xmlns:vm='urn:vm:domain:1' policy='on-failure' delay='1' max-delay='300' max='10'/>
//! </metadata>
//! ```
//!
//! Elements of other namespaces in `<metadata>` are other people's and never looked at. Whether a
//! policy applies to an end is decided in `daemon::restart`, not here.

use super::findings::Findings;
use crate::xml::Element;
use std::time::Duration;

/// The namespace of our own elements in `<metadata>`.
pub const NAMESPACE: &str = "urn:vm:domain:1";

/// Longest delay that may be asked for, in seconds: a day.
const MAX_DELAY: u64 = 86_400;

/// What our elements say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// `<vm:autostart>`.
    pub autostart: Autostart,
    /// `<vm:restart>`.
    pub restart: Option<Restart>,
}

/// When a domain that is marked as autostarted starts, beside the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Autostart {
    /// `order=`: lower ones first; those without come last. Equals go by name.
    pub order: Option<u32>,
    /// `delay=`: how long the next domain waits after this one runs.
    pub delay: Option<Duration>,
}

/// Which ends are followed by a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartWhen {
    /// Never, also where `<on_crash>` says restart.
    No,
    /// After crashes and failures.
    OnFailure,
    /// Also after the guest powered itself off; never after an operator ended it.
    Always,
}

/// `<vm:restart>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// `policy=`.
    pub when: RestartWhen,
    /// `delay=`: before the first restart; each further one in a row waits twice as long.
    pub delay: Duration,
    /// `max-delay=`: the longest wait.
    pub max_delay: Duration,
    /// `max=`: restarts in a row until it is given up; 0 never gives up.
    pub max: u32,
}

impl Restart {
    /// What holds when only the policy is given.
    pub fn new(when: RestartWhen) -> Self {
        Self {
            when,
            delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
            max: 10,
        }
    }
}

/// Reads our elements.
pub(super) fn read(root: Element<'_>, findings: &mut Findings<'_>) -> Policy {
    let mut policy = Policy::default();
    let mut seen = Vec::new();
    let elements = root
        .child("metadata")
        .into_iter()
        .flat_map(Element::children)
        .filter(|element| element.namespace() == Some(NAMESPACE));
    for element in elements {
        let name = element.local_name();
        if seen.contains(&name) {
            findings.error_with_hint(
                element.position(),
                format!("<{}> is there twice; only one counts", element.name()),
                "remove one of them",
            );
        }
        seen.push(name);
        match name {
            "autostart" => policy.autostart = autostart(element, findings),
            "restart" => policy.restart = restart(element, findings),
            _ => findings.error_with_hint(
                element.position(),
                format!("<{}> is not known in {NAMESPACE}", element.name()),
                "it has <autostart> and <restart>",
            ),
        }
    }
    policy
}

fn autostart(element: Element<'_>, findings: &mut Findings<'_>) -> Autostart {
    refuse_others(element, &["order", "delay"], findings);
    Autostart {
        order: findings.parsed(element, "order", "a number from 0", |text| {
            text.parse().ok()
        }),
        delay: seconds(element, "delay", findings),
    }
}

fn restart(element: Element<'_>, findings: &mut Findings<'_>) -> Option<Restart> {
    refuse_others(element, &["policy", "delay", "max-delay", "max"], findings);
    if element.attribute("policy").is_none() {
        findings.error_with_hint(
            element.position(),
            format!("<{}> has no policy", element.name()),
            "it takes policy='no', 'on-failure' or 'always'",
        );
    }
    let expected = "no, on-failure or always";
    let when = findings.parsed(element, "policy", expected, |text| match text {
        "no" => Some(RestartWhen::No),
        "on-failure" => Some(RestartWhen::OnFailure),
        "always" => Some(RestartWhen::Always),
        _ => None,
    })?;
    let usual = Restart::new(when);
    let delay = seconds(element, "delay", findings).unwrap_or(usual.delay);
    Some(Restart {
        when,
        delay,
        max_delay: seconds(element, "max-delay", findings)
            .unwrap_or(usual.max_delay)
            .max(delay),
        max: findings
            .parsed(element, "max", "a number from 0", |text| text.parse().ok())
            .unwrap_or(usual.max),
    })
}

fn seconds(element: Element<'_>, name: &str, findings: &mut Findings<'_>) -> Option<Duration> {
    let expected = format!("seconds from 0 to {MAX_DELAY}");
    findings.parsed(element, name, &expected, |text| {
        let seconds: u64 = text.parse().ok()?;
        (seconds <= MAX_DELAY).then(|| Duration::from_secs(seconds))
    })
}

fn refuse_others(element: Element<'_>, known: &[&str], findings: &mut Findings<'_>) {
    for attribute in element.attributes() {
        let name = attribute.name();
        let declares = name == "xmlns" || name.starts_with("xmlns:");
        if !declares && !known.contains(&name) {
            findings.error_with_hint(
                attribute.position(),
                format!(
                    "{}= is not known in <{}>",
                    super::findings::shown(name),
                    element.name()
                ),
                format!("it takes {}", known.join(", ")),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Domain;
    use crate::xml::{Diagnostics, Document};

    fn parse(metadata: &str) -> Result<Policy, Diagnostics> {
        let text = format!(
            "<domain type='kvm'>\n<name>a</name>\n<memory>65536</memory>\n\
             <os><type arch='x86_64'>hvm</type><kernel>/k</kernel></os>\n\
             <metadata xmlns:vm='{NAMESPACE}'>\n{metadata}\n</metadata>\n</domain>"
        );
        let document = Document::parse(&text, "a.xml").expect("it is XML");
        Domain::parse(&document).map(|(domain, _)| domain.policy)
    }

    #[test]
    fn nothing_said_is_nothing_asked() {
        let other = "<x:restart xmlns:x='urn:other' policy='maybe'/>";
        assert_eq!(parse(other).unwrap(), Policy::default());
    }

    #[test]
    fn what_is_said_is_understood() {
        let policy = parse(
            "<vm:autostart order='3' delay='20'/>\n\
             <vm:restart policy='always' delay='600' max='0'/>",
        )
        .unwrap();
        assert_eq!(policy.autostart.order, Some(3));
        assert_eq!(policy.autostart.delay, Some(Duration::from_secs(20)));
        let restart = policy.restart.unwrap();
        assert_eq!((restart.when, restart.max), (RestartWhen::Always, 0));
        // A first delay above the usual longest one moves that up.
        assert_eq!(restart.max_delay, Duration::from_secs(600));
    }

    #[test]
    fn mistakes_have_a_place_and_the_right_words() {
        for (text, right) in [
            ("<vm:restart policy='sometimes'/>", "on-failure"),
            ("<vm:restart/>", "policy="),
            ("<vm:restart policy='no' dely='1'/>", "delay"),
            ("<vm:restart policy='no' delay='soon'/>", "seconds"),
            ("<vm:autostart order='-1'/>", "a number from 0"),
            ("<vm:boot/>", "<autostart>"),
            ("<vm:autostart/><vm:autostart/>", "remove one"),
        ] {
            let found = parse(text).unwrap_err().to_string();
            assert!(found.contains("a.xml:6:"), "{text}: {found}");
            assert!(found.contains(right), "{text}: {found}");
        }
    }
}
