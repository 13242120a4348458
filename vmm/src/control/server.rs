//! The thread that serves the control socket.

use super::CAPABILITIES;
use super::connection::{Connection, Dropped};
use super::outbox::{Outbox, To};
use crate::machine::inbox::{Inbox, Note};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vmm_api::control::frame::Frame;
use vmm_api::control::{Call, ControlError, ErrorKind, Hello, Message, Outcome, Reply, Request};

/// Stack of the server thread.
const STACK: usize = 256 << 10;
/// Most clients at once; more are told to go.
const MAX_CLIENTS: usize = 64;
/// Most calls of one client that wait for their answer.
const MAX_OPEN_CALLS: usize = 256;
/// How long clients get to take their last answers when the process ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The running server.
#[derive(Debug)]
pub struct Server {
    outbox: Outbox,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `listener`, leaving requests in `inbox` and sending what is in `outbox`.
    ///
    /// # Errors
    /// What the host says.
    pub fn start(listener: OwnedFd, inbox: Inbox, outbox: Outbox) -> io::Result<Self> {
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        let clients = Clients {
            listener,
            inbox,
            outbox: outbox.clone(),
            connections: BTreeMap::new(),
            next: 0,
        };
        let thread = std::thread::Builder::new()
            .name("control".into())
            .stack_size(STACK)
            .spawn(move || clients.serve())?;
        Ok(Self {
            outbox,
            thread: Some(thread),
        })
    }

    /// Sends what is still in the outbox, within a bounded time, and ends. Without clients the thread
    /// is left to the end of the process.
    pub fn finish(mut self) {
        if !self.outbox.has_clients() {
            return;
        }
        self.outbox.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}

struct Clients {
    listener: UnixListener,
    inbox: Inbox,
    outbox: Outbox,
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

impl Clients {
    fn serve(mut self) {
        let mut last_words: Option<Instant> = None;
        loop {
            if let Some(end) = last_words {
                let waiting = self.connections.values().any(Connection::has_output);
                if !waiting || Instant::now() >= end {
                    return;
                }
            }
            let ready = match self.wait(last_words) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "the control socket cannot be served any more");
                    return;
                }
            };
            if ready.connects && last_words.is_none() {
                self.accept();
            }
            self.outbox.set_clients(self.connections.len());
            for (id, flags) in ready.clients {
                self.serve_client(id, flags);
            }
            self.outbox.set_clients(self.connections.len());
            if self.deliver() && last_words.is_none() {
                last_words = Some(Instant::now() + LAST_WORDS);
            }
        }
    }

    fn wait(&self, end: Option<Instant>) -> io::Result<Ready> {
        let bell = self.outbox.bell();
        let mut fds = vec![
            PollFd::new(bell, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        for connection in self.connections.values() {
            let output = if connection.has_output() {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            fds.push(PollFd::from_borrowed_fd(
                connection.as_fd(),
                PollFlags::IN | output,
            ));
        }
        let timeout = end.map(|end| {
            let left = end.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or_default()
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut flags = fds.iter().map(PollFd::revents);
        let rung = flags.next().is_some_and(|flags| !flags.is_empty());
        let connects = flags.next().is_some_and(|flags| !flags.is_empty());
        if rung {
            bell.hush();
        }
        let clients = self.connections.keys().copied().zip(flags);
        let clients = clients.filter(|(_, flags)| !flags.is_empty()).collect();
        Ok(Ready { connects, clients })
    }

    fn accept(&mut self) {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "a control client could not be let in");
                    return;
                }
            };
            if self.connections.len() >= MAX_CLIENTS {
                tracing::warn!("more than {MAX_CLIENTS} control clients: one is turned away");
                continue;
            }
            match Connection::new(socket) {
                Ok(connection) => {
                    self.connections.insert(self.next, connection);
                    self.next += 1;
                }
                Err(error) => tracing::warn!(%error, "a control client could not be let in"),
            }
        }
    }

    fn serve_client(&mut self, id: u64, flags: PollFlags) {
        let result = self.exchange(id, flags);
        self.keep_or_drop(id, result);
    }

    fn keep_or_drop(&mut self, id: u64, result: Result<(), Dropped>) {
        let Err(reason) = result else { return };
        self.connections.remove(&id);
        match reason {
            Dropped::Closed => {}
            reason => tracing::warn!(%reason, "a control client was dropped"),
        }
    }

    fn exchange(&mut self, id: u64, flags: PollFlags) -> Result<(), Dropped> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Ok(());
        };
        if flags.contains(PollFlags::OUT) {
            connection.flush()?;
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return Ok(());
        }
        take_frames(connection, id, &self.inbox, &self.outbox)
    }

    /// Hands the outbox's letters to their connections; true when the end has come.
    fn deliver(&mut self) -> bool {
        let (letters, closing) = self.outbox.take();
        for (to, message) in letters {
            match to {
                To::One(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.open_calls = connection.open_calls.saturating_sub(1);
                        let result = connection.push(&message);
                        self.keep_or_drop(id, result);
                    }
                }
                To::Subscribers => {
                    let mut dropped = Vec::new();
                    for (id, connection) in &mut self.connections {
                        if connection.wants_events
                            && let Err(reason) = connection.push(&message)
                        {
                            dropped.push((*id, reason));
                        }
                    }
                    for (id, reason) in dropped {
                        self.keep_or_drop(id, Err(reason));
                    }
                }
            }
        }
        closing
    }
}

