//! The root complex: which function a configuration access means, and how accesses arrive.
//!
//! Functions sit at the PCI addresses of the spec. The guest may renumber the buses below root
//! ports: an access to bus N other than 0 goes to whatever sits below the root port whose secondary
//! bus register says N. Accesses that reach nobody read as all ones and write nothing.
//!
//! Two ways in: the ECAM (its place is the host bridge's PCIEXBAR) and the ports 0xcf8 to 0xcff,
//! among which 0xcf9 is the chipset's reset control register.

use super::config::{ConfigSpace, ConfigState};
use super::{PciFunction, host_bridge, lpc};
use crate::bus::{Bus, BusDevice, Reservation};
use crate::device::Device;
use crate::host::MachineRequests;
use crate::registry::CreateError;
use crate::state::{Origin, Saved, Section, StateError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use vmm_api::spec::PciAddress;

/// Alias of the root complex; names its section of saved state.
pub const ID: &str = "pci";
const KIND: &str = "pci-root";
const VERSION: u32 = 1;

/// Base and length of the port range.
const PORTS: (u64, u64) = (0xcf8, 8);
/// Reset control's offset in the port range.
const RESET_CONTROL: u64 = 1;
/// The header type's offset in configuration space, and its bit for a slot with several functions.
const HEADER_TYPE: u16 = 0x0e;
const MULTIFUNCTION: u8 = 0x80;
/// The data ports' offset in the port range.
const DATA: u64 = 4;

/// A root port, as the root complex sees it. Neither call may take a lock that is held while the
/// root complex is called.
pub trait Bridge: Send + Sync {
    /// The bus number that the guest gave to the bus below it.
    fn secondary(&self) -> u8;
    /// Something was plugged in below it, or the last function went.
    fn set_occupied(&self, occupied: bool);
}

/// An address that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// A function is there already.
    #[error("PCI address {0} is taken")]
    Taken(PciAddress),
    /// Another root port leads to this bus.
    #[error("PCI bus {0:#04x} is behind another root port, or is the root bus")]
    BusTaken(u8),
}

#[derive(Default)]
struct Topology {
    functions: BTreeMap<PciAddress, Weak<dyn PciFunction>>,
    bridges: BTreeMap<u8, Weak<dyn Bridge>>,
}

impl Topology {
    /// The function that an access to `bus` and `devfn` means now.
    fn find(&self, bus: u8, devfn: u8) -> Option<Arc<dyn PciFunction>> {
        let bus = if bus == 0 { 0 } else { self.spec_bus(bus)? };
        let address = PciAddress::new(bus, devfn >> 3, devfn & 7)?;
        self.functions.get(&address)?.upgrade()
    }

    /// The spec's number of the bus that the guest calls `bus`.
    fn spec_bus(&self, bus: u8) -> Option<u8> {
        self.bridges.iter().find_map(|(spec_bus, bridge)| {
            let bridge = bridge.upgrade()?;
            (bridge.secondary() == bus).then_some(*spec_bus)
        })
    }

    /// Whether the slot of `devfn` has functions beyond function 0.
    fn multifunction(&self, bus: u8, devfn: u8) -> bool {
        let Some(bus) = (if bus == 0 {
            Some(0)
        } else {
            self.spec_bus(bus)
        }) else {
            return false;
        };
        let slot = devfn >> 3;
        self.functions
            .keys()
            .any(|address| address.bus == bus && address.slot == slot && address.function != 0)
    }

    fn occupied(&self, bus: u8) -> bool {
        self.functions.keys().any(|address| address.bus == bus)
    }
}

type SharedTopology = Arc<RwLock<Topology>>;

enum Held {
    Function(PciAddress),
    Bus(u8),
}

/// An address or a bus held in the root complex; dropping it unplugs.
#[must_use = "dropping it unplugs"]
pub struct Slot {
    topology: Weak<RwLock<Topology>>,
    held: Held,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.held {
            Held::Function(address) => write!(f, "Slot({address})"),
            Held::Bus(bus) => write!(f, "Slot(bus {bus:#04x})"),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(topology) = self.topology.upgrade() else {
            return;
        };
        let mut topology = topology.write().unwrap_or_else(PoisonError::into_inner);
        match self.held {
            Held::Function(address) => {
                topology.functions.remove(&address);
                if !topology.occupied(address.bus)
                    && let Some(bridge) = topology.bridges.get(&address.bus).and_then(Weak::upgrade)
                {
                    bridge.set_occupied(false);
                }
            }
            Held::Bus(bus) => {
                topology.bridges.remove(&bus);
            }
        }
    }
}

/// What the root complex is made from.
#[derive(Clone)]
pub struct PciRootParts {
    /// Ports.
    pub pio: Bus,
    /// Memory-mapped registers.
    pub mmio: Bus,
    /// For the reset control register.
    pub requests: Arc<dyn MachineRequests>,
    /// Firmware will give buses, BARs, windows and the ECAM their places: nothing has one before.
    pub firmware: bool,
}

