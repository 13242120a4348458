//! `vm image snapshot`

use super::info::snapshot_table;
use super::tool::{self, Access};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::Format;
use images::ops::snapshot;
use std::path::PathBuf;
use std::time::Duration;

/// List, take, apply or delete internal snapshots of an image
#[derive(Debug, clap::Args)]
pub struct Snapshot {
    /// Format of the image; looked at if not said
    #[arg(short = 'f', long = "image-format", value_name = "FMT")]
    fmt: Option<String>,
    /// List the snapshots (what is done if nothing else is asked for)
    #[arg(short = 'l', long, group = "action")]
    list: bool,
    /// Take a snapshot
    #[arg(short = 'c', long, value_name = "NAME", group = "action")]
    create: Option<String>,
    /// Make the disk what it was when the snapshot was taken
    #[arg(short = 'a', long, value_name = "NAME", group = "action")]
    apply: Option<String>,
    /// Delete a snapshot
    #[arg(short = 'd', long, value_name = "NAME", group = "action")]
    delete: Option<String>,
    /// Look at the image although somebody uses it (with -l)
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The file
    filename: PathBuf,
}

impl Snapshot {
    /// Does it.
    ///
    /// # Errors
    /// An image in use or without snapshots; no such snapshot; a full disk.
    pub fn run(self, context: &Context) -> Result<()> {
        let path = &self.filename;
        let format = tool::format_of(path, self.fmt.as_deref())?;
        if format != Format::Qcow2 {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "{} is a raw image: only qcow2 has internal snapshots",
                    path.display()
                ),
            )
            .hint(format!(
                "convert it: vm image convert -f raw -O qcow2 {0} {0}.qcow2",
                path.display()
            )));
        }
        let wrong = |error| tool::wrong(path, &error);
        if self.create.is_none() && self.apply.is_none() && self.delete.is_none() {
            let facts = images::ops::info(tool::open_file(path, false)?, "", format);
            let snapshots = facts.map_err(wrong)?.snapshots;
            if context.ui.is_json() {
                return context.ui.json(&snapshots);
            }
            if snapshots.is_empty() {
                return Ok(());
            }
            context.ui.sentence("Snapshot list:")?;
            return context.ui.data(&snapshot_table(&snapshots));
        }
        let executor = tool::executor()?;
        let access = Access {
            writable: true,
            ..Access::default()
        };
        let image = tool::open(path, format, access)?;
        tool::activate(&executor, path, &image)?;
        let done = executor.block_on(async {
            if let Some(name) = &self.create {
                snapshot::take(&image, name, Duration::ZERO).await?;
            } else if let Some(name) = &self.apply {
                snapshot::apply(&image, name).await?;
            } else if let Some(name) = &self.delete {
                snapshot::delete(&image, name).await?;
            }
            Ok(())
        });
        tool::close_after(&executor, path, &image, done)
    }
}
