//! `vm image backup`

use super::create::{self, NewFile};
use super::options;
use super::tool::{self, Access, Progress};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::jobs::{BackupOptions, Control};
use images::ops::create::{Backing, CreateOptions};
use std::path::PathBuf;
use std::sync::Arc;

/// Copy an image, or what a bitmap says has changed of it, into a new image
///
/// With --bitmap the bitmap is empty afterwards, so that it records what the next incremental
/// backup needs; if the backup fails, it keeps what it had.
#[derive(Debug, clap::Args)]
pub struct Backup {
    /// Format of the source; looked at if not said
    #[arg(short = 'f', value_name = "FMT")]
    fmt: Option<String>,
    /// Format of the backup
    #[arg(short = 'O', value_name = "FMT", default_value = "qcow2")]
    target_format: String,
    /// A bitmap of the source
    #[arg(long, value_name = "NAME")]
    bitmap: Option<String>,
    /// Copy only what the bitmap has
    #[arg(long, requires = "bitmap")]
    incremental: bool,
    /// The backup before this one, which the new image names as its backing file
    #[arg(short = 'B', value_name = "FILE")]
    backing: Option<String>,
    /// Format of that
    #[arg(short = 'F', value_name = "FMT", requires = "backing")]
    backing_format: Option<String>,
    /// Options of the new image: key=value,...
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// The target exists: write into it
    #[arg(short = 'n')]
    no_create: bool,
    /// Bytes per second, at most
    #[arg(short = 'r', value_name = "RATE")]
    rate: Option<String>,
    /// Show progress
    #[arg(short = 'p')]
    progress: bool,
    /// The image
    source: PathBuf,
    /// The backup
    target: PathBuf,
}

impl Backup {
    /// Does it.
    ///
    /// # Errors
    /// An image in use, no such bitmap, a full disk.
    pub fn run(self, context: &Context) -> Result<()> {
        let executor = tool::executor()?;
        let format = tool::format_of(&self.source, self.fmt.as_deref())?;
        let writable = Access {
            writable: true,
            ..Access::default()
        };
        let rate = self.rate.as_deref().map(tool::size).transpose()?;
        let new = match self.no_create {
            true => None,
            false => Some(self.new_image()?),
        };
        // For writing, because the bitmap changes.
        let source = tool::open(&self.source, format, writable)?;
        tool::activate(&executor, &self.source, &source)?;
        let made = new.map(|new| self.create(new, source.virtual_size()));
        let made = made.transpose();
        let copied = match &made {
            Ok(_) => self.copy(context, &executor, &source, rate),
            Err(error) => Err(error.clone()),
        };
        if let (Err(_), Ok(Some(made))) = (&copied, &made) {
            made.give_up();
        }
        // From here on the bitmap counts on the backup: it stays.
        let finished = copied.and_then(|target| tool::close(&executor, &self.target, &target));
        let closed = tool::close(&executor, &self.source, &source);
        finished.and(closed)
    }

    /// The target as it is to be made, but for its size.
    fn new_image(&self) -> Result<CreateOptions> {
        let mut new = CreateOptions::new(tool::target_format(&self.target_format)?, 0);
        let separate = options::apply(&mut new, &self.options)?;
        let format = self.backing_format.clone().or(separate.backing_format);
        if let Some(name) = self.backing.clone().or(separate.backing) {
            let Some(format) = format else {
                return Err(Error::new(
                    Kind::Usage,
                    "backing file specified without backing format",
                )
                .hint("say -F raw or -F qcow2: a format is never guessed"));
            };
            let format = tool::format(&format)?;
            new.backing = Some(Backing { name, format });
        } else if self.incremental {
            return Err(Error::new(
                Kind::Usage,
                "an incremental backup needs the backup before it",
            )
            .hint("name it with -B FILE -F FMT, or write into a copy of it with -n"));
        }
        Ok(new)
    }

    fn create(&self, mut new: CreateOptions, size: u64) -> Result<NewFile> {
        new.size = size;
        let file = create::new_file(&self.target)?;
        create::image_in(&file, &new)?;
        Ok(file)
    }

    /// Copies; the target, still active.
    fn copy(
        &self,
        context: &Context,
        executor: &images::exec::Executor,
        source: &Arc<images::Image>,
        rate: Option<u64>,
    ) -> Result<Arc<images::Image>> {
        let format = tool::target_format(&self.target_format)?;
        let writable = Access {
            writable: true,
            ..Access::default()
        };
        let target = tool::open(&self.target, format, writable)?;
        tool::activate(executor, &self.target, &target)?;
        let how = BackupOptions {
            bitmap: self.bitmap.clone(),
            incremental: self.incremental,
        };
        let control = Control::new();
        if let Some(rate) = rate {
            control.set_speed(rate);
        }
        let progress = Progress::new(context, self.progress);
        let result = executor.block_on(async {
            let job = images::jobs::backup(source, &target, &how, &control);
            let mut job = std::pin::pin!(job);
            std::future::poll_fn(|cx| {
                let (done, total) = control.progress();
                progress.set(done, total);
                job.as_mut().poll(cx)
            })
            .await
        });
        progress.end();
        match result {
            Ok(_) => Ok(target),
            Err(error) => {
                // It failed already: what closing says adds nothing.
                let _ = tool::close(executor, &self.target, &target);
                Err(tool::wrong(&self.source, &error))
            }
        }
    }
}
