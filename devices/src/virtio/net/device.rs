//! The front-end: what the driver sees of the card, and how serving begins.

use super::control::{self, Command};
use super::scratch::Shared;
use super::state::{self, NetState};
use super::stats::Stats;
use super::{receive, stream, transmit};
use crate::backend::stream::Stream;
use crate::backend::tap::{Tap, offload};
use crate::host::MachineRequests;
use crate::state::{Section, StateError};
use crate::virtio::device::{DeviceInfo, VirtioDevice, read_config};
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::worker::{Task, Worker};
use images::exec::Engine;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use vmm_api::spec::NetSpec;

/// Feature bits (virtio 1.3 §5.1.3).
pub(super) mod feature {
    pub(in super::super) const CHECKSUM: u64 = 1 << 0;
    pub(in super::super) const GUEST_CHECKSUM: u64 = 1 << 1;
    pub(in super::super) const MTU: u64 = 1 << 3;
    pub(in super::super) const MAC: u64 = 1 << 5;
    pub(in super::super) const GUEST_TSO4: u64 = 1 << 7;
    pub(in super::super) const GUEST_TSO6: u64 = 1 << 8;
    pub(in super::super) const HOST_TSO4: u64 = 1 << 11;
    pub(in super::super) const HOST_TSO6: u64 = 1 << 12;
    pub(in super::super) const MERGEABLE: u64 = 1 << 15;
    pub(in super::super) const STATUS: u64 = 1 << 16;
    pub(in super::super) const CONTROL: u64 = 1 << 17;
    pub(in super::super) const MULTIQUEUE: u64 = 1 << 22;

    /// What lets frames go unfinished, either way: a virtio header has to go with them.
    pub(in super::super) const UNFINISHED: u64 =
        CHECKSUM | GUEST_CHECKSUM | GUEST_TSO4 | GUEST_TSO6 | HOST_TSO4 | HOST_TSO6;
}

/// Most queue pairs of a card.
const MAX_PAIRS: usize = 128;
/// Entries of the control queue.
const CONTROL_SIZE: u16 = 64;

/// What carries the frames.
pub(super) enum Backend {
    /// One queue of a tap per queue pair.
    Taps(Vec<Tap>),
    /// A peer on a stream socket, for one queue pair; another one may take its place.
    Stream(Mutex<Arc<Stream>>),
}

/// What outlives the driver: the back-end, the link, counters.
pub(super) struct Card {
    pub(super) id: String,
    pub(super) backend: Backend,
    /// The cable is plugged in.
    pub(super) link: bool,
    pub(super) stats: Stats,
    /// Who hears that the peer has left.
    pub(super) requests: Arc<dyn MachineRequests>,
    pub(super) shared: Shared,
    /// Queue pairs that the driver uses; the tap's other queues are detached.
    pairs: AtomicU16,
}

/// A network card.
pub(super) struct Net {
    info: DeviceInfo,
    spec: NetSpec,
    card: Arc<Card>,
    /// Started with the first queue; it owns all of them.
    worker: Mutex<Option<Worker>>,
    /// Queues that are on, to wake for another peer.
    queues: Mutex<Vec<Weak<Virtqueue>>>,
}

impl Net {
    /// A card with one queue pair per tap descriptor, or one; `None` for none or too many.
    pub(super) fn new(
        id: &str,
        spec: &NetSpec,
        backend: Backend,
        requests: Arc<dyn MachineRequests>,
    ) -> Option<Self> {
        let pairs = backend.pairs();
        if !(1..=MAX_PAIRS).contains(&pairs) {
            return None;
        }
        let mut features = feature::MAC | feature::MERGEABLE | feature::STATUS;
        if matches!(backend, Backend::Taps(_)) {
            features |= feature::UNFINISHED;
        }
        if spec.mtu.is_some() {
            features |= feature::MTU;
        }
        let mut queue_sizes = vec![spec.queue_size; pairs * 2];
        if pairs > 1 {
            features |= feature::CONTROL | feature::MULTIQUEUE;
            queue_sizes.push(CONTROL_SIZE);
        }
        let card = Card {
            id: id.into(),
            backend,
            link: spec.link,
            stats: Stats::default(),
            requests,
            shared: Shared::default(),
            // All are attached when the tap is opened.
            pairs: AtomicU16::new(0),
        };
        card.use_pairs(1);
        Some(Self {
            info: DeviceInfo {
                device_id: 1,
                class: 0x02_0000,
                features,
                queue_sizes,
            },
            spec: spec.clone(),
            card: Arc::new(card),
            worker: Mutex::new(None),
            queues: Mutex::default(),
        })
    }

