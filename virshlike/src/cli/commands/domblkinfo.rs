//! `vm domblkinfo`

use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::model::{Disk, DiskSource, Domain};
use crate::runtime::chain;
use serde::Serialize;
use std::path::Path;

/// Print the sizes of a domain's disk, or of all its disks
#[derive(Debug, clap::Args)]
pub struct Domblkinfo {
    /// The domain: name, id or UUID
    domain: String,
    /// The disk's target, such as vda, or its source
    #[arg(required_unless_present = "all")]
    device: Option<String>,
    /// Sizes in units that fit them
    #[arg(long)]
    human: bool,
    /// A table of all disks
    #[arg(long, conflicts_with = "device")]
    all: bool,
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

#[derive(Debug, Serialize)]
struct Line {
    target: String,
    #[serde(flatten)]
    sizes: Option<Sizes>,
}

impl Verb for Domblkinfo {
    const NAME: &'static str = "domblkinfo";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let (_, model) = manager.current_definition(&domain, manager.guest(&domain)?.as_ref())?;
        let Some(device) = &self.device else {
            return self.table(context, &model);
        };
        let alias = alias_of(&model, device)?;
        let disk = model.disks.iter().find(|disk| disk.alias == alias);
        let sizes = disk.map(measured).transpose()?.flatten();
        let Some(sizes) = sizes else {
            return Err(Error::new(
                Kind::NotFound,
                format!("disk '{device}' has no file on this host"),
            ));
        };
        if context.ui.is_json() {
            return context.ui.json(&sizes);
        }
        for (name, bytes) in [
            ("Capacity:", sizes.capacity),
            ("Allocation:", sizes.allocation),
            ("Physical:", sizes.physical),
        ] {
            context
                .ui
                .line(format!("{name:<15} {}", self.size(bytes)))?;
        }
        Ok(())
    }
}

impl Domblkinfo {
    fn table(&self, context: &Context, model: &Domain) -> Result<()> {
        let mut lines = Vec::new();
        for disk in &model.disks {
            // One that cannot be measured is no reason to hide the others.
            let sizes = measured(disk).unwrap_or_else(|error| {
                context.ui.warn(format!("disk '{}': {error}", disk.target));
                None
            });
            let target = disk.target.clone();
            lines.push(Line { target, sizes });
        }
        if context.ui.is_json() {
            return context.ui.json(&lines);
        }
        let mut table = Table::new(&["Target", "Capacity", "Allocation", "Physical"]);
        for Line { target, sizes } in lines {
            let size = |bytes: fn(&Sizes) -> u64| match &sizes {
                Some(sizes) => self.size(bytes(sizes)),
                None => "-".to_string(),
            };
            let cells = [
                size(|sizes| sizes.capacity),
                size(|sizes| sizes.allocation),
                size(|sizes| sizes.physical),
            ];
            table.row([target].into_iter().chain(cells));
        }
        context.ui.data(&table.render(context.ui.quiet))
    }

    fn size(&self, bytes: u64) -> String {
        match self.human {
            true => pretty(bytes),
            false => bytes.to_string(),
        }
    }
}

/// A size in the largest unit that it fills, with three decimals, as virsh prints it.
fn pretty(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let place = bytes.checked_ilog2().unwrap_or(0) / 10;
    let unit = usize::try_from(place).ok().and_then(|at| units.get(at));
    #[allow(clippy::cast_precision_loss)]
    let value = bytes as f64 / (1u64 << (10 * place)) as f64;
    format!("{value:.3} {}", unit.unwrap_or(&"B"))
}

/// The sizes of a disk's image; `None` where it has no file on this host.
fn measured(disk: &Disk) -> Result<Option<Sizes>> {
    let Some(DiskSource::File(path) | DiskSource::Block(path)) = &disk.source else {
        return Ok(None);
    };
    let found = chain::measure(Path::new(path), disk.format)?;
    Ok(Some(Sizes {
        capacity: found.capacity,
        allocation: found.allocation,
        physical: found.physical,
    }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_units_that_fit_them() {
        for (bytes, text) in [
            (0, "0.000 B"),
            (1023, "1023.000 B"),
            (1024, "1.000 KiB"),
            (10 << 30, "10.000 GiB"),
            (1_500_000_000, "1.397 GiB"),
            (u64::MAX, "16.000 EiB"),
        ] {
            assert_eq!(pretty(bytes), text);
        }
    }
}
