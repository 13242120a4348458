//! One living guest, watched by its process and its events, at the cost of two descriptors.

use super::Message;
use crate::runtime::Guest;
use crate::runtime::rundir::CONTROL;
use crate::spawn;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc::Sender;
use vmm_api::control::frame::MAX_FRAME;
use vmm_api::control::{Call, Event, Hello, Message as Said, Request};

/// How long its process may take to say hello.
const HELLO: Duration = Duration::from_secs(10);

/// How long the last words of a process that is gone may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Tells what happens to a guest until its process is gone; of a `new` one also that it is heard from
/// now on, so that whoever acts on its start misses nothing.
pub(super) async fn watch(guest: Guest, new: bool, sender: Sender<Message>) {
    let process = guest
        .process()
        .and_then(|process| spawn::readable(process).ok());
    let mut events = match Events::of(&guest).await {
        Ok(events) => Some(events),
        Err(error) => {
            let name = &guest.record.name;
            tracing::warn!("domain '{name}': its events are not heard: {error}");
            None
        }
    };
    if new
        && sender
            .send(Message::Heard(guest.record.clone()))
            .await
            .is_err()
    {
        return;
    }
    let mut told = false;
    loop {
        let event = tokio::select! {
            // What it said before its end comes before its end.
            biased;
            event = next(events.as_mut()) => event,
            () = gone(process.as_ref()) => {
                let Some(events) = &mut events else { break };
                match tokio::time::timeout(LAST_WORDS, events.next()).await {
                    Ok(Ok(event)) => Some(event),
                    _ => break,
                }
            }
        };
        match event {
            Some(event) => {
                told |= matches!(event, Event::Stopped { .. });
                let message = Message::Event(guest.record.clone(), event);
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            // The process may close its socket a little before it is gone.
            None if process.is_some() && events.is_some() => events = None,
            None => break,
        }
    }
    // The daemon ends when nobody receives.
    let _ = sender.send(Message::Gone(guest.record.clone(), told)).await;
}

async fn gone(process: Option<&AsyncFd<OwnedFd>>) {
    match process {
        // An error means that the handle cannot be waited for: events tell then.
        Some(process) => drop(process.readable().await),
        None => std::future::pending().await,
    }
}

async fn next(events: Option<&mut Events>) -> Option<Event> {
    match events {
        Some(events) => events.next().await.ok(),
        None => std::future::pending().await,
    }
}

/// The events of a guest's process.
struct Events {
    socket: UnixStream,
}

impl Events {
    async fn of(guest: &Guest) -> io::Result<Self> {
        let dir = guest.dir().clone();
        // A process that hangs may keep even its callers waiting.
        let connect = tokio::task::spawn_blocking(move || dir.connect(CONTROL));
        let subscribe = async {
            let socket = connect.await.map_err(io::Error::other)??;
            socket.set_nonblocking(true)?;
            let mut events = Self {
                socket: UnixStream::from_std(socket)?,
            };
            events.send(&Hello::ours(&[])).await?;
            let _hello: Hello = serde_json::from_slice(&events.receive().await?)?;
            let call = Call {
                id: 1,
                request: Request::Events,
            };
            events.send(&call).await?;
            Ok(events)
        };
        tokio::time::timeout(HELLO, subscribe).await?
    }

    async fn send<T: serde::Serialize>(&mut self, value: &T) -> io::Result<()> {
        let body = serde_json::to_vec(value)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend_from_slice(&body);
        self.socket.write_all(&bytes).await
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.socket.read_u32_le().await?).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(io::Error::other("a frame over its limit"));
        }
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body).await?;
        Ok(body)
    }

    /// The next event. Dropped in the middle of a frame only together with the connection, or when
    /// the process is gone and sends no rest of it.
    async fn next(&mut self) -> io::Result<Event> {
        loop {
            match serde_json::from_slice(&self.receive().await?)? {
                Said::Event { event } => return Ok(event),
                Said::Answer { .. } => {}
            }
        }
    }
}
