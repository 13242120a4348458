//! `vm image amend`

use super::options::{self, Amended};
use super::tool;
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::{Format, PathGate};
use std::path::PathBuf;

/// Change options of a qcow2 image
#[derive(Debug, clap::Args)]
pub struct Amend {
    /// Format of the image; only qcow2 has options
    #[arg(short = 'f', value_name = "FMT")]
    fmt: Option<String>,
    /// Accepted for qemu-img's sake: a change takes moments
    #[arg(short = 'p')]
    progress: bool,
    /// Options to change: compat, lazy_refcounts, size, backing_file, backing_fmt, data_file,
    /// data_file_raw
    #[arg(short = 'o', value_name = "OPTIONS", required = true)]
    options: Vec<String>,
    /// The image
    filename: PathBuf,
}

impl Amend {
    /// Does it.
    ///
    /// # Errors
    /// An image in use; an option that it cannot have; a full disk.
    pub fn run(self, _: &Context) -> Result<()> {
        let path = &self.filename;
        let format = tool::format_of(path, self.fmt.as_deref())?;
        if format != Format::Qcow2 {
            return Err(Error::new(
                Kind::Unsupported,
                format!("Format driver '{format}' does not support option amendment"),
            ));
        }
        let Amended { options } = options::amended(&self.options)?;
        let file = tool::open_file(path, true)?;
        let name = path.display().to_string();
        let gate = PathGate::new().assume_format(Format::Raw);
        tool::executor()?
            .block_on(images::ops::amend(file, &name, &options, &gate))
            .map_err(|error| tool::wrong(path, &error))
    }
}
