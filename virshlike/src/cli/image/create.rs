//! `vm image create`

use super::{options, tool};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::ops::create::{Backing, CreateOptions, Preallocation};
use images::{Format, PathGate};
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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
        image_in(&new_file(&self.filename)?, &new)
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
    image_in(&file, &raw)
}

/// A file that an image is made in.
#[derive(Debug)]
pub struct NewFile {
    /// It, open for reading and writing.
    pub file: File,
    path: PathBuf,
    made: bool,
}

impl NewFile {
    /// Removes the file if it was made here and is still what has the name: half an image is of no use
    /// to anybody.
    pub fn give_up(&self) {
        let identity = |found: Metadata| (found.dev(), found.ino());
        let ours = self.file.metadata().map(identity).ok();
        let there = std::fs::symlink_metadata(&self.path).map(identity).ok();
        if self.made && ours.is_some() && ours == there {
            // The error that led here matters more.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens a file to be made anew; what it contains stays until it is known that nobody uses it.
///
/// # Errors
/// The path and what is wrong with it.
pub fn new_file(path: &Path) -> Result<NewFile> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let (file, made) = match file {
        Ok(file) => (file, true),
        // A link to nothing is there as well, and led nowhere on purpose perhaps.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            (tool::open_file(path, true)?, false)
        }
        Err(error) => return Err(Error::io("create", path, &error)),
    };
    Ok(NewFile {
        file,
        path: path.to_path_buf(),
        made,
    })
}

/// Makes an image in a file; one that was made for it is gone when that fails.
///
/// # Errors
/// An image in use; options that do not go together; a full disk.
pub fn image_in(new: &NewFile, options: &CreateOptions) -> Result<()> {
    images::ops::create(&new.file, options).map_err(|error| {
        new.give_up();
        tool::wrong(&new.path, &error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_a_file_that_was_made_here_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.raw");
        new_file(&path).unwrap().give_up();
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        new_file(&path).unwrap().give_up();
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        let ours = new_file(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        ours.give_up();
        assert_eq!(fs::read(&path).unwrap(), b"another's");
    }

    #[test]
    fn a_link_to_nothing_makes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("nothing"), &link).unwrap();
        assert!(new_file(&link).is_err());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(!folder.path().join("nothing").exists());
    }
}
