//! One port: bounded buffers between the guest's two queues and what is at the host's end.
//!
//! ```text
//! transmit queue --> [output, sockets only] --> client of the socket, or the hub
//! receive queue  <-- [input] <---------------- client of the socket, or the hub's thread
//! ```
//!
//! Everything about a port is behind one short lock; nobody waits while holding it. While the
//! machine stands still nothing moves, so that what is saved is what is.

use super::control::Told;
use super::state::{News, PortState};
use crate::backend::char::{Front, Hub};
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::worker::{First, Signal, race};
use images::exec::yield_now;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_api::spec::PortSpec;

/// Bytes that wait for the guest.
pub(super) const INPUT: usize = 4096;
/// Bytes that may wait for a client before the guest has to.
const OUTPUT: usize = 64 << 10;
/// Bytes that are taken of one buffer of the guest's; no driver writes more at once.
const LARGEST: u64 = 1 << 20;
/// Bytes copied at once.
const CHUNK: usize = 4096;
/// Buffers that are served before other queues have their turn.
const BURST: usize = 16;

/// What is behind a port.
pub(super) enum End {
    /// Nothing; it is always there.
    Null,
    /// A listening socket; whoever is connected is at the other end.
    Socket(OwnedFd),
    /// A console, which is always there.
    Hub(Arc<Hub>),
}

/// What a port's lock guards.
struct Inner {
    ready: bool,
    guest_open: bool,
    host_open: bool,
    news: News,
    input: VecDeque<u8>,
    output: VecDeque<u8>,
    client: Option<Arc<OwnedFd>>,
    paused: bool,
}

/// A port.
pub(super) struct Port {
    number: u16,
    id: String,
    name: String,
    pub(super) console: bool,
    pub(super) end: End,
    inner: Mutex<Inner>,
    /// Input came; the receive queue's task listens.
    arrived: Signal,
    /// Output went; the transmit queue's task listens.
    drained: Signal,
    /// What the socket's task waits for may be another thing now.
    pub(super) changed: Signal,
    sent: AtomicU64,
    received: AtomicU64,
    dropped: AtomicU64,
}

/// How an exchange with a client went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchange {
    /// It goes on.
    Fine,
    /// It has left, and what it sent waits for room.
    Full,
    /// It has left.
    Over,
}

