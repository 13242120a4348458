//! `vm domblklist`

use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::model::{DiskDevice, DiskSource};
use serde::Serialize;

/// List the disks of a domain
#[derive(Debug, clap::Args)]
pub struct Domblklist {
    /// The domain: name, id or UUID
    domain: String,
    /// Those of the definition on disk
    #[arg(long)]
    inactive: bool,
    /// Add type and device
    #[arg(long)]
    details: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    device: &'static str,
    target: String,
    source: Option<String>,
}

impl Verb for Domblklist {
    const NAME: &'static str = "domblklist";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let guest = if self.inactive {
            None
        } else {
            manager.guest(&domain)?
        };
        let (_, model) = manager.current_definition(&domain, guest.as_ref())?;
        let lines: Vec<Line> = model
            .disks
            .into_iter()
            .map(|disk| {
                let (kind, source) = match disk.source {
                    Some(DiskSource::File(path)) => ("file".to_string(), Some(path)),
                    Some(DiskSource::Block(path)) => ("block".to_string(), Some(path)),
                    Some(DiskSource::Other(kind)) => (kind, None),
                    None => ("file".to_string(), None),
                };
                let device = match disk.device {
                    DiskDevice::Disk => "disk",
                    DiskDevice::Cdrom => "cdrom",
                    DiskDevice::Floppy => "floppy",
                    DiskDevice::Lun => "lun",
                };
                Line {
                    kind,
                    device,
                    target: disk.target,
                    source,
                }
            })
            .collect();
        if context.ui.is_json() {
            return context.ui.json(&lines);
        }
        let mut table = if self.details {
            Table::new(&["Type", "Device", "Target", "Source"])
        } else {
            Table::new(&["Target", "Source"])
        };
        for line in lines {
            let mut cells = Vec::new();
            if self.details {
                cells.extend([line.kind, line.device.to_string()]);
            }
            cells.extend([line.target, line.source.unwrap_or_else(|| "-".into())]);
            table.row(cells);
        }
        context.ui.data(&table.render(context.ui.quiet))
    }
}
