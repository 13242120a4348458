//! Persistent dirty bitmaps: which parts of the disk were written since some moment.
//!
//! While an image is active for writing, its bitmaps are in memory. Before anything of the disk
//! changes for the first time, those on disk that record are marked as in use; closing the image
//! stores them anew and only then points the header at them:
//!
//! ```text
//! stored --activate: read--> loaded --first write: marked in use on disk, durably--> recording
//!   ^                          |                                                        |
//!   |<--inactivate: nothing----+       inactivate: new places, counts, header (one sector)
//!   +-----------------------------------------------------------------------------------+
//! ```
//!
//! A write waits for the mark, also one that comes while another write makes it. After a crash
//! the mark is still there, so what was stored is not trusted: such a bitmap can only be removed.
//! Who only looked at the image, or failed before he wrote, leaves its bitmaps as they were.
//! Bitmaps that we cannot use are kept as they are, and marked as well, because
//! nobody records for them. If the autoclear bit is not set, somebody wrote without knowing
//! bitmaps: the directory is dropped, its clusters are leaks.
pub(crate) mod bits;
pub(crate) mod directory;
mod store;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use super::Qcow2;
use super::map::{read, write as write_lock};
use crate::error::{Error, Result};
use crate::sync::{Turn, lock};
use bits::Bits;
use directory::{Entry, Place, flag};
pub(crate) use store::{described_on_disk, directory_on_disk};

/// Names have at most so many bytes.
const MAX_NAME: usize = 1023;

/// A bitmap in memory.
pub(crate) struct Live {
    pub(crate) bits: Bits,
    enabled: AtomicBool,
    /// Newer than what is stored.
    changed: AtomicBool,
}

/// A bitmap: what is stored of it, and its bits if they can be used.
#[derive(Clone)]
struct Record {
    entry: Entry,
    live: Option<Arc<Live>>,
}

impl Record {
    fn records(&self) -> bool {
        let enabled = |l: &Arc<Live>| l.enabled.load(Ordering::Relaxed);
        self.live.as_ref().is_some_and(enabled)
    }
}

/// What the disk has.
#[derive(Default)]
struct OnDisk {
    place: Option<Place>,
    entries: Vec<Entry>,
    /// Clusters (first, count) that the directory, the tables and the bits are in.
    clusters: Vec<(u64, u64)>,
}

/// The bitmaps of an image that is active for writing.
#[derive(Default)]
pub(super) struct Bitmaps {
    records: RwLock<Vec<Record>>,
    /// True if any bitmap records.
    recording: AtomicBool,
    /// True if something must be marked as in use on disk before the disk changes.
    unmarked: AtomicBool,
    /// Held by who marks.
    marking: Turn,
    /// The disk must be told something when the image is closed.
    unsaved: AtomicBool,
    on_disk: Mutex<OnDisk>,
}

/// What there is to know about a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) granularity: u64,
    pub(crate) in_use: bool,
    pub(crate) auto: bool,
}

/// What keeps a bitmap from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It was not stored when the image was closed.
    Inconsistent,
    /// The image was written to without it.
    Stale,
    /// Its type, flags or extra data are not known.
    Unknown,
    /// Its bits are not where they can be.
    Damaged,
}

impl Bitmaps {
    fn clear(&self) {
        write_lock(&self.records).clear();
        self.recording.store(false, Ordering::Relaxed);
        self.unmarked.store(false, Ordering::Relaxed);
        self.unsaved.store(false, Ordering::Relaxed);
        *lock(&self.on_disk) = OnDisk::default();
    }

    /// Looks again which bitmaps record, and whether the disk knows of it.
    fn refresh(&self) {
        let any = read(&self.records).iter().any(Record::records);
        self.recording.store(any, Ordering::Release);
        let unmarked = self.marked(false).is_some();
        self.unmarked.store(unmarked, Ordering::Release);
    }