    pub(super) fn max_pairs(&self) -> u16 {
        self.card.max_pairs()
    }

    /// Takes what the driver chose before it was saved.
    pub(super) fn restore(&self, state: &NetState) {
        self.card.use_pairs(state.pairs);
    }

    /// Tells the taps what this driver takes unfinished.
    fn set_offloads(&self, features: u64) {
        let wanted = [
            (feature::GUEST_CHECKSUM, offload::CHECKSUM),
            (feature::GUEST_TSO4, offload::TSO4),
            (feature::GUEST_TSO6, offload::TSO6),
        ];
        let offloads = wanted
            .iter()
            .filter(|(feature, _)| features & feature != 0)
            .fold(0, |all, (_, offload)| all | offload);
        for tap in self.card.taps() {
            if let Err(error) = tap.set_offload(offloads) {
                tracing::warn!(id = self.card.id, %error, "the tap keeps its offloads");
                return;
            }
        }
    }
}

impl Backend {
    /// A peer that is there.
    pub(super) fn stream(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self::Stream(Mutex::new(Arc::new(Stream::new(socket)?))))
    }

    fn pairs(&self) -> usize {
        match self {
            Self::Taps(taps) => taps.len(),
            Self::Stream(_) => 1,
        }
    }
}

impl Card {
    fn max_pairs(&self) -> u16 {
        u16::try_from(self.backend.pairs()).unwrap_or(u16::MAX)
    }

    fn taps(&self) -> &[Tap] {
        match &self.backend {
            Backend::Taps(taps) => taps,
            Backend::Stream(_) => &[],
        }
    }

    /// The tap's queue of a queue pair.
    pub(super) fn tap(&self, pair: usize) -> Option<&Tap> {
        self.taps().get(pair)
    }

    /// The peer of now.
    pub(super) fn stream(&self) -> Option<Arc<Stream>> {
        match &self.backend {
            Backend::Stream(stream) => {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                Some(Arc::clone(&stream))
            }
            Backend::Taps(_) => None,
        }
    }

    /// Whether the guest is told that it has a network: a cable, and somebody at its end.
    fn is_linked(&self) -> bool {
        self.link && !self.stream().is_some_and(|stream| stream.is_gone())
    }

    fn pairs(&self) -> u16 {
        self.pairs.load(Ordering::Acquire)
    }

    /// Attaches the first `pairs` queues of the tap and detaches the others.
    fn use_pairs(&self, pairs: u16) {
        if self.pairs.swap(pairs, Ordering::AcqRel) == pairs || self.taps().len() < 2 {
            return;
        }
        for (index, tap) in (0_u16..).zip(self.taps()) {
            // Repeating what is so already fails, and does no harm.
            if let Err(error) = tap.attach(index < pairs) {
                tracing::debug!(id = self.id, index, %error, "a queue of the tap stays as it is");
            }
        }
    }

    /// Answers one command of the control queue.
    fn command(&self, element: Element) {
        let mut bytes = [0; control::LONGEST];
        let length = element.read_at(0, &mut bytes);
        let known = element.readable_len() <= control::LONGEST as u64;
        let command = control::parse(bytes.get(..length).unwrap_or_default(), self.max_pairs());
        let answer = match command.filter(|_| known) {
            Some(Command::Pairs(pairs)) => {
                self.use_pairs(pairs);
                control::OK
            }
            None => control::ERROR,
        };
        let written = element.write_at(0, &[answer]);
        element.complete(u32::try_from(written).unwrap_or(0));
    }
}

