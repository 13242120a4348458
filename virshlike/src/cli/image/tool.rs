//! What the verbs share: opening files, sizes, progress, errors.

use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use images::exec::{Engine, Executor};
use images::{Cache, DetectZeroes, DiscardMode, ErrorKind, Format, Image, OpenOptions, PathGate};
use std::fs::File;
use std::io::IsTerminal;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// How output is wanted, beside the global `--format`; the word of qemu-img.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    Human,
    /// For programs
    Json,
}

/// True if programs read the output.
pub fn wants_json(context: &Context, output: Option<Output>) -> bool {
    context.ui.is_json() || output == Some(Output::Json)
}

/// A format by the name that a person typed.
///
/// # Errors
/// A format that is not known.
pub fn format(name: &str) -> Result<Format> {
    Format::from_name(name).ok_or_else(|| {
        Error::new(Kind::Unsupported, format!("Unknown driver '{name}'"))
            .hint("the formats are raw and qcow2, and vmdk to read")
    })
}

/// As [`format`], of an image that is to be made.
///
/// # Errors
/// As [`format`]; a format that can only be read.
pub fn target_format(name: &str) -> Result<Format> {
    match format(name)? {
        Format::Vmdk => Err(
            Error::new(Kind::Unsupported, "vmdk disks can be read, not made")
                .hint("make a qcow2 or a raw image"),
        ),
        format => Ok(format),
    }
}

/// Opens a regular file or a block device; anything else could block or act.
///
/// # Errors
/// The path and what is wrong with it.
pub fn open_file(path: &Path, writable: bool) -> Result<File> {
    let fail = |error: std::io::Error| Error::io("open", path, &error);
    let kind = std::fs::metadata(path).map_err(fail)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "{} is neither a regular file nor a block device",
                path.display()
            ),
        ));
    }
    // O_NONBLOCK, should the path have become something else meanwhile.
    let mut options = File::options();
    options
        .read(true)
        .write(writable)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    options.open(path).map_err(fail)
}

/// The format that was asked for, or the one that the file looks like.
///
/// # Errors
/// As [`open_file`]; a format that is not known.
pub fn format_of(path: &Path, asked: Option<&str>) -> Result<Format> {
    match asked {
        Some(name) => format(name),
        None => Ok(images::detect(&open_file(path, false)?).unwrap_or(Format::Raw)),
    }
}

/// A cache mode by its name.
///
/// # Errors
/// A name that is not known.
pub fn cache(name: &str) -> Result<Cache> {
    match name {
        "none" => Ok(Cache::None),
        "writeback" => Ok(Cache::Writeback),
        "writethrough" => Ok(Cache::Writethrough),
        "unsafe" => Ok(Cache::Unsafe),
        "directsync" => Ok(Cache::DirectSync),
        _ => Err(
            Error::new(Kind::Usage, format!("Invalid cache mode '{name}'"))
                .hint("one of none, writeback, writethrough, unsafe, directsync"),
        ),
    }
}

/// How a verb opens an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct Access {
    /// For writing.
    pub writable: bool,
    /// No locks: the image may be in use (`-U`).
    pub unlocked: bool,
    /// No locks on what lies beneath.
    pub unlocked_backing: bool,
    /// Cache mode.
    pub cache: Option<Cache>,
    /// What discards do.
    pub discard: DiscardMode,
    /// What writes of zeroes become.
    pub detect_zeroes: DetectZeroes,
}

/// Opens an image with its chain, inactive.
///
/// # Errors
/// What is wrong with the file or the image.
pub fn open(path: &Path, format: Format, access: Access) -> Result<Arc<Image>> {
    let file = open_file(path, access.writable)?;
    let mut options = OpenOptions::new(format)
        .read_only(!access.writable)
        .cache(access.cache.unwrap_or(Cache::Writeback))
        .discard(access.discard);
    options.detect_zeroes = access.detect_zeroes;
    options.no_locks = access.unlocked;
    options.lock_backing = !access.unlocked_backing;
    let name = path.display().to_string();
    // Raw for a backing file without a format: it is what the image's maker must have meant to
    // be safe, since a guess could be steered by a guest.
    let gate = PathGate::new().assume_format(Format::Raw);
    let image = Image::open(file, &name, &options, &gate);
    image.map(Arc::new).map_err(|error| wrong(path, &error))
}

/// As [`open`], for a verb that reads: the disk, or an internal snapshot as `-l` names it
/// (an id or a name, also as `snapshot.id=` or `snapshot.name=`).
///
/// # Errors
/// As [`open`]; an image without snapshots.
pub fn open_as_of(
    path: &Path,
    format: Format,
    access: Access,
    snapshot: Option<&str>,
) -> Result<Arc<Image>> {
    let image = open(path, format, access)?;
    if let Some(text) = snapshot {
        let plain = ["snapshot.id=", "snapshot.name="]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix));
        image
            .read_snapshot(plain.unwrap_or(text))
            .map_err(|error| wrong(path, &error))?;
    }
    Ok(image)
}

/// An executor for this thread.
///
/// # Errors
/// No descriptors left.
pub fn executor() -> Result<Executor> {
    Executor::new(Engine::Auto)
        .map_err(|error| Error::new(Kind::Io, format!("cannot set up I/O: {error}")))
}

/// As [`executor`], on what `--aio` says.
///
/// # Errors
/// A name that is not known; io_uring where it is forbidden.
pub fn executor_for(aio: Option<&str>) -> Result<Executor> {
    let engine = match aio {
        None => Engine::Auto,
        Some("threads") => Engine::Threads,
        Some("io_uring" | "native") => Engine::IoUring,
        Some(other) => {
            return Err(
                Error::new(Kind::Usage, format!("Invalid aio mode '{other}'"))
                    .hint("one of io_uring, native, threads"),
            );
        }
    };
    Executor::new(engine).map_err(|error| {
        Error::new(Kind::Host, format!("cannot set up I/O: {error}"))
            .hint("--aio=threads needs no io_uring")
    })
}

