//! What a host with systemd offers: its journal, and being told that a service is ready.
//!
//! Both are sockets that may be absent; then there is nobody to tell, and that is never an error.

pub mod journald;
pub mod notify;

pub use journald::Journald;