/// Serves one queue of a queue pair until it is stopped.
fn serve_pair(queue: Arc<Virtqueue>, card: Arc<Card>, mergeable: bool) -> Task {
    let pair = usize::from(queue.index() / 2);
    let to_guest = queue.index().is_multiple_of(2);
    match (&card.backend, to_guest) {
        (Backend::Taps(_), true) => Box::pin(receive::serve(queue, card, pair, mergeable)),
        (Backend::Taps(_), false) => Box::pin(transmit::serve(queue, card, pair)),
        (Backend::Stream(_), true) => Box::pin(stream::receive(queue, card, mergeable)),
        (Backend::Stream(_), false) => Box::pin(stream::transmit(queue, card)),
    }
}

/// Serves the control queue until it is stopped.
async fn serve_control(queue: Arc<Virtqueue>, card: Arc<Card>) {
    loop {
        while let Some(element) = queue.next() {
            card.command(element);
        }
        if !queue.kicked().await {
            return;
        }
    }
}

impl VirtioDevice for Net {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let [m0, m1, m2, m3, m4, m5] = self.spec.mac.0;
        let [p0, p1] = self.max_pairs().to_le_bytes();
        let [t0, t1] = self.spec.mtu.unwrap_or(0).to_le_bytes();
        let link = u8::from(self.card.is_linked());
        let bytes = [m0, m1, m2, m3, m4, m5, link, 0, p0, p1, t0, t1];
        read_config(bytes, offset, data);
    }

    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    fn start(&self, features: u64, queues: &[Arc<Virtqueue>]) -> io::Result<()> {
        self.set_offloads(features);
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = match &mut *worker {
            Some(worker) => worker,
            // Threads: it only waits for descriptors, so no thread is started and no ring made.
            slot => slot.insert(Worker::start(&self.card.id, Engine::Threads)?),
        };
        // virtio 1.3 §5.1.2: without multi-queue the control queue follows the first pair.
        let pairs = if features & feature::MULTIQUEUE != 0 {
            self.max_pairs()
        } else {
            1
        };
        let mut known = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|queue| queue.strong_count() > 0);
        known.extend(queues.iter().map(Arc::downgrade));
        drop(known);
        for queue in queues {
            let (queue, card) = (Arc::clone(queue), Arc::clone(&self.card));
            let mergeable = features & feature::MERGEABLE != 0;
            if queue.index() >= pairs * 2 {
                worker.run(move || Box::pin(serve_control(queue, card)));
            } else {
                worker.run(move || serve_pair(queue, card, mergeable));
            }
        }
        Ok(())
    }

    fn reset(&self) {
        self.card.use_pairs(1);
        self.card.shared.clear();
    }

    fn save(&self) -> Result<Option<Section>, StateError> {
        let state = NetState {
            pairs: self.card.pairs(),
        };
        state::section(&self.card.id, &state).map(Some)
    }

    /// The peer of before may have been gone, and this one is there; or the other way round.
    fn config_may_differ(&self) -> bool {
        true
    }

    fn connect(&self, socket: OwnedFd) -> io::Result<()> {
        let Backend::Stream(slot) = &self.card.backend else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let stream = Arc::new(Stream::new(socket)?);
        let before = {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *slot, stream)
        };
        before.leave();
        // Whoever waits for the one before or for nothing any more looks again; and so does the guest.
        // Not under the lock: what tells the guest takes the card's, and its start takes this one.
        let queues: Vec<_> = {
            let known = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().filter_map(Weak::upgrade).collect()
        };
        queues.iter().for_each(|queue| queue.kick());
        if let Some(queue) = queues.first() {
            queue.config_changed();
        }
        Ok(())
    }

    fn stats(&self) -> serde_json::Value {
        let mut stats = self.card.stats.value();
        if let (Some(stream), Some(stats)) = (self.card.stream(), stats.as_object_mut()) {
            stats.insert("connected".into(), stream.has_peer().into());
        }
        stats
    }
}
