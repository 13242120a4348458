//! `<cputune>`: pins.

use crate::model::domain::Vcpus;
use crate::model::findings::Findings;
use crate::model::tune::{CpuList, CpuTune, cpu_list};
use crate::model::value;
use crate::xml::Element;

/// What a list of processors looks like.
const LIST: &str = "a list of processors such as 0-3,^2";

pub(super) fn cputune(
    root: Element<'_>,
    vcpus: Option<&Vcpus>,
    findings: &mut Findings<'_>,
) -> CpuTune {
    let mut tune = CpuTune {
        default: root
            .child("vcpu")
            .and_then(|vcpu| findings.parsed(vcpu, "cpuset", LIST, cpu_list)),
        ..CpuTune::default()
    };
    let Some(element) = root.child("cputune") else {
        return tune;
    };
    for pin in element.children_named("vcpupin") {
        let index = match pin.attribute("vcpu") {
            Some(_) => findings.parsed(pin, "vcpu", "the number of a vCPU", value::unsigned32),
            None => {
                missing(pin, "vcpu", findings);
                None
            }
        };
        let list = list(pin, findings);
        let (Some(index), Some(list)) = (index, list) else {
            continue;
        };
        if vcpus.is_some_and(|vcpus| index >= vcpus.max) {
            let message = format!("<vcpupin vcpu='{index}'> has no effect: there is no such vCPU");
            findings.warn(pin.position(), message);
            continue;
        }
        if tune.vcpus.insert(index, list).is_some() {
            let message = format!("<vcpupin vcpu='{index}'> is there twice");
            findings.error(pin.position(), message);
        }
    }
    tune.emulator = element
        .child("emulatorpin")
        .and_then(|pin| list(pin, findings));
    tune
}

fn list(pin: Element<'_>, findings: &mut Findings<'_>) -> Option<CpuList> {
    if pin.attribute("cpuset").is_none() {
        missing(pin, "cpuset", findings);
    }
    findings.parsed(pin, "cpuset", LIST, cpu_list)
}

fn missing(pin: Element<'_>, attribute: &str, findings: &mut Findings<'_>) {
    let message = format!("<{}> has no {attribute}=", pin.name());
    findings.error_with_hint(
        pin.position(),
        message,
        "write <vcpupin vcpu='0' cpuset='0-3'/> or <emulatorpin cpuset='0-3'/>",
    );
}
