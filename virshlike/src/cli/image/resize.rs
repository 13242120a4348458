//! `vm image resize`

use super::tool::{self, Access};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use std::path::PathBuf;

/// Give a disk image another size
#[derive(Debug, clap::Args)]
pub struct Resize {
    /// Format of the image; looked at if not said
    #[arg(short = 'f', value_name = "FMT")]
    fmt: Option<String>,
    /// Allow the disk to become smaller, which destroys what is behind its new end
    #[arg(long)]
    shrink: bool,
    /// Space for what the disk gains: off, metadata, falloc or full
    #[arg(long, value_name = "MODE", default_value = "off")]
    preallocation: String,
    /// The file
    filename: PathBuf,
    /// The size: 10G, or +5G or -1G from what it is
    #[arg(allow_hyphen_values = true)]
    size: String,
}

impl Resize {
    /// Does it.
    ///
    /// # Errors
    /// An image in use, a size it cannot have, a full disk.
    pub fn run(self, context: &Context) -> Result<()> {
        let executor = tool::executor()?;
        let how = super::options::preallocation(&self.preallocation)?;
        let format = tool::format_of(&self.filename, self.fmt.as_deref())?;
        let access = Access {
            writable: true,
            ..Access::default()
        };
        let image = tool::open(&self.filename, format, access)?;
        let old = image.virtual_size();
        let change = |text: &str| tool::size(text);
        let new = match (self.size.strip_prefix('+'), self.size.strip_prefix('-')) {
            (Some(more), _) => old.checked_add(change(more)?),
            (_, Some(less)) => old.checked_sub(change(less)?),
            _ => Some(change(&self.size)?),
        };
        let Some(new) = new.filter(|&new| new > 0) else {
            return Err(Error::new(Kind::Usage, "New image size must be positive"));
        };
        if new < old && !self.shrink {
            return Err(Error::new(
                Kind::Usage,
                "Use the --shrink option to perform a shrink operation.",
            )
            .hint(
                "shrinking destroys what is behind the new end: shrink partitions and file \
                   systems in the guest first",
            ));
        }
        tool::activate(&executor, &self.filename, &image)?;
        let done = executor.block_on(images::ops::resize_with(&image, new, how));
        tool::close_after(&executor, &self.filename, &image, done)?;
        context.ui.sentence("Image resized.")
    }
}
