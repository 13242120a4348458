//! Bodies for fuzzing: plain functions from bytes, run bounded by tests and longer by a fuzzer. They must
//! not panic, hang, or take memory out of proportion, whatever the bytes are.

pub use crate::control::fuzz::control;
pub use crate::display::vnc::fuzz::{client as vnc, web as vnc_web};
pub use crate::snapshot::fuzz::{snapshot, snapshot_seed};
