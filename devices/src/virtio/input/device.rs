//! The device: groups of events on their way to the guest.

use super::config;
use super::state::{self, InputState};
use crate::backend::display::{Event, InputSink, code};
use crate::state::{Section, StateError};
use crate::virtio::device::{DeviceInfo, VirtioDevice, read_config};
use crate::virtio::iothreads::Iothreads;
use crate::virtio::queue::Virtqueue;
use crate::virtio::worker::Worker;
use images::exec::{Engine, yield_now};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_api::spec::InputModel;

/// Events that wait for buffers, at most.
pub(super) const WAITING: usize = 256;
/// Of these, what movements may take: the rest is for keys and buttons, because the guest holds for ever
/// what it was not told to let go.
pub(super) const MOVEMENTS: usize = WAITING / 2;
/// Entries of either queue.
const QUEUE_SIZE: u16 = 64;
/// Bytes of an event (virtio 1.3 §5.8.6).
const EVENT: usize = 8;
/// Requests that one turn of the lamps takes.
const TURN: usize = 64;

#[derive(Default)]
struct Inner {
    select: u8,
    subsel: u8,
    /// The event queue, while it is on.
    queue: Option<Arc<Virtqueue>>,
    /// Whole groups that the guest has not got.
    waiting: VecDeque<Event>,
    /// Keys and buttons whose press the guest has got.
    down: BTreeSet<u16>,
    events: u64,
    dropped: u64,
}

/// What queues and viewers reach.
struct Shared {
    /// Held while groups go to the guest, so that they go one after the other; never by registers.
    delivery: Mutex<()>,
    /// Held for moments, and never while a queue is called: registers take it too.
    inner: Mutex<Inner>,
}

/// An input device.
pub(super) struct Input {
    id: String,
    model: InputModel,
    info: DeviceInfo,
    shared: Arc<Shared>,
    threads: Arc<Iothreads>,
    /// Of all input devices together; there once a driver is.
    worker: Mutex<Option<Arc<Worker>>>,
}

impl Input {
    pub(super) fn new(
        id: &str,
        model: InputModel,
        threads: &Arc<Iothreads>,
        saved: Option<InputState>,
    ) -> Self {
        let class = match model {
            InputModel::Keyboard => 0x09_0000,
            InputModel::Mouse => 0x09_0200,
            InputModel::Tablet => 0x09_8000,
        };
        Self {
            id: id.into(),
            model,
            info: DeviceInfo {
                device_id: 18,
                class,
                features: 0,
                queue_sizes: vec![QUEUE_SIZE; 2],
            },
            shared: Arc::new(Shared {
                delivery: Mutex::new(()),
                inner: Mutex::new(Inner::restored(saved.unwrap_or_default())),
            }),
            threads: Arc::clone(threads),
            worker: Mutex::new(None),
        }
    }
}

impl Inner {
    /// Whoever held keys is not there any more: they are let go.
    fn restored(saved: InputState) -> Self {
        let release = |key: &u16| [Event::new(code::EV_KEY, *key, 0), Event::SYN];
        Self {
            select: saved.select,
            subsel: saved.subsel,
            waiting: saved.down.iter().flat_map(release).collect(),
            down: saved.down.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Where the oldest group goes, and how many events it has.
    fn due(&self) -> Option<(Arc<Virtqueue>, usize)> {
        let end = self.waiting.iter().position(|event| *event == Event::SYN)?;
        Some((Arc::clone(self.queue.as_ref()?), end + 1))
    }

    /// Takes the oldest group for `queue`; `None` when the driver has reset the device meanwhile.
    fn take(&mut self, queue: &Arc<Virtqueue>, length: usize) -> Option<Vec<Event>> {
        let mine = self.queue.as_ref()?;
        if !Arc::ptr_eq(mine, queue) || self.waiting.len() < length {
            return None;
        }
        let group: Vec<Event> = self.waiting.drain(..length).collect();
        group.iter().for_each(|event| self.note(event));
        self.events = self.events.wrapping_add(length as u64);
        Some(group)
    }

    fn note(&mut self, event: &Event) {
        match (event.kind, event.value) {
            (code::EV_KEY, 0) => self.down.remove(&event.code),
            (code::EV_KEY, _) => self.down.insert(event.code),
            _ => false,
        };
    }
}

fn bytes(event: &Event) -> [u8; EVENT] {
    let mut bytes = [0; EVENT];
    let parts = [event.kind.to_le_bytes(), event.code.to_le_bytes()];
    let all = parts.into_iter().flatten().chain(event.value.to_le_bytes());
    bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
    bytes
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the guest as many whole groups as it has buffers for.
    fn deliver(&self) {
        let _one_at_a_time = self.delivery.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // In a variable of its own: the lock must be free again before a queue is called.
            let due = self.lock().due();
            let Some((queue, length)) = due else { return };
            let elements: Vec<_> = (0..length).map_while(|_| queue.next()).collect();
            let group = match elements.len() == length {
                true => self.lock().take(&queue, length),
                false => None,
            };
            let Some(group) = group else {
                queue.give_back(elements);
                return;
            };
            let mut used = Vec::with_capacity(length);
            for (element, event) in elements.into_iter().zip(&group) {
                let written = element.write_at(0, &bytes(event));
                used.push((element, u32::try_from(written).unwrap_or(0)));
            }
            queue.complete_all(used);
        }
    }
}

impl InputSink for Input {
    fn model(&self) -> InputModel {
        self.model
    }

