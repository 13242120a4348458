//! What a guest has of its memory: changed while it runs by its balloon, in its definition, or both;
//! and what the guest says of it.

use super::amend::Place;
use super::definition::mistakes;
use super::pins::Affects;
use super::usage::resident;
use super::{Domain, Manager};
use crate::error::{Error, Kind, Result};
use crate::model::{self, Memory};
use crate::runtime::Guest;
use crate::runtime::guest::ANSWER;
use crate::xml::Document;
use serde_json::{Map, Value};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use vmm_api::control::{Reply, Request};
use vmm_api::state::Adjustment;

/// Figures of the guest that are older are asked for again, in seconds.
const FRESH: u64 = 2;
/// How long newer ones are waited for, if the guest has given any before.
const ROUNDS: u32 = 10;
const ROUND: Duration = Duration::from_millis(50);

/// libvirt's names of a guest's figures, in its order, and whether they count bytes.
const FIGURES: &[(&str, bool)] = &[
    ("swap_in", true),
    ("swap_out", true),
    ("major_fault", false),
    ("minor_fault", false),
    ("unused", true),
    ("available", true),
    ("usable", true),
    ("last_update", false),
    ("disk_caches", true),
    ("hugetlb_pgalloc", false),
    ("hugetlb_pgfail", false),
];

impl Manager {
    /// Has the balloon of a running guest leave so many KiB to it, and writes them into its
    /// definition.
    ///
    /// # Errors
    /// More than there is; no balloon; as [`Manager::affected`].
    pub fn set_memory(&self, domain: &Domain, kib: u64, affects: Affects) -> Result<()> {
        let edit = |document: &mut Document, model: &model::Domain, place: Place| {
            if place == Place::Live {
                balloon(model)?;
                return refuse_beyond(kib, &model.memory);
            }
            refuse_beyond(kib, &model.memory)?;
            model::set_current_memory(document, kib).map_err(|found| mistakes(&found))
        };
        let bytes = kib.saturating_mul(1024);
        self.adjust(domain, affects, edit, Adjustment::Memory { bytes })
    }

    /// Changes how much memory a domain has from its next start on.
    ///
    /// # Errors
    /// A running guest is meant; its NUMA nodes say how much it is; as [`Manager::affected`].
    pub fn set_max_memory(&self, domain: &Domain, kib: u64, affects: Affects) -> Result<()> {
        let (guest, _) = self.affected(domain, affects)?;
        if guest.is_some() {
            let error =
                Error::invalid_operation("cannot resize the maximum memory on an active domain");
            return Err(error.hint(format!(
                "for its next start: vm setmaxmem {} {kib} --config",
                domain.name
            )));
        }
        let edit = |document: &mut Document, model: &model::Domain, _: Place| {
            if document.root().child("memory").is_none() {
                return Err(Error::invalid_operation(
                    "initial memory size of a domain with NUMA nodes cannot be modified with this API",
                ));
            }
            model::set_max_memory(document, &model.memory, kib).map_err(|found| mistakes(&found))
        };
        let config = Affects {
            live: false,
            config: true,
        };
        self.amend(domain, config, edit, |_, _| Ok(())).map(drop)
    }

    /// Changes how often a guest is asked for its statistics; 0 for only when somebody asks.
    ///
    /// # Errors
    /// No balloon; as [`Manager::affected`].
    pub fn set_stats_period(&self, domain: &Domain, seconds: u32, affects: Affects) -> Result<()> {
        let edit = |document: &mut Document, model: &model::Domain, _: Place| {
            balloon(model)?;
            model::set_stats_period(document, seconds).map_err(|found| mistakes(&found))
        };
        self.adjust(domain, affects, edit, Adjustment::StatsPeriod { seconds })
    }

    /// Names and figures of a running guest's memory, in libvirt's order: KiB, events, and the second
    /// of the Unix epoch at which the guest last told of itself. What is not known is not there.
    ///
    /// # Errors
    /// It does not run, or does not answer.
    pub fn memory_stats(&self, domain: &Domain) -> Result<Vec<(String, Value)>> {
        let guest = self.running(domain)?;
        let (_, model) = self.current_definition(domain, Some(&guest))?;
        let status = guest.status(ANSWER)?;
        let actual = status.memory_left.unwrap_or(status.memory) / 1024;
        let mut figures = vec![("actual".to_string(), actual.into())];
        if let Some(balloon) = &model.memballoon {
            figures.extend(fresh_figures(&guest, &balloon.alias)?);
        }
        figures.extend(resident(&guest).map(|bytes| ("rss".into(), (bytes / 1024).into())));
        Ok(figures)
    }

