//! `vm screenshot`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::picture::PictureFormat;
use std::path::{Path, PathBuf};

/// Take a picture of what a domain shows and store it in a file
///
/// The file is a PNG where its name ends in .png, else a binary PPM. It is made for its owner alone: a screen
/// shows what it shows.
#[derive(Debug, clap::Args)]
pub struct Screenshot {
    /// The domain: name, id or UUID
    domain: String,
    /// Where the picture goes; a file of this name is replaced. NAME-TIME.ppm without it
    file: Option<PathBuf>,
    /// What the picture is stored as, whatever the file's name
    #[arg(long = "type", value_name = "TYPE", value_parser = ["png", "ppm"])]
    kind: Option<String>,
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
        let format = format(self.kind.as_deref(), self.file.as_deref());
        let file = self.file.unwrap_or_else(|| {
            let now = jiff::Zoned::now().strftime("%Y-%m-%d-%H:%M:%S");
            format!("{}-{now}.{}", domain.name, format.ending()).into()
        });
        context.manager()?.screenshot(&domain, &file, format)?;
        context.ui.sentence(format!(
            "Screenshot saved to {}, with type of {}",
            file.display(),
            format.mime()
        ))
    }
}

/// What is asked for, or what the file's name says.
fn format(kind: Option<&str>, file: Option<&Path>) -> PictureFormat {
    let ending = file.and_then(Path::extension).and_then(|end| end.to_str());
    match kind.or(ending) {
        Some(word) if word.eq_ignore_ascii_case("png") => PictureFormat::Png,
        _ => PictureFormat::Ppm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_or_the_name_says_what_is_stored() {
        for (kind, file, expected) in [
            (None, None, PictureFormat::Ppm),
            (None, Some("a.png"), PictureFormat::Png),
            (None, Some("a.PNG"), PictureFormat::Png),
            (None, Some("png"), PictureFormat::Ppm),
            (Some("ppm"), Some("a.png"), PictureFormat::Ppm),
            (Some("png"), Some("a"), PictureFormat::Png),
        ] {
            assert_eq!(
                format(kind, file.map(Path::new)),
                expected,
                "{kind:?} {file:?}"
            );
        }
    }
}
