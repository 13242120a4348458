//! Who may look at the machine's display from outside, and how.
//!
//! The picture itself is [`devices::backend::display::Display`]; here are the servers that show it.

pub mod screenshot;
pub mod vnc;
