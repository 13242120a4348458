//! What a `vmm` process and its manager say to each other, as plain data.
//!
//! - [`spec`]: the machine that a `vmm` is asked to be, with descriptors named by number.
//! - [`state`]: run state, machine job, and the table that accepts or refuses a request.
//! - [`control`]: the control protocol: hello, requests, replies, events, framing, and a client.
//! - [`console`]: the two lines that open a console connection.
//! - [`end`]: the record that a `vmm` leaves behind when it ends.
//! - [`cpu`]: processor features by name, our CPU models, and what a host makes of them.
//! - [`fuzz`]: hostile bytes for all of these.
//! - [`speed`]: how fast this host runs guest kernel code, as a `vmm` measures it.
//!
//! This crate must never do anything to a machine, a file or a store: it only describes, checks
//! and carries. Both sides of every versioned format live here, so that they cannot drift.
#![deny(unsafe_code)]

pub mod console;
pub mod control;
pub mod cpu;
pub mod end;
pub mod fuzz;
pub mod spec;
pub mod speed;
pub mod state;
