//! One living guest, watched by its process and its events, and how it ended. It costs three
//! descriptors: the process, its socket, and the file of its last words.

use super::Message;
use crate::runtime::Guest;
use crate::runtime::record::RunEnd;
use crate::runtime::rundir::{CONTROL, LastWords};
use crate::spawn;
use crate::system::wake::is_readable;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
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

/// How long it takes until somebody who did not answer, or went silent, is asked again.
const AGAIN: Duration = Duration::from_secs(30);
/// The same for a process that has no room for another caller.
const FULL: Duration = Duration::from_millis(100);

/// What is known of the end of a guest that was watched.
#[derive(Debug)]
pub(super) struct Ending {
    /// Whether it said so itself, or somebody was told of it.
    told: bool,
    words: Option<LastWords>,
    /// How long it ran.
    pub ran: Option<Duration>,
}

impl Ending {
    /// That of a guest nobody listened to, from what it left.
    pub(super) fn of(guest: &Guest) -> Self {
        Self {
            told: false,
            words: guest.dir().open_end(),
            ran: guest.record.process.map(|process| process.age()),
        }
    }

    /// What is to be told: how it ended, if it wrote that down. Once.
    pub(super) fn untold(&mut self) -> Option<(RunEnd, String)> {
        let words = self.words.as_ref().filter(|_| !self.told)?;
        let end = words.read()?;
        self.told = true;
        Some((RunEnd::Said(end.reason), end.detail))
    }

    /// The same when nothing more can be known than what is `kept`.
    pub(super) fn untold_at_last(
        &mut self,
        kept: Option<(RunEnd, String)>,
    ) -> Option<(RunEnd, String)> {
        if self.told {
            return None;
        }
        let kept = || kept.unwrap_or((RunEnd::Vanished, String::new()));
        let end = self.untold().unwrap_or_else(kept);
        self.told = true;
        Some(end)
    }
}

/// Tells that a guest is heard from now on, so that whoever acts on the start of a `new` one misses
/// nothing, and what happens to it until its process is gone.
pub(super) async fn watch(guest: Guest, new: bool, sender: Sender<Message>) {
    let process = guest
        .process()
        .and_then(|process| spawn::readable(process).ok());
    let mut ending = Ending::of(&guest);
    let mut events = listen(&guest, process.as_ref()).await;
    if let (None, Some(process)) = (&events, &process)
        && !is_readable(process.get_ref().as_fd())
    {
        let name = &guest.record.name;
        tracing::warn!("domain '{name}': its events are not heard; it is asked again");
    }
    let heard = Message::Heard(guest.record.clone(), new);
    if sender.send(heard).await.is_err() {
        return;
    }
    // Where neither can be waited for it has ended, as far as can be told.
    while events.is_some() || process.is_some() {
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
            () = tokio::time::sleep(AGAIN), if events.is_none() => {
                events = listen(&guest, process.as_ref()).await;
                continue;
            }
        };
        match event {
            Some(event) => {
                ending.told |= matches!(event, Event::Stopped { .. });
                let message = Message::Event(guest.record.clone(), event);
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            // The process may close its socket a little before it is gone.
            None => events = None,
        }
    }
    ending.ran = guest.record.process.map(|process| process.age());
    // The daemon ends when nobody receives.
    let _ = sender.send(Message::Gone(guest.record, ending)).await;
}

/// Its events; none where it does not answer or ends meanwhile.
async fn listen(guest: &Guest, process: Option<&AsyncFd<OwnedFd>>) -> Option<Events> {
    tokio::select! {
        heard = Events::of(guest) => match heard {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::debug!("domain '{}': {error}", guest.record.name);
                None
            }
        },
        () = gone(process) => None,
    }
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
        let subscribe = async {
            // A process that hangs may keep even its callers waiting.
            let socket = loop {
                match guest.dir().connect_at_once(CONTROL) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(FULL).await;
                    }
                    connected => break connected?,
                }
            };
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
