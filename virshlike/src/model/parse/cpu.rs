//! `<cpu>`: mode, model, rules for single features, topology.

use crate::model::domain::{
    AddressBits, Cpu, CpuMatch, CpuMode, CpuTopology, FeaturePolicy, FeatureRule, Vcpus, Vendor,
};
use crate::model::findings::{Findings, shown};
use crate::model::value;
use crate::xml::Element;
use vmm_api::cpu::{self, Feature, MODELS};
use vmm_api::spec::MAX_APIC_ID;

/// Models that libvirt and others write when nobody chose.
const NOBODYS: [&str; 3] = ["", "qemu64", "kvm64"];
/// Letters of a vendor in CPUID.
const VENDOR_LETTERS: usize = 12;
/// Fewest and most bits of an address (Intel SDM 3A §4.1.4).
const ADDRESS_BITS: std::ops::RangeInclusive<u8> = 32..=52;

pub(super) fn cpu(root: Element<'_>, vcpus: Option<&Vcpus>, findings: &mut Findings<'_>) -> Cpu {
    let Some(element) = root.child("cpu") else {
        return Cpu::default();
    };
    let mode = mode(element, findings);
    Cpu {
        topology: topology(element, vcpus, findings),
        rules: rules(element, &mode, findings),
        matching: match element.value("match") {
            Some("minimum") => CpuMatch::Minimum,
            Some("strict") => CpuMatch::Strict,
            _ => CpuMatch::Exact,
        },
        vendor: vendor(element, findings),
        vendor_id: vendor_id(element, findings),
        address_bits: address_bits(element, findings),
        at: element.position(),
        mode,
    }
}

fn mode(element: Element<'_>, findings: &mut Findings<'_>) -> CpuMode {
    match element.value("mode") {
        Some("host-passthrough") => CpuMode::HostPassthrough {
            migratable: element.value("migratable") != Some("off"),
        },
        Some("host-model") => CpuMode::HostModel,
        Some("maximum") => CpuMode::Maximum,
        Some("custom") | None => custom(element, findings),
        Some(_) => {
            if let Some(mode) = element.attribute("mode") {
                findings.bad_attribute(
                    element,
                    mode,
                    "'host-passthrough', 'host-model', 'maximum' or 'custom'",
                );
            }
            CpuMode::Default
        }
    }
}

fn custom(element: Element<'_>, findings: &mut Findings<'_>) -> CpuMode {
    let child = element.child("model");
    let name = child.map_or("", |model| model.text().trim());
    if name.is_empty() && element.value("mode").is_none() {
        return CpuMode::Default;
    }
    if NOBODYS.contains(&name) {
        let called = if name.is_empty() { "custom" } else { name };
        findings.warn(
            element.position(),
            format!(
                "the CPU model '{called}' is what libvirt writes when nobody chose; the guest gets our oldest baseline, x86-64-v1"
            ),
        );
        return CpuMode::Baseline;
    }
    if cpu::find_model(name).is_none() {
        let near = value::nearest(name, MODELS.iter().map(|model| model.name));
        let hint = match near {
            Some(near) => format!("did you mean '{near}'? vm cpu-models x86_64 lists them"),
            None => "vm cpu-models x86_64 lists the models that there are".to_string(),
        };
        let at = child.map_or(element.position(), |model| model.text_position());
        let message = format!("there is no CPU model '{}' here", shown(name));
        findings.keep_with_hint(at, message, hint);
    }
    CpuMode::Named(name.to_string())
}

fn rules(element: Element<'_>, mode: &CpuMode, findings: &mut Findings<'_>) -> Vec<FeatureRule> {
    let mut rules: Vec<FeatureRule> = Vec::new();
    for child in element.children_named("feature") {
        let Some(name) = child.attribute("name") else {
            findings.error_with_hint(
                child.position(),
                "<feature> has no name",
                "write <feature policy='require' name='aes'/>",
            );
            continue;
        };
        let policy = match child.value("policy") {
            Some("force") => FeaturePolicy::Force,
            Some("optional") => FeaturePolicy::Optional,
            Some("disable") => FeaturePolicy::Disable,
            Some("forbid") => FeaturePolicy::Forbid,
            _ => FeaturePolicy::Require,
        };
        if rules.iter().any(|rule| rule.name == name.value()) {
            let message = format!("the CPU feature '{}' is there twice", shown(name.value()));
            findings.error(name.value_position(), message);
            continue;
        }
        if Feature::named(name.value()).is_none() {
            unknown_feature(child, policy, findings);
            continue;
        }
        rules.push(FeatureRule {
            name: name.value().to_string(),
            policy,
        });
    }
    if *mode == CpuMode::Baseline {
        // A CPU that nobody chose has features that nobody asked for: those of the host it was
        // written on.
        for rule in &mut rules {
            if matches!(rule.policy, FeaturePolicy::Require | FeaturePolicy::Force) {
                rule.policy = FeaturePolicy::Optional;
            }
        }
    }
    rules
}