impl Port {
    pub(super) fn new(spec: &PortSpec, end: End, saved: Option<&PortState>) -> Self {
        let here = !matches!(end, End::Socket(_));
        let mut inner = Inner {
            ready: false,
            guest_open: false,
            host_open: here,
            news: News::default(),
            input: VecDeque::new(),
            output: VecDeque::new(),
            client: None,
            paused: saved.is_some(),
        };
        if let Some(saved) = saved {
            inner.ready = saved.ready;
            inner.guest_open = saved.guest_open;
            inner.news = saved.news;
            inner.input = saved.input.iter().copied().collect();
            if saved.host_open && !here {
                // Its connection has ended with the process that was saved.
                inner.news.closed = saved.ready;
                inner.news.opened = false;
            }
        }
        Self {
            number: spec.number,
            id: spec.id.clone(),
            name: spec.name.clone().unwrap_or_default(),
            console: spec.console,
            end,
            inner: Mutex::new(inner),
            arrived: Signal::default(),
            drained: Signal::default(),
            changed: Signal::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn number(&self) -> u32 {
        self.number.into()
    }

    pub(super) fn state(&self) -> PortState {
        let inner = self.lock();
        PortState {
            number: self.number,
            ready: inner.ready,
            guest_open: inner.guest_open,
            host_open: inner.host_open,
            news: inner.news,
            input: inner.input.iter().copied().collect(),
        }
    }

    pub(super) fn stats(&self) -> serde_json::Value {
        let inner = self.lock();
        serde_json::json!({
            "id": self.id,
            "number": self.number,
            "guest_open": inner.guest_open,
            "host_open": inner.host_open,
            "bytes_written": self.sent.load(Ordering::Relaxed),
            "bytes_received": self.received.load(Ordering::Relaxed),
            "bytes_dropped": self.dropped.load(Ordering::Relaxed),
        })
    }

    /// The driver is told of it, from the start.
    pub(super) fn announce(&self) {
        let mut inner = self.lock();
        inner.ready = false;
        inner.news = News {
            add: true,
            ..News::default()
        };
    }

    /// The driver has it, or will not have it.
    pub(super) fn set_ready(&self, ready: bool) {
        let mut inner = self.lock();
        inner.ready = ready;
        inner.news = News {
            add: false,
            console: ready && self.console,
            name: ready && !self.name.is_empty(),
            closed: false,
            opened: ready && inner.host_open,
        };
    }

    pub(super) fn set_guest_open(&self, open: bool) {
        self.lock().guest_open = open;
        self.wake_end();
    }

    pub(super) fn has_news(&self) -> bool {
        self.lock().news != News::default()
    }

    pub(super) fn next_message(&self) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        let news = &mut inner.news;
        let flags = [
            (&mut news.add, Told::Add),
            (&mut news.console, Told::Console),
            (&mut news.name, Told::Name),
            (&mut news.closed, Told::Open(false)),
            (&mut news.opened, Told::Open(true)),
        ];
        let (flag, told) = flags.into_iter().find(|(flag, _)| **flag)?;
        *flag = false;
        Some(told.bytes(self.number.into(), &self.name))
    }

    /// The driver was reset: it knows nothing.
    pub(super) fn reset(&self) {
        {
            let mut inner = self.lock();
            inner.ready = false;
            inner.guest_open = false;
            inner.news = News::default();
            inner.input.clear();
        }
        self.wake_end();
    }

    pub(super) fn pause(&self) {
        self.lock().paused = true;
        if let End::Hub(hub) = &self.end {
            // A byte that the hub's thread is handing over is in the input before this returns.
            hub.quiesce();
        }
    }

    pub(super) fn resume(&self) {
        self.lock().paused = false;
        self.arrived.ring();
        self.drained.ring();
        self.wake_end();
    }

    /// There may be room for input again.
    fn wake_end(&self) {
        match &self.end {
            End::Null => {}
            End::Hub(hub) => hub.input_wanted(),
            End::Socket(_) => self.changed.ring(),
        }
    }

    /// Serves the receive queue until it is stopped.
    pub(super) async fn receive(port: Arc<Self>, queue: Arc<Virtqueue>) {
        loop {
            if port.lock().input.is_empty() {
                // The doorbell also rings for a stop.
                if race(queue.kicked(), port.arrived.heard()).await == First::A(false) {
                    return;
                }
                continue;
            }
            let Some(element) = queue.next() else {
                if !queue.kicked().await {
                    return;
                }
                continue;
            };
            port.fill(element);
            // A guest that offers empty buffers shares the thread with the other ports.
            yield_now().await;
        }
    }

    fn fill(&self, element: Element) {
        let room = usize::try_from(element.writable_len()).unwrap_or(usize::MAX);
        let bytes: Vec<u8> = {
            let mut inner = self.lock();
            let count = room.min(inner.input.len());
            inner.input.drain(..count).collect()
        };
        let written = element.write_at(0, &bytes);
        self.received.fetch_add(written as u64, Ordering::Relaxed);
        element.complete(u32::try_from(written).unwrap_or(0));
        self.wake_end();
    }

    /// Serves the transmit queue until it is stopped.
    pub(super) async fn transmit(port: Arc<Self>, queue: Arc<Virtqueue>) {
        loop {
            let mut taken = 0;
            while taken < BURST && !port.is_behind() {
                let Some(element) = queue.next() else { break };
                taken += 1;
                port.take(element);
            }
            if port.is_behind() {
                // The doorbell also rings for a stop.
                if race(queue.kicked(), port.drained.heard()).await == First::A(false) {
                    return;
                }
            } else if taken == BURST {
                yield_now().await;
            } else if !queue.kicked().await {
                return;
            }
        }
    }

    /// Whether a client has so much to read that the guest has to wait.
    fn is_behind(&self) -> bool {
        self.lock().output.len() >= OUTPUT
    }

    /// Takes what the guest wrote.
    fn take(&self, element: Element) {
        let length = element.readable_len();
        let mut at = 0;
        let mut chunk = [0; CHUNK];
        while at < length.min(LARGEST) {
            let count = element.read_at(at, &mut chunk);
            if count == 0 {
                break;
            }
            at += count as u64;
            self.put(chunk.get(..count).unwrap_or_default());
        }
        let lost = length.saturating_sub(at);
        self.sent.fetch_add(at, Ordering::Relaxed);
        self.dropped.fetch_add(lost, Ordering::Relaxed);
        element.complete(0);
        if matches!(self.end, End::Socket(_)) && self.flush() {
            self.changed.ring();
        }
    }

    fn put(&self, bytes: &[u8]) {
        match &self.end {
            End::Null => {}
            End::Hub(hub) => hub.write(bytes),
            End::Socket(_) => {
                let mut inner = self.lock();
                if inner.client.is_some() {
                    inner.output.extend(bytes);
                } else {
                    // Nobody is there, as with any line.
                    self.dropped
                        .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
            }
        }
    }

    /// Hands output to the client, as much as it takes now; whether something is left.
    fn flush(&self) -> bool {
        let mut inner = self.lock();
        let Some(client) = inner.client.clone() else {
            inner.output.clear();
            return false;
        };
        while !inner.output.is_empty() {
            let (bytes, _) = inner.output.as_slices();
            match send(&*client, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(inner.output.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // It has left; its task will notice.
                Err(_) => inner.output.clear(),
            }
        }
        if inner.output.len() < OUTPUT {
            self.drained.ring();
        }
        !inner.output.is_empty()
    }

    /// Somebody is at the host's end now.
    pub(super) fn connected(&self, client: OwnedFd) -> Arc<OwnedFd> {
        let client = Arc::new(client);
        let mut inner = self.lock();
        inner.client = Some(Arc::clone(&client));
        inner.host_open = true;
        inner.news.opened = inner.ready;
        client
    }

    /// Nobody is there any more.
    pub(super) fn disconnected(&self) {
        let mut inner = self.lock();
        inner.client = None;
        inner.output.clear();
        inner.host_open = false;
        inner.news.opened = false;
        inner.news.closed = inner.ready;
        drop(inner);
        self.drained.ring();
    }

    /// Which events of poll(2) to wait for on the client; `None` while the machine stands still.
    pub(super) fn wish(&self) -> Option<i16> {
        let inner = self.lock();
        let mut events = 0;
        if inner.guest_open && inner.input.len() < INPUT {
            events |= libc::POLLIN;
        }
        if !inner.output.is_empty() {
            events |= libc::POLLOUT;
        }
        (!inner.paused).then_some(events)
    }

    /// Moves what can be moved after `came`.
    pub(super) fn exchange(&self, client: &OwnedFd, came: i16) -> Exchange {
        if came & libc::POLLOUT != 0 && !self.lock().paused {
            self.flush();
        }
        if came & libc::POLLIN != 0 {
            return self.read(client);
        }
        if came & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) == 0 {
            return Exchange::Fine;
        }
        let inner = self.lock();
        if inner.guest_open && inner.input.len() >= INPUT {
            Exchange::Full
        } else {
            Exchange::Over
        }
    }

    fn read(&self, client: &OwnedFd) -> Exchange {
        let mut buffer = [0; INPUT];
        let mut inner = self.lock();
        let room = INPUT.saturating_sub(inner.input.len());
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        if buffer.is_empty() || inner.paused {
            return Exchange::Fine;
        }
        match recv(client, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Exchange::Over,
            Ok((count, _)) => {
                inner.input.extend(buffer.iter().take(count));
                drop(inner);
                self.arrived.ring();
                Exchange::Fine
            }
            Err(Errno::AGAIN | Errno::INTR) => Exchange::Fine,
            Err(_) => Exchange::Over,
        }
    }
}

impl Front for Port {
    fn room(&self) -> usize {
        let inner = self.lock();
        if inner.paused || !inner.guest_open {
            0
        } else {
            INPUT.saturating_sub(inner.input.len())
        }
    }

    fn receive(&self, bytes: &[u8]) {
        self.lock().input.extend(bytes);
        self.arrived.ring();
    }
}
