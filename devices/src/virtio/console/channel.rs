//! A port's listening socket: one client at a time, the next one when it has left.
//!
//! It lives as long as the device's worker, over every reset of the driver. A client that comes
//! before the driver does waits in the socket's queue.

use super::port::{End, Exchange, Port};
use super::ports::Ports;
use crate::virtio::worker::{First, race};
use images::exec::{hung_up, readable, sleep, writable, yield_now};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use std::future::pending;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// How long a socket that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// Serves the clients of a port's socket, one after the other.
pub(super) async fn serve(port: Arc<Port>, ports: Arc<Ports>) {
    let End::Socket(listener) = &port.end else {
        return;
    };
    loop {
        let socket = accept(listener).await;
        let client = port.connected(socket);
        ports.news();
        carry(&port, &client).await;
        port.disconnected();
        ports.news();
    }
}

async fn accept(listener: &OwnedFd) -> OwnedFd {
    loop {
        let waited = readable(listener.as_fd()).await;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match accept_with(listener, flags) {
            Ok(socket) if waited.is_ok() => return socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) if waited.is_ok() => {}
            // No descriptor left, or no socket: not worth a busy loop.
            _ => sleep(RETRY).await,
        }
    }
}

/// Waits for `events` of poll(2), and for the client to leave; what came.
async fn wait(client: &OwnedFd, events: i16) -> i16 {
    let incoming = async {
        let (waited, came) = match events & libc::POLLIN {
            0 => (hung_up(client.as_fd()).await, libc::POLLHUP),
            events => (readable(client.as_fd()).await, events),
        };
        if waited.is_ok() { came } else { libc::POLLERR }
    };
    let outgoing = async {
        if events & libc::POLLOUT == 0 {
            pending::<()>().await;
        }
        // An error of the socket is met by the write.
        let _waited = writable(client.as_fd()).await;
        libc::POLLOUT
    };
    match race(incoming, outgoing).await {
        First::A(came) | First::B(came) => came,
    }
}

/// Carries bytes both ways until the client has left.
async fn carry(port: &Port, client: &OwnedFd) {
    loop {
        let Some(events) = port.wish() else {
            port.changed.heard().await;
            continue;
        };
        let came = match race(port.changed.heard(), wait(client, events)).await {
            First::A(()) => continue,
            First::B(came) => came,
        };
        match port.exchange(client, came) {
            // Others have their turn before the next look.
            Exchange::Fine => yield_now().await,
            Exchange::Full => port.changed.heard().await,
            Exchange::Over => return,
        }
    }
}
