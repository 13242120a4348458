//! Commands of the control queue (virtio 1.3 §5.1.6.5), parsed by a pure function.

/// The answer's byte: done.
pub(super) const OK: u8 = 0;
/// The answer's byte: not known, or makes no sense.
pub(super) const ERROR: u8 = 1;

/// Class and command: use so many queue pairs.
const MULTIQUEUE: u8 = 4;
const PAIRS_SET: u8 = 0;

/// Bytes of the longest command that is known.
pub(super) const LONGEST: usize = 4;

/// What the driver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Use this many queue pairs, 1 to the maximum.
    Pairs(u16),
}

/// The command in `bytes`, which begin with class and command; `None` when it is not known or asks
/// for what cannot be.
pub(super) fn parse(bytes: &[u8], max_pairs: u16) -> Option<Command> {
    match bytes {
        [MULTIQUEUE, PAIRS_SET, low, high] => {
            let pairs = u16::from_le_bytes([*low, *high]);
            (1..=max_pairs)
                .contains(&pairs)
                .then_some(Command::Pairs(pairs))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pairs_that_exist_can_be_asked_for() {
        for (bytes, expected) in [
            (&[4, 0, 1, 0][..], Some(Command::Pairs(1))),
            (&[4, 0, 3, 0], Some(Command::Pairs(3))),
            (&[4, 0, 0, 0], None),
            (&[4, 0, 4, 0], None),
            (&[4, 0, 0, 1], None),
            (&[4, 0, 1], None),
            (&[4, 1, 1, 0], None),
            (&[0, 0, 1, 0], None),
            (&[], None),
        ] {
            assert_eq!(parse(bytes, 3), expected, "{bytes:?}");
        }
    }
}