/// The root complex, with the host bridge 00:00.0 and the LPC bridge 00:1f.0.
pub struct PciRoot {
    topology: SharedTopology,
    host: Arc<HostBridge>,
    lpc: Arc<Plain>,
    ports: Mutex<Ports>,
    requests: Arc<dyn MachineRequests>,
    firmware: bool,
    /// Slots of the two bridges and the port range.
    held: Mutex<Option<(Slot, Slot, Reservation)>>,
}

impl std::fmt::Debug for PciRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PciRoot").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Ports {
    address: u32,
    reset_control: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PciRootState {
    host_bridge: ConfigState,
    lpc: ConfigState,
    address: u32,
    reset_control: u8,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PciRoot {
    /// Makes the root complex: once per machine, before any PCI device.
    ///
    /// # Errors
    /// [`CreateError`] when its ports or the ECAM are taken, or saved state cannot be used.
    pub fn create(parts: PciRootParts, origin: Origin<'_>) -> Result<Arc<Self>, CreateError> {
        let bus_error = |source| CreateError::Bus {
            id: ID.into(),
            source,
        };
        let state: Option<PciRootState> = origin.payload(ID, KIND, VERSION)?;
        let root = Arc::new_cyclic(|weak: &Weak<Self>| Self {
            topology: SharedTopology::default(),
            host: Arc::new(HostBridge {
                mmio: parts.mmio.clone(),
                window: Arc::new(Ecam(weak.clone())),
                inner: Mutex::new((host_bridge::config(parts.firmware), None)),
            }),
            lpc: Arc::new(Plain(Mutex::new(lpc::config()))),
            ports: Mutex::default(),
            requests: parts.requests,
            firmware: parts.firmware,
            held: Mutex::new(None),
        });
        if let Some(state) = state {
            root.restore(&state)?;
        }
        root.host.place();
        let ports = parts
            .pio
            .insert(
                PORTS.0,
                PORTS.1,
                Arc::new(PortWindow(Arc::downgrade(&root))),
            )
            .map_err(bus_error)?;
        let own = |slot, function: Arc<dyn PciFunction>| {
            let address = PciAddress {
                bus: 0,
                slot,
                function: 0,
            };
            root.plug(address, &function)
                .map_err(|error| slot_error(ID, &error))
        };
        let host_slot = own(0, root.host.clone())?;
        let lpc_slot = own(31, root.lpc.clone())?;
        *lock(&root.held) = Some((host_slot, lpc_slot, ports));
        Ok(root)
    }

    fn restore(&self, state: &PciRootState) -> Result<(), StateError> {
        let invalid = |reason| StateError::Invalid {
            device: ID.into(),
            kind: KIND.into(),
            reason,
        };
        lock(&self.host.inner)
            .0
            .restore(&state.host_bridge)
            .map_err(invalid)?;
        lock(&self.lpc.0).restore(&state.lpc).map_err(invalid)?;
        *lock(&self.ports) = Ports {
            address: state.address,
            reset_control: state.reset_control,
        };
        Ok(())
    }

    /// Whether functions start without an address and closed, for firmware to place them.
    pub fn waits_for_firmware(&self) -> bool {
        self.firmware
    }

    /// Plugs a function in. The root complex keeps no strong reference to it.
    ///
    /// # Errors
    /// [`SlotError::Taken`].
    pub fn plug(
        &self,
        address: PciAddress,
        function: &Arc<dyn PciFunction>,
    ) -> Result<Slot, SlotError> {
        let mut topology = self
            .topology
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if topology.functions.contains_key(&address) {
            return Err(SlotError::Taken(address));
        }
        topology.functions.insert(address, Arc::downgrade(function));
        if let Some(bridge) = topology.bridges.get(&address.bus).and_then(Weak::upgrade) {
            bridge.set_occupied(true);
        }
        Ok(self.slot(Held::Function(address)))
    }

    /// Adds the root port that leads to the spec's bus `bus`.
    ///
    /// # Errors
    /// [`SlotError::BusTaken`].
    pub fn add_bridge(&self, bus: u8, bridge: &Arc<dyn Bridge>) -> Result<Slot, SlotError> {
        let mut topology = self
            .topology
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if bus == 0 || topology.bridges.contains_key(&bus) {
            return Err(SlotError::BusTaken(bus));
        }
        topology.bridges.insert(bus, Arc::downgrade(bridge));
        bridge.set_occupied(topology.occupied(bus));
        Ok(self.slot(Held::Bus(bus)))
    }

    fn slot(&self, held: Held) -> Slot {
        Slot {
            topology: Arc::downgrade(&self.topology),
            held,
        }
    }

    fn find(&self, bus: u8, devfn: u8) -> Option<Arc<dyn PciFunction>> {
        self.topology
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .find(bus, devfn)
    }

    fn read_config(&self, place: Place, data: &mut [u8]) {
        match self.find(place.bus, place.devfn) {
            Some(function) if place.holds(data.len()) => function.read_config(place.offset, data),
            _ => return data.fill(0xff),
        }
        // A guest looks for functions 1 to 7 only where function 0 says that there are some
        // (PCI 3.0 §6.2.1); no function knows its neighbours, so it is said here.
        let header_type = HEADER_TYPE.checked_sub(place.offset).map(usize::from);
        if place.devfn & 7 == 0
            && let Some(byte) = header_type.and_then(|at| data.get_mut(at))
            && self
                .topology
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .multifunction(place.bus, place.devfn)
        {
            *byte |= MULTIFUNCTION;
        }
    }

    fn write_config(&self, place: Place, data: &[u8]) {
        if place.holds(data.len())
            && let Some(function) = self.find(place.bus, place.devfn)
        {
            function.write_config(place.offset, data);
        }
    }

    fn write_ports(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, [a, b, c, d]) => lock(&self.ports).address = u32::from_le_bytes([*a, *b, *c, *d]),
            (RESET_CONTROL, [value]) => {
                lock(&self.ports).reset_control = value & 0x0a;
                if value & 0x04 != 0 {
                    self.requests.reset();
                }
            }
            _ => {
                if let Some(place) = self.port_place(offset) {
                    self.write_config(place, data);
                }
            }
        }
    }

    fn read_ports(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&lock(&self.ports).address.to_le_bytes());
        } else if let (RESET_CONTROL, [value]) = (offset, &mut *data) {
            *value = lock(&self.ports).reset_control;
        } else if let Some(place) = self.port_place(offset) {
            self.read_config(place, data);
        }
    }

    /// What the data ports mean now.
    fn port_place(&self, offset: u64) -> Option<Place> {
        let address = lock(&self.ports).address;
        let lane = u16::try_from(offset.checked_sub(DATA)?).ok()?;
        let [register, devfn, bus, enable] = address.to_le_bytes();
        (enable & 0x80 != 0).then_some(Place {
            bus,
            devfn,
            offset: u16::from(register & 0xfc) + lane,
        })
    }
}

