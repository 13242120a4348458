//! From a CPU model and rules for single features to the exact set that the guest is shown.

use super::features::{Feature, NEEDS};
use super::models::{Model, closest, find_model};
use super::{HostCpu, Set, Vendor};
use crate::spec::{CpuModel, CpuSpec, FeaturePolicy};
use std::fmt;

/// What a guest is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Its features, the hypervisor's own among them.
    pub set: Set,
    /// Whether everything else that KVM offers is hidden: a model was named.
    pub exact: bool,
    /// What was asked for as optional, or goes with something that was taken away.
    pub dropped: Set,
}

/// Why a CPU cannot be had on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No baseline has this name.
    UnknownModel,
    /// No feature has this name; the number is the rule's.
    UnknownFeature(usize),
    /// KVM does not offer these.
    Missing {
        /// What is missing.
        set: Set,
        /// What can be had instead.
        instead: Option<&'static str>,
    },
    /// The host has a feature that it must not have.
    Forbidden(Feature),
    /// A feature was asked for, and what it needs was taken away.
    Needs(Feature, Feature),
    /// KVM gives this as the host has it; it cannot be taken away.
    Fixed(Feature),
    /// More address bits than the host has, or too few for any guest.
    AddressBits {
        /// What was asked for.
        asked: u8,
        /// What KVM offers.
        most: u8,
    },
}

/// Fewest address bits: what RAM below 4 GiB and the window of 64-bit BARs need at the least.
const FEWEST_BITS: u8 = 38;

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownModel => f.write_str("no CPU model has that name"),
            Self::UnknownFeature(rule) => {
                write!(f, "feature rule {rule} names no CPU feature")
            }
            Self::Missing { set, .. } => write!(
                f,
                "this host's KVM does not offer: {}",
                set.names().join(", ")
            ),
            Self::Forbidden(feature) => {
                write!(f, "this host has the forbidden feature {}", feature.name())
            }
            Self::Needs(feature, needed) => write!(
                f,
                "the feature {} needs {}, which is not shown",
                feature.name(),
                needed.name()
            ),
            Self::Fixed(feature) => write!(
                f,
                "the feature {} cannot be taken away: KVM gives it as the host has it",
                feature.name()
            ),
            Self::AddressBits { asked, most } => write!(
                f,
                "{asked} physical address bits cannot be had: this host offers {FEWEST_BITS} to {most}"
            ),
        }
    }
}

/// The features that may be shown to a guest that moves: all but an unchanging TSC rate.
pub fn migratable(set: &Set) -> Set {
    let mut set = *set;
    if let Some(feature) = Feature::named("invtsc") {
        set.remove(feature);
    }
    set
}

/// What every guest with a named model has beside it, as far as KVM offers it: it is a guest, with
/// the faster APIC, and KVM's own features.
pub fn standing(host: &HostCpu) -> Set {
    let always = Set::of(["hypervisor", "x2apic"]).unwrap_or_default();
    always.union(&Set::paravirtual()).intersection(&host.set())
}

/// The exact set of features.
///
/// # Errors
/// Every reason why this CPU cannot be had here.
pub fn choose(spec: &CpuSpec, host: &HostCpu) -> Result<Chosen, Vec<Trouble>> {
    let offered = host.set();
    let mut trouble = Vec::new();
    let (mut set, exact) = match &spec.model {
        CpuModel::HostPassthrough { migratable: false } => (offered, false),
        CpuModel::HostPassthrough { migratable: true } | CpuModel::Default => {
            (migratable(&offered), false)
        }
        CpuModel::Named { name, beyond } => {
            let Some(model) = find_model(name) else {
                return Err(vec![Trouble::UnknownModel]);
            };
            let named = model.set().union(&standing(host));
            if *beyond {
                (named.union(&migratable(&offered)), true)
            } else {
                (named, true)
            }
        }
    };
    let mut dropped = Set::default();
    let mut asked = Set::default();
    let mut wished = Set::default();
    let mut taken = Set::default();
    for (at, rule) in spec.features.iter().enumerate() {
        let Some(feature) = Feature::named(&rule.name) else {
            trouble.push(Trouble::UnknownFeature(at));
            continue;
        };
        let has = offered.contains(feature);
        match rule.policy {
            FeaturePolicy::Require | FeaturePolicy::Force => {
                asked.insert(feature);
            }
            FeaturePolicy::Optional if has => wished.insert(feature),
            FeaturePolicy::Optional => {
                set.remove(feature);
                dropped.insert(feature);
            }
            FeaturePolicy::Forbid if has => trouble.push(Trouble::Forbidden(feature)),
            FeaturePolicy::Disable | FeaturePolicy::Forbid => {
                set.remove(feature);
                taken.insert(feature);
            }
        }
    }
    let wished = wished.union(&asked);
    if !wished.is_empty() {
        bring_along(&mut set, &wished, &taken);
    }
    let missing = set.minus(&offered);
    if !missing.is_empty() {
        let instead = instead(spec, host).map(|model| model.name);
        trouble.push(Trouble::Missing {
            set: missing,
            instead,
        });
    }
    // A host and a model agree with themselves; only rules can tear something apart.
    if !spec.features.is_empty() {
        follow_needs(&mut set, &asked, &mut dropped, &mut trouble);
    }
    settle_fixed(spec, &offered, &mut set, &mut trouble);
    check_bits(spec, host, &mut trouble);
    if !trouble.is_empty() {
        return Err(trouble);
    }
    Ok(Chosen {
        set,
        exact,
        dropped,
    })
}

