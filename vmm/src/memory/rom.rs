//! The firmware's image as the guest finds it: read-only memory that ends at 4 GiB.
//!
//! It is no part of guest RAM: no device reads or writes it, and it is saved by itself. Nothing may
//! change it once it is made.

use super::layout::HIGH_RAM_BASE;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use vm_memory::{MmapRegion, VolatileMemory};
use vmm_api::spec::{FIRMWARE_STEP, MAX_FIRMWARE};

/// An image that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RomError {
    /// No regular file.
    #[error(
        "firmware '{0}' is no regular file; give one, such as /usr/share/seabios/bios-256k.bin"
    )]
    NotRegular(String),
    /// Its size is none that firmware has.
    #[error(
        "firmware '{name}' has {size} bytes; an image has a multiple of {FIRMWARE_STEP}, at most \
         {MAX_FIRMWARE}"
    )]
    Size {
        /// The file.
        name: String,
        /// Its size.
        size: u64,
    },
    /// It could not be read.
    #[error("firmware '{name}' cannot be read: {source}")]
    Read {
        /// The file.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// There is no memory for it.
    #[error("no memory for the firmware: {0}")]
    Map(String),
}

/// The image.
#[derive(Debug)]
pub struct Rom {
    mapping: MmapRegion<()>,
}

impl Rom {
    /// Reads an image.
    ///
    /// # Errors
    /// [`RomError`].
    pub fn read(file: &File, name: &str) -> Result<Self, RomError> {
        let read = |source| RomError::Read {
            name: name.into(),
            source,
        };
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(RomError::NotRegular(name.into()));
        }
        check_size(metadata.len(), name)?;
        let mut bytes = vec![0; usize::try_from(metadata.len()).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(read)?;
        Self::new(&bytes, name)
    }

    /// An image of these bytes; `name` is for messages.
    ///
    /// # Errors
    /// [`RomError::Size`] and [`RomError::Map`].
    pub fn new(bytes: &[u8], name: &str) -> Result<Self, RomError> {
        check_size(bytes.len() as u64, name)?;
        let map = |error: &dyn std::fmt::Display| RomError::Map(error.to_string());
        let mapping = MmapRegion::<()>::new(bytes.len()).map_err(|error| map(&error))?;
        let slice = mapping
            .get_slice(0, bytes.len())
            .map_err(|error| map(&error))?;
        slice.copy_from(bytes);
        Ok(Self { mapping })
    }

    /// Its first guest physical address.
    pub fn base(&self) -> u64 {
        HIGH_RAM_BASE - self.len()
    }

    /// Bytes, a multiple of the page size.
    #[allow(clippy::len_without_is_empty, reason = "no image is empty")]
    pub fn len(&self) -> u64 {
        self.mapping.size() as u64
    }

    /// Where it is mapped in this process.
    pub fn host_address(&self) -> u64 {
        self.mapping.as_ptr() as u64
    }

    /// A copy of its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.mapping.size()];
        if let Ok(slice) = self.mapping.get_slice(0, bytes.len()) {
            slice.copy_to(&mut bytes);
        }
        bytes
    }
}

fn check_size(size: u64, name: &str) -> Result<(), RomError> {
    if (FIRMWARE_STEP..=MAX_FIRMWARE).contains(&size) && size.is_multiple_of(FIRMWARE_STEP) {
        return Ok(());
    }
    Err(RomError::Size {
        name: name.into(),
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_ends_at_4_gib_and_keeps_its_bytes() {
        let bytes: Vec<u8> = (0..0x2_0000_u32).map(|at| at.to_le_bytes()[1]).collect();
        let rom = Rom::new(&bytes, "test").expect("128 KiB");
        assert_eq!(rom.base() + rom.len(), 1 << 32);
        assert_eq!(rom.bytes(), bytes);
    }

    #[test]
    fn other_sizes_and_files_are_refused_by_name() {
        for size in [0, 1 << 12, (64 << 10) + 1, (16 << 20) + (64 << 10)] {
            let error = Rom::new(&vec![0; size], "odd.bin").expect_err("no image");
            assert!(error.to_string().contains("odd.bin"), "{error}");
        }
        let null = File::open("/dev/null").expect("it is everywhere");
        let error = Rom::read(&null, "null").expect_err("a device");
        assert!(matches!(error, RomError::NotRegular(_)), "{error}");
    }
}
