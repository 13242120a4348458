//! `vm image commit`

use super::tool::{self, Access, Progress};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::Format;
use std::path::PathBuf;

/// Write what an image has into its backing file
#[derive(Debug, clap::Args)]
pub struct Commit {
    /// Format of the image; only qcow2 has backing files
    #[arg(short = 'f', long = "image-format", value_name = "FMT")]
    fmt: Option<String>,
    /// Keep the image as it is; it is emptied otherwise
    #[arg(short = 'd', long = "drop")]
    keep: bool,
    /// Cache mode
    #[arg(short = 't', long, value_name = "MODE", default_value = "writeback")]
    cache: String,
    /// Show progress
    #[arg(short = 'p', long)]
    progress: bool,
    /// The image
    filename: PathBuf,
}

impl Commit {
    /// Does it.
    ///
    /// # Errors
    /// An image without a backing file; images in use; a full disk.
    pub fn run(self, context: &Context) -> Result<()> {
        let path = &self.filename;
        let format = tool::format_of(path, self.fmt.as_deref())?;
        let facts = images::ops::info(
            tool::open_file(path, false)?,
            &path.display().to_string(),
            format,
        )
        .map_err(|error| tool::wrong(path, &error))?;
        let Some(base_path) = facts.full_backing_filename.map(PathBuf::from) else {
            return Err(Error::new(
                Kind::State,
                "Image does not have a backing file",
            ));
        };
        let base_format = match facts.backing_filename_format.as_deref() {
            Some(name) => tool::format(name)?,
            None => Format::Raw,
        };
        let executor = tool::executor()?;
        // The base is locked for writing by itself; the image above it locks only itself.
        let access = Access {
            writable: true,
            cache: Some(tool::cache(&self.cache)?),
            ..Access::default()
        };
        let base = tool::open(&base_path, base_format, access)?;
        base.write_blocking();
        tool::activate(&executor, &base_path, &base)?;
        let access = Access {
            unlocked_backing: true,
            ..access
        };
        let image = tool::open(path, format, access)?;
        tool::activate(&executor, path, &image)?;
        let progress = Progress::new(context, self.progress);
        let result = executor.block_on(images::ops::commit(&image, &base, &|done, total| {
            progress.set(done, total);
        }));
        progress.end();
        let closed = tool::close(&executor, &base_path, &base);
        let done = match result {
            // What the image has goes only once the base has it for good.
            Ok(()) if !self.keep && closed.is_ok() => executor.block_on(images::ops::empty(&image)),
            done => done,
        };
        let done = tool::close_after(&executor, path, &image, done);
        closed.and(done)?;
        context.ui.sentence("Image committed.")
    }
}