    /// The directory on disk with the marks that it lacks, if it lacks any: on what records now,
    /// and on what the disk says records, whatever has become of it in memory; or on all.
    fn marked(&self, all: bool) -> Option<(Place, Vec<Entry>)> {
        let records = read(&self.records);
        let on_disk = lock(&self.on_disk);
        let place = on_disk.place?;
        let mut entries = on_disk.entries.clone();
        let mut lacks = false;
        for entry in &mut entries {
            let here = |r: &Record| r.entry.name == entry.name && r.records();
            let gets_old = all || entry.flags & flag::AUTO != 0 || records.iter().any(here);
            if gets_old && entry.flags & flag::IN_USE == 0 {
                entry.flags |= flag::IN_USE;
                lacks = true;
            }
        }
        lacks.then_some((place, entries))
    }

    /// The disk has these marks now.
    fn set_marked(&self, entries: Vec<Entry>) {
        // A bitmap that nobody records for keeps the mark when it is stored again.
        for record in write_lock(&self.records).iter_mut() {
            let same = |e: &&Entry| e.name == record.entry.name;
            if record.live.is_none()
                && let Some(entry) = entries.iter().find(same)
            {
                record.entry.flags = entry.flags;
            }
        }
        lock(&self.on_disk).entries = entries;
        self.refresh();
    }

    /// Clusters that bitmaps are in.
    pub(super) fn clusters(&self) -> Vec<(u64, u64)> {
        lock(&self.on_disk).clusters.clone()
    }

    fn change(&self, f: impl FnOnce(&mut Vec<Record>) -> Result<()>) -> Result<()> {
        f(&mut write_lock(&self.records))?;
        self.unsaved.store(true, Ordering::Relaxed);
        self.refresh();
        Ok(())
    }

    fn live(&self, name: &str) -> Result<Arc<Live>> {
        let records = read(&self.records);
        let record = records
            .iter()
            .find(|r| r.entry.name == name.as_bytes())
            .ok_or_else(|| not_found(name))?;
        record.live.clone().ok_or_else(|| inconsistent(name))
    }
}

fn not_found(name: &str) -> Error {
    Error::invalid(format!("Dirty bitmap '{name}' not found"))
}

fn inconsistent(name: &str) -> Error {
    Error::invalid(format!(
        "Bitmap '{name}' is inconsistent and cannot be used: it can only be removed"
    ))
}

fn describe(entry: &Entry, live: Option<&Live>) -> Described {
    let enabled = |l: &Live| l.enabled.load(Ordering::Relaxed);
    Described {
        name: entry.name_text(),
        granularity: 1 << entry.granularity_bits.min(63),
        in_use: live.is_none() && entry.flags & flag::IN_USE != 0,
        auto: live.map_or(entry.flags & flag::AUTO != 0, enabled),
    }
}

impl Qcow2 {
    /// Notes that a range is about to be written. Nothing may be written before this is done.
    ///
    /// # Errors
    /// The disk could not be told that its bitmaps get old: nothing may be written.
    pub(crate) async fn record_write(&self, offset: u64, len: u64) -> Result<()> {
        if self.bitmaps.unmarked.load(Ordering::Acquire) {
            // Once, and large: out of the way of the common case.
            Box::pin(self.mark_in_use(false)).await?;
        }
        self.record(offset, len);
        Ok(())
    }

