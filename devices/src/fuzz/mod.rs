//! Bodies for fuzzing: plain functions from bytes, run bounded by tests and longer by a fuzzer.
//!
//! Each is a machine without KVM and a guest that does what the bytes say. Whatever they say, no body
//! may panic, hang, or take memory out of proportion; where it is cheap to check, what a guest has
//! reached must also survive being saved and restored. A body says what it found by panicking, and
//! returns whether the bytes got to the heart of the matter: a request was served, a chain was read. A
//! test holds that `seeds` do, so that no body is left knocking at a door that has been shut.
//!
//! | module | whose input |
//! |---|---|
//! | `script` | the bytes as a script |
//! | `chains` | descriptor chains, and the pure parsers of requests |
//! | `attacker` | a driver that does anything to a virtio function |
//! | `functions` | virtio functions and the devices behind them |
//! | `board` | ports, configuration space, bridges: the whole machine |
//! | `serial` | a console device and a client of its port |
//! | `saved` | saved state that was tampered with |
//! | `seeds` | inputs that get to the heart of a body |

mod attacker;
mod board;
mod chains;
mod functions;
mod saved;
mod script;
pub mod seeds;
mod serial;

use std::io::Write;
use std::os::unix::net::UnixStream;

pub use board::{pci, ports};
pub use chains::{block_request, chains, net_control};
pub use functions::{balloon, block, gpu, input, net, net_stream, rng, transport};
pub use saved::saved_state;
pub use serial::virtio_console;

/// A viewer of a console that says anything. Whether it was let in.
pub fn console(bytes: &[u8]) -> bool {
    let Ok((ours, mut theirs)) = UnixStream::pair() else {
        return false;
    };
    let bytes = bytes.get(..4096).unwrap_or(bytes);
    if theirs.write_all(bytes).is_err() {
        return false;
    }
    drop(theirs);
    crate::backend::char::greet(ours.into())
}
