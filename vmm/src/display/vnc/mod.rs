//! A VNC server (RFB 3.3, 3.7 and 3.8; RFC 6143): the machine's display for any VNC client.
//!
//! ```text
//! listener -> handshake (version, security, who else is there)
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
//! | `handshake` | everything up to the first message |
//! | `message` | what a client says, pure |
//! | `keys` | keysyms and scancodes to keys of Linux, pure |
//! | `pixels` | pixel formats, pure |
//! | `zrle` | the ZRLE encoding, pure but for its stream |
//! | `update` | a framebuffer update from news |
//! | `client` | one client: reader and writer |
//! | `socket` | bytes in and out |

mod auth;
mod client;
pub mod fuzz;
mod handshake;
mod keys;
mod message;
mod pixels;
mod socket;
mod update;
mod zrle;

use client::Client;
use devices::backend::display::Display;
use devices::files::{Files, MissingFd};
use devices::virtio::worker::{Signal, Worker};
use images::exec::{Engine, readable, sleep, spawn_local};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use vmm_api::spec::{SharePolicy, VncSpec};

/// Clients at the same time; further ones are sent away at once.
const MOST_CLIENTS: usize = 32;
/// How long a socket that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);

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
        for fd in &spec.listeners {
            let listener = files.take(*fd)?;
            let flags = fcntl_getfl(&listener).map_err(io::Error::from)?;
            fcntl_setfl(&listener, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
            listeners.push(listener);
        }
        Ok(Self::serve(listeners, Rules::new(spec, name), display)?)
    }

    /// Serves sockets that are at hand and do not block.
    fn serve(listeners: Vec<OwnedFd>, rules: Rules, display: &Arc<Display>) -> io::Result<Self> {
        let worker = Worker::start("vnc", Engine::Threads)?;
        let display = Arc::clone(display);
        worker.run(move || {
            Box::pin(async move {
                let house = Rc::new(House {
                    rules,
                    display,
                    guests: RefCell::default(),
                });
                for listener in listeners {
                    if let Err(error) = spawn_local(receive(listener, Rc::clone(&house))) {
                        tracing::error!(%error, "a VNC socket is not served");
                    }
                }
            })
        });
        Ok(Self { _worker: worker })
    }
}

/// Who may come in.
#[derive(Debug, Clone)]
struct Rules {
    name: String,
    password: Option<String>,
    password_until: Option<u64>,
    share: SharePolicy,
}

impl Rules {
    fn new(spec: &VncSpec, name: &str) -> Self {
        Self {
            name: name.into(),
            password: spec.password.clone(),
            password_until: spec.password_until,
            share: spec.share,
        }
    }
}

/// The server, its rules and who is there.
struct House {
    rules: Rules,
    display: Arc<Display>,
    /// Each client's bell that tells it to go.
    guests: RefCell<Vec<Weak<Signal>>>,
}

impl House {
    /// A new guest's bell; `None` when the house is full.
    fn admit(&self) -> Option<Rc<Signal>> {
        let mut guests = self.guests.borrow_mut();
        guests.retain(|guest| guest.strong_count() > 0);
        if guests.len() >= MOST_CLIENTS {
            return None;
        }
        let bell = Rc::new(Signal::default());
        guests.push(Rc::downgrade(&bell));
        Some(bell)
    }

    /// Sends everybody away but the one with this bell.
    fn clear(&self, but: &Rc<Signal>) {
        for guest in self.guests.borrow().iter().filter_map(Weak::upgrade) {
            if !Rc::ptr_eq(&guest, but) {
                guest.ring();
            }
        }
    }
}

/// Takes clients in, for ever.
async fn receive(listener: OwnedFd, house: Rc<House>) {
    loop {
        let waited = readable(listener.as_fd()).await;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match accept_with(&listener, flags) {
            Ok(socket) if waited.is_ok() => {
                // Unix sockets know no such thing.
                let _ = sockopt::set_tcp_nodelay(&socket, true);
                let _ = sockopt::set_socket_keepalive(&socket, true);
                let house = Rc::clone(&house);
                if let Some(bell) = house.admit()
                    && let Err(error) = spawn_local(Client::serve(socket, house, bell))
                {
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
