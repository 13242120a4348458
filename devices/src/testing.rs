//! A machine of counters for tests and fuzz bodies: memory, buses, interrupts and doorbells without KVM.

#![allow(dead_code, reason = "each device uses the part that it needs")]

use crate::bus::Bus;
use crate::files::Files;
use crate::host::{
    Doorbell, DoorbellAddress, Doorbells, IrqLine, IrqLines, MachineRequests, MsiMessage,
    MsiVector, MsiVectors,
};
use crate::memory::{GuestMemory, GuestMemoryHandle};
use crate::pci::{ECAM_BASE, PciRoot, PciRootParts};
use crate::registry::{Context, CreateError};
use crate::state::Origin;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_api::control::Event;
use vmm_api::spec::PciAddress;
use vmm_sys_util::eventfd::EventFd;

/// One vector, as the host sees it.
#[derive(Default)]
pub(crate) struct FakeVector {
    pub(crate) routed: Mutex<Option<MsiMessage>>,
    pub(crate) routes: AtomicUsize,
    fired: Mutex<u32>,
    changed: Condvar,
}

impl FakeVector {
    /// How often it was delivered.
    pub(crate) fn fired(&self) -> u32 {
        *self.fired.lock().unwrap()
    }

    /// Waits until it was delivered more often than `before`; the new count.
    pub(crate) fn wait(&self, before: u32) -> u32 {
        let mut fired = self.fired.lock().unwrap();
        while *fired <= before {
            fired = self.changed.wait(fired).unwrap();
        }
        *fired
    }
}

impl MsiVector for FakeVector {
    fn route(&self, message: MsiMessage) -> io::Result<()> {
        *self.routed.lock().unwrap() = Some(message);
        self.routes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn unroute(&self) {
        *self.routed.lock().unwrap() = None;
    }
    fn trigger(&self) -> io::Result<()> {
        assert!(self.routed.lock().unwrap().is_some(), "a trigger is lost");
        *self.fired.lock().unwrap() += 1;
        self.changed.notify_all();
        Ok(())
    }
}

/// Every vector that was ever handed out.
#[derive(Default)]
pub(crate) struct FakeMsis(pub(crate) Mutex<Vec<Weak<FakeVector>>>);

impl FakeMsis {
    /// Vectors that are alive.
    pub(crate) fn live(&self) -> Vec<Arc<FakeVector>> {
        let vectors = self.0.lock().unwrap();
        vectors.iter().filter_map(Weak::upgrade).collect()
    }

    /// The live vector that delivers `data`.
    pub(crate) fn by_data(&self, data: u32) -> Option<Arc<FakeVector>> {
        let has = |vector: &Arc<FakeVector>| {
            vector
                .routed
                .lock()
                .unwrap()
                .is_some_and(|message| message.data == data)
        };
        self.live().into_iter().find(has)
    }
}

impl MsiVectors for FakeMsis {
    fn vector(&self, _requester_id: u16) -> io::Result<Arc<dyn MsiVector>> {
        let vector = Arc::new(FakeVector::default());
        self.0.lock().unwrap().push(Arc::downgrade(&vector));
        Ok(vector)
    }
}

pub(crate) type Bell = (DoorbellAddress, u32, Option<u64>, Arc<EventFd>);

/// Registered doorbells.
#[derive(Default)]
pub(crate) struct FakeDoorbells(Mutex<Vec<Weak<Bell>>>);

struct Held {
    _bell: Arc<Bell>,
}

impl Doorbell for Held {}

impl FakeDoorbells {
    /// Doorbells that are registered now.
    pub(crate) fn live(&self) -> Vec<Arc<Bell>> {
        let bells = self.0.lock().unwrap();
        bells.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Doorbells for FakeDoorbells {
    fn register(
        &self,
        address: DoorbellAddress,
        len: u32,
        value: Option<u64>,
        bell: &EventFd,
    ) -> io::Result<Box<dyn Doorbell>> {
        let bell = Arc::new((address, len, value, Arc::new(bell.try_clone()?)));
        self.0.lock().unwrap().push(Arc::downgrade(&bell));
        Ok(Box::new(Held { _bell: bell }))
    }
}

/// What devices asked of the machine.
#[derive(Default)]
pub(crate) struct FakeRequests {
    pub(crate) resets: AtomicU32,
    pub(crate) power_offs: AtomicU32,
    pub(crate) crashes: Mutex<Vec<String>>,
    pub(crate) exits: Mutex<Vec<u8>>,
    pub(crate) io_errors: Mutex<Vec<(String, String)>>,
    pub(crate) io_error_came: Condvar,
    pub(crate) events: Mutex<Vec<Event>>,
}

impl MachineRequests for FakeRequests {
    fn power_off(&self) {
        self.power_offs.fetch_add(1, Ordering::SeqCst);
    }
    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
    fn crashed(&self, detail: &str) {
        self.crashes.lock().unwrap().push(detail.into());
    }
    fn debug_exit(&self, code: u8) {
        self.exits.lock().unwrap().push(code);
    }
    fn io_error(&self, device: &str, detail: &str) {
        self.io_errors
            .lock()
            .unwrap()
            .push((device.into(), detail.into()));
        self.io_error_came.notify_all();
    }
    fn event(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

struct NoLines;

impl IrqLine for NoLines {
    fn set_level(&self, _asserted: bool) {}
}

impl IrqLines for NoLines {
    fn line(&self, _gsi: u32) -> Arc<dyn IrqLine> {
        Arc::new(NoLines)
    }
}

#[allow(clippy::unnecessary_wraps, reason = "others can fail")]
fn no_chipset(_pio: &Bus, _mmio: &Bus, _requests: &Arc<FakeRequests>) -> Result<(), CreateError> {
    Ok(())
}

/// The machine.
pub(crate) struct FakeMachine {
    pub(crate) msis: Arc<FakeMsis>,
    pub(crate) doorbells: Arc<FakeDoorbells>,
    pub(crate) requests: Arc<FakeRequests>,
    pub(crate) memory: GuestMemoryHandle,
    pub(crate) context: Context,
}

impl FakeMachine {
    /// Two regions of RAM, `low` bytes at 0 and 1 MiB at 4 GiB, and an empty root complex.
    pub(crate) fn new(low: usize) -> Self {
        let (machine, ()) =
            Self::with_chipset(low, Origin::Fresh, no_chipset).expect("an empty machine");
        machine
    }

    /// As [`FakeMachine::new`], with a root complex that may come from saved state, and a chipset
    /// that takes its places before it, as in a real machine.
    pub(crate) fn with_chipset<T>(
        low: usize,
        pci: Origin<'_>,
        chipset: impl FnOnce(&Bus, &Bus, &Arc<FakeRequests>) -> Result<T, CreateError>,
    ) -> Result<(Self, T), CreateError> {
        let ranges = [(GuestAddress(0), low), (GuestAddress(1 << 32), 1 << 20)];
        let memory = GuestMemory::from_ranges(&ranges).expect("memory");
        Self::on(GuestMemoryHandle::new(memory), pci, false, chipset)
    }

    /// As [`FakeMachine::new`], with firmware that will give PCI functions their places.
    pub(crate) fn with_firmware(low: usize) -> Self {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), low)]).expect("memory");
        let memory = GuestMemoryHandle::new(memory);
        let (machine, ()) =
            Self::on(memory, Origin::Fresh, true, no_chipset).expect("an empty machine");
        machine
    }