/// Activates an image.
///
/// # Errors
/// Somebody else uses it, with who that is; an image that cannot be used.
pub fn activate(executor: &Executor, path: &Path, image: &Image) -> Result<()> {
    executor
        .block_on(image.activate())
        .map_err(|error| wrong(path, &error))
}

/// Finishes the use of an image.
///
/// # Errors
/// What was written could not be made durable.
pub fn close(executor: &Executor, path: &Path, image: &Image) -> Result<()> {
    executor
        .block_on(image.inactivate())
        .map_err(|error| wrong(path, &error))
}

/// Finishes the use of an image, whatever came of it: a verb that failed leaves an image that was
/// closed properly.
///
/// # Errors
/// That of the verb; as [`close`].
pub fn close_after<T>(
    executor: &Executor,
    path: &Path,
    image: &Image,
    done: images::error::Result<T>,
) -> Result<T> {
    let closed = close(executor, path, image);
    let done = done.map_err(|error| wrong(path, &error))?;
    closed.map(|()| done)
}

/// An error of an image in our form.
pub fn wrong(path: &Path, error: &images::Error) -> Error {
    let kind = match error.kind() {
        ErrorKind::Locked { .. } => Kind::Busy,
        ErrorKind::Refused | ErrorKind::ReadOnly => Kind::Permission,
        ErrorKind::Unsupported(_) => Kind::Unsupported,
        ErrorKind::InvalidInput | ErrorKind::OutOfRange => Kind::Usage,
        _ => Kind::Io,
    };
    let message = error.to_string();
    let shown = path.display().to_string();
    let message = if message.contains(&shown) {
        message
    } else {
        format!("{shown}: {message}")
    };
    let mut result = Error::new(kind, message);
    match error.kind() {
        ErrorKind::Locked { .. } => {
            for holder in holders(path) {
                result = result.cause(holder);
            }
            result = result.hint("stop the domain that uses it, or wait for the other tool");
        }
        ErrorKind::NoSpace => {
            result = result.hint("make room on that file system and run the command again");
        }
        ErrorKind::Corrupt => {
            result = result.hint(format!("'vm image check {shown}' says what is wrong"));
        }
        _ => {}
    }
    result
}

/// Processes that have the file open, as far as we may look.
fn holders(path: &Path) -> Vec<String> {
    let Ok(wanted) = std::fs::metadata(path) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let files = std::fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let has = files
            .filter_map(|fd| std::fs::metadata(fd.path()).ok())
            .any(|open| (open.dev(), open.ino()) == (wanted.dev(), wanted.ino()));
        if has {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("process {pid} ({}) has it open", name.trim()));
        }
    }
    found
}

/// A size in bytes from a number with a suffix: b, k, M, G, T, P, E.
///
/// # Errors
/// Text that is no size.
pub fn size(text: &str) -> Result<u64> {
    let bad = || {
        Error::new(
            Kind::Usage,
            format!("Invalid image size specified: '{text}'"),
        )
        .hint("a number with an optional suffix k, M, G, T, P or E: 10G")
    };
    let (number, factor) = match text.char_indices().last() {
        Some((at, suffix)) if suffix.is_ascii_alphabetic() => {
            let shift = match suffix.to_ascii_lowercase() {
                'b' => 0,
                'k' => 10,
                'm' => 20,
                'g' => 30,
                't' => 40,
                'p' => 50,
                'e' => 60,
                _ => return Err(bad()),
            };
            (text.get(..at).unwrap_or_default(), 1u64 << shift)
        }
        _ => (text, 1),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(bad);
    }
    let plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
    match number.parse::<f64>() {
        // Fractions as in 1.5G; what they mean in bytes is below 2^53 or rounded.
        Ok(value) if plain && value * (factor as f64) < 9e18 => Ok((value * factor as f64) as u64),
        _ => Err(bad()),
    }
}

/// A size for people, with three digits, as qemu-img prints it.
pub fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let mut text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{text} {}", units.get(unit).copied().unwrap_or("B"))
}

/// A progress bar on a terminal, if wanted.
pub struct Progress(Option<indicatif::ProgressBar>);

impl Progress {
    /// Shown with `-p`, and by itself when standard error is a terminal.
    pub fn new(context: &Context, asked: bool) -> Self {
        let show = std::io::stderr().is_terminal() && (asked || !context.ui.quiet);
        Self(show.then(|| {
            let bar = indicatif::ProgressBar::new(0);
            let style = indicatif::ProgressStyle::with_template(
                "{bar:40} {percent:>3}% {binary_bytes}/{binary_total_bytes} {eta}",
            );
            // The template is fixed; without it the bar has its default look.
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        }))
    }

    /// So many bytes of so many are done.
    pub fn set(&self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_suffixes() {
        for (text, bytes) in [
            ("512", 512),
            ("1k", 1024),
            ("2G", 2 << 30),
            ("1.5M", 3 << 19),
            ("0", 0),
            ("7b", 7),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in [
            "",
            "G",
            "-1",
            "1X",
            "1e3",
            "99999999999G",
            "0x10",
            "1..5M",
            "inf",
            "nan",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1000, "0.977 KiB"),
            (1536, "1.5 KiB"),
            (200_704, "196 KiB"),
            (2 << 30, "2 GiB"),
            (10_737_418_240, "10 GiB"),
            (1 << 60, "1 EiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
