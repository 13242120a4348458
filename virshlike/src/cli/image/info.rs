//! `vm image info`

use super::tool::{self, Output, human};
use crate::cli::Context;
use crate::error::Result;
use images::ops::Info as Facts;
use images::ops::bitmap::BitmapInfo;
use images::ops::info::{FormatData, Qcow2Info, SnapshotInfo, VmdkInfo};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Print what an image is
#[derive(Debug, clap::Args)]
pub struct Info {
    /// Format of the image; looked at if not said
    #[arg(short = 'f', value_name = "FMT")]
    fmt: Option<String>,
    /// Also the images beneath
    #[arg(long)]
    backing_chain: bool,
    /// Accepted for qemu-img's sake: info takes no locks
    #[arg(short = 'U', long)]
    force_share: bool,
    /// How to print
    #[arg(long, value_enum, value_name = "HOW")]
    output: Option<Output>,
    /// The file
    filename: PathBuf,
}

/// Images in a chain, at most.
const MAX_DEPTH: usize = 200;

impl Info {
    /// Does it.
    ///
    /// # Errors
    /// What is wrong with the file or the image.
    pub fn run(self, context: &Context) -> Result<()> {
        let mut chain = Vec::new();
        let mut next = Some((self.filename.clone(), self.fmt.clone()));
        while let Some((path, format)) = next.take() {
            let facts = facts(&path, format.as_deref())?;
            if self.backing_chain && chain.len() < MAX_DEPTH {
                next = facts
                    .full_backing_filename
                    .as_ref()
                    .map(|name| (PathBuf::from(name), facts.backing_filename_format.clone()));
            }
            chain.push((path, facts));
        }
        if tool::wants_json(context, self.output) {
            let mut all: Vec<Facts> = chain.into_iter().map(|(_, facts)| facts).collect();
            return match self.backing_chain {
                true => context.ui.json(&all),
                false => context.ui.json(&all.remove(0)),
            };
        }
        let texts: Result<Vec<String>> = chain
            .iter()
            .map(|(path, facts)| text(path, facts))
            .collect();
        context.ui.data(&texts?.join("\n"))
    }
}

fn facts(path: &Path, format: Option<&str>) -> Result<Facts> {
    let format = tool::format_of(path, format)?;
    let file = tool::open_file(path, false)?;
    images::ops::info(file, &path.display().to_string(), format)
        .map_err(|error| tool::wrong(path, &error))
}

fn text(path: &Path, facts: &Facts) -> Result<String> {
    let mut out = String::new();
    let name = path.display();
    // Writing to a string does not fail.
    let _ = writeln!(out, "image: {name}");
    let _ = writeln!(out, "file format: {}", facts.format);
    let size = facts.virtual_size;
    let _ = writeln!(out, "virtual size: {} ({size} bytes)", human(size));
    let _ = writeln!(out, "disk size: {}", human(facts.actual_size));
    if facts.dirty_flag {
        let _ = writeln!(out, "cleanly shut down: no");
    }
    if let Some(cluster) = facts.cluster_size {
        let _ = writeln!(out, "cluster_size: {cluster}");
    }
    if let Some(backing) = &facts.backing_filename {
        match &facts.full_backing_filename {
            Some(full) if full != backing => {
                let _ = writeln!(out, "backing file: {backing} (actual path: {full})");
            }
            _ => {
                let _ = writeln!(out, "backing file: {backing}");
            }
        }
    }
    if let Some(format) = &facts.backing_filename_format {
        let _ = writeln!(out, "backing file format: {format}");
    }
    if !facts.snapshots.is_empty() {
        out.push_str("Snapshot list:\n");
        out.push_str(&snapshot_table(&facts.snapshots));
    }
    if let Some(specific) = &facts.format_specific {
        out.push_str("Format specific information:\n");
        out.push_str(&match &specific.data {
            FormatData::Qcow2(data) => qcow2(data),
            FormatData::Vmdk(data) => vmdk(data),
        });
    }
    let length = std::fs::metadata(path)
        .map_err(|error| crate::error::Error::io("look at", path, &error))?
        .len()
        .next_multiple_of(512);
    let _ = writeln!(out, "Child node '/file':");
    let _ = writeln!(out, "    filename: {name}");
    out.push_str("    protocol type: file\n");
    let _ = writeln!(out, "    file length: {} ({length} bytes)", human(length));
    let _ = writeln!(out, "    disk size: {}", human(facts.actual_size));
    Ok(out)
}

/// What only qcow2 has, in qemu-img's words.
fn qcow2(d: &Qcow2Info) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(out, "    compat: {}", d.compat);
    let _ = writeln!(out, "    compression type: {}", d.compression_type);
    for (label, value) in [("lazy refcounts", d.lazy_refcounts)] {
        if let Some(value) = value {
            let _ = writeln!(out, "    {label}: {value}");
        }
    }
    out.push_str(&bitmap_list(&d.bitmaps));
    let _ = writeln!(out, "    refcount bits: {}", d.refcount_bits);
    if let Some(data_file) = &d.data_file {
        let _ = writeln!(out, "    data file: {data_file}");
    }
    if let Some(raw) = d.data_file_raw {
        let _ = writeln!(out, "    data file raw: {raw}");
    }
    for (label, value) in [("corrupt", d.corrupt), ("extended l2", d.extended_l2)] {
        if let Some(value) = value {
            let _ = writeln!(out, "    {label}: {value}");
        }
    }
    out
}

/// What only vmdk has.
fn vmdk(d: &VmdkInfo) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(out, "    cid: {}", d.cid);
    let _ = writeln!(out, "    parent cid: {}", d.parent_cid);
    let _ = writeln!(out, "    create type: {}", d.create_type);
    for (n, file) in d.files.iter().enumerate() {
        let _ = writeln!(out, "    file {n}: {file}");
    }
    out
}

/// qemu-img's list of bitmaps.
fn bitmap_list(bitmaps: &[BitmapInfo]) -> String {
    let mut out = String::new();
    if !bitmaps.is_empty() {
        out.push_str("    bitmaps:\n");
    }
    for (n, b) in bitmaps.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(out, "        [{n}]:\n            flags:");
        for (i, flag) in b.flags.iter().enumerate() {
            let _ = writeln!(out, "                [{i}]: {flag}");
        }
        let _ = writeln!(out, "            name: {}", b.name);
        let _ = writeln!(out, "            granularity: {}", b.granularity);
    }
    out
}

/// qemu-img's table of snapshots.
pub fn snapshot_table(snapshots: &[SnapshotInfo]) -> String {
    let mut out = String::new();
    let mut row = |cells: [&str; 6]| {
        let [id, tag, size, date, clock, count] = cells;
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{id:<7} {tag:<16} {size:>8} {date:>19} {clock:>15} {count:>10}"
        );
    };
    row(["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"]);
    for s in snapshots {
        let clock = s.vm_clock_sec;
        row([
            &s.id,
            &s.name,
            &human(s.vm_state_size),
            &date(s.date_sec),
            &format!(
                "{:04}:{:02}:{:02}.{:03}",
                clock / 3600,
                clock / 60 % 60,
                clock % 60,
                s.vm_clock_nsec / 1_000_000
            ),
            &s.icount.map_or("--".to_string(), |n| n.to_string()),
        ]);
    }
    out
}

/// A time in the local zone.
fn date(seconds: u32) -> String {
    match jiff::Timestamp::from_second(seconds.into()) {
        Ok(time) => time
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        Err(_) => seconds.to_string(),
    }
}