    fn record(&self, offset: u64, len: u64) {
        if !self.bitmaps.recording.load(Ordering::Acquire) {
            return;
        }
        for record in read(&self.bitmaps.records).iter() {
            if let Some(live) = &record.live
                && live.enabled.load(Ordering::Relaxed)
            {
                live.bits.set(offset, len);
                if !live.changed.load(Ordering::Relaxed) {
                    live.changed.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    /// The bitmaps of an image that is active for writing.
    pub(crate) fn live_bitmaps(&self) -> Vec<Described> {
        let records = read(&self.bitmaps.records);
        let each = records.iter();
        each.map(|r| describe(&r.entry, r.live.as_deref()))
            .collect()
    }

    /// The bits of a bitmap of an image that is active for writing.
    ///
    /// # Errors
    /// No such bitmap, or one that cannot be used.
    pub(crate) fn live_bitmap(&self, name: &str) -> Result<Arc<Live>> {
        self.bitmaps.live(name)
    }

    /// Adds a bitmap without anything set. The caller keeps requests out, here and below.
    ///
    /// # Errors
    /// A name or granularity that cannot be; version 2.
    pub(crate) fn add_bitmap(&self, name: &str, granularity: u64, enabled: bool) -> Result<()> {
        if self.geometry.version < 3 {
            return Err(Error::unsupported(
                "bitmaps in version 2",
                "qcow2 version 2 (compat 0.10) has no bitmaps: amend the image to compat=1.1",
            ));
        }
        if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
            return Err(Error::invalid(format!(
                "the name of a bitmap has 1 to {MAX_NAME} bytes"
            )));
        }
        if !granularity.is_power_of_two() || !(1 << 9..=1 << 31).contains(&granularity) {
            return Err(Error::invalid(format!(
                "a granularity of {granularity} bytes is not a power of two from 512 to 2 GiB"
            )));
        }
        let bits = Bits::new(self.size(), granularity.trailing_zeros())?;
        self.bitmaps.change(|records| {
            if records.iter().any(|r| r.entry.name == name.as_bytes()) {
                return Err(Error::invalid(format!("Bitmap already exists: {name}")));
            }
            if records.len() >= 65535 {
                return Err(Error::invalid("an image has at most 65535 bitmaps"));
            }
            records.push(Record {
                entry: Entry::new(name, granularity.trailing_zeros()),
                live: Some(Arc::new(Live {
                    bits,
                    enabled: AtomicBool::new(enabled),
                    changed: AtomicBool::new(true),
                })),
            });
            Ok(())
        })
    }

    /// Removes a bitmap.
    ///
    /// # Errors
    /// No such bitmap.
    pub(crate) fn remove_bitmap(&self, name: &str) -> Result<()> {
        self.bitmaps.change(|records| {
            let at = records.iter().position(|r| r.entry.name == name.as_bytes());
            records.remove(at.ok_or_else(|| not_found(name))?);
            Ok(())
        })
    }

    /// Changes the bits of a bitmap.
    ///
    /// # Errors
    /// As [`Qcow2::live_bitmap`].
    pub(crate) fn change_bits(&self, name: &str, change: impl FnOnce(&Bits)) -> Result<()> {
        let live = self.bitmaps.live(name)?;
        change(&live.bits);
        live.changed.store(true, Ordering::Relaxed);
        self.bitmaps.unsaved.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets a bitmap record, or stops it.
    ///
    /// # Errors
    /// As [`Qcow2::live_bitmap`].
    pub(crate) fn enable_bitmap(&self, name: &str, enabled: bool) -> Result<()> {
        let live = self.bitmaps.live(name)?;
        live.enabled.store(enabled, Ordering::Relaxed);
        self.bitmaps.unsaved.store(true, Ordering::Relaxed);
        self.bitmaps.refresh();
        Ok(())
    }

    /// The whole disk has changed, after [`Qcow2::expect_change`].
    pub(super) fn record_everything(&self) {
        self.record(0, self.size());
    }

    /// The whole disk is about to change, and to have this size. Nothing of it may reach the disk
    /// before this is done.
    ///
    /// # Errors
    /// As [`Qcow2::record_write`].
    pub(super) async fn expect_change(&self, size: u64) -> Result<()> {
        // With another size those that do not record get old as well.
        self.mark_in_use(size != self.size()).await
    }

    /// The disk has got another size, after [`Qcow2::expect_change`].
    ///
    /// # Errors
    /// A bitmap that would be too large.
    pub(super) fn resize_bitmaps(&self, size: u64) -> Result<()> {
        if read(&self.bitmaps.records).is_empty() {
            return Ok(());
        }
        self.bitmaps.change(|records| {
            for record in records {
                if let Some(live) = &record.live {
                    record.live = Some(Arc::new(Live {
                        bits: live.bits.resized(size)?,
                        enabled: AtomicBool::new(live.enabled.load(Ordering::Relaxed)),
                        changed: AtomicBool::new(true),
                    }));
                }
            }
            Ok(())
        })
    }
}
