//! The guest's CPU, settled before anything is started: which features it is shown on this host, or
//! what of it cannot be had, with the place in the definition and a model that works.
//!
//! The `vmm` chooses once more by the same rules when it makes the CPUID table. Nothing here asks
//! KVM: the caller brings what it offers, and only where that is needed.

use super::machine::Place;
use super::{Manager, host};
use crate::error::{Error, Kind, Result};
use crate::model::{self, AddressBits, CpuMatch, CpuMode, FeaturePolicy, FeatureRule};
use crate::runtime::record::LiveCpu;
use vmm_api::cpu::{self, Chosen, HostCpu, Set, Trouble};
use vmm_api::spec::{CpuModel, CpuSpec};

/// What a CPU that nobody chose becomes.
const OLDEST: &str = "x86-64-v1";
/// More names than this make no list that anybody reads.
const MOST_NAMED: usize = 20;

/// A CPU that this host can show.
#[derive(Debug)]
pub struct Settled {
    /// What the guest's process is told.
    pub spec: CpuSpec,
    /// What `dumpxml` shows of it while it runs; nothing where the definition says it all.
    pub live: Option<LiveCpu>,
    /// What was left out.
    pub warnings: Vec<String>,
}

impl Manager {
    /// What this host's KVM can show guests.
    ///
    /// # Errors
    /// There is no KVM, or it cannot be asked.
    pub fn host_cpu(&self) -> Result<HostCpu> {
        self.driver.ready()?;
        self.driver.host_cpu(host::open_kvm(&self.kvm)?)
    }

    /// A definition's CPU as it would be on this host, where the definition alone does not tell.
    ///
    /// # Errors
    /// As [`settle`].
    pub(super) fn cpu_here(&self, model: &model::Domain) -> Result<Option<LiveCpu>> {
        let place = Place { file: &model.name };
        Ok(settle(model, &place, || self.host_cpu())?.live)
    }
}

/// Settles the CPU of a definition. `host` is asked at most once.
///
/// # Errors
/// Every feature that cannot be had, by name; a host of another maker; what `host` says.
pub fn settle(
    model: &model::Domain,
    place: &Place<'_>,
    host: impl FnOnce() -> Result<HostCpu>,
) -> Result<Settled> {
    let wanted = &model.cpu;
    let mut spec = CpuSpec {
        count: model.vcpus.current,
        max: model.vcpus.max,
        topology: wanted.topology,
        model: plain_model(&wanted.mode),
        features: wanted.rules.clone(),
        vendor_id: wanted.vendor_id.clone(),
        physical_bits: None,
    };
    if is_plain(wanted) {
        return Ok(Settled {
            spec,
            live: None,
            warnings: Vec::new(),
        });
    }
    let host = host()?;
    if let Some(vendor) = wanted.vendor
        && host.vendor() != Some(vendor)
    {
        let why = format!(
            "it is for hosts made by {}, this one says {}",
            vendor.as_str(),
            host.vendor_letters()
        );
        return Err(refuse().cause(place.line(wanted.at, why)));
    }
    spec.physical_bits = match wanted.address_bits {
        AddressBits::Host => None,
        AddressBits::AtMost(bits) => Some(bits.min(host.physical_bits())),
        AddressBits::Exactly(bits) => Some(bits),
    };
    let mut warnings = Vec::new();
    match &wanted.mode {
        CpuMode::HostModel => host_model(&mut spec, &host),
        CpuMode::Baseline => warnings.extend(oldest(&mut spec, &host)),
        CpuMode::Named(name) => {
            spec.model = CpuModel::Named {
                name: name.clone(),
                beyond: wanted.matching == CpuMatch::Minimum,
            };
        }
        CpuMode::Default | CpuMode::HostPassthrough { .. } | CpuMode::Maximum => {}
    }
    let chosen = cpu::choose(&spec, &host).map_err(|trouble| explain(&trouble, place, wanted))?;
    if wanted.matching == CpuMatch::Strict {
        refuse_more(&chosen, &spec, &host, place, wanted)?;
    }
    Ok(Settled {
        live: live(&spec, &chosen, &host),
        warnings: warnings
            .into_iter()
            .chain(left_out(&chosen.dropped))
            .collect(),
        spec,
    })
}

/// Whether the definition can be followed without knowing what the host has.
fn is_plain(wanted: &model::Cpu) -> bool {
    let whole = matches!(
        wanted.mode,
        CpuMode::Default | CpuMode::HostPassthrough { .. } | CpuMode::Maximum
    );
    whole
        && wanted.rules.is_empty()
        && wanted.vendor.is_none()
        && wanted.address_bits == AddressBits::Host
        && wanted.matching != CpuMatch::Strict
}

