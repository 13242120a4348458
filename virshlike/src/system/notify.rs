//! Telling the service manager how a service is: sd_notify(3), by the socket in `NOTIFY_SOCKET`.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends assignments such as `READY=1`; does nothing where nobody asked to be told.
pub fn notify(state: &str) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&address),
    };
    let send = || -> std::io::Result<usize> {
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address?)
    };
    if let Err(error) = send() {
        tracing::debug!("the service manager cannot be told '{state}': {error}");
    }
}
