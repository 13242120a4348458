//! What a graphics card saves beside its transport: every picture, packed with zlib and written as
//! hexadecimal digits. A text console packs to some kilobytes.

use super::resource::Resource;
use crate::backend::display::Cursor;
use crate::state::{Origin, Section, StateError, hex, unhex};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

const KIND: &str = "virtio-gpu";
const VERSION: u32 = 1;

/// A picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResourceState {
    pub(super) id: u32,
    pub(super) format: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    /// Address and length of each piece of its memory.
    pub(super) backing: Option<Vec<(u64, u32)>>,
    /// Packed.
    pub(super) pixels: String,
}

/// What the output shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScanoutState {
    pub(super) resource: u32,
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// What the pointer looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CursorState {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) hot: (u32, u32),
    /// Packed.
    pub(super) pixels: String,
}

/// A card's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GpuState {
    pub(super) resources: Vec<ResourceState>,
    pub(super) scanout: Option<ScanoutState>,
    pub(super) cursor: Option<CursorState>,
    /// The size that the guest is asked to show.
    pub(super) wanted: (u32, u32),
    pub(super) events: u32,
}

impl GpuState {
    pub(super) fn resource((id, resource): (&u32, &Resource)) -> ResourceState {
        ResourceState {
            id: *id,
            format: resource.format_number,
            width: resource.width,
            height: resource.height,
            backing: resource.backing.as_ref().map(|b| b.pieces().to_vec()),
            pixels: pack(&resource.pixels),
        }
    }

    pub(super) fn cursor(cursor: &Cursor) -> CursorState {
        CursorState {
            width: cursor.width,
            height: cursor.height,
            hot: cursor.hot,
            pixels: pack(&cursor.pixels),
        }
    }

    /// Fills `to` from a packed picture; it must have exactly that many bytes.
    pub(super) fn unpack(packed: &str, to: &mut [u8]) -> Result<(), String> {
        let bytes = unhex(packed).ok_or("a picture is not in hexadecimal digits")?;
        let mut decoder = ZlibDecoder::new(bytes.as_slice());
        let filled = decoder.read_exact(to);
        let more = decoder.read(&mut [0]);
        match (filled, more) {
            (Ok(()), Ok(0)) => Ok(()),
            _ => Err("a picture does not unpack to its size".into()),
        }
    }
}

fn pack(pixels: &[u8]) -> String {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    let written = encoder.write_all(pixels);
    let packed = written.and_then(|()| encoder.finish()).unwrap_or_default();
    hex(&packed)
}

/// The section of a card.
pub(super) fn section(id: &str, state: &GpuState) -> Result<Section, StateError> {
    Section::new(id, KIND, VERSION, state)
}

/// The saved state, if there is any.
pub(super) fn load(id: &str, origin: Origin<'_>) -> Result<Option<GpuState>, StateError> {
    origin.payload(id, KIND, VERSION)
}

/// A refusal.
pub(super) fn invalid(id: &str, reason: String) -> StateError {
    StateError::Invalid {
        device: id.into(),
        kind: KIND.into(),
        reason,
    }
}
