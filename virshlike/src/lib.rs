//! The manager: domain definitions, the store, the life cycle of guests, and the command line.
//!
//! - [`xml`], [`model`]: documents that keep what a person wrote, and what they mean.
//! - [`store`]: definitions on disk, under locks, atomic; never judges XML.
//! - [`runtime`]: guests' processes: starting, finding and adopting them.
//! - [`manager`]: what the verbs mean, over all of these.
//! - [`system`]: the host's journal and service manager.
//! - [`daemon`]: the optional watch over all guests.
//! - [`cli`]: the words that people type and read.
//! - [`fuzz`]: hostile bytes for definitions.
//! - [`spawn`]: the fork and exec of a guest's process.
//!
//! It never links the VMM: a guest runs in a process of its own and is reached over its control
//! socket.

#![deny(unsafe_code)]

pub mod cli;
pub mod daemon;
pub mod error;
pub mod fuzz;
pub mod manager;
pub mod model;
pub mod runtime;
#[allow(unsafe_code)]
pub mod spawn;
pub mod store;
pub mod system;
pub mod xml;
