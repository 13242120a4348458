//! `vm screenshot`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Take a picture of what a domain shows and store it in a file
///
/// The file is a binary PPM. It is made for its owner alone: a screen shows what it shows.
#[derive(Debug, clap::Args)]
pub struct Screenshot {
    /// The domain: name, id or UUID
    domain: String,
    /// Where the picture goes; a file of this name is replaced. NAME-TIME.ppm without it
    file: Option<PathBuf>,
    /// Number of the screen; there is one, 0
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    screen: u32,
}

impl Verb for Screenshot {
    const NAME: &'static str = "screenshot";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        if self.screen != 0 {
            let message = format!("domain '{}' has no screen {}", domain.name, self.screen);
            return Err(Error::new(Kind::NotFound, message).hint("its only screen is 0"));
        }
        let file = self.file.unwrap_or_else(|| {
            let now = jiff::Zoned::now().strftime("%Y-%m-%d-%H:%M:%S");
            format!("{}-{now}.ppm", domain.name).into()
        });
        // A picture that cannot be had leaves an old file alone.
        context.manager()?.running(&domain)?;
        let created = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&file)
            .map_err(|error| Error::io("write", &file, &error))?;
        let taken = context.manager()?.screenshot(&domain, &created);
        if taken.is_err() {
            // An empty file is worse than none.
            let _ = std::fs::remove_file(&file);
        }
        taken?;
        context.ui.sentence(format!(
            "Screenshot saved to {}, with type of image/x-portable-pixmap",
            file.display()
        ))
    }
}
