//! The disk's configuration space (virtio 1.3 §5.2.4) and feature bits.

use super::request::{MAX_RANGE_SECTORS, MAX_SEGMENTS, SECTOR};
use vmm_api::spec::{BlkSpec, CacheMode, DiscardMode};

/// Feature bits (virtio 1.3 §5.2.3).
pub(super) mod feature {
    pub(in super::super) const SEG_MAX: u64 = 1 << 2;
    pub(in super::super) const READ_ONLY: u64 = 1 << 5;
    pub(in super::super) const BLK_SIZE: u64 = 1 << 6;
    pub(in super::super) const FLUSH: u64 = 1 << 9;
    pub(in super::super) const TOPOLOGY: u64 = 1 << 10;
    pub(in super::super) const CONFIG_WCE: u64 = 1 << 11;
    pub(in super::super) const MULTIQUEUE: u64 = 1 << 12;
    pub(in super::super) const DISCARD: u64 = 1 << 13;
    pub(in super::super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// Offset of the one writable byte: 1 while writes may stay in a cache.
pub(super) const WRITEBACK: u64 = 32;
/// Bytes of the structure.
const LENGTH: usize = 60;
/// log2 of physical per logical block: 4096-byte blocks, whatever the host has, so that a guest
/// sees the same disk on every host.
const PHYSICAL_EXPONENT: u8 = 3;

/// Whether writes may stay in a cache until they are flushed.
pub(super) fn writeback(cache: CacheMode) -> bool {
    match cache {
        CacheMode::None | CacheMode::Writeback | CacheMode::Unsafe => true,
        CacheMode::Writethrough | CacheMode::Directsync => false,
    }
}

/// Features of a disk. Without a write cache there is nothing to flush or to choose: a driver then
/// takes the disk as write-through (§5.2.5.2).
pub(super) fn features(spec: &BlkSpec) -> u64 {
    let mut features = feature::SEG_MAX | feature::BLK_SIZE | feature::TOPOLOGY;
    if spec.read_only {
        features |= feature::READ_ONLY;
    } else {
        features |= feature::WRITE_ZEROES;
        if spec.discard == DiscardMode::Unmap {
            features |= feature::DISCARD;
        }
    }
    if writeback(spec.cache) {
        features |= feature::FLUSH | feature::CONFIG_WCE;
    }
    if spec.queues > 1 {
        features |= feature::MULTIQUEUE;
    }
    features
}

/// The structure, for a disk of `capacity` bytes.
pub(super) fn structure(spec: &BlkSpec, capacity: u64, writeback: bool) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut put = |offset: usize, value: &[u8]| {
        for (target, byte) in bytes.iter_mut().skip(offset).zip(value) {
            *target = *byte;
        }
    };
    put(0, &(capacity / SECTOR).to_le_bytes());
    // Two descriptors of a chain are the header's and the status byte's.
    let segments = u32::from(spec.queue_size).saturating_sub(2).max(1);
    put(12, &segments.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(24, &[PHYSICAL_EXPONENT, 0]);
    // Smallest good transfer: one physical block.
    put(26, &(1_u16 << PHYSICAL_EXPONENT).to_le_bytes());
    put(32, &[u8::from(writeback), 0]);
    put(34, &spec.queues.to_le_bytes());
    let (range, ranges) = (MAX_RANGE_SECTORS.to_le_bytes(), MAX_SEGMENTS as u32);
    if !spec.read_only {
        if spec.discard == DiscardMode::Unmap {
            put(36, &range);
            put(40, &ranges.to_le_bytes());
            put(44, &(1_u32 << PHYSICAL_EXPONENT).to_le_bytes());
        }
        put(48, &range);
        put(52, &ranges.to_le_bytes());
        put(56, &[u8::from(spec.discard == DiscardMode::Unmap)]);
    }
    bytes
}
