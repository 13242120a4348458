//! The process itself: which descriptors it holds, which signals it obeys.
//!
//! Everything that narrows what the process may do belongs here. It must run before any other
//! thread exists, and before anything of the guest's is looked at.
#![allow(unsafe_code)]

mod descriptors;
mod fault;
mod heap;
mod program;
mod signals;

pub use descriptors::{AdoptError, adopt, take_one};
pub use fault::{guard, lost_memory, set_last_words};
pub use program::let_go_of_program;
pub use signals::{Termination, prepare_signals};

/// What comes before everything else: no standard stream is closed, one heap serves all threads, and a
/// reader that goes away does not end the process. Before the first thread.
pub fn prepare_process() {
    descriptors::hold_standard_streams();
    signals::ignore_broken_pipes();
    heap::share_one_heap();
}