    /// Makes a change that the guest's balloon is told of.
    fn adjust(
        &self,
        domain: &Domain,
        affects: Affects,
        edit: impl Fn(&mut Document, &model::Domain, Place) -> Result<()>,
        setting: Adjustment,
    ) -> Result<()> {
        let tell = |guest: &Guest, _: &model::Domain| {
            guest.call(Request::Adjust { setting }, ANSWER).map(drop)
        };
        if self.amend(domain, affects, edit, tell)? {
            self.note(domain.uuid, "memory", &domain.name, &format!("{setting:?}"));
        }
        Ok(())
    }
}

/// The balloon, or virsh's words for its absence.
fn balloon(model: &model::Domain) -> Result<&model::MemBalloon> {
    let there = model.memballoon.as_ref().filter(|balloon| balloon.present);
    there.ok_or_else(|| {
        Error::invalid_operation(
            "Unable to change memory of active domain without the balloon device and guest OS balloon driver",
        )
        .hint("give it one for its next start: <memballoon model='virtio'/>")
    })
}

fn refuse_beyond(kib: u64, memory: &Memory) -> Result<()> {
    if kib < vmm_api::spec::MIN_MEMORY / 1024 {
        let message = format!("invalid argument: {kib} KiB are too little for any guest");
        return Err(Error::new(Kind::Usage, message)
            .hint("a number counts KiB; with a unit it may be 512MiB or 2G"));
    }
    if kib <= memory.size_kib {
        return Ok(());
    }
    let message = "invalid argument: cannot set memory higher than max memory";
    Err(Error::new(Kind::Usage, message).cause(format!(
        "{kib} KiB are asked for, the domain has {} KiB",
        memory.size_kib
    )))
}

/// The guest's figures; when those that are known are old, newer ones are waited for a moment, for the
/// question has made the process ask for them.
fn fresh_figures(guest: &Guest, alias: &str) -> Result<Vec<(String, Value)>> {
    let mut known = statistics(guest, alias)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    for _ in 0..ROUNDS {
        let told = known.get("last_update").and_then(Value::as_u64);
        if told.is_none_or(|told| told.saturating_add(FRESH) >= now) {
            break;
        }
        sleep(ROUND);
        known = statistics(guest, alias)?;
    }
    Ok(figures(&known))
}

/// What the process knows of its guest's memory.
fn statistics(guest: &Guest, alias: &str) -> Result<Map<String, Value>> {
    let device = Some(alias.to_string());
    let devices = match guest.call(Request::Stats { device }, ANSWER) {
        Ok(Reply::Stats { devices }) => devices,
        // A process that was started without a balloon.
        Ok(_) => Map::new(),
        Err(error) if error.kind == Kind::Guest => Map::new(),
        Err(error) => return Err(error),
    };
    Ok(known(&devices, alias))
}

/// The part of a process's counters that is the guest's own.
fn known(devices: &Map<String, Value>, alias: &str) -> Map<String, Value> {
    let statistics = devices
        .get(alias)
        .and_then(|balloon| balloon.get("statistics"));
    statistics
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default()
}

/// Under libvirt's names, and in its units.
fn figures(known: &Map<String, Value>) -> Vec<(String, Value)> {
    let figure = |(name, bytes): &(&str, bool)| {
        let own = known.get("figures").and_then(|figures| figures.get(*name));
        let value = own.or_else(|| known.get(*name))?.as_u64()?;
        let value = if *bytes { value / 1024 } else { value };
        Some(((*name).to_string(), value.into()))
    };
    FIGURES.iter().filter_map(figure).collect()
}

/// The guest's figures among all counters of its process, for `domstats`.
pub(super) fn of_devices(devices: &Map<String, Value>, alias: &str) -> Vec<(String, Value)> {
    figures(&known(devices, alias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_libvirts_names_order_and_units() {
        let devices = serde_json::json!({"balloon0": {"statistics": {
            "period": 5, "last_update": 1_700_000_000,
            "figures": {"usable": 4096, "unused": 2048, "minor_fault": 7, "oom_kill": 1}}}});
        let devices = devices.as_object().expect("an object");
        let names: Vec<(String, Value)> = [
            ("minor_fault", 7_u64),
            ("unused", 2),
            ("usable", 4),
            ("last_update", 1_700_000_000),
        ]
        .map(|(name, value)| (name.to_string(), value.into()))
        .into();
        assert_eq!(of_devices(devices, "balloon0"), names);
        assert_eq!(of_devices(devices, "other"), []);
    }
}
