//! vCPU threads: one per vCPU, each a loop over its wishes and its exits.
//!
//! [`mailbox`] is what others ask of a vCPU and how they wait for it, [`exits`] serves what the guest
//! did, [`thread`] joins the two. Nothing here decides: a guest that shuts down or cannot go on is
//! reported, and its vCPU stands still until somebody says otherwise.

pub mod exits;
mod mailbox;
mod thread;

pub use exits::{Board, Chips, no_further};
pub use mailbox::Mailbox;
pub use thread::VcpuThread;

#[cfg(test)]
mod tests;
