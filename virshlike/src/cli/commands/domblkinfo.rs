//! `vm domblkinfo`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::model::{DiskSource, Domain};
use crate::runtime::chain;
use serde::Serialize;
use std::path::Path;

/// Print the sizes of a domain's disk
#[derive(Debug, clap::Args)]
pub struct Domblkinfo {
    /// The domain: name, id or UUID
    domain: String,
    /// The disk's target, such as vda, or its source
    device: String,
}

#[derive(Debug, Serialize)]
struct Sizes {
    /// Bytes that the guest sees.
    capacity: u64,
    /// Bytes that the file takes on the host.
    allocation: u64,
    /// Bytes from the file's beginning to its end.
    physical: u64,
}

impl Verb for Domblkinfo {
    const NAME: &'static str = "domblkinfo";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let (_, model) = manager.current_definition(&domain, manager.guest(&domain)?.as_ref())?;
        let alias = alias_of(&model, &self.device)?;
        let disk = model.disks.iter().find(|disk| disk.alias == alias);
        let path = disk.and_then(|disk| match &disk.source {
            Some(DiskSource::File(path) | DiskSource::Block(path)) => Some((disk, path)),
            _ => None,
        });
        let Some((disk, path)) = path else {
            return Err(Error::new(
                Kind::NotFound,
                format!("disk '{}' has no file on this host", self.device),
            ));
        };
        let measured = chain::measure(Path::new(path), disk.format)?;
        let sizes = Sizes {
            capacity: measured.capacity,
            allocation: measured.allocation,
            physical: measured.physical,
        };
        if context.ui.is_json() {
            return context.ui.json(&sizes);
        }
        context
            .ui
            .line(format!("{:<15} {}", "Capacity:", sizes.capacity))?;
        context
            .ui
            .line(format!("{:<15} {}", "Allocation:", sizes.allocation))?;
        context
            .ui
            .line(format!("{:<15} {}", "Physical:", sizes.physical))
    }
}

/// The alias of the disk that a person means by its target or source.
///
/// # Errors
/// No such disk, with those there are.
pub fn alias_of(model: &Domain, device: &str) -> Result<String> {
    let source = |source: &Option<DiskSource>| match source {
        Some(DiskSource::File(path) | DiskSource::Block(path)) => path == device,
        _ => false,
    };
    let found = model
        .disks
        .iter()
        .find(|disk| disk.target == device || source(&disk.source));
    found.map(|disk| disk.alias.clone()).ok_or_else(|| {
        let targets: Vec<&str> = model
            .disks
            .iter()
            .map(|disk| disk.target.as_str())
            .collect();
        let error = Error::new(
            Kind::NotFound,
            format!("invalid argument: invalid path: {device}"),
        )
        .cause(format!("domain '{}' has no disk '{device}'", model.name));
        if targets.is_empty() {
            return error;
        }
        error.hint(format!("it has {}", targets.join(", ")))
    })
}
