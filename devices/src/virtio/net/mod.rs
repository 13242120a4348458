//! virtio-net: a network card on a tap device or a stream socket (virtio 1.3 §5.1).
//!
//! **The life of a frame to the guest**: the tap is readable, `receive::serve` wakes in the card's
//! [worker](super::worker) and takes buffers from the receive [queue](super::queue), more of them at once
//! while there are more frames; the kernel writes frames with their headers right into them, and those
//! of a whole burst are shown used at once. A frame that its buffer does not hold goes on in more of
//! them. Without buffers frames wait in the kernel's queue.
//!
//! **The life of a frame from the guest**: doorbell, `transmit::serve` wakes, takes what the driver
//! offers, and the pages that the guest named go to the tap, without a copy. What the kernel refuses (a
//! header that makes no sense, a full queue) is dropped and counted, as on any network.
//!
//! Both ways a burst is one call of the kernel ([`Batch`](crate::backend::tap::Batch)).
//!
//! On a [stream socket](crate::backend::stream) both lives are in `stream.rs`: frames are found in
//! what came and copied in, and what the guest sends is queued, a bounded number of bytes, until the
//! peer takes it; meanwhile the guest's queue fills. A peer that leaves is a cable that is pulled.
//!
//! With several queue pairs, the driver says over the control queue how many it uses (`control`);
//! the tap's other queues are detached, so that no frame waits in one that nobody reads.
//!
//! | file | what |
//! |---|---|
//! | [`create`](self::create()) | from the spec: descriptors become a card |
//! | `device.rs` | the front-end: features, configuration space, start |
//! | `receive.rs`, `transmit.rs` | the two lives on a tap |
//! | `stream.rs` | both on a stream socket |
//! | `control.rs` | commands of the control queue: a pure parser |
//! | `scratch.rs` | what the queues of a card share |
//! | `stats.rs` | counters |
//! | `state.rs` | what is saved |

mod control;
mod create;
mod device;
mod receive;
mod scratch;
mod state;
mod stats;
mod stream;
mod transmit;

pub use create::create;
pub(crate) use create::{on_sockets, on_stream};

/// The number of queue pairs that a control command asks for, if it makes sense; for fuzz bodies.
pub(crate) fn control_pairs(bytes: &[u8], max_pairs: u16) -> Option<u16> {
    control::parse(bytes, max_pairs).map(|control::Command::Pairs(pairs)| pairs)
}

#[cfg(test)]
mod tests;
