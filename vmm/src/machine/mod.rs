//! One machine: its parts, what can be done to them, and the driver that decides when.
//!
//! ```text
//! spec --build--> Machine (parts; pause, resume, reset, save, end: no decisions)
//!                    ^
//!                    | one step at a time, on a thread of its own
//! inbox --> driver --+-- decider (pure) --> answers, events, exit
//! ```

mod boot_source;
pub mod build;
pub mod decider;
pub mod driver;
pub mod inbox;
mod parts;
mod screen;

pub use build::{BuildError, build};
pub use parts::Machine;
