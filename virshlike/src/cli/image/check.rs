//! `vm image check`

use super::tool::{self, Output};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::Format;
use images::ops::{CheckReport, Repair};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Look for contradictions in an image, and repair them
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Format of the image; looked at if not said
    #[arg(short = 'f', long = "image-format", value_name = "FMT")]
    fmt: Option<String>,
    /// Repair: leaks, or all
    #[arg(short = 'r', long, value_name = "WHAT", value_parser = ["leaks", "all"])]
    repair: Option<String>,
    /// How to print
    #[arg(long, value_enum, value_name = "HOW")]
    output: Option<Output>,
    /// The file
    filename: PathBuf,
}

impl Check {
    /// Does it. The exit code is qemu-img's: 0 clean, 2 corrupt, 3 leaks only, 63 for a format that
    /// has nothing to check.
    ///
    /// # Errors
    /// What keeps the image from being checked.
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let format = tool::format_of(&self.filename, self.fmt.as_deref())?;
        if format == Format::Raw {
            context.ui.error(&Error::new(
                Kind::Unsupported,
                "This image format does not support checks",
            ));
            return Ok(ExitCode::from(63));
        }
        let repair = match self.repair.as_deref() {
            Some("leaks") => Repair::Leaks,
            Some(_) => Repair::All,
            None => Repair::No,
        };
        let file = tool::open_file(&self.filename, repair != Repair::No)?;
        let name = self.filename.display().to_string();
        let report = tool::executor()?
            .block_on(images::ops::check(file, &name, repair))
            .map_err(|error| tool::wrong(&self.filename, &error))?;
        if tool::wants_json(context, self.output) {
            context.ui.json(&report)?;
        } else if !context.ui.quiet {
            context.ui.data(&text(&report))?;
        }
        Ok(ExitCode::from(match (report.corruptions, report.leaks) {
            (0, 0) => 0,
            (0, _) => 3,
            _ => 2,
        }))
    }
}

fn text(report: &CheckReport) -> String {
    let mut out = String::new();
    for message in &report.messages {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{message}");
    }
    let (leaks, errors) = (report.leaks_fixed, report.corruptions_fixed);
    if leaks + errors > 0 {
        let _ = write!(
            out,
            "The following inconsistencies were found and repaired:\n\n    {leaks} leaked clusters\n    \
             {errors} corruptions\n\n"
        );
    }
    if report.corruptions > 0 {
        let _ = write!(
            out,
            "\n{} errors were found on the image.\nData may be corrupted, or further writes to the \
             image may corrupt it.\n",
            report.corruptions
        );
    }
    if report.leaks > 0 {
        let _ = write!(
            out,
            "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no \
             harm to data.\n",
            report.leaks
        );
    }
    if report.is_clean() {
        out.push_str("No errors were found on the image.\n");
    }
    if report.total_clusters > 0 && report.allocated_clusters > 0 {
        let percent = |part: u64, of: u64| part as f64 * 100.0 / of as f64;
        let _ = writeln!(
            out,
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            report.allocated_clusters,
            report.total_clusters,
            percent(report.allocated_clusters, report.total_clusters),
            percent(report.fragmented_clusters, report.allocated_clusters),
            percent(report.compressed_clusters, report.allocated_clusters),
        );
    }
    let _ = writeln!(out, "Image end offset: {}", report.image_end_offset);
    out
}
