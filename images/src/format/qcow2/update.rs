//! Changing the header of an image in place, in one step.
//!
//! All that says how the file is to be read is put into its first sector, which is written at
//! once: a crash leaves the old header or the new one. A new name of a backing file is made
//! durable first, at a place of the first cluster that the old header does not use. The names of
//! feature bits are a courtesy and give way when the sector is too small. A header that does not
//! fit even so (extensions of others) is written as a whole cluster, as QEMU does always.
use super::Qcow2;
use super::header::{Header, be32, be64, extension};
use super::map::{read, write as write_lock};
use crate::error::Result;

const SECTOR: usize = 512;

/// Bytes for a place of the file.
type Piece = (u64, Vec<u8>);

impl Qcow2 {
    /// Changes the header, durably. Nobody else changes it meanwhile.
    ///
    /// # Errors
    /// A header that does not fit its cluster; a failed write.
    pub(crate) async fn change_header(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        let mut new = read(&self.header).clone();
        change(&mut new);
        let head = self.storage.read_owned(0, SECTOR as u64).await?;
        let old_name = (be64(&head, 8), u64::from(be32(&head, 16)));
        for (at, bytes) in new.pieces(old_name)? {
            self.storage
                .write_owned(at, bytes.as_slice().into())
                .await?;
            self.storage.sync().await?;
        }
        *write_lock(&self.header) = new;
        Ok(())
    }
}

impl Header {
    /// What is to be written, in this order and each durable before the next. `old_name` is where
    /// (offset, length) the header on disk has the name of its backing file.
    ///
    /// # Errors
    /// When it does not fit into the first cluster.
    fn pieces(&mut self, old_name: (u64, u64)) -> Result<Vec<Piece>> {
        let whole = self.fitting(self.cluster_size() as usize)?;
        if self.cluster_size() as usize <= SECTOR || whole.len() <= SECTOR {
            return Ok(vec![(0, padded(whole, SECTOR))]);
        }
        let name = self.backing.take();
        let front = self.fitting(SECTOR);
        self.backing = name;
        let Some((mut front, place)) = front.ok().zip(self.place_of_name(old_name)) else {
            let cluster = self.cluster_size() as usize;
            return Ok(vec![(0, padded(self.fitting(cluster)?, cluster))]);
        };
        let mut pieces = Vec::new();
        if let Some(name) = &self.backing {
            super::header::set(&mut front, 8, &place.to_be_bytes());
            super::header::set(&mut front, 16, &(name.len() as u32).to_be_bytes());
            pieces.push((place, name.clone().into_bytes()));
        }
        pieces.push((0, padded(front, SECTOR)));
        Ok(pieces)
    }

    /// The bytes of the header, without the names of feature bits if they are too many.
    fn fitting(&mut self, most: usize) -> Result<Vec<u8>> {
        let bytes = self.to_bytes();
        if bytes.as_ref().is_ok_and(|b| b.len() <= most) {
            return bytes;
        }
        let without = Header {
            extensions: self
                .extensions
                .iter()
                .filter(|e| e.kind != extension::FEATURE_NAMES)
                .cloned()
                .collect(),
            ..self.clone()
        };
        let bytes = without.to_bytes()?;
        if bytes.len() > most {
            return Err(crate::error::Error::invalid(
                "the header does not fit into a sector",
            ));
        }
        Ok(bytes)
    }

    /// A place behind the first sector that the old name does not overlap.
    fn place_of_name(&self, (start, len): (u64, u64)) -> Option<u64> {
        let wanted = self.backing.as_ref().map_or(0, String::len) as u64;
        let old_end = start.saturating_add(len);
        [SECTOR as u64, old_end.max(SECTOR as u64)]
            .into_iter()
            .find(|&at| {
                let end = at.saturating_add(wanted);
                end <= self.cluster_size() && (end <= start || at >= old_end)
            })
    }
}

fn padded(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.resize(bytes.len().max(len), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::qcow2::header::{Compression, Extension, V3_LEN};

    fn header(cluster_bits: u32, backing: Option<&str>, names: usize) -> Header {
        let extensions = vec![
            Extension {
                kind: extension::BACKING_FORMAT,
                data: b"qcow2".to_vec(),
            },
            Extension {
                kind: extension::FEATURE_NAMES,
                data: vec![0; 48 * names],
            },
        ];
        Header {
            version: 3,
            cluster_bits,
            size: 0,
            l1_size: 1,
            l1_offset: 3 << cluster_bits,
            reftable_offset: 1 << cluster_bits,
            reftable_clusters: 1,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            header_length: V3_LEN,
            compression: Compression::Zlib,
            backing: backing.map(str::to_owned),
            extensions,
            rest: Vec::new(),
        }
    }

    /// The file after the first `n` pieces have been written to it.
    fn after(file: &[u8], pieces: &[Piece], n: usize) -> Vec<u8> {
        let mut file = file.to_vec();
        for (at, bytes) in &pieces[..n] {
            file[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
        file
    }

    #[test]
    fn a_new_name_is_old_or_new_at_every_instant() {
        for (bits, names) in [(9, 0), (12, 8), (16, 8), (16, 3)] {
            let mut file = vec![0; 1 << bits];
            let long = "x".repeat(if bits == 9 { 150 } else { 1000 });
            let mut backing = "first.qcow2".to_owned();
            let bytes = header(bits, Some(&backing), names).to_bytes().unwrap();
            file[..bytes.len()].copy_from_slice(&bytes);
            for name in ["b", &long, "c", "d", &long] {
                let old = (be64(&file, 8), u64::from(be32(&file, 16)));
                let pieces = header(bits, Some(name), names).pieces(old).unwrap();
                assert!(pieces.iter().all(|(at, b)| *at > 0 || b.len() == SECTOR));
                for n in 0..=pieces.len() {
                    let got = Header::parse(&after(&file, &pieces, n)).unwrap();
                    let want = if n == pieces.len() { name } else { &backing };
                    assert_eq!(got.backing.as_deref(), Some(want));
                }
                file = after(&file, &pieces, pieces.len());
                name.clone_into(&mut backing);
            }
        }
    }
}
