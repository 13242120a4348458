//! A VNC server (RFB 3.3, 3.7 and 3.8; RFC 6143): the machine's display for any VNC client.
//!
//! ```text
//! listener -> (WebSocket) -> handshake (version, security, who else is there)
//!          -> reader: messages of the client --> keys and pointer --> Display --> input devices
//!          -> writer: a request is open and the viewer has news --> pixels --> ZRLE or raw --> socket
//! ```
//!
//! One thread serves all clients; it exists only with graphics. A client has one update in flight: until
//! it has read that and asked again, changes are only marked in its viewer's account. So a slow client
//! gets fewer and later pictures, and delays neither the guest nor the others. What it may make us hold
//! is bounded: one update ([`update::MOST_PIXELS`]), its message buffer, a stream of zlib.
//!
//! Passwords are VNC's: the first eight bytes, a challenge, DES. That keeps a curious neighbour out and
//! nobody else, and nothing is encrypted: between hosts, use a tunnel (`ssh -L`).
//!
//! | file | what |
//! |---|---|
//! | `auth` | challenge and answer |
//! | `house` | who is there, who may come in, who has to go |
//! | `handshake` | everything up to the first message |
//! | `message` | what a client says, pure |
//! | `keys` | keysyms and scancodes to keys of Linux, pure |
//! | `pixels` | pixel formats, pure |
//! | `zrle` | the ZRLE encoding, pure but for its stream |
//! | `update` | a framebuffer update from news |
//! | `client` | one client: reader and writer |
//! | `socket` | bytes in and out |
//! | `web` | the same through a WebSocket |

mod auth;
mod client;
pub mod fuzz;
mod handshake;
mod house;
mod keys;
mod message;
mod pixels;
mod socket;
mod update;
mod web;
mod zrle;

use client::Client;
use devices::backend::display::Display;
use devices::files::{Files, MissingFd};
use devices::virtio::worker::Worker;
use house::{House, Rules};
use images::exec::{Engine, readable, sleep, spawn_local};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with, sockopt};
use socket::Dialect;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use vmm_api::spec::VncSpec;

/// How long a socket that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// A connection on which nothing is heard for so long is asked whether it is still there,
const IDLE: Duration = Duration::from_secs(30);
/// again after so long,
const PROBE: Duration = Duration::from_secs(10);
/// and is over when so many questions have no answer.
const PROBES: u32 = 3;

/// A server that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum VncError {
    /// A descriptor is missing.
    #[error("the VNC server: {0}")]
    File(#[from] MissingFd),
    /// The host said no.
    #[error("the VNC server: {0}")]
    Host(#[from] io::Error),
}

/// The running server. Dropping it ends its clients.
#[derive(Debug)]
pub struct Server {
    _worker: Worker,
}

impl Server {
    /// Serves `display` under `name` as the spec says.
    ///
    /// # Errors
    /// A socket that was not passed, or no thread.
    pub fn start(
        spec: &VncSpec,
        name: &str,
        files: &Files,
        display: &Arc<Display>,
    ) -> Result<Self, VncError> {
        let mut listeners = Vec::new();
        let plain = spec.listeners.iter().map(|fd| (fd, Dialect::Plain));
        let web = spec.websockets.iter().map(|fd| (fd, Dialect::Web));
        for (fd, dialect) in plain.chain(web) {
            let listener = files.take(*fd)?;
            let flags = fcntl_getfl(&listener).map_err(io::Error::from)?;
            fcntl_setfl(&listener, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
            listeners.push((listener, dialect));
        }
        Ok(Self::serve(listeners, Rules::new(spec, name), display)?)
    }

    /// Serves sockets that are at hand and do not block.
    fn serve(
        listeners: Vec<(OwnedFd, Dialect)>,
        rules: Rules,
        display: &Arc<Display>,
    ) -> io::Result<Self> {
        let worker = Worker::start("vnc", Engine::Threads)?;
        let display = Arc::clone(display);
        worker.run(move || {
            Box::pin(async move {
                let house = Rc::new(House::new(rules, display));
                for (listener, dialect) in listeners {
                    let received = receive(listener, dialect, Rc::clone(&house));
                    if let Err(error) = spawn_local(received) {
                        tracing::error!(%error, "a VNC socket is not served");
                    }
                }
            })
        });
        Ok(Self { _worker: worker })
    }
}

/// A peer that is gone without a word is noticed, whether it is written to or not: one that is alone
/// would keep the others out for hours.
fn watch(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, IDLE)?;
    sockopt::set_tcp_keepintvl(socket, PROBE)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    let whole = IDLE + PROBE * PROBES;
    let whole = u32::try_from(whole.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(socket, whole)
}

/// Takes clients in, for ever.
async fn receive(listener: OwnedFd, dialect: Dialect, house: Rc<House>) {
    loop {
        let waited = readable(listener.as_fd()).await;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match acceptfrom_with(&listener, flags) {
            Ok((socket, from)) if waited.is_ok() => {
                // Unix sockets know no such thing.
                let _ = watch(&socket);
                let house = Rc::clone(&house);
                let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                let guest = house.admit(from.map(|from| from.ip()));
                let serving = Client::serve(socket, dialect, house, guest);
                if let Err(error) = spawn_local(serving) {
                    tracing::error!(%error, "a VNC client is not served");
                }
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) if waited.is_ok() => {}
            // No descriptor left, or no socket: not worth a busy loop.
            _ => sleep(RETRY).await,
        }
    }
}

#[cfg(test)]
mod tests;
