//! What a write finds in a table, as pure functions: whether its bytes go to a place that is there, and
//! what an entry says when they have been put into it.
use super::entry::{Content, Entry, Geometry};
use super::extent;
use super::table::Table;
use crate::error::{Error, Result};

/// What a write finds.
pub(super) enum Plan {
    /// `n` bytes go to this host offset, nothing else changes.
    InPlace { host: u64, n: u64 },
    /// The cluster is owned, but its entry must change (zero flag, subclusters).
    Reuse { cluster: u64, n: u64 },
    /// `n` bytes in clusters that need a new place.
    New { n: u64 },
}

impl Entry {
    /// True if any of the cluster's content is in the cluster itself.
    pub(super) fn content_anywhere(self, g: &Geometry) -> bool {
        self.is_compressed()
            || (self.host(g).is_some() && (!g.extended || self.bitmap & 0xffff_ffff != 0))
    }
}

/// The bitmap of a cluster after `written` (a guest range) has been put into it.
pub(super) fn subclusters(g: &Geometry, old: Entry, guest: u64, written: (u64, u64)) -> u64 {
    let mut bitmap = if old.is_compressed() { 0 } else { old.bitmap };
    let from = written.0.max(guest) - guest;
    let to = written.1.min(guest + g.cluster()).saturating_sub(guest);
    for n in from / g.granule()..to.div_ceil(g.granule()) {
        bitmap |= 1 << n;
        bitmap &= !(1 << (n + 32));
    }
    bitmap
}

/// What a write at `offset` finds, for at most `len` bytes.
pub(super) fn plan(table: &Table, g: &Geometry, offset: u64, len: u64) -> Result<Plan> {
    let (_, index) = g.indices(offset);
    let (cluster, granule) = (g.cluster(), g.granule());
    let entry = table.get(index);
    let rest = (cluster - offset % cluster).min(len);
    if !entry.is_owned(g) {
        // Every entry is checked, also those that will be replaced.
        entry.content(g, (offset % cluster) / granule)?;
        let mut n = rest;
        let mut next = index + 1;
        while n < len && next < g.l2_entries() && !table.get(next).is_owned(g) {
            n += cluster;
            next += 1;
        }
        return Ok(Plan::New { n: n.min(len) });
    }
    let (content, _, n) = extent(table, g, offset, len)?;
    match content {
        Content::Data(host) => {
            let n = owned_len(table, g, offset, n);
            Ok(Plan::InPlace { host, n })
        }
        Content::Zero | Content::Unallocated => {
            let host = entry.host(g).unwrap_or(0);
            Ok(Plan::Reuse {
                cluster: host,
                n: rest,
            })
        }
        Content::Compressed => Err(Error::corrupt("a compressed cluster with an owner")),
    }
}

/// True if no cluster of a guest range, which is in one table, needs a new place.
pub(super) fn keeps_clusters(table: &Table, g: &Geometry, offset: u64, len: u64) -> Result<bool> {
    let mut done = 0;
    while done < len {
        done += match plan(table, g, offset + done, len - done)? {
            Plan::New { .. } => return Ok(false),
            Plan::InPlace { n, .. } | Plan::Reuse { n, .. } => n,
        };
    }
    Ok(true)
}

/// How many of `n` bytes from `offset` on are in owned clusters; the first one is.
fn owned_len(table: &Table, g: &Geometry, offset: u64, n: u64) -> u64 {
    let cluster = g.cluster();
    let (_, index) = g.indices(offset);
    let mut owned = cluster - offset % cluster;
    let mut next = index + 1;
    while owned < n && next < g.l2_entries() && table.get(next).is_owned(g) {
        let (run, step) = table.run_len(next, cluster);
        let entries = if step == cluster { run } else { 1 };
        owned += cluster * entries;
        next += entries;
    }
    owned.min(n)
}
