//! `vm image convert`

use super::tool::{self, Access, Progress};
use super::{create, options};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::ops::ConvertOptions;
use images::ops::bitmap::BitmapInfo;
use images::ops::create::{Backing, CreateOptions};
use images::{ErrorKind, Image};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// Let the kernel copy from file to file where it can; zeroes that are data stay data. Space is
    /// shared without this too, between raw images on a file system that can
    #[arg(short = 'C', long, conflicts_with_all = ["compress", "sparse"])]
    copy_range_offloading: bool,
    /// Copy the persistent bitmaps too (qcow2 to qcow2)
    #[arg(long)]
    bitmaps: bool,
    /// Leave out bitmaps that cannot be used, and say which, instead of failing: inconsistent ones, which
    /// were not stored properly, and stale ones, without which the image was written to
    #[arg(long, requires = "bitmaps")]
    skip_broken_bitmaps: bool,
    /// Not supported: images are named by their paths
    #[arg(long, hide = true)]
    image_opts: bool,
    /// Not supported: there are no objects to name
    #[arg(long, hide = true, value_name = "OBJECT")]
    object: Vec<String>,
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
    /// The image to read, or several that are put one behind the other; then the one to write
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "TARGET"])]
    files: Vec<PathBuf>,
}

/// An image that is read, open.
struct Source<'a> {
    path: &'a Path,
    image: Arc<Image>,
}

impl Convert {
    /// Does it.
    ///
    /// # Errors
    /// What is wrong with either image; a full disk.
    pub fn run(self, context: &Context) -> Result<()> {
        self.refuse()?;
        let executor = tool::executor()?;
        let Some((target, sources)) = self.files.split_last() else {
            return Err(Error::new(Kind::Usage, "neither a source nor a target"));
        };
        let sources = sources
            .iter()
            .map(|path| self.source(&executor, path))
            .collect::<Result<Vec<_>>>()?;
        let size = sources.iter().map(|source| source.image.virtual_size());
        let size = size.fold(0, u64::saturating_add);
        let bitmaps = self.bitmaps_of(context, &executor, &sources)?;
        let target_format = tool::target_format(&self.target_format)?;
        let mut made = None;
        let mut zero = !self.no_create || self.target_is_zero;
        if !self.no_create {
            let new = self.new_image(target_format, size)?;
            zero &= new.backing.is_none();
            create::data_file(&new, &target.display().to_string())?;
            let file = create::new_file(target)?;
            create::image_in(&file, &new)?;
            zero &= file.file.metadata().is_ok_and(|meta| meta.is_file());
            made = Some(file);
        }
        let result = self.copy(context, &executor, (&sources, &bitmaps), target, zero);
        if let (Err(_), Some(made)) = (&result, made) {
            made.give_up();
        }
        result
    }

    /// What qemu-img has and this has not, or what makes no sense together.
    fn refuse(&self) -> Result<()> {
        let usage = |message: &str, hint: &str| {
            Err(Error::new(Kind::Usage, message.to_string()).hint(hint))
        };
        if self.image_opts {
            return usage(
                "--image-opts is not supported",
                "name the image by its path, and say its format with -f",
            );
        }
        if let Some(object) = self.object.first() {
            return usage(
                &format!("--object {object}: objects are not supported"),
                "there is neither encryption nor TLS for images that would need one",
            );
        }
        let several = self.files.len() > 2;
        if several && self.source_snapshot.is_some() {
            return usage(
                "a snapshot of several images cannot be read at once",
                "convert each by itself, and then put the copies together",
            );
        }
        if several && self.backing.is_some() {
            return usage(
                "images that are put together have no common backing file",
                "leave out -B, or convert each image by itself",
            );
        }
        if self.bitmaps && (several || self.target_format != "qcow2") {
            return usage(
                "--bitmaps copies the bitmaps of one qcow2 image into one",
                "say -O qcow2 and a single source",
            );
        }
        Ok(())
    }

