//! `vm image convert`

use super::tool::{self, Access, Progress};
use super::{create, options};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::ops::ConvertOptions;
use images::ops::create::{Backing, CreateOptions};
use std::path::PathBuf;

/// Copy an image into another format
#[derive(Debug, clap::Args)]
pub struct Convert {
    /// Format of the source; looked at if not said
    #[arg(short = 'f', long = "source-format", value_name = "FMT")]
    fmt: Option<String>,
    /// Format of the target
    #[arg(short = 'O', long, value_name = "FMT", default_value = "raw")]
    target_format: String,
    /// Compress (qcow2)
    #[arg(short = 'c', long)]
    compress: bool,
    /// Show progress
    #[arg(short = 'p', long)]
    progress: bool,
    /// Requests in flight; with -c also threads that compress
    #[arg(short = 'm', long, value_name = "N")]
    parallel: Option<usize>,
    /// Accepted for qemu-img's sake: writes are never held back for order
    #[arg(short = 'W', long = "oob-writes")]
    out_of_order: bool,
    /// Zeroes of at least this size become holes; 0 writes them all
    #[arg(short = 'S', long = "sparse-size", value_name = "SIZE")]
    sparse: Option<String>,
    /// The target exists and keeps its format and options
    #[arg(short = 'n', long)]
    no_create: bool,
    /// The target that exists reads as zeroes (with -n)
    #[arg(long, requires = "no_create")]
    target_is_zero: bool,
    /// Read an internal snapshot, by id or name, instead of the disk
    #[arg(short = 'l', long, value_name = "SNAPSHOT")]
    source_snapshot: Option<String>,
    /// Cache mode of the source
    #[arg(short = 'T', long, value_name = "MODE", default_value = "writeback")]
    source_cache: String,
    /// Cache mode of the target; with unsafe, a crash of the host soon after may lose the copy
    #[arg(short = 't', long, value_name = "MODE", default_value = "unsafe")]
    target_cache: String,
    /// Bytes per second that are written at most
    #[arg(short = 'r', long, value_name = "RATE")]
    rate: Option<String>,
    /// What cannot be read of the source becomes zero
    #[arg(long)]
    salvage: bool,
    /// Accepted for qemu-img's sake: data is always read and written
    #[arg(short = 'C', long, hide = true)]
    copy_range_offloading: bool,
    /// Read the source although somebody may be writing to it
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Backing file of the target, which must have what it is expected to have
    #[arg(short = 'B', long, value_name = "FILE")]
    backing: Option<String>,
    /// Format of the target's backing file
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,
    /// Options of the target: key=value,...
    #[arg(short = 'o', long = "target-options", value_name = "OPTIONS")]
    options: Vec<String>,
    /// The image to read
    source: PathBuf,
    /// The image to write
    target: PathBuf,
}

impl Convert {
    /// Does it.
    ///
    /// # Errors
    /// What is wrong with either image; a full disk.
    pub fn run(self, context: &Context) -> Result<()> {
        let executor = tool::executor()?;
        let format = tool::format_of(&self.source, self.fmt.as_deref())?;
        let access = Access {
            unlocked: self.force_share,
            cache: Some(tool::cache(&self.source_cache)?),
            ..Access::default()
        };
        let snapshot = self.source_snapshot.as_deref();
        let source = tool::open_as_of(&self.source, format, access, snapshot)?;
        tool::activate(&executor, &self.source, &source)?;
        let target_format = tool::format(&self.target_format)?;
        let existed = self.target.exists();
        let mut zero = !self.no_create || self.target_is_zero;
        if !self.no_create {
            let new = self.new_image(target_format, source.virtual_size())?;
            zero &= new.backing.is_none();
            create::data_file(&new, &self.target.display().to_string())?;
            let file = create::new_file(&self.target)?;
            images::ops::create(&file, &new).map_err(|error| tool::wrong(&self.target, &error))?;
            zero &= file.metadata().is_ok_and(|meta| meta.is_file());
        }
        let result = self.copy(context, &executor, &source, zero);
        if result.is_err() && !existed {
            // Half a copy is of no use to anybody.
            let _ = std::fs::remove_file(&self.target);
        }
        result
    }

    fn new_image(&self, format: images::Format, size: u64) -> Result<CreateOptions> {
        let mut new = CreateOptions::new(format, size);
        let separate = options::apply(&mut new, &self.options)?;
        let backing = self.backing.clone().or(separate.backing);
        let backing_format = self.backing_format.clone().or(separate.backing_format);
        if let Some(name) = backing {
            let Some(format) = backing_format else {
                return Err(Error::new(
                    Kind::Usage,
                    "backing file specified without backing format",
                )
                .hint("say -F raw or -F qcow2: a format is never guessed"));
            };
            new.backing = Some(Backing {
                name,
                format: tool::format(&format)?,
            });
        }
        Ok(new)
    }

    fn copy(
        &self,
        context: &Context,
        executor: &images::exec::Executor,
        source: &std::sync::Arc<images::Image>,
        zero: bool,
    ) -> Result<()> {
        let format = tool::format(&self.target_format)?;
        let access = Access {
            writable: true,
            cache: Some(tool::cache(&self.target_cache)?),
            ..Access::default()
        };
        let target = tool::open(&self.target, format, access)?;
        target.write_blocking();
        tool::activate(executor, &self.target, &target)?;
        let defaults = ConvertOptions::default();
        let how = ConvertOptions {
            compress: self.compress,
            depth: self.parallel.map_or(defaults.depth, |n| n.clamp(1, 256)),
            threads: self.parallel.unwrap_or(0),
            sparse: self
                .sparse
                .as_deref()
                .map_or(Ok(defaults.sparse), tool::size)?,
            target_is_zero: zero,
            salvage: self.salvage,
            rate: self.rate.as_deref().map_or(Ok(0), tool::size)?,
            ..defaults
        };
        let progress = Progress::new(context, self.progress);
        let result = executor.block_on(images::ops::convert(
            source,
            &target,
            &how,
            &|done, total| {
                progress.set(done, total);
            },
        ));
        progress.end();
        tool::close_after(executor, &self.target, &target, result)
    }
}
