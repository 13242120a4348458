//! Page frame numbers of a request (virtio 1.3 §5.5.6), sorted into runs by a pure function.

use std::ops::Range;

/// Page frames are counted in pages of this size, whatever the guest's own are.
pub(super) const SHIFT: u32 = 12;

/// The guest physical addresses of the page frames whose little-endian numbers are `bytes`: ascending
/// and apart from each other. A number that is not whole is ignored, one that is there twice counts once.
pub(super) fn runs(bytes: &[u8]) -> Vec<Range<u64>> {
    let numbers = bytes.as_chunks::<4>().0.iter();
    let mut frames: Vec<u32> = numbers.map(|four| u32::from_le_bytes(*four)).collect();
    frames.sort_unstable();
    frames.dedup();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for frame in frames {
        let start = u64::from(frame) << SHIFT;
        let end = start + (1 << SHIFT);
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(frames: &[u32]) -> Vec<Range<u64>> {
        let bytes: Vec<u8> = frames.iter().flat_map(|f| f.to_le_bytes()).collect();
        runs(&bytes)
    }

    #[test]
    fn neighbours_become_one_run_in_whatever_order_they_come() {
        assert_eq!(
            of(&[7, 3, 5, 4, 4, 1, 0xffff_ffff]),
            [
                0x1000..0x2000,
                0x3000..0x6000,
                0x7000..0x8000,
                0xfff_ffff_f000..0x1000_0000_0000
            ]
        );
        assert_eq!(runs(&[1, 0, 0, 0, 9, 9]).first(), Some(&(0x1000..0x2000)));
        assert_eq!(runs(&[1, 0, 0, 0, 9, 9]).len(), 1);
        assert_eq!(runs(&[1, 0, 0]), []);
    }

    proptest! {
        #[test]
        fn every_frame_is_in_exactly_one_run(frames in prop::collection::vec(0_u32..400, 0..300)) {
            let runs = of(&frames);
            for (before, after) in runs.iter().zip(runs.iter().skip(1)) {
                prop_assert!(before.end < after.start);
            }
            for frame in 0_u32..400 {
                let address = u64::from(frame) << SHIFT;
                let inside = runs.iter().any(|run| run.contains(&address));
                prop_assert_eq!(inside, frames.contains(&frame));
            }
        }
    }
}
