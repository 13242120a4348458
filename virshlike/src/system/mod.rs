//! What the host offers: systemd's journal, being told that a service is ready, and waiting for changes
//! of folders.
//!
//! The first two are sockets that may be absent; then there is nobody to tell, and that is never an
//! error.

pub mod journald;
pub mod notify;
pub mod wake;

pub use journald::Journald;
