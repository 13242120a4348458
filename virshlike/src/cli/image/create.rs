//! `vm image create`

use super::{options, tool};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::ops::create::{Backing, CreateOptions, Preallocation};
use images::{Format, PathGate};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Make a new disk image
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Format of the image: raw or qcow2
    #[arg(short = 'f', value_name = "FMT", default_value = "raw")]
    fmt: String,
    /// Backing file, as its name will stand in the image
    #[arg(short = 'b', value_name = "FILE")]
    backing: Option<String>,
    /// Format of the backing file
    #[arg(short = 'F', value_name = "FMT")]
    backing_format: Option<String>,
    /// Do not look at the backing file
    #[arg(short = 'u')]
    unsafe_backing: bool,
    /// Options of the format: key=value,...
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// The file
    filename: PathBuf,
    /// Size of the disk: 10G; that of the backing file if there is one
    size: Option<String>,
}

impl Create {
    /// Does it.
    ///
    /// # Errors
    /// Options that do not go together; a file that cannot be made.
    pub fn run(self, context: &Context) -> Result<()> {
        let mut new = CreateOptions::new(tool::target_format(&self.fmt)?, 0);
        let separate = options::apply(&mut new, &self.options)?;
        let backing = self.backing.clone().or(separate.backing);
        let backing_format = self.backing_format.clone().or(separate.backing_format);
        let named = self.filename.display().to_string();
        let mut backing_size = None;
        if let Some(name) = backing {
            let Some(format) = backing_format else {
                return Err(Error::new(
                    Kind::Usage,
                    "backing file specified without backing format",
                )
                .hint("say -F raw or -F qcow2: a format is never guessed"));
            };
            let format = tool::format(&format)?;
            if !self.unsafe_backing {
                let path = PathGate::resolve(&name, &named);
                backing_size =
                    Some(tool::open(&path, format, tool::Access::default())?.virtual_size());
            }
            new.backing = Some(Backing { name, format });
        }
        let given = self
            .size
            .as_deref()
            .map(tool::size)
            .transpose()?
            .or(separate.size);
        let Some(size) = given.or(backing_size) else {
            return Err(Error::new(
                Kind::Usage,
                "Image creation needs a size parameter",
            ));
        };
        new.size = size;
        data_file(&new, &named)?;
        context.ui.sentence(options::formatting(&named, &new))?;
        let file = new_file(&self.filename)?;
        images::ops::create(&file, &new).map_err(|error| tool::wrong(&self.filename, &error))
    }
}

/// Makes the data file of an image that has one.
///
/// # Errors
/// A file that cannot be made.
pub fn data_file(new: &CreateOptions, named: &str) -> Result<()> {
    let Some(name) = &new.data_file else {
        return Ok(());
    };
    let path = PathGate::resolve(name, named);
    let file = new_file(&path)?;
    let mut raw = CreateOptions::new(Format::Raw, new.size);
    if matches!(
        new.preallocation,
        Preallocation::Falloc | Preallocation::Full
    ) {
        raw.preallocation = new.preallocation;
    }
    images::ops::create(&file, &raw).map_err(|error| tool::wrong(&path, &error))
}

/// Opens a file to be made anew; what it contains stays until it is known that nobody uses it.
///
/// # Errors
/// The path and what is wrong with it.
pub fn new_file(path: &std::path::Path) -> Result<File> {
    if path.exists() {
        return tool::open_file(path, true);
    }
    let mut options = File::options();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options
        .open(path)
        .map_err(|error| Error::io("create", path, &error))
}