    fn group(&self, events: &[Event]) {
        let mut inner = self.shared.lock();
        let keys = events.iter().any(|event| event.kind == code::EV_KEY);
        let limit = if keys { WAITING } else { MOVEMENTS };
        let room = limit.saturating_sub(inner.waiting.len());
        // Without a driver nobody is there to be told later.
        if inner.queue.is_none() || events.len() > room || events.last() != Some(&Event::SYN) {
            inner.dropped = inner.dropped.wrapping_add(events.len() as u64);
            return;
        }
        inner.waiting.extend(events);
        drop(inner);
        self.shared.deliver();
    }
}

impl VirtioDevice for Input {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (select, subsel) = {
            let inner = self.shared.lock();
            (inner.select, inner.subsel)
        };
        let space = config::space(self.model, &self.id, select, subsel);
        read_config(space, offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        let mut inner = self.shared.lock();
        for (at, byte) in (offset..).zip(data.iter().take(2)) {
            match at {
                0 => inner.select = *byte,
                1 => inner.subsel = *byte,
                _ => {}
            }
        }
    }

    fn start(&self, _features: u64, queues: &[Arc<Virtqueue>]) -> io::Result<()> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = match &mut *worker {
            Some(worker) => worker,
            // Threads: it only waits for descriptors, so no ring is made.
            slot => slot.insert(self.threads.input(Engine::Threads)?),
        };
        for queue in queues {
            let queue = Arc::clone(queue);
            if queue.index() == 0 {
                let shared = Arc::clone(&self.shared);
                shared.lock().queue = Some(Arc::clone(&queue));
                worker.run(move || Box::pin(serve_events(queue, shared)));
            } else {
                worker.run(move || Box::pin(serve_lamps(queue)));
            }
        }
        Ok(())
    }

    fn reset(&self) {
        let mut inner = self.shared.lock();
        *inner = Inner {
            events: inner.events,
            dropped: inner.dropped,
            ..Inner::default()
        };
    }

    fn save(&self) -> Result<Option<Section>, StateError> {
        let inner = self.shared.lock();
        let state = InputState {
            select: inner.select,
            subsel: inner.subsel,
            down: inner.down.iter().copied().collect(),
        };
        state::section(&self.id, &state).map(Some)
    }

    fn stats(&self) -> serde_json::Value {
        let inner = self.shared.lock();
        serde_json::json!({ "events": inner.events, "events_dropped": inner.dropped })
    }
}

/// The guest has new buffers: what waits goes into them.
async fn serve_events(queue: Arc<Virtqueue>, shared: Arc<Shared>) {
    loop {
        shared.deliver();
        if !queue.kicked().await {
            return;
        }
    }
}

/// There are no lamps.
async fn serve_lamps(queue: Arc<Virtqueue>) {
    loop {
        let taken: Vec<_> = (0..TURN).map_while(|_| queue.next()).collect();
        if taken.is_empty() {
            if !queue.kicked().await {
                return;
            }
            continue;
        }
        queue.complete_all(taken.into_iter().map(|element| (element, 0)).collect());
        yield_now().await;
    }
}