/// Answers what has come of a client, or passes it on.
pub(super) fn take_frames(
    connection: &mut Connection,
    id: u64,
    inbox: &Inbox,
    outbox: &Outbox,
) -> Result<(), Dropped> {
    while let Some(frame) = connection.receive()? {
        if connection.greeted {
            call(connection, id, frame, inbox, outbox)?;
        } else {
            greet(connection, &frame)?;
        }
    }
    Ok(())
}

struct Ready {
    connects: bool,
    clients: Vec<(u64, PollFlags)>,
}

fn greet(connection: &mut Connection, frame: &Frame) -> Result<(), Dropped> {
    let theirs: Hello = serde_json::from_slice(&frame.body)
        .map_err(|error| Dropped::Nonsense(format!("its first frame is no hello: {error}")))?;
    let ours = Hello::ours(&CAPABILITIES);
    connection.push(&ours)?;
    if ours.common(&theirs).is_none() {
        let text = format!("it speaks protocol {} to {}", theirs.min, theirs.max);
        return Err(Dropped::Nonsense(text));
    }
    connection.greeted = true;
    Ok(())
}

fn call(
    connection: &mut Connection,
    number: u64,
    frame: Frame,
    inbox: &Inbox,
    outbox: &Outbox,
) -> Result<(), Dropped> {
    match serde_json::from_slice::<Call>(&frame.body) {
        Ok(Call {
            id,
            request: Request::Events,
        }) => {
            connection.wants_events = true;
            answer(connection, id, Ok(Reply::Done))
        }
        Ok(Call { id, request }) => {
            if connection.open_calls >= MAX_OPEN_CALLS {
                let text = format!("more than {MAX_OPEN_CALLS} calls at once");
                return Err(Dropped::Nonsense(text));
            }
            connection.open_calls += 1;
            let ticket = outbox.ticket(number, id, frame.fds);
            inbox.leave(Note::Client(request, ticket));
            Ok(())
        }
        Err(error) => {
            // A newer manager may ask what this build has no word for: answer, don't drop.
            let id = serde_json::from_slice::<serde_json::Value>(&frame.body)
                .ok()
                .and_then(|value| value.get("id")?.as_u64());
            let Some(id) = id else {
                return Err(Dropped::Nonsense(format!("a frame is no call: {error}")));
            };
            let message = format!("this build does not know the request: {error}");
            let error = ControlError::new(ErrorKind::Unsupported, message);
            answer(connection, id, Err(error))
        }
    }
}

fn answer(
    connection: &mut Connection,
    id: u64,
    result: Result<Reply, ControlError>,
) -> Result<(), Dropped> {
    let outcome: Outcome = result.into();
    connection.push(&Message::Answer { id, outcome })
}
