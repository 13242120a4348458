//! The live half of the transport: queues that are on, their doorbells and interrupts, and how they
//! all end.
//!
//! A doorbell that the kernel hears without an exit may take milliseconds to set up and to take away, for the
//! kernel waits until no vCPU looks at the old list. So only a queue whose doorbell rings often where the
//! BAR is gets one: a queue that is hardly used costs nothing, and a BAR that moves without end little.
//!
//! ```text
//! Bus --rung OFTEN times--> Kernel
//!  ^                          |
//!  +--the BAR moves, a reset--+
//! ```

use super::access::PciSide;
use super::layout::{self, NOTIFY, NOTIFY_MULTIPLIER, Offsets};
use super::registers::{Effect, NO_VECTOR, Registers, status};
use super::state::TransportState;
use crate::host::{Doorbell, DoorbellAddress, Doorbells};
use crate::memory::GuestMemoryHandle;
use crate::pci::msix::Msix;
use crate::registry::Context;
use crate::virtio::device::VirtioDevice;
use crate::virtio::queue::{QueueError, QueueOwner, QueuePosition, QueueSetup, Virtqueue};
use crate::virtio::{FEATURE_EVENT_IDX, FEATURE_INDIRECT};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use vmm_api::spec::PciAddress;

/// ISR: a queue has used buffers; the configuration changed (virtio 1.3 §4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;
/// How often one device's guest may fill the log with broken rings.
const COMPLAINTS: u32 = 8;

/// Rings of a doorbell over the bus, at one place of the BAR, that make it one of the kernel's. Each costs
/// the guest an exit of some 10 µs.
pub(super) const OFTEN: u32 = 16;

/// A queue that is on.
struct Live {
    queue: Arc<Virtqueue>,
    bell: Option<Box<dyn Doorbell>>,
    /// How often the doorbell rang over the bus since the BAR is where it is.
    rung: u32,
}

/// Registers, and the queues that they turned on.
struct Inner {
    registers: Registers,
    live: Vec<Option<Live>>,
    /// The driver asked for a reset and transfers are still under way.
    resetting: bool,
    paused: bool,
    /// The first resume after a restore repeats every interrupt: none may be lost on the way.
    repeat_interrupts: bool,
}

impl Inner {
    fn queues(&self) -> impl Iterator<Item = &Arc<Virtqueue>> {
        self.live.iter().flatten().map(|live| &live.queue)
    }
}

/// Everything of one virtio function that bus accesses and workers reach.
pub(super) struct Core {
    id: String,
    device: Arc<dyn VirtioDevice>,
    memory: GuestMemoryHandle,
    doorbells: Arc<dyn Doorbells>,
    pub(super) msix: Msix,
    pub(super) offsets: Offsets,
    pub(super) pci: Mutex<PciSide>,
    inner: Mutex<Inner>,
    isr: AtomicU8,
    /// Vectors of the queues and, last, of configuration changes: read by workers without a lock.
    vectors: Vec<AtomicU16>,
    /// Where the BAR is now; 0 while it is nowhere.
    bar_base: AtomicU64,
    complaints: AtomicU32,
    weak: Weak<Self>,
}

