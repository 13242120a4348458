//! `-o key=value,...`: the options of a new image, with qemu-img's names.

use super::tool;
use crate::error::{Error, Kind, Result};
use images::ops::AmendOptions;
use images::ops::create::{Backing, CreateOptions, Preallocation};
use images::{Compression, Format};
use std::fmt::Write as _;

const KEYS: [&str; 12] = [
    "backing_file",
    "backing_fmt",
    "cluster_size",
    "compat",
    "compression_type",
    "data_file",
    "data_file_raw",
    "extended_l2",
    "lazy_refcounts",
    "preallocation",
    "refcount_bits",
    "size",
];

/// Puts the given options into `options`. The size, if it is among them, and the backing file are
/// left to the caller: (size, backing file, backing format).
///
/// # Errors
/// A key that is not known or a value that cannot be.
pub fn apply(options: &mut CreateOptions, given: &[String]) -> Result<Separate> {
    let mut separate = Separate::default();
    for pair in given
        .iter()
        .flat_map(|list| list.split(','))
        .filter(|p| !p.is_empty())
    {
        let (key, value) = pair.split_once('=').unwrap_or((pair, "on"));
        if options.format == Format::Raw && !matches!(key, "size" | "preallocation") {
            return Err(unknown(key, options.format));
        }
        set(options, &mut separate, key, value)?;
    }
    Ok(separate)
}

/// Options that depend on each other.
#[derive(Debug, Default)]
pub struct Separate {
    /// `size=`
    pub size: Option<u64>,
    /// `backing_file=`
    pub backing: Option<String>,
    /// `backing_fmt=`
    pub backing_format: Option<String>,
}

fn unknown(key: &str, format: Format) -> Error {
    let error = Error::new(Kind::Usage, format!("Invalid parameter '{key}'"));
    if format == Format::Raw {
        return error.hint("raw images take preallocation=off|falloc|full");
    }
    error.hint(format!("the options are {}", KEYS.join(", ")))
}

/// What `amend` is to change.
#[derive(Debug)]
pub struct Amended {
    /// For the engine.
    pub options: AmendOptions,
}

const AMENDABLE: [&str; 7] = [
    "backing_file",
    "backing_fmt",
    "compat",
    "data_file",
    "data_file_raw",
    "lazy_refcounts",
    "size",
];

/// Options to change an image with, by the names that `create` has for them.
///
/// # Errors
/// A key that cannot be changed or a value that cannot be.
pub fn amended(given: &[String]) -> Result<Amended> {
    let mut created = CreateOptions::new(Format::Qcow2, 0);
    let separate = apply(&mut created, given)?;
    let keys: Vec<&str> = given
        .iter()
        .flat_map(|list| list.split(','))
        .filter_map(|pair| pair.split('=').next())
        .filter(|key| !key.is_empty())
        .collect();
    if let Some(key) = keys.iter().find(|key| !AMENDABLE.contains(key)) {
        return Err(Error::new(
            Kind::Unsupported,
            format!("the option '{key}' of an image that exists cannot be changed"),
        )
        .hint(format!(
            "what can be changed: {}; for the rest convert the image",
            AMENDABLE.join(", ")
        )));
    }
    let has = |key: &str| keys.contains(&key);
    let backing = match separate.backing {
        None => None,
        Some(name) if name.is_empty() => Some(None),
        Some(name) => {
            let Some(format) = separate.backing_format else {
                return Err(Error::new(
                    Kind::Usage,
                    "backing file specified without backing format",
                )
                .hint("say backing_fmt=raw or backing_fmt=qcow2: a format is never guessed"));
            };
            let format = tool::format(&format)?;
            Some(Some(Backing { name, format }))
        }
    };
    let options = AmendOptions {
        version: has("compat").then_some(created.version),
        lazy_refcounts: has("lazy_refcounts").then_some(created.lazy_refcounts),
        size: separate.size,
        backing,
        data_file: created.data_file,
        data_file_raw: has("data_file_raw").then_some(created.data_file_raw),
    };
    Ok(Amended { options })
}

/// A preallocation mode by its name.
///
/// # Errors
/// A mode that is not known.
pub fn preallocation(value: &str) -> Result<Preallocation> {
    match value {
        "off" => Ok(Preallocation::Off),
        "metadata" => Ok(Preallocation::Metadata),
        "falloc" => Ok(Preallocation::Falloc),
        "full" => Ok(Preallocation::Full),
        _ => Err(Error::new(
            Kind::Usage,
            format!("Invalid value '{value}' for 'preallocation'"),
        )
        .hint("off, metadata, falloc or full")),
    }
}

fn set(o: &mut CreateOptions, separate: &mut Separate, key: &str, value: &str) -> Result<()> {
    let bad = || Error::new(Kind::Usage, format!("Invalid value '{value}' for '{key}'"));
    let switch = || match value {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(bad()),
    };
    match key {
        "size" => separate.size = Some(tool::size(value)?),
        "backing_file" => separate.backing = Some(value.to_string()),
        "backing_fmt" => separate.backing_format = Some(value.to_string()),
        "cluster_size" => o.cluster_size = tool::size(value)?,
        "compat" => {
            o.version = match value {
                "0.10" | "v2" => 2,
                "1.1" | "v3" => 3,
                _ => return Err(bad()),
            }
        }
        "compression_type" => {
            o.compression = match value {
                "zlib" => Compression::Zlib,
                "zstd" => Compression::Zstd,
                _ => return Err(bad()),
            }
        }
        "data_file" => o.data_file = Some(value.to_string()),
        "data_file_raw" => o.data_file_raw = switch()?,
        "extended_l2" => o.extended_l2 = switch()?,
        "lazy_refcounts" => o.lazy_refcounts = switch()?,
        "preallocation" => o.preallocation = preallocation(value)?,
        "refcount_bits" => o.refcount_bits = value.parse().map_err(|_| bad())?,
        _ => return Err(unknown(key, o.format)),
    }
    Ok(())
}

/// qemu-img's line about what is made.
pub fn formatting(file: &str, o: &CreateOptions) -> String {
    let mut text = format!("Formatting '{file}', fmt={}", o.format);
    let on = |value: bool| if value { "on" } else { "off" };
    let preallocation = match o.preallocation {
        Preallocation::Off => "",
        Preallocation::Metadata => " preallocation=metadata",
        Preallocation::Falloc => " preallocation=falloc",
        Preallocation::Full => " preallocation=full",
    };
    // Writing to a string does not fail.
    if o.format == Format::Raw {
        let _ = write!(text, " size={}{preallocation}", o.size);
    } else {
        let compression = match o.compression {
            Compression::Zlib => "zlib",
            Compression::Zstd => "zstd",
        };
        let _ = write!(
            text,
            " cluster_size={} extended_l2={}",
            o.cluster_size,
            on(o.extended_l2)
        );
        text.push_str(preallocation);
        let _ = write!(text, " compression_type={compression} size={}", o.size);
        if o.version == 2 {
            text.push_str(" compat=0.10");
        }
        if let Some(Backing { name, format }) = &o.backing {
            let _ = write!(text, " backing_file={name} backing_fmt={format}");
        }
        if let Some(name) = &o.data_file {
            let _ = write!(text, " data_file={name}");
            if o.data_file_raw {
                text.push_str(" data_file_raw=on");
            }
        }
        let _ = write!(
            text,
            " lazy_refcounts={} refcount_bits={}",
            on(o.lazy_refcounts),
            o.refcount_bits
        );
    }
    text
}
