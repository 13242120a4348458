//! The host's side of devices: descriptors and what reads and writes them.
//!
//! A back-end outlives its front-end: reset, restore and replug rebuild the front-end on the same
//! one. It must never make a vCPU wait.

pub mod char;
pub mod display;
pub mod eventfd;
pub mod ram;
pub mod stream;
pub mod tap;
