//! The table of internal snapshots.
//!
//! Source: the qcow2 specification, section "Snapshots".
use super::header::{Header, be16, be32, be64};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// Bytes of an entry before its extra data.
const ENTRY_LEN: u64 = 40;
const MAX_EXTRA: u32 = 1024;
/// Names and extra data of a table of the most snapshots that are possible stay below this.
const MAX_TABLE: u64 = 64 << 20;
const MAX_L1: u64 = 32 << 20;

/// One internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Unique among the snapshots; a number in practice. Bytes, because nobody checks them.
    pub(crate) id: Vec<u8>,
    pub(crate) name: Vec<u8>,
    pub(crate) l1_offset: u64,
    pub(crate) l1_size: u32,
    pub(crate) seconds: u32,
    pub(crate) nanoseconds: u32,
    /// Guest time since its start, in nanoseconds.
    pub(crate) vm_clock: u64,
    /// Bytes of saved machine state behind the end of the disk.
    pub(crate) vm_state_size: u64,
    /// Virtual size of the disk when the snapshot was taken; None in old images.
    pub(crate) disk_size: Option<u64>,
    /// Extra data newer than this engine, kept as it is.
    pub(crate) rest: Vec<u8>,
}

/// The snapshot with an id or, failing that, a name.
///
/// # Errors
/// There is none.
pub(crate) fn find(snapshots: &[Snapshot], wanted: &str) -> Result<usize> {
    // An id before a name, as QEMU's tools do.
    let by_id = snapshots.iter().position(|s| s.id_text() == wanted);
    by_id
        .or_else(|| snapshots.iter().position(|s| s.name_text() == wanted))
        .ok_or_else(|| {
            Error::invalid(format!(
                "there is no snapshot with the id or name {wanted:?}"
            ))
        })
}

/// Reads the snapshot table. Where it ends in the file comes with it.
///
/// # Errors
/// An entry that cannot be, or that leaves the file.
pub(crate) fn read_table(storage: &Storage, header: &Header) -> Result<(Vec<Snapshot>, u64)> {
    let at = header.snapshots_offset;
    if header.snapshots == 0 {
        return Ok((Vec::new(), at));
    }
    let file_len = storage.len()?;
    let most = file_len.saturating_sub(at).min(MAX_TABLE);
    // How long the table is shows only when it is read: most are short.
    let mut guess = u64::from(header.snapshots) * 512 + 4096;
    loop {
        let len = guess.min(most);
        let bytes = storage.read_sync(at, usize::try_from(len).unwrap_or(0))?;
        match parse_all(&bytes, header) {
            Ok((snapshots, used)) => return Ok((snapshots, at + used as u64)),
            Err(e) if len == most => return Err(e),
            Err(_) => guess = guess.saturating_mul(8),
        }
    }
}

/// The snapshots in the bytes of a table, and how many bytes they take.
fn parse_all(bytes: &[u8], header: &Header) -> Result<(Vec<Snapshot>, usize)> {
    let (mut snapshots, mut used) = (Vec::new(), 0);
    for n in 0..header.snapshots {
        let (snapshot, len) = parse(bytes.get(used..).unwrap_or_default())
            .and_then(|(s, len)| s.check(header).map(|()| (s, len)))
            .map_err(|e| e.context(format_args!("snapshot {n}")))?;
        used += len;
        snapshots.push(snapshot);
    }
    Ok((snapshots, used))
}

fn parse(bytes: &[u8]) -> Result<(Snapshot, usize)> {
    let short = || Error::corrupt("the snapshot table reaches over the end of the file");
    if (bytes.len() as u64) < ENTRY_LEN {
        return Err(short());
    }
    let (id_len, name_len) = (usize::from(be16(bytes, 12)), usize::from(be16(bytes, 14)));
    let extra_len = be32(bytes, 36);
    if extra_len > MAX_EXTRA {
        return Err(Error::corrupt(format!(
            "{extra_len} bytes of extra data are too many"
        )));
    }
    let extra_at = ENTRY_LEN as usize;
    let id_at = extra_at + extra_len as usize;
    let name_at = id_at + id_len;
    let end = name_at + name_len;
    let extra = bytes.get(extra_at..id_at).ok_or_else(short)?;
    let text = |b: Option<&[u8]>| b.map(<[u8]>::to_vec).ok_or_else(short);
    let snapshot = Snapshot {
        l1_offset: be64(bytes, 0),
        l1_size: be32(bytes, 8),
        seconds: be32(bytes, 16),
        nanoseconds: be32(bytes, 20),
        vm_clock: be64(bytes, 24),
        vm_state_size: if extra.len() >= 8 {
            be64(extra, 0)
        } else {
            be32(bytes, 32).into()
        },
        disk_size: (extra.len() >= 16).then(|| be64(extra, 8)),
        rest: extra.get(16..).unwrap_or_default().to_vec(),
        id: text(bytes.get(id_at..name_at))?,
        name: text(bytes.get(name_at..end))?,
    };
    // The padding of the last entry may be behind the end of the file.
    Ok((snapshot, end.next_multiple_of(8)))
}

impl Snapshot {
    /// The id for people.
    pub(crate) fn id_text(&self) -> String {
        String::from_utf8_lossy(&self.id).into_owned()
    }

    /// The name for people.
    pub(crate) fn name_text(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// Instructions executed, if the machine counted them.
    pub(crate) fn icount(&self) -> Option<u64> {
        self.rest
            .first_chunk::<8>()
            .map(|b| u64::from_be_bytes(*b))
            .filter(|&n| n != u64::MAX)
    }

    fn check(&self, header: &Header) -> Result<()> {
        let len = u64::from(self.l1_size) * 8;
        super::header::check_table(
            "L1 table",
            self.l1_offset,
            len,
            MAX_L1,
            header.cluster_size(),
        )
    }

    /// The bytes of the entry, padded.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.l1_size.to_be_bytes());
        out.extend((self.id.len() as u16).to_be_bytes());
        out.extend((self.name.len() as u16).to_be_bytes());
        out.extend(self.seconds.to_be_bytes());
        out.extend(self.nanoseconds.to_be_bytes());
        out.extend(self.vm_clock.to_be_bytes());
        out.extend(u32::try_from(self.vm_state_size).unwrap_or(0).to_be_bytes());
        let extra_len = match self.disk_size {
            Some(_) => 16 + self.rest.len() as u32,
            None => 8,
        };
        out.extend(extra_len.to_be_bytes());
        out.extend(self.vm_state_size.to_be_bytes());
        if let Some(size) = self.disk_size {
            out.extend(size.to_be_bytes());
            out.extend(&self.rest);
        }
        out.extend(&self.id);
        out.extend(&self.name);
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_read_back(id in "[0-9]{1,5}", name in ".{0,40}", l1_offset in 0u64..1 << 40,
                             disk_size in proptest::option::of(any::<u64>()), state: u32) {
            let snapshot = Snapshot {
                id: id.into_bytes(), name: name.into_bytes(), l1_offset, l1_size: 7, seconds: 1, nanoseconds: 2, vm_clock: 3,
                vm_state_size: state.into(), disk_size, rest: Vec::new(),
            };
            let bytes = snapshot.to_bytes();
            prop_assert_eq!(parse(&bytes).unwrap(), (snapshot, bytes.len()));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
