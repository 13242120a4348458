//! `vm image rebase`

use super::tool::{self, Access, Progress};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::ops::create::Backing;
use images::{Format, PathGate};
use std::path::PathBuf;

/// Give an image another backing file
#[derive(Debug, clap::Args)]
pub struct Rebase {
    /// Format of the image; only qcow2 has backing files
    #[arg(short = 'f', long = "image-format", value_name = "FMT")]
    fmt: Option<String>,
    /// The new backing file, as its name will stand in the image; empty for none
    #[arg(short = 'b', long, value_name = "FILE")]
    backing: String,
    /// Format of the new backing file
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,
    /// Only change the name: the new file must have what the old one had
    #[arg(short = 'u', long = "backing-unsafe")]
    only_name: bool,
    /// Cache mode of the image
    #[arg(short = 't', long, value_name = "MODE", default_value = "writeback")]
    cache: String,
    /// Cache mode of the backing files
    #[arg(short = 'T', long, value_name = "MODE", default_value = "writeback")]
    backing_cache: String,
    /// Show progress
    #[arg(short = 'p', long)]
    progress: bool,
    /// The image
    filename: PathBuf,
}

impl Rebase {
    /// Does it.
    ///
    /// # Errors
    /// What is wrong with any of the images; a full disk.
    pub fn run(self, context: &Context) -> Result<()> {
        let path = &self.filename;
        if tool::format_of(path, self.fmt.as_deref())? != Format::Qcow2 {
            return Err(Error::new(
                Kind::Unsupported,
                "only qcow2 images have backing files",
            ));
        }
        let backing = self.new_backing()?;
        let executor = tool::executor()?;
        if !self.only_name {
            let access = Access {
                writable: true,
                cache: Some(tool::cache(&self.cache)?),
                ..Access::default()
            };
            let image = tool::open(path, Format::Qcow2, access)?;
            image.write_blocking();
            tool::activate(&executor, path, &image)?;
            let new = match &backing {
                Some(b) => {
                    let at = PathGate::resolve(&b.name, &path.display().to_string());
                    let access = Access {
                        cache: Some(tool::cache(&self.backing_cache)?),
                        ..Access::default()
                    };
                    let new = tool::open(&at, b.format, access)?;
                    tool::activate(&executor, &at, &new)?;
                    Some(new)
                }
                None => None,
            };
            let progress = Progress::new(context, self.progress);
            let result = executor.block_on(images::ops::rebase(
                &image,
                new.as_deref(),
                &|done, total| progress.set(done, total),
            ));
            progress.end();
            tool::close_after(&executor, path, &image, result)?;
        }
        let file = tool::open_file(path, true)?;
        let name = path.display().to_string();
        executor
            .block_on(images::ops::set_backing(file, &name, backing.as_ref()))
            .map_err(|error| tool::wrong(path, &error))
    }

    fn new_backing(&self) -> Result<Option<Backing>> {
        if self.backing.is_empty() {
            return Ok(None);
        }
        let Some(format) = &self.backing_format else {
            return Err(
                Error::new(Kind::Usage, "backing file specified without backing format")
                    .hint("say -F raw or -F qcow2: a format is never guessed"),
            );
        };
        Ok(Some(Backing {
            name: self.backing.clone(),
            format: tool::format(format)?,
        }))
    }
}