    fn source<'a>(&self, executor: &images::exec::Executor, path: &'a Path) -> Result<Source<'a>> {
        let format = tool::format_of(path, self.fmt.as_deref())?;
        let access = Access {
            unlocked: self.force_share,
            cache: Some(tool::cache(&self.source_cache)?),
            ..Access::default()
        };
        let snapshot = self.source_snapshot.as_deref();
        let image = tool::open_as_of(path, format, access, snapshot)?;
        tool::activate(executor, path, &image)?;
        Ok(Source { path, image })
    }

    /// The bitmaps that are to be copied; says which are left out.
    fn bitmaps_of(
        &self,
        context: &Context,
        executor: &images::exec::Executor,
        sources: &[Source<'_>],
    ) -> Result<Vec<BitmapInfo>> {
        let (true, Some(source)) = (self.bitmaps, sources.first()) else {
            return Ok(Vec::new());
        };
        let found = executor.block_on(images::ops::bitmap::stored(&source.image));
        let (usable, broken) = match found {
            Err(error) if self.skip_broken_bitmaps && *error.kind() == ErrorKind::Corrupt => {
                let path = source.path.display();
                let warning = format!("Skipping all bitmaps of {path}: {error}");
                context.ui.warn(warning);
                return Ok(Vec::new());
            }
            found => found.map_err(|error| tool::wrong(source.path, &error))?,
        };
        for bitmap in &broken {
            let (fault, name) = (bitmap.fault, &bitmap.name);
            if !self.skip_broken_bitmaps {
                let message = format!("Cannot copy {fault} bitmap '{name}'");
                return Err(Error::new(Kind::State, message).hint(
                    "--skip-broken-bitmaps leaves it out; 'vm image bitmap --remove' drops it",
                ));
            }
            let warning = format!("Skipping {fault} bitmap '{name}'");
            context.ui.warn(warning);
        }
        Ok(usable)
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
        (sources, bitmaps): (&[Source<'_>], &[BitmapInfo]),
        path: &Path,
        zero: bool,
    ) -> Result<()> {
        let format = tool::target_format(&self.target_format)?;
        let access = Access {
            writable: true,
            cache: Some(tool::cache(&self.target_cache)?),
            ..Access::default()
        };
        let target = tool::open(path, format, access)?;
        target.write_blocking();
        tool::activate(executor, path, &target)?;
        let how = self.how(zero)?;
        let progress = Progress::new(context, self.progress);
        let sizes = sources.iter().map(|s| s.image.virtual_size());
        let total = sizes.fold(0, u64::saturating_add);
        let result = executor.block_on(async {
            let mut at = 0;
            for source in sources {
                let how = ConvertOptions { at, ..how };
                let told = |done, _| progress.set(at + done, total);
                images::ops::convert(&source.image, &target, &how, &told).await?;
                at += source.image.virtual_size();
            }
            for bitmap in bitmaps {
                let from = sources.first().map(|source| &*source.image);
                images::ops::bitmap::copy(&target, from, bitmap).await?;
            }
            Ok(())
        });
        progress.end();
        tool::close_after(executor, path, &target, result)
    }

    fn how(&self, zero: bool) -> Result<ConvertOptions> {
        let defaults = ConvertOptions::default();
        Ok(ConvertOptions {
            compress: self.compress,
            share: self.sparse.is_none() && !self.salvage,
            depth: self.parallel.map_or(defaults.depth, |n| n.clamp(1, 256)),
            threads: self.parallel.unwrap_or(0),
            sparse: self
                .sparse
                .as_deref()
                .map_or(Ok(defaults.sparse), tool::size)?,
            target_is_zero: zero,
            salvage: self.salvage,
            rate: self.rate.as_deref().map_or(Ok(0), tool::size)?,
            offload: self.copy_range_offloading,
            ..defaults
        })
    }
}
