//! `vm image map`

use super::tool::{self, Access, Output};
use crate::cli::Context;
use crate::error::Result;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Print where the data of an image is
#[derive(Debug, clap::Args)]
pub struct Map {
    /// Format of the image; looked at if not said
    #[arg(short = 'f', long = "image-format", value_name = "FMT")]
    fmt: Option<String>,
    /// Look at the image although somebody uses it
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Begin here
    #[arg(long, value_name = "OFFSET", default_value = "0")]
    start_offset: String,
    /// For at most so many bytes
    #[arg(long, value_name = "LENGTH")]
    max_length: Option<String>,
    /// How to print
    #[arg(long, value_enum, value_name = "HOW")]
    output: Option<Output>,
    /// The file
    filename: PathBuf,
}

impl Map {
    /// Does it.
    ///
    /// # Errors
    /// What is wrong with the file or the image.
    pub fn run(self, context: &Context) -> Result<()> {
        let executor = tool::executor()?;
        let format = tool::format_of(&self.filename, self.fmt.as_deref())?;
        let access = Access {
            unlocked: self.force_share,
            ..Access::default()
        };
        let image = tool::open(&self.filename, format, access)?;
        tool::activate(&executor, &self.filename, &image)?;
        let start = tool::size(&self.start_offset)?;
        let length = self.max_length.as_deref().map(tool::size).transpose()?;
        let end = length.map_or(u64::MAX, |length| start.saturating_add(length));
        let mut entries = Vec::new();
        executor
            .block_on(images::ops::map(&image, (start, end), |entry| {
                entries.push(entry.clone())
            }))
            .map_err(|error| tool::wrong(&self.filename, &error))?;
        if tool::wants_json(context, self.output) {
            return context.ui.json(&entries);
        }
        let mut out = format!(
            "{:<16}{:<16}{:<16}{}\n",
            "Offset", "Length", "Mapped to", "File"
        );
        let names = image.layer_names();
        for e in entries.iter().filter(|e| e.data && !e.zero) {
            let Some(offset) = e.offset else { continue };
            let hex = |n: u64| {
                if n == 0 {
                    "0".to_string()
                } else {
                    format!("{n:#x}")
                }
            };
            let file = names.get(e.depth).map(String::as_str).unwrap_or_default();
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "{:<16}{:<16}{:<16}{file}",
                hex(e.start),
                hex(e.length),
                hex(offset)
            );
        }
        context.ui.data(&out)
    }
}