/// The create error for an address that cannot be had.
pub(crate) fn slot_error(id: &str, error: &SlotError) -> CreateError {
    CreateError::Spec {
        id: id.into(),
        reason: format!("{error}; give it another address"),
    }
}

/// A place in configuration space.
#[derive(Debug, Clone, Copy)]
struct Place {
    bus: u8,
    devfn: u8,
    offset: u16,
}

impl Place {
    fn ecam(offset: u64) -> Self {
        // 8 bits of bus, 8 of slot and function, 12 of register.
        Self {
            bus: (offset >> 20) as u8,
            devfn: (offset >> 12) as u8,
            offset: (offset & 0xfff) as u16,
        }
    }

    /// Whether `len` bytes stay inside the function.
    fn holds(self, len: usize) -> bool {
        usize::from(self.offset) + len <= 4096
    }
}

struct Ecam(Weak<PciRoot>);

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.0.upgrade() {
            Some(root) => root.read_config(Place::ecam(offset), data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(root) = self.0.upgrade() {
            root.write_config(Place::ecam(offset), data);
        }
    }
}

struct PortWindow(Weak<PciRoot>);

impl BusDevice for PortWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.0.upgrade() {
            Some(root) => root.read_ports(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(root) = self.0.upgrade() {
            root.write_ports(offset, data);
        }
    }
}

/// A function that is nothing but its registers.
struct Plain(Mutex<ConfigSpace>);

impl PciFunction for Plain {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        lock(&self.0).read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        lock(&self.0).write(offset, data);
    }
}

/// Place and length of the ECAM, and the hold on it.
type PlacedEcam = Option<((u64, u64), Reservation)>;

struct HostBridge {
    mmio: Bus,
    window: Arc<dyn BusDevice>,
    inner: Mutex<(ConfigSpace, PlacedEcam)>,
}

impl HostBridge {
    /// Makes the ECAM answer where the registers say.
    fn place(&self) {
        let (config, placed) = &mut *lock(&self.inner);
        let wanted = host_bridge::ecam(config);
        if wanted == placed.as_ref().map(|(place, _)| *place) {
            return;
        }
        *placed = None;
        if let Some((base, length)) = wanted {
            match self.mmio.insert(base, length, Arc::clone(&self.window)) {
                Ok(reservation) => *placed = Some(((base, length), reservation)),
                Err(error) => tracing::warn!(%error, "the ECAM has no place"),
            }
        }
    }
}

impl PciFunction for HostBridge {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        lock(&self.inner).0.read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        lock(&self.inner).0.write(offset, data);
        self.place();
    }
}

impl Device for PciRoot {
    fn id(&self) -> &str {
        ID
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn reset(&self) {
        lock(&self.host.inner).0.reset();
        self.host.place();
        lock(&self.lpc.0).reset();
        *lock(&self.ports) = Ports::default();
    }

    fn save(&self) -> Result<Saved, StateError> {
        let ports = lock(&self.ports);
        let state = PciRootState {
            host_bridge: lock(&self.host.inner).0.state(),
            lpc: lock(&self.lpc.0).state(),
            address: ports.address,
            reset_control: ports.reset_control,
        };
        Ok(Saved::Sections(vec![Section::new(
            ID, KIND, VERSION, &state,
        )?]))
    }
}