fn plain_model(mode: &CpuMode) -> CpuModel {
    match mode {
        CpuMode::HostPassthrough { migratable } => CpuModel::HostPassthrough {
            migratable: *migratable,
        },
        CpuMode::Maximum => CpuModel::HostPassthrough { migratable: false },
        CpuMode::Default | CpuMode::HostModel | CpuMode::Baseline | CpuMode::Named(_) => {
            CpuModel::Default
        }
    }
}

/// The model nearest to the host, and everything in which it differs by name, so that another host can tell
/// whether it has the same.
fn host_model(spec: &mut CpuSpec, host: &HostCpu) {
    let offered = cpu::migratable(&host.set()).intersection(&Set::processor());
    let Some(model) = cpu::nearest(&offered, host.vendor()) else {
        return;
    };
    spec.model = CpuModel::Named {
        name: model.name.into(),
        beyond: false,
    };
    let beyond = offered.minus(&model.set()).names().into_iter();
    let rule = |policy| {
        move |name: &'static str| FeatureRule {
            name: name.into(),
            policy,
        }
    };
    let lacking = model.set().minus(&offered).names().into_iter();
    let differs = beyond
        .map(rule(FeaturePolicy::Require))
        .chain(lacking.map(rule(FeaturePolicy::Disable)));
    let own = std::mem::take(&mut spec.features);
    let named = |rule: &FeatureRule| own.iter().any(|other| other.name == rule.name);
    spec.features = differs.filter(|rule| !named(rule)).collect();
    spec.features.extend(own);
}

/// The oldest baseline, less what even that host lacks: nobody chose it, so nothing is refused.
fn oldest(spec: &mut CpuSpec, host: &HostCpu) -> Option<String> {
    spec.model = CpuModel::Named {
        name: OLDEST.into(),
        beyond: false,
    };
    let lacking = cpu::find_model(OLDEST)?.set().minus(&host.set());
    for name in lacking.names() {
        spec.features.push(FeatureRule {
            name: name.into(),
            policy: FeaturePolicy::Disable,
        });
    }
    left_out(&lacking)
}

fn left_out(set: &Set) -> Option<String> {
    let names = set.names().join(", ");
    (!set.is_empty()).then(|| format!("the guest's CPU goes without: {names}"))
}

fn refuse() -> Error {
    Error::new(
        Kind::Host,
        "the host cannot show the CPU that the definition asks for",
    )
}

fn explain(trouble: &[Trouble], place: &Place<'_>, wanted: &model::Cpu) -> Error {
    let mut error = refuse();
    for trouble in trouble {
        error = error.cause(place.line(wanted.at, trouble));
        error = match trouble {
            Trouble::Missing {
                instead: Some(model),
                ..
            } => error.hint(format!(
                "<model>{model}</model> works on this host, and so does mode='host-model'"
            )),
            Trouble::Missing { instead: None, .. } => {
                error.hint("policy='optional' asks for a feature only where there is one")
            }
            Trouble::AddressBits { .. } => error.hint("write <maxphysaddr mode='passthrough'/>"),
            _ => error,
        };
    }
    error
}

/// `match='strict'`: a host that has more than what is written is another host.
fn refuse_more(
    chosen: &Chosen,
    spec: &CpuSpec,
    host: &HostCpu,
    place: &Place<'_>,
    wanted: &model::Cpu,
) -> Result<()> {
    let named: Vec<&str> = spec
        .features
        .iter()
        .map(|rule| rule.name.as_str())
        .collect();
    let offered = cpu::migratable(&host.set()).intersection(&Set::processor());
    let mut more = offered.minus(&chosen.set).names();
    more.retain(|name| !named.contains(name));
    if more.is_empty() {
        return Ok(());
    }
    let rest = more.len().saturating_sub(MOST_NAMED);
    more.truncate(MOST_NAMED);
    let mut list = more.join(", ");
    if rest > 0 {
        list.push_str(&format!(" and {rest} more"));
    }
    let why = format!("match='strict', and the host has more: {list}");
    Err(refuse()
        .cause(place.line(wanted.at, why))
        .hint("match='exact' hides what is not written"))
}

/// A CPU as features beside a named model, for a running domain's definition.
fn live(spec: &CpuSpec, chosen: &Chosen, host: &HostCpu) -> Option<LiveCpu> {
    let CpuModel::Named { name, .. } = &spec.model else {
        return None;
    };
    let model = cpu::find_model(name)?.set();
    let set = chosen.set.intersection(&Set::processor());
    let owned = |set: Set| set.names().into_iter().map(str::to_string).collect();
    Some(LiveCpu {
        model: name.clone(),
        vendor: host.vendor().map(|vendor| vendor.as_str().to_string()),
        require: owned(set.minus(&model)),
        disable: owned(model.minus(&set)),
    })
}

#[cfg(test)]
mod tests;