/// The nearest model that this host can show.
fn instead(spec: &CpuSpec, host: &HostCpu) -> Option<&'static Model> {
    let offered = host.set();
    let wanted = match &spec.model {
        CpuModel::Named { name, .. } => find_model(name)?.set(),
        CpuModel::HostPassthrough { .. } | CpuModel::Default => return None,
    };
    let vendor = host.vendor();
    closest(&wanted.intersection(&offered), vendor).or_else(|| closest(&offered, vendor))
}

/// What was asked for brings along what it needs, but for what was taken away by name.
fn bring_along(set: &mut Set, wished: &Set, taken: &Set) {
    let mut reached = *wished;
    // A chain is never longer than the list.
    for _ in NEEDS {
        let before = reached;
        for (name, needed) in NEEDS {
            if reached.has(name)
                && let Some(needed) = Feature::named(needed)
                && !taken.contains(needed)
            {
                reached.insert(needed);
            }
        }
        if reached == before {
            break;
        }
    }
    *set = set.union(&reached.minus(taken));
}

/// Takes away what makes no sense without something that is not there.
fn follow_needs(set: &mut Set, asked: &Set, dropped: &mut Set, trouble: &mut Vec<Trouble>) {
    loop {
        let before = *set;
        for (name, needed) in NEEDS {
            let (Some(feature), Some(needed)) = (Feature::named(name), Feature::named(needed))
            else {
                continue;
            };
            if set.contains(feature) && !set.contains(needed) {
                if asked.contains(feature) {
                    trouble.push(Trouble::Needs(feature, needed));
                }
                set.remove(feature);
                dropped.insert(feature);
            }
        }
        if *set == before {
            return;
        }
    }
}

/// The bits of IA32_ARCH_CAPABILITIES are there altogether or not at all.
fn settle_fixed(spec: &CpuSpec, offered: &Set, set: &mut Set, trouble: &mut Vec<Trouble>) {
    let shown = set.has("arch-capabilities");
    for rule in &spec.features {
        let Some(feature) = Feature::named(&rule.name).filter(|feature| feature.is_fixed()) else {
            continue;
        };
        match rule.policy {
            FeaturePolicy::Disable if shown && offered.contains(feature) => {
                trouble.push(Trouble::Fixed(feature));
            }
            FeaturePolicy::Require | FeaturePolicy::Force if !shown => {
                if let Some(needed) = Feature::named("arch-capabilities") {
                    trouble.push(Trouble::Needs(feature, needed));
                }
            }
            _ => {}
        }
    }
    *set = set.minus(&Set::fixed());
    if shown {
        *set = set.union(&offered.intersection(&Set::fixed()));
    }
}

fn check_bits(spec: &CpuSpec, host: &HostCpu, trouble: &mut Vec<Trouble>) {
    let most = host.physical_bits();
    if let Some(asked) = spec.physical_bits
        && !(FEWEST_BITS..=most).contains(&asked)
    {
        trouble.push(Trouble::AddressBits { asked, most });
    }
}

impl Chosen {
    /// The model and the features beside it by which a definition says the same; the second set is
    /// what the model has and the guest has not.
    pub fn as_model(&self, vendor: Option<Vendor>) -> Option<(&'static Model, Set, Set)> {
        let set = self.set.intersection(&Set::processor());
        let model = closest(&set, vendor)?;
        Some((model, set.minus(&model.set()), model.set().minus(&set)))
    }
}
