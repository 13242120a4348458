//! Changing the options of an image that exists: version, lazy refcounts, size, names.
use std::fs::File;

use crate::error::{Error, Result};
use crate::format::Format;
use crate::format::qcow2::header::{
    Compression, Extension, Header, V2_LEN, V3_LEN, autoclear, compatible, extension,
};
use crate::gate::Gate;
use crate::image::{Image, OpenOptions};
use crate::ops::create::{Backing, feature_names};
use crate::storage::{Cache, Storage};

/// What to change; None leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct AmendOptions {
    /// 2 ("compat 0.10") or 3 ("1.1").
    pub version: Option<u32>,
    /// Postpone refcount updates.
    pub lazy_refcounts: Option<bool>,
    /// Virtual size in bytes; may only grow.
    pub size: Option<u64>,
    /// Another backing file, whose content must be that of the old one; None in Some for none.
    pub backing: Option<Option<Backing>>,
    /// Another name of the data file.
    pub data_file: Option<String>,
    /// May be turned off.
    pub data_file_raw: Option<bool>,
}

/// Changes a qcow2 image that nobody else uses.
///
/// # Errors
/// A change that the image cannot have; nothing is changed then. A failed write.
pub async fn amend(file: File, name: &str, options: &AmendOptions, gate: &dyn Gate) -> Result<()> {
    let storage = Storage::file(file, Cache::Writeback).map_err(|e| e.context(name))?;
    amend_on(storage, name, options, gate).await
}

/// As [`amend`], on any storage.
///
/// # Errors
/// As [`amend`].
pub async fn amend_on(
    storage: Storage,
    name: &str,
    options: &AmendOptions,
    gate: &dyn Gate,
) -> Result<()> {
    let open = OpenOptions::new(Format::Qcow2).cache(Cache::Writeback);
    let image = Image::open_storage(storage, name, &open, gate)?;
    image.activate().await?;
    let result = change(&image, options).await;
    if result.is_err() {
        // What went wrong before is what matters.
        let _ = image.inactivate().await;
    }
    result.map_err(|e| e.context(name))
}

async fn change(image: &Image, options: &AmendOptions) -> Result<()> {
    let header = image
        .top_qcow2()
        .map(|q| crate::format::qcow2::read(&q.header).clone())
        .ok_or_else(|| Error::invalid("only qcow2 images have options to amend"))?;
    check(image, &header, options)?;
    if let Some(size) = options.size {
        crate::ops::resize(image, size).await?;
    }
    if options.version == Some(2) && header.version > 2 {
        image.expand_zeroes().await?;
    }
    image.inactivate_with(|h| apply(h, options)).await
}

/// Refuses what cannot be, before anything changes.
fn check(image: &Image, h: &Header, o: &AmendOptions) -> Result<()> {
    let version = o.version.unwrap_or(h.version);
    if !(2..=3).contains(&version) {
        return Err(Error::invalid(format!(
            "there is no qcow2 version {version}"
        )));
    }
    if o.lazy_refcounts == Some(true) && version < 3 {
        return Err(Error::invalid(
            "lazy refcounts need qcow2 version 3 (compat 1.1)",
        ));
    }
    if let Some(size) = o.size.filter(|&s| s < image.virtual_size()) {
        return Err(Error::invalid(format!(
            "the disk has {} bytes: shrinking it to {size} is for resize",
            image.virtual_size()
        )));
    }
    let has_data_file = h.data_file()?.is_some();
    if (o.data_file.is_some() || o.data_file_raw.is_some()) && !has_data_file {
        return Err(Error::invalid(
            "the image has no data file, and cannot be given one",
        ));
    }
    if o.data_file_raw == Some(true) && h.autoclear & autoclear::DATA_FILE_RAW == 0 {
        return Err(Error::invalid(
            "data_file_raw cannot be turned on for an image that exists",
        ));
    }
    let backing = o.backing.iter().flatten().map(|b| &b.name);
    if let Some(bad) = backing
        .chain(&o.data_file)
        .find(|n| n.is_empty() || n.contains('\0') || n.len() > 1023)
    {
        return Err(Error::invalid(format!("{bad:?} cannot be a file name")));
    }
    if version == 2 && h.version > 2 {
        check_downgrade(h)?;
    }
    Ok(())
}

fn check_downgrade(h: &Header) -> Result<()> {
    let keeps = [
        (h.incompatible != 0 || h.compression != Compression::Zlib, {
            "data files, extended L2 entries and zstd"
        }),
        (h.refcount_order != 4, "a refcount width other than 16 bits"),
        (h.extension(extension::BITMAPS).is_some(), "bitmaps"),
        (
            h.snapshots > 0,
            "snapshots taken in version 3, which may have zero clusters",
        ),
    ];
    match keeps.iter().find(|(has, _)| *has) {
        None => Ok(()),
        Some((_, what)) => Err(Error::unsupported(
            &format!("{what} in version 2"),
            format!("qcow2 version 2 (compat 0.10) has no {what}"),
        )),
    }
}

fn apply(h: &mut Header, o: &AmendOptions) {
    let put = |h: &mut Header, kind: u32, data: Option<Vec<u8>>| {
        h.extensions.retain(|e| e.kind != kind);
        if let Some(data) = data {
            h.extensions.insert(0, Extension { kind, data });
        }
    };
    match o.version {
        Some(3) if h.version < 3 => {
            (h.version, h.header_length) = (3, V3_LEN);
            if h.cluster_size() >= 4096 {
                put(h, extension::FEATURE_NAMES, Some(feature_names()));
            }
        }
        Some(2) if h.version > 2 => {
            (h.version, h.header_length) = (2, V2_LEN);
            (h.incompatible, h.compatible, h.autoclear) = (0, 0, 0);
            h.rest.clear();
            put(h, extension::FEATURE_NAMES, None);
        }
        _ => {}
    }
    match o.lazy_refcounts {
        Some(true) => h.compatible |= compatible::LAZY_REFCOUNTS,
        Some(false) => h.compatible &= !compatible::LAZY_REFCOUNTS,
        None => {}
    }
    if let Some(name) = &o.data_file {
        put(h, extension::DATA_FILE, Some(name.clone().into_bytes()));
    }
    if o.data_file_raw == Some(false) {
        h.autoclear &= !autoclear::DATA_FILE_RAW;
    }
    if let Some(backing) = &o.backing {
        h.backing = backing.as_ref().map(|b| b.name.clone());
        let format = backing
            .as_ref()
            .map(|b| b.format.name().as_bytes().to_vec());
        put(h, extension::BACKING_FORMAT, format);
    }
}
