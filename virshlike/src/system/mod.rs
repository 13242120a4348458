//! What the host offers: systemd's journal, being told that a service is ready, waiting for changes of
//! folders, and hearing Ctrl+C.
//!
//! The first two are sockets that may be absent; then there is nobody to tell, and that is never an
//! error.

pub mod interrupt;
pub mod journald;
pub mod notify;
pub mod wake;

pub use journald::Journald;
