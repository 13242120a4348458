//! `vm image measure`

use super::options;
use super::tool::{self, Access, Output};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::ops::create::CreateOptions;
use std::path::PathBuf;

/// Print how large the file of a new image would be
#[derive(Debug, clap::Args)]
pub struct Measure {
    /// Format of the source; looked at if not said
    #[arg(short = 'f', long = "image-format", value_name = "FMT")]
    fmt: Option<String>,
    /// Format of the new image
    #[arg(short = 'O', long, value_name = "FMT", default_value = "raw")]
    target_format: String,
    /// Options of the new image: key=value,...
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Size of an empty disk, instead of a source
    #[arg(short = 's', long, value_name = "SIZE")]
    size: Option<String>,
    /// Measure an internal snapshot of the source, by id or name
    #[arg(short = 'l', long, value_name = "SNAPSHOT", requires = "filename")]
    snapshot: Option<String>,
    /// Look at the source although somebody uses it
    #[arg(short = 'U', long)]
    force_share: bool,
    /// How to print
    #[arg(long, value_enum, value_name = "HOW")]
    output: Option<Output>,
    /// The source
    filename: Option<PathBuf>,
}

impl Measure {
    /// Does it.
    ///
    /// # Errors
    /// Options that do not go together; what is wrong with the source.
    pub fn run(self, context: &Context) -> Result<()> {
        let mut new = CreateOptions::new(tool::target_format(&self.target_format)?, 0);
        let separate = options::apply(&mut new, &self.options)?;
        let executor = tool::executor()?;
        let source = match (&self.filename, self.size.as_deref()) {
            (Some(path), None) => {
                let format = tool::format_of(path, self.fmt.as_deref())?;
                let access = Access {
                    unlocked: self.force_share,
                    ..Access::default()
                };
                let snapshot = self.snapshot.as_deref();
                let image = tool::open_as_of(path, format, access, snapshot)?;
                tool::activate(&executor, path, &image)?;
                Some(image)
            }
            (None, Some(size)) => {
                new.size = tool::size(size)?;
                None
            }
            (None, None) if separate.size.is_some() => {
                new.size = separate.size.unwrap_or(0);
                None
            }
            _ => {
                return Err(Error::new(
                    Kind::Usage,
                    "Either --size N or one filename must be specified.",
                ));
            }
        };
        let path = self.filename.clone().unwrap_or_default();
        let sizes = executor
            .block_on(images::ops::measure(source.as_deref(), &new))
            .map_err(|error| tool::wrong(&path, &error))?;
        if tool::wants_json(context, self.output) {
            return context.ui.json(&sizes);
        }
        context.ui.data(&format!(
            "required size: {}\nfully allocated size: {}\n",
            sizes.required, sizes.fully_allocated
        ))
    }
}