/// Names that are not in our table: what must not be there is not there.
fn unknown_feature(element: Element<'_>, policy: FeaturePolicy, findings: &mut Findings<'_>) {
    let Some(name) = element.attribute("name") else {
        return;
    };
    let message = format!("there is no CPU feature '{}' here", shown(name.value()));
    match policy {
        FeaturePolicy::Require | FeaturePolicy::Force => {
            let near = value::nearest(name.value(), Feature::all().map(Feature::name));
            let hint = near.map_or("take it out".to_string(), |near| {
                format!("did you mean '{near}'?")
            });
            findings.keep_with_hint(name.value_position(), message, hint);
        }
        FeaturePolicy::Optional | FeaturePolicy::Disable | FeaturePolicy::Forbid => {
            findings.warn(
                name.value_position(),
                format!("{message}; no guest is shown it"),
            );
        }
    }
}

fn vendor(element: Element<'_>, findings: &mut Findings<'_>) -> Option<Vendor> {
    let child = element.child("vendor")?;
    let name = child.text().trim();
    let vendor = Vendor::named(name);
    if vendor.is_none() {
        findings.keep_with_hint(
            child.text_position(),
            format!("'{}' makes no processors for these machines", shown(name)),
            "it takes 'Intel', 'AMD' or 'Hygon'",
        );
    }
    vendor
}

fn vendor_id(element: Element<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let model = element.child("model")?;
    let expected = format!("{VENDOR_LETTERS} printable letters");
    findings.parsed(model, "vendor_id", &expected, |text| {
        let right =
            text.len() == VENDOR_LETTERS && text.bytes().all(|byte| byte.is_ascii_graphic());
        right.then(|| text.to_string())
    })
}

fn address_bits(element: Element<'_>, findings: &mut Findings<'_>) -> AddressBits {
    let Some(child) = element.child("maxphysaddr") else {
        return AddressBits::Host;
    };
    let expected = format!("{} to {}", ADDRESS_BITS.start(), ADDRESS_BITS.end());
    let bits = |text: &str| {
        let bits = value::unsigned32(text).and_then(|bits| u8::try_from(bits).ok());
        bits.filter(|bits| ADDRESS_BITS.contains(bits))
    };
    match child.value("mode") {
        Some("emulate") => match findings.parsed(child, "bits", &expected, bits) {
            Some(bits) => AddressBits::Exactly(bits),
            None => AddressBits::Host,
        },
        Some("passthrough") => {
            if child.attribute("bits").is_some() {
                findings.error_with_hint(
                    child.position(),
                    "<maxphysaddr mode='passthrough'> takes its bits from the host",
                    "write limit= for an upper bound, or mode='emulate'",
                );
            }
            let limit = findings.parsed(child, "limit", &expected, bits);
            limit.map_or(AddressBits::Host, AddressBits::AtMost)
        }
        _ => {
            if child.attribute("mode").is_none() {
                findings.error_with_hint(
                    child.position(),
                    "<maxphysaddr> has no mode",
                    "write mode='passthrough', or mode='emulate' and bits=",
                );
            }
            AddressBits::Host
        }
    }
}

fn topology(
    cpu: Element<'_>,
    vcpus: Option<&Vcpus>,
    findings: &mut Findings<'_>,
) -> Option<CpuTopology> {
    let element = cpu.child("topology")?;
    let mut part = |name: &str| {
        let parse = |text: &str| value::unsigned32(text).filter(|number| *number > 0);
        findings
            .parsed(element, name, "a whole number from 1", parse)
            .unwrap_or(1)
    };
    let topology = CpuTopology {
        sockets: part("sockets"),
        dies: part("dies"),
        cores: part("cores"),
        threads: part("threads"),
    };
    let clusters = part("clusters");
    if clusters > 1 {
        findings.keep(
            element.position(),
            format!("<topology clusters='{clusters}'>: x86 has no clusters"),
        );
    }
    let Some(vcpus) = vcpus else {
        return Some(topology);
    };
    let product = topology
        .vcpus()
        .and_then(|product| product.checked_mul(clusters));
    if product != Some(vcpus.max) {
        let room = product.map_or("more than 4294967295".to_string(), |n| n.to_string());
        findings.error_with_hint(
            element.position(),
            format!(
                "the topology has room for {room} vCPUs, <vcpu> says {}",
                vcpus.max
            ),
            "sockets * dies * cores * threads must be the number in <vcpu>",
        );
    } else if topology.highest_apic_id() > MAX_APIC_ID {
        findings.keep_with_hint(
            element.position(),
            format!(
                "the topology needs APIC identifiers up to {}; there are none above {MAX_APIC_ID}",
                topology.highest_apic_id()
            ),
            "threads, cores and dies that are powers of two leave no identifiers unused",
        );
    }
    Some(topology)
}
