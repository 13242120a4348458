//! What a guest may ask of its disks: `vm blkdeviotune`.

use super::amend::Place;
use super::definition::mistakes;
use super::pins::Affects;
use super::{Domain, Manager};
use crate::error::{Error, Kind, Result};
use crate::model::{self, Disk, DiskSource, changed_limits, set_limits};
use crate::runtime::Guest;
use crate::runtime::guest::ANSWER;
use crate::xml::Document;
use vmm_api::control::Request;
use vmm_api::spec::{IoLimits, LIMIT_NAMES};

/// A disk by target or source.
fn disk<'m>(model: &'m model::Domain, name: &str) -> Result<&'m Disk> {
    let is_source = |disk: &Disk| match &disk.source {
        Some(DiskSource::File(path) | DiskSource::Block(path)) => path == name,
        _ => false,
    };
    let mut disks = model.disks.iter();
    let found = disks.find(|disk| disk.target == name || is_source(disk));
    found.ok_or_else(|| {
        let message = format!("invalid argument: disk '{name}' was not found in the domain config");
        let targets: Vec<&str> = model
            .disks
            .iter()
            .map(|disk| disk.target.as_str())
            .collect();
        Error::new(Kind::NotFound, message).hint(format!("its disks: {}", targets.join(", ")))
    })
}

fn changed(before: &IoLimits, given: &[(&str, u64)]) -> Result<IoLimits> {
    let limits = changed_limits(before, given);
    let wrong = |what: String| {
        Error::new(
            Kind::Unsupported,
            format!("unsupported configuration: {what}"),
        )
    };
    limits.check().map(|()| limits).map_err(wrong)
}

impl Manager {
    /// The limits of a disk: names and numbers, in virsh's order.
    ///
    /// # Errors
    /// No such disk; as [`Manager::affected`].
    pub fn disk_limits(
        &self,
        domain: &Domain,
        name: &str,
        affects: Affects,
    ) -> Result<Vec<(&'static str, u64)>> {
        let (guest, _) = self.affected(domain, affects)?;
        let (_, model) = self.current_definition(domain, guest.as_ref())?;
        let mut limits = disk(&model, name)?.limits;
        let number = |name: &'static str| (name, limits.number(name).map_or(0, |n| *n));
        Ok(LIMIT_NAMES.map(number).to_vec())
    }

    /// Changes limits of a disk, in a running guest, in its definition, or in both.
    ///
    /// # Errors
    /// No such disk, numbers that make no sense together; as [`Manager::affected`]. Nothing is changed
    /// then.
    pub fn set_disk_limits(
        &self,
        domain: &Domain,
        name: &str,
        given: &[(&str, u64)],
        affects: Affects,
    ) -> Result<()> {
        let edit = |document: &mut Document, model: &model::Domain, _: Place| {
            let disk = disk(model, name)?;
            let limits = changed(&disk.limits, given)?;
            set_limits(document, &disk.target, limits).map_err(|found| mistakes(&found))
        };
        let tell = |guest: &Guest, after: &model::Domain| {
            let disk = disk(after, name)?;
            let request = Request::LimitDisk {
                device: disk.alias.clone(),
                limits: disk.limits,
            };
            guest.call(request, ANSWER).map(drop)
        };
        if self.amend(domain, affects, edit, tell)? {
            self.note(domain.uuid, "blkdeviotune", &domain.name, name);
        }
        Ok(())
    }
}