    /// A machine on existing RAM: the other side of a save and restore.
    pub(crate) fn with_memory(memory: GuestMemoryHandle, pci: Origin<'_>) -> Self {
        let (machine, ()) = Self::on(memory, pci, false, no_chipset).expect("an empty machine");
        machine
    }

    fn on<T>(
        memory: GuestMemoryHandle,
        pci: Origin<'_>,
        firmware: bool,
        chipset: impl FnOnce(&Bus, &Bus, &Arc<FakeRequests>) -> Result<T, CreateError>,
    ) -> Result<(Self, T), CreateError> {
        let (pio, mmio) = (Bus::new(), Bus::new());
        let requests = Arc::new(FakeRequests::default());
        let chipset = chipset(&pio, &mmio, &requests)?;
        let (msis, doorbells) = (Arc::default(), Arc::default());
        let parts = PciRootParts {
            pio: pio.clone(),
            mmio: mmio.clone(),
            requests: requests.clone(),
            firmware,
        };
        let context = Context {
            memory: memory.clone(),
            pio,
            mmio,
            irqs: Arc::new(NoLines),
            msis: Arc::<FakeMsis>::clone(&msis),
            doorbells: Arc::<FakeDoorbells>::clone(&doorbells),
            requests: requests.clone(),
            iothreads: Arc::default(),
            display: Arc::default(),
            files: Arc::new(Files::default()),
            pci: PciRoot::create(parts, pci)?,
        };
        let machine = Self {
            msis,
            doorbells,
            requests,
            memory,
            context,
        };
        Ok((machine, chipset))
    }

    /// A write by a vCPU: rings the doorbell that is registered there, or goes to the bus.
    pub(crate) fn mmio_write(&self, address: u64, data: &[u8]) -> bool {
        for bell in self.doorbells.live() {
            let (at, len, _, fd) = &*bell;
            if *at == DoorbellAddress::Mmio(address) && *len as usize == data.len() {
                fd.write(1).expect("ring");
                return true;
            }
        }
        self.context.mmio.write(address, data)
    }

    /// A configuration read of `N` bytes through the ECAM.
    pub(crate) fn config<const N: usize>(&self, address: PciAddress, offset: u16) -> [u8; N] {
        let mut data = [0; N];
        assert!(self.context.mmio.read(ecam(address, offset), &mut data));
        data
    }

    /// A configuration write through the ECAM.
    pub(crate) fn set_config(&self, address: PciAddress, offset: u16, data: &[u8]) {
        assert!(self.context.mmio.write(ecam(address, offset), data));
    }
}

fn ecam(address: PciAddress, offset: u16) -> u64 {
    ECAM_BASE + (u64::from(address.requester_id()) << 12) + u64::from(offset)
}

/// Pages that are marked dirty: base of the region, number of the page in it.
pub(crate) fn dirty(memory: &GuestMemory) -> Vec<(u64, usize)> {
    let mut pages = Vec::new();
    for region in memory.iter() {
        for page in 0..region.len() as usize / 4096 {
            if region.bitmap().dirty_at(page * 4096) {
                pages.push((region.start_addr().0, page));
            }
        }
    }
    pages
}

/// Marks every page clean.
pub(crate) fn clean(memory: &GuestMemory) {
    for region in memory.iter() {
        region.get_mmap().bitmap().reset();
    }
}
