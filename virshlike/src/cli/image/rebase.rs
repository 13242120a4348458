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
    #[arg(short = 'f', value_name = "FMT")]
    fmt: Option<String>,
    /// The new backing file, as its name will stand in the image; empty for none
    #[arg(short = 'b', value_name = "FILE")]
    backing: String,
    /// Format of the new backing file
    #[arg(short = 'F', value_name = "FMT")]
    backing_format: Option<String>,
    /// Only change the name: the new file must have what the old one had
    #[arg(short = 'u')]
    only_name: bool,
    /// Show progress
    #[arg(short = 'p')]
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
                ..Access::default()
            };
            let image = tool::open(path, Format::Qcow2, access)?;
            tool::activate(&executor, path, &image)?;
            let new = match &backing {
                Some(b) => {
                    let at = PathGate::resolve(&b.name, &path.display().to_string());
                    let new = tool::open(&at, b.format, Access::default())?;
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
            result.map_err(|error| tool::wrong(path, &error))?;
            tool::close(&executor, path, &image)?;
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