impl Core {
    /// A function at power-on, on no bus yet. `None` when its queues do not fit.
    pub(super) fn new(
        id: &str,
        address: PciAddress,
        device: Arc<dyn VirtioDevice>,
        context: &Context,
    ) -> Option<Arc<Self>> {
        let info = device.info();
        let queues = u16::try_from(info.queue_sizes.len()).ok()?;
        let count = queues.checked_add(1)?;
        if u64::from(queues) * NOTIFY_MULTIPLIER > layout::SPAN
            || count > crate::pci::msix::MAX_VECTORS
        {
            return None;
        }
        let msix = Msix::new(Arc::clone(&context.msis), address.requester_id(), count);
        let firmware = context.pci.waits_for_firmware();
        let (config, offsets) = layout::registers(info, address, &msix, firmware)?;
        let registers = Registers::new(info.features, count, &info.queue_sizes);
        let live = info.queue_sizes.iter().map(|_| None).collect();
        Some(Arc::new_cyclic(|weak: &Weak<Self>| Self {
            id: id.into(),
            device,
            memory: context.memory.clone(),
            doorbells: Arc::clone(&context.doorbells),
            msix,
            offsets,
            pci: Mutex::new(PciSide::new(config, context.mmio.clone(), weak.clone())),
            inner: Mutex::new(Inner {
                registers,
                live,
                resetting: false,
                paused: false,
                repeat_interrupts: false,
            }),
            isr: AtomicU8::new(0),
            vectors: (0..count).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            bar_base: AtomicU64::new(0),
            complaints: AtomicU32::new(0),
            weak: weak.clone(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn device(&self) -> &Arc<dyn VirtioDevice> {
        &self.device
    }

    /// Reads the common configuration structure.
    pub(super) fn read_common(&self, offset: u64, data: &mut [u8]) {
        self.lock().registers.read(offset, data);
    }

    /// Writes it, and does what that asks for.
    pub(super) fn write_common(&self, offset: u64, data: &[u8]) {
        let mut inner = self.lock();
        if inner.resetting {
            return;
        }
        match inner.registers.write(offset, data) {
            Effect::None => {}
            Effect::Reset => self.begin_reset(&mut inner),
            Effect::DriverOk | Effect::Enabled => self.start(&mut inner, &[]),
            Effect::ConfigVector(before) => {
                if inner.registers.is_live() {
                    self.msix.release_vector(before);
                    self.use_config_vector(&inner);
                }
            }
        }
    }

    /// Reads and clears the interrupt status.
    pub(super) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    /// A doorbell that no in-kernel doorbell took.
    pub(super) fn notify(&self, offset: u64) {
        let index = usize::try_from(offset / NOTIFY_MULTIPLIER).unwrap_or(usize::MAX);
        let mut inner = self.lock();
        if inner.resetting {
            return;
        }
        if let Some(Some(live)) = inner.live.get_mut(index) {
            live.queue.kick();
            live.rung = live.rung.saturating_add(1);
            if live.rung == OFTEN {
                live.bell = self.bell(&live.queue);
            }
        }
    }

    /// Turns on every queue that is enabled and not on yet, once the driver is ready.
    fn start(&self, inner: &mut Inner, positions: &[QueuePosition]) {
        if !inner.registers.is_live() {
            return;
        }
        let mut started = Vec::new();
        for index in 0..inner.registers.queues.len() {
            if matches!(inner.live.get(index), Some(Some(_))) {
                continue;
            }
            let Some(setup) = setup(inner, index, positions) else {
                continue;
            };
            match Virtqueue::new(&setup, self.memory.clone(), self.owner()) {
                Ok(queue) => started.push(queue),
                Err(error) => return self.needs_reset(inner, setup.index, &error),
            }
        }
        for queue in &started {
            self.connect(inner, queue);
        }
        self.use_config_vector(inner);
        if started.is_empty() {
            return;
        }
        if let Err(error) = self.device.start(inner.registers.driver_features, &started) {
            self.needs_reset(inner, 0, &QueueError::Host(error));
        } else if !inner.paused {
            // What the driver offered before it turned the queue on has rung no doorbell.
            started.iter().for_each(|queue| queue.kick());
        }
    }

    fn owner(&self) -> Arc<dyn QueueOwner> {
        Arc::new(Owner(self.weak.clone()))
    }

    /// Gives a queue its interrupt. Its doorbell comes through the bus at first.
    fn connect(&self, inner: &mut Inner, queue: &Arc<Virtqueue>) {
        let index = usize::from(queue.index());
        let Some(registers) = inner.registers.queues.get(index) else {
            return;
        };
        if let Some(vector) = self.vectors.get(index) {
            vector.store(registers.vector, Ordering::Release);
        }
        self.msix.use_vector(registers.vector);
        if let Some(slot) = inner.live.get_mut(index) {
            *slot = Some(Live {
                queue: Arc::clone(queue),
                bell: None,
                rung: 0,
            });
        }
    }

    /// Registers the doorbell of `queue` where the BAR is now. Without one, the write comes through
    /// the bus.
    fn bell(&self, queue: &Virtqueue) -> Option<Box<dyn Doorbell>> {
        let base = self.bar_base.load(Ordering::Acquire);
        if base == 0 {
            return None;
        }
        let address = base
            .checked_add(NOTIFY + u64::from(queue.index()) * NOTIFY_MULTIPLIER)
            .map(DoorbellAddress::Mmio)?;
        self.doorbells
            .register(address, 2, None, queue.kick_event())
            .inspect_err(|error| {
                tracing::debug!(id = self.id, %error, "no in-kernel doorbell");
            })
            .ok()
    }

    fn use_config_vector(&self, inner: &Inner) {
        let vector = inner.registers.config_vector;
        let before = self
            .vectors
            .last()
            .map_or(NO_VECTOR, |last| last.swap(vector, Ordering::AcqRel));
        if before != vector {
            self.msix.use_vector(vector);
        }
    }

    /// The BAR moved: doorbells at the old place go.
    pub(super) fn bar_moved(&self, base: Option<u64>) {
        self.bar_base.store(base.unwrap_or(0), Ordering::Release);
        let mut inner = self.lock();
        for live in inner.live.iter_mut().flatten() {
            live.bell = None;
            live.rung = 0;
        }
    }

    /// The driver wrote 0 to the status.
    fn begin_reset(&self, inner: &mut Inner) {
        self.disconnect(inner);
        let mut drained = true;
        for queue in inner.queues() {
            drained &= queue.stop();
        }
        inner.resetting = !drained;
        if drained {
            self.end_reset(inner);
        }
    }

    /// Takes doorbells and interrupts away.
    fn disconnect(&self, inner: &mut Inner) {
        for live in inner.live.iter_mut().flatten() {
            live.bell = None;
            if let Some(vector) = self.vectors.get(usize::from(live.queue.index())) {
                self.msix
                    .release_vector(vector.swap(NO_VECTOR, Ordering::AcqRel));
            }
        }
        if let Some(vector) = self.vectors.last() {
            self.msix
                .release_vector(vector.swap(NO_VECTOR, Ordering::AcqRel));
        }
    }

    /// Nothing is in flight any more: power-on registers.
    fn end_reset(&self, inner: &mut Inner) {
        inner.resetting = false;
        inner.live.iter_mut().for_each(|live| *live = None);
        inner.registers.reset();
        self.isr.store(0, Ordering::Release);
        self.device.reset();
    }

    fn drained(&self) {
        let mut inner = self.lock();
        if inner.resetting && inner.queues().all(|queue| queue.is_drained()) {
            self.end_reset(&mut inner);
        }
    }

    /// The driver has to reset the device before it is of use again.
    fn needs_reset(&self, inner: &mut Inner, queue: u16, reason: &QueueError) {
        let complaints = self.complaints.fetch_add(1, Ordering::AcqRel);
        if complaints < COMPLAINTS {
            tracing::warn!(id = self.id, queue, %reason, "the guest broke a queue; it needs a reset");
        }
        if inner.registers.status & status::DRIVER_OK != 0 {
            inner.registers.status |= status::NEEDS_RESET;
            self.signal_config();
        }
    }

    fn signal_config(&self) {
        self.interrupt(ISR_CONFIG, self.vectors.last());
    }

    /// The model's configuration space has changed: the driver is to read it again. One that is not
    /// there yet reads it anyway.
    fn config_changed(&self) {
        let mut inner = self.lock();
        if inner.registers.is_live() && !inner.resetting {
            inner.registers.generation = inner.registers.generation.wrapping_add(1);
            self.signal_config();
        }
    }

    fn interrupt(&self, isr: u8, vector: Option<&AtomicU16>) {
        let vector = vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire));
        if !self.msix.trigger(vector) {
            self.isr.fetch_or(isr, Ordering::AcqRel);
        }
    }

    pub(super) fn pause(&self) {
        let queues: Vec<_> = {
            let mut inner = self.lock();
            inner.paused = true;
            inner.queues().map(Arc::clone).collect()
        };
        queues.iter().for_each(|queue| queue.pause());
        // A reset that was under way ended with its last transfer.
        self.drained();
    }

    pub(super) fn resume(&self) {
        let mut inner = self.lock();
        inner.paused = false;
        let queues: Vec<_> = inner.queues().map(Arc::clone).collect();
        let repeat = std::mem::take(&mut inner.repeat_interrupts);
        drop(inner);
        for queue in queues {
            queue.resume();
            if repeat {
                self.interrupt(ISR_QUEUE, self.vectors.get(usize::from(queue.index())));
            }
        }
        if repeat && self.device.config_may_differ() {
            self.config_changed();
        }
    }

    /// Back to power-on, while paused.
    pub(super) fn power_on(&self) {
        {
            let mut inner = self.lock();
            self.begin_reset(&mut inner);
            inner.registers.generation = 0;
        }
        self.msix.reset();
        self.reset_pci();
    }

    /// Leaves the machine: nothing of it is registered anywhere afterwards.
    pub(super) fn unplug(&self) {
        {
            let mut inner = self.lock();
            self.disconnect(&mut inner);
            for queue in inner.queues() {
                queue.stop();
            }
            // No driver is left to see the end of this.
            inner.resetting = true;
        }
        self.remove_bar();
    }

    pub(super) fn state(&self) -> TransportState {
        let config = self.config_state();
        let inner = self.lock();
        // A device that needs a reset has no queues any more that a restore could go on with.
        let live = inner.registers.is_live();
        let position = |queue: &Option<Live>| {
            let queue = queue.as_ref().filter(|_| live)?;
            Some(queue.queue.position())
        };
        let positions: Vec<_> = inner.live.iter().map(position).collect();
        TransportState::new(
            config,
            self.msix.state(),
            self.isr.load(Ordering::Acquire),
            &inner.registers,
            &positions,
        )
    }

    /// Takes saved state, on a function at power-on that is on no bus yet. Queues start paused.
    pub(super) fn restore(&self, state: &TransportState) -> Result<(), String> {
        self.restore_config(&state.config)?;
        self.msix.restore(&state.msix)?;
        self.isr.store(state.isr, Ordering::Release);
        let mut inner = self.lock();
        let positions = state.restore(&mut inner.registers)?;
        inner.paused = true;
        inner.repeat_interrupts = true;
        let live = inner.registers.is_live();
        self.start(&mut inner, &positions);
        if live && !inner.registers.is_live() {
            return Err("a queue lies outside guest memory, or the host has no thread".into());
        }
        Ok(())
    }
}

/// How queue `index` begins, if it is enabled.
fn setup(inner: &Inner, index: usize, positions: &[QueuePosition]) -> Option<QueueSetup> {
    let registers = inner
        .registers
        .queues
        .get(index)
        .filter(|queue| queue.enabled)?;
    let position = positions.get(index);
    Some(QueueSetup {
        index: u16::try_from(index).ok()?,
        size: registers.size,
        descriptors: registers.descriptors,
        available: registers.available,
        used: registers.used,
        next_available: position.map_or(0, |position| position.next_available),
        next_used: position.map_or(0, |position| position.next_used),
        parked: position.map_or_else(Vec::new, |position| position.parked.clone()),
        event_idx: inner.registers.has(FEATURE_EVENT_IDX),
        indirect: inner.registers.has(FEATURE_INDIRECT),
        paused: inner.paused,
    })
}

/// What queues hold of their transport: they may outlive it by a moment.
struct Owner(Weak<Core>);

impl QueueOwner for Owner {
    fn signal(&self, queue: u16) {
        if let Some(core) = self.0.upgrade() {
            core.interrupt(ISR_QUEUE, core.vectors.get(usize::from(queue)));
        }
    }

    fn broken(&self, queue: u16, reason: &QueueError) {
        if let Some(core) = self.0.upgrade() {
            let mut inner = core.lock();
            // The driver may have reset the device meanwhile: its new queue has done nothing.
            let live = inner.live.get(usize::from(queue));
            if live.is_some_and(|live| live.as_ref().is_some_and(|live| live.queue.is_broken())) {
                core.needs_reset(&mut inner, queue, reason);
            }
        }
    }

    fn drained(&self) {
        if let Some(core) = self.0.upgrade() {
            core.drained();
        }
    }

    fn config_changed(&self) {
        if let Some(core) = self.0.upgrade() {
            core.config_changed();
        }
    }
}
