//! `vm image compare`

use super::tool::{self, Access, Progress};
use crate::cli::Context;
use crate::error::Result;
use images::ops::Comparison;
use std::path::PathBuf;
use std::process::ExitCode;

/// Compare the content of two images
#[derive(Debug, clap::Args)]
pub struct Compare {
    /// Format of the first image; looked at if not said
    #[arg(short = 'f', long = "a-format", value_name = "FMT")]
    fmt: Option<String>,
    /// Format of the second image; looked at if not said
    #[arg(short = 'F', long = "b-format", value_name = "FMT")]
    second_fmt: Option<String>,
    /// Different sizes are a difference
    #[arg(short = 's', long)]
    strict: bool,
    /// Show progress
    #[arg(short = 'p', long)]
    progress: bool,
    /// Cache mode of both
    #[arg(short = 'T', long, value_name = "MODE", default_value = "writeback")]
    cache: String,
    /// Look at the images although somebody uses them
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The first image
    first: PathBuf,
    /// The second image
    second: PathBuf,
}

impl Compare {
    /// Does it. The exit code is 0 if they are the same, 1 if not, more for trouble.
    ///
    /// # Errors
    /// None; trouble is printed, because its exit code is not that of a difference.
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        match self.compare(context) {
            Ok(same) => Ok(ExitCode::from(u8::from(!same))),
            Err(error) => {
                context.ui.error(&error);
                Ok(ExitCode::from(2))
            }
        }
    }

    fn compare(&self, context: &Context) -> Result<bool> {
        let executor = tool::executor()?;
        let cache = tool::cache(&self.cache)?;
        let open = |path: &PathBuf, format: Option<&str>| {
            let format = tool::format_of(path, format)?;
            let access = Access {
                unlocked: self.force_share,
                cache: Some(cache),
                ..Access::default()
            };
            let image = tool::open(path, format, access)?;
            tool::activate(&executor, path, &image)?;
            Ok(image)
        };
        let first = open(&self.first, self.fmt.as_deref())?;
        let second = open(&self.second, self.second_fmt.as_deref())?;
        let progress = Progress::new(context, self.progress);
        let found = executor.block_on(images::ops::compare(
            &first,
            &second,
            self.strict,
            &|done, total| progress.set(done, total),
        ));
        progress.end();
        let found = found.map_err(|error| tool::wrong(&self.first, &error))?;
        if context.ui.is_json() {
            let (same, offset) = match found {
                Comparison::Identical { .. } => (true, None),
                Comparison::Differs { offset } => (false, Some(offset)),
                Comparison::SizesDiffer => (false, None),
            };
            context
                .ui
                .json(&serde_json::json!({ "identical": same, "offset": offset }))?;
            return Ok(same);
        }
        match found {
            Comparison::Identical { sizes_differ } => {
                if sizes_differ {
                    context.ui.sentence("Warning: Image size mismatch!")?;
                }
                context.ui.sentence("Images are identical.")?;
                Ok(true)
            }
            Comparison::Differs { offset } => {
                context
                    .ui
                    .sentence(format!("Content mismatch at offset {offset}!"))?;
                Ok(false)
            }
            Comparison::SizesDiffer => {
                context.ui.sentence("Strict mode: Image size mismatch!")?;
                Ok(false)
            }
        }
    }
}
