//! Limits of a guest's whole process, which its cgroup or scope keeps: read and changed while it runs, in
//! its definition, or both (`vm schedinfo`, `vm memtune`, `vm blkiotune`).
//!
//! What a running guest has is what the kernel says, not what its definition says. A guest without a
//! group of its own has no limits, and that is said: a number would be a lie.

use super::amend::Place;
use super::definition::mistakes;
use super::pins::{Affects, process};
use super::{Domain, Manager};
use crate::error::{Error, Kind, Result};
use crate::model;
use crate::runtime::Guest;
use crate::runtime::cgroup::Living;
use crate::runtime::limits::{CpuMax, Limit, Limits};
use crate::xml::Document;

impl Manager {
    /// The limits of a running guest's group, or those of a definition.
    ///
    /// # Errors
    /// As [`Manager::affected`]; a guest that is in no group of its own.
    pub fn limits(&self, domain: &Domain, affects: Affects) -> Result<Limits> {
        let (guest, _) = self.affected(domain, affects)?;
        match guest {
            Some(guest) => Ok(group(&guest)?.limits()),
            None => Ok(written(&self.current_definition(domain, None)?.1)),
        }
    }

    /// Changes limits of a running guest's group, of its definition, or of both. `change` makes the new
    /// ones of those that there are; `verb` is what the journal says.
    ///
    /// # Errors
    /// As [`Manager::limits`]; a limit that the guest is beyond, or that the host cannot keep. What was
    /// refused is not changed.
    pub fn set_limits(
        &self,
        domain: &Domain,
        verb: &str,
        affects: Affects,
        change: impl Fn(&Limits) -> Vec<Limit>,
    ) -> Result<()> {
        // What a running guest is to have, of what it has.
        let wanted = |guest: &Guest| -> Result<(Living, Limits, Vec<Limit>)> {
            let living = group(guest)?;
            let now = living.limits();
            let wanted = change(&now);
            refuse_beyond(&living, &wanted)?;
            Ok((living, now, wanted))
        };
        let edit = |document: &mut Document, model: &model::Domain, place: Place| {
            let limits = match (place, self.affected(domain, affects)?.0) {
                (Place::Live, Some(guest)) => wanted(&guest)?.2,
                _ => change(&written(model)),
            };
            limits
                .into_iter()
                .try_for_each(|limit| model::set_limit(document, limit))
                .map_err(|found| mistakes(&found))
        };
        let tell = |guest: &Guest, _: &model::Domain| {
            let (living, before, wanted) = wanted(guest)?;
            set_all(&living, &before, &wanted).map_err(|why| {
                let message = format!("cannot change the limits of domain '{}'", domain.name);
                Error::new(Kind::Host, message).cause(why)
            })
        };
        if self.amend(domain, affects, edit, tell)? {
            self.note(domain.uuid, verb, &domain.name, "");
        }
        Ok(())
    }
}

/// What a definition says.
fn written(model: &model::Domain) -> Limits {
    let bytes = |kib: Option<u64>| kib.map(|kib| kib.saturating_mul(1024));
    Limits {
        cpu_weight: model.cputune.shares,
        cpu_max: model.cputune.global,
        memory_max: bytes(model.memtune.hard_kib),
        memory_high: bytes(model.memtune.soft_kib),
        io_weight: model.io_weight,
    }
}

/// The limits that a guest's group starts with: those that limit something.
pub(super) fn at_start(model: &model::Domain) -> Limits {
    let limits = written(model);
    Limits {
        cpu_max: limits.cpu_max.filter(|max| max.quota_us.is_some()),
        ..limits
    }
}

/// The new CPU time of a process: a quota or a period, the other one staying as it is.
pub fn cpu_max(now: &Limits, quota: Option<Option<u64>>, period: Option<u64>) -> CpuMax {
    let now = now.cpu_max.unwrap_or(CpuMax::ANY);
    CpuMax {
        quota_us: quota.unwrap_or(now.quota_us),
        period_us: period.unwrap_or(now.period_us),
    }
}

/// Sets all limits or, when one is refused, none.
fn set_all(living: &Living, before: &Limits, wanted: &[Limit]) -> std::result::Result<(), String> {
    for (done, limit) in wanted.iter().enumerate() {
        let Err(why) = living.set(*limit) else {
            continue;
        };
        for earlier in wanted.iter().take(done) {
            // The kernel had it a moment ago.
            let _ = living.set(before.like(*earlier));
        }
        return Err(why);
    }
    Ok(())
}

fn group(guest: &Guest) -> Result<Living> {
    Living::of(process(guest)?).map_err(|why| {
        let name = &guest.record.name;
        let message = format!("domain '{name}' has no group whose limits could be read or changed");
        Error::new(Kind::Host, message)
            .cause(why)
            .hint("vm host-check says what this host lacks; --config is about the definition")
    })
}

/// The kernel would end a guest at once that uses more than it may.
fn refuse_beyond(living: &Living, wanted: &[Limit]) -> Result<()> {
    let most = wanted.iter().find_map(|limit| match limit {
        Limit::MemoryMax(Some(bytes)) => Some(*bytes),
        _ => None,
    });
    match (most, living.memory()) {
        (Some(most), Some(used)) if most < used => {
            let message = "the guest uses more memory than that, and would be ended by the kernel";
            let used = used.div_ceil(1024);
            Err(Error::new(Kind::State, message).cause(format!("it uses {used} KiB now")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_quota_and_period_changes_and_the_other_stays() {
        let none = Limits::default();
        let some = |quota_us, period_us| CpuMax {
            quota_us,
            period_us,
        };
        assert_eq!(cpu_max(&none, None, Some(50_000)), some(None, 50_000));
        let quota = cpu_max(&none, Some(Some(5000)), None);
        assert_eq!(quota, some(Some(5000), 100_000));
        let now = Limits {
            cpu_max: Some(some(Some(5000), 50_000)),
            ..none
        };
        assert_eq!(cpu_max(&now, Some(None), None), some(None, 50_000));
        assert_eq!(cpu_max(&now, None, Some(1000)), some(Some(5000), 1000));
    }
}
