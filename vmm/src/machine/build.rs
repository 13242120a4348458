//! From a spec to a machine, in the order that the parts need each other:
//!
//! ```text
//! files -> KVM -+-> RAM -> VM + slots -> split irqchip -> interrupts, doorbells  -+
//!               |   -> chipset -> PCI root -> the spec's devices -> vCPUs         +-> vCPU threads
//!               +-> CPUID asked for and cut (on a thread beside)                 -+
//! ```
//!
//! The kernel is loaded by whichever of the two branches is done first; each takes about half a
//! millisecond. They share nothing else but RAM, which only the loader writes.
//!
//! A machine that comes from a snapshot takes the upper way alone; its parts are given their saved
//! state as they are made.

use super::boot_source::BootSource;
use super::inbox::Inbox;
use super::parts::{Machine, Still};
use crate::arch::cpuid::{self, Table};
use crate::arch::registers::boot_registers;
use crate::arch::state::{Msr, VcpuState};
use crate::boot::{BootError, Entry};
use crate::kvm::doorbells::KvmDoorbells;
use crate::kvm::interrupts::Interrupts;
use crate::kvm::{KvmError, System, Vcpu, Vm, kick};
use crate::memory::{self, MemoryError, RomError, layout};
use crate::sandbox;
use crate::vcpu::{Board, Chips, Mailbox, VcpuThread};
use devices::backend::display::Display;
use devices::bus::Bus;
use devices::device::Device;
use devices::files::{Files, MissingFd};
use devices::host::{ExtInt, MachineRequests};
use devices::legacy::{Chipset, ChipsetHost, ChipsetOptions};
use devices::memory::{GuestMemory, GuestMemoryHandle};
use devices::pci::{PciRoot, PciRootParts};
use devices::registry::{self, Context, CreateError};
use devices::state::{Origin, Section};
use std::io;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::ScopedJoinHandle;
use vmm_api::cpu::Trouble;
use vmm_api::spec::MachineSpec;

/// Stack of the thread that makes the CPUID and may load the kernel.
const LOAD_STACK: usize = 256 << 10;

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The spec has conflicts.
    #[error("the machine spec cannot be built: {0}")]
    Spec(String),
    /// A descriptor is missing.
    #[error("{what}: {source}")]
    File {
        /// What it was for.
        what: String,
        /// Cause.
        source: MissingFd,
    },
    /// KVM said no.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// This host cannot show the CPU that was asked for.
    #[error("the guest's CPU: {0}")]
    Cpu(String),
    /// No such RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A device could not be made.
    #[error(transparent)]
    Device(#[from] CreateError),
    /// The kernel could not be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The firmware cannot be used.
    #[error(transparent)]
    Rom(#[from] RomError),
    /// The handler of missing memory could not be installed.
    #[error("the handler of missing memory cannot be installed: {0}")]
    Signal(#[source] io::Error),
    /// A thread could not be started.
    #[error("a vCPU thread cannot be started: {0}")]
    Thread(#[source] io::Error),
}

impl From<Vec<Trouble>> for BuildError {
    fn from(trouble: Vec<Trouble>) -> Self {
        let words: Vec<String> = trouble.iter().map(ToString::to_string).collect();
        Self::Cpu(words.join("; "))
    }
}

/// What a snapshot gives to a machine that is being built from it.
#[derive(Debug)]
pub struct Restored {
    /// RAM with its contents.
    pub memory: GuestMemory,
    /// The CPUID that the guest knows.
    pub cpuid: Table,
    /// vCPUs in order.
    pub vcpus: Vec<VcpuState>,
    /// The paravirtual clock.
    pub clock: Option<u64>,
    /// Sections of all devices.
    pub sections: Vec<Section>,
}

/// Builds the machine. Its vCPUs stand still, and its devices are not active yet; one that comes from a
/// snapshot stands still altogether.
///
/// # Errors
/// [`BuildError`].
pub fn build(
    spec: MachineSpec,
    files: &Arc<Files>,
    system: System,
    restored: Option<Restored>,
    inbox: &Inbox,
) -> Result<Machine, BuildError> {
    let most = system.capabilities().max_vcpus;
    if spec.cpus.max > most {
        let asked = spec.cpus.max;
        return Err(KvmError::TooManyVcpus { asked, most }.into());
    }
    kick::install_handler()?;
    let sections = restored.as_ref().map(|restored| &restored.sections[..]);
    let boot = BootSource::take(&spec, files, sections)?;
    let (given, parts) = match restored {
        Some(restored) => {
            let state = State {
                cpuid: Some(restored.cpuid),
                vcpus: Some(restored.vcpus),
                clock: restored.clock,
                sections: Some(restored.sections),
            };
            (Some(restored.memory), state)
        }
        None => (None, State::default()),
    };
    let restored = given.is_some();
    let loader = Loader::new(&spec, &boot);
    let hardware = || {
        let memory = given.map_or_else(|| memory::build(&spec.memory), Ok)?;
        sandbox::guard(&memory, inbox.bell().as_fd()).map_err(BuildError::Signal)?;
        let memory = Arc::new(memory);
        loader.lend(&memory);
        let vm = create_vm(&system, &memory, &boot)?;
        let made = make_devices((&spec, &boot), files, &vm, &memory, &parts, inbox)?;
        let vcpus = (0..spec.cpus.count).map(|index| vm.create_vcpu(index));
        let vcpus = vcpus.collect::<Result<Vec<_>, _>>()?;
        Ok::<_, BuildError>((memory, vm, made, vcpus))
    };
    let ((memory, vm, made, vcpus), software) = if restored {
        (hardware()?, None)
    } else {
        let (hardware, cpuid) = side_by_side(
            || hardware().inspect(|_| loader.load()),
            || make_cpuid(&spec, &system).inspect(|_| loader.load()),
        );
        let (hardware, cpuid) = (hardware?, cpuid?);
        (hardware, Some((cpuid, loader.entry()?)))
    };
    let (cpuid, entry) = match (software, parts.cpuid) {
        (Some((cpuid, entry)), _) => (cpuid, Some(entry)),
        (None, Some(cpuid)) => (cpuid, None),
        (None, None) => {
            let what = "the saved state has no CPUID table";
            return Err(BuildError::Spec(what.into()));
        }
    };
    let start = Start {
        cpuid: &cpuid,
        entry,
        saved: parts.vcpus.unwrap_or_default(),
    };
    let vcpus = start_vcpus(vcpus, &made, start)?;
    Ok(Machine {
        spec,
        system,
        vm,
        interrupts: made.interrupts,
        memory,
        cpuid,
        chipset: made.chipset,
        display: made.display,
        devices: made.devices,
        vcpus,
        boot,
        still: Mutex::new(Still {
            stands: restored,
            clock: parts.clock,
            restored,
        }),
    })
}

/// The virtual machine with its memory and interrupt controllers.
fn create_vm(
    system: &System,
    memory: &Arc<GuestMemory>,
    boot: &BootSource,
) -> Result<Arc<Vm>, KvmError> {
    let firmware = boot.rom().map_or(0, |rom| rom.len());
    let mut vm = system.create_vm_with(layout::helper_pages(firmware))?;
    vm.set_memory(Arc::clone(memory))?;
    if let Some(rom) = boot.rom() {
        vm.set_rom(Arc::clone(rom))?;
    }
    vm.enable_split_irqchip()?;
    Ok(Arc::new(vm))
}

/// What the guest's processors show. KVM takes a third of a millisecond to say what it offers.
fn make_cpuid(spec: &MachineSpec, system: &System) -> Result<Table, BuildError> {
    Ok(Table::new(&cpuid::host_cpu(system)?, &spec.cpus)?)
}

/// Puts the kernel and the tables into RAM once there is some, on whichever thread comes first.
struct Loader<'a> {
    spec: &'a MachineSpec,
    source: &'a BootSource,
    memory: OnceLock<Arc<GuestMemory>>,
    entry: OnceLock<Result<Entry, BootError>>,
}

impl<'a> Loader<'a> {
    fn new(spec: &'a MachineSpec, source: &'a BootSource) -> Self {
        Self {
            spec,
            source,
            memory: OnceLock::new(),
            entry: OnceLock::new(),
        }
    }

    /// There is RAM, all zero.
    fn lend(&self, memory: &Arc<GuestMemory>) {
        // A machine has its RAM once.
        let _first = self.memory.set(Arc::clone(memory));
    }

    /// Loads, or waits for the other thread that does. Without RAM it is left to the other thread.
    fn load(&self) {
        if let Some(memory) = self.memory.get() {
            self.entry
                .get_or_init(|| self.source.load(self.spec, memory, true));
        }
    }

    /// Where the boot vCPU starts.
    fn entry(self) -> Result<Entry, BuildError> {
        match self.entry.into_inner() {
            Some(entry) => Ok(entry?),
            None => Err(BuildError::Spec("nobody loaded the kernel".into())),
        }
    }
}

/// Does both at the same time, or one after the other where there is no thread for the second.
fn side_by_side<A, B: Send>(here: impl FnOnce() -> A, beside: impl Fn() -> B + Sync) -> (A, B) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("load".into())
            .stack_size(LOAD_STACK)
            .spawn_scoped(scope, &beside);
        let here = here();
        let beside = match thread.map(ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => beside(),
        };
        (here, beside)
    })
}

#[derive(Default)]
struct State {
    cpuid: Option<Table>,
    vcpus: Option<Vec<VcpuState>>,
    clock: Option<u64>,
    sections: Option<Vec<Section>>,
}

struct Made {
    board: Arc<Board>,
    display: Arc<Display>,
    external: Arc<BootInterrupt>,
    interrupts: Arc<Interrupts>,
    chipset: Arc<Chipset>,
    devices: Vec<Arc<dyn Device>>,
}

fn make_devices(
    (spec, boot): (&MachineSpec, &BootSource),
    files: &Arc<Files>,
    vm: &Arc<Vm>,
    memory: &Arc<GuestMemory>,
    state: &State,
    inbox: &Inbox,
) -> Result<Made, BuildError> {
    let (pio, mmio) = (Bus::new(), Bus::new());
    let requests: Arc<dyn MachineRequests> = Arc::new(inbox.clone());
    let interrupts = Arc::new(Interrupts::new(Arc::clone(vm)));
    let external = Arc::new(BootInterrupt::default());
    let origin = |id: &str| Own::new(state.sections.as_deref(), id);
    let chipset_host = ChipsetHost {
        pio: pio.clone(),
        mmio: mmio.clone(),
        apic: interrupts.clone(),
        ext_int: external.clone(),
        requests: Arc::clone(&requests),
    };
    let all = match &state.sections {
        Some(sections) => Origin::Restored(sections),
        None => Origin::Fresh,
    };
    let options = ChipsetOptions {
        rtc_offset: i64::from(spec.rtc_offset),
        cmos: boot.cmos(spec),
    };
    let chipset = Arc::new(Chipset::create(&chipset_host, &options, all)?);
    let root_parts = PciRootParts {
        pio: pio.clone(),
        mmio: mmio.clone(),
        requests: Arc::clone(&requests),
        firmware: boot.rom().is_some(),
    };
    let pci = PciRoot::create(root_parts, origin(devices::pci::ID).get())?;
    let display = Arc::new(Display::default());
    let context = Context {
        memory: GuestMemoryHandle::from(Arc::clone(memory)),
        pio: pio.clone(),
        mmio: mmio.clone(),
        irqs: chipset.irq_lines(),
        msis: interrupts.clone(),
        doorbells: Arc::new(KvmDoorbells::new(Arc::clone(vm))),
        requests: Arc::clone(&requests),
        iothreads: Arc::default(),
        display: Arc::clone(&display),
        files: Arc::clone(files),
        pci: Arc::clone(&pci),
    };
    let mut devices = chipset.devices();
    devices.push(pci);
    devices.extend(boot.devices(spec, &context, state.sections.as_deref())?);
    for part in &spec.devices {
        devices.push(registry::create(part, &context, origin(&part.id).get())?);
    }
    refuse_strangers(state.sections.as_deref(), &devices)?;
    let board = Arc::new(Board {
        pio,
        mmio,
        chips: Arc::new(ChipsetPins(Arc::clone(&chipset))),
        requests,
        external: Arc::clone(&external.asserted),
        shutdown_resets: boot.rom().is_some(),
    });
    Ok(Made {
        board,
        display,
        external,
        interrupts,
        chipset,
        devices,
    })
}

/// State that no device of this machine has taken would be lost in silence.
fn refuse_strangers(
    sections: Option<&[Section]>,
    devices: &[Arc<dyn Device>],
) -> Result<(), BuildError> {
    let known = |section: &&Section| devices.iter().any(|device| device.id() == section.device);
    match sections.unwrap_or_default().iter().find(|s| !known(s)) {
        None => Ok(()),
        Some(section) => Err(BuildError::Spec(format!(
            "the saved state has a device '{}' that the spec does not have",
            section.device
        ))),
    }
}

/// The sections of one device.
struct Own(Option<Vec<Section>>);

impl Own {
    fn new(sections: Option<&[Section]>, id: &str) -> Self {
        Self(sections.map(|sections| {
            let own = sections.iter().filter(|section| section.device == id);
            own.cloned().collect()
        }))
    }

    fn get(&self) -> Origin<'_> {
        match &self.0 {
            Some(sections) => Origin::Restored(sections),
            None => Origin::Fresh,
        }
    }
}

struct Start<'a> {
    cpuid: &'a Table,
    /// Where the boot vCPU starts; `None` when the saved states say it.
    entry: Option<Entry>,
    saved: Vec<VcpuState>,
}

fn start_vcpus(
    vcpus: Vec<Vcpu>,
    made: &Made,
    start: Start<'_>,
) -> Result<Vec<VcpuThread>, BuildError> {
    let mut saved = start.saved.into_iter();
    let mut threads = Vec::new();
    for mut vcpu in vcpus {
        let index = vcpu.index();
        vcpu.set_cpuid(&start.cpuid.for_vcpu(index))?;
        match &start.entry {
            Some(entry) => boot_vcpu(&vcpu, entry)?,
            None => {
                let state = saved.next().ok_or_else(|| {
                    BuildError::Spec(format!("the saved state has no vCPU {index}"))
                })?;
                let refused = vcpu.restore(&state)?;
                if !refused.is_empty() {
                    tracing::warn!(vcpu = index, msrs = ?refused, "this host does not take all saved MSRs");
                }
            }
        }
        threads.push(VcpuThread::start(vcpu, Arc::clone(&made.board)).map_err(BuildError::Thread)?);
    }
    if let Some(first) = threads.first() {
        made.external.connect(first.mailbox());
    }
    Ok(threads)
}

/// IA32_MISC_ENABLE with fast strings, as firmware leaves it.
const MISC_ENABLE: Msr = Msr {
    index: 0x1a0,
    value: 1,
};
/// IA32_MTRR_DEF_TYPE: enabled, everything write-back.
const MTRR_DEF_TYPE: Msr = Msr {
    index: 0x2ff,
    value: 0x806,
};

/// Gives a vCPU in reset state what firmware would have left there. Only the boot vCPU runs. With
/// firmware all stay in reset state: what they need it does itself.
pub(super) fn boot_vcpu(vcpu: &Vcpu, entry: &Entry) -> Result<(), KvmError> {
    let msrs = match entry {
        Entry::Reset => &[][..],
        Entry::Pvh { .. } | Entry::Linux64 { .. } => &[MISC_ENABLE, MTRR_DEF_TYPE],
    };
    for msr in msrs {
        if !vcpu.set_msr(*msr)? {
            tracing::debug!(index = msr.index, "this host does not take the MSR");
        }
    }
    if vcpu.index() > 0 {
        return Ok(());
    }
    let mut system = vcpu.system_registers()?;
    let registers = boot_registers(entry, &mut system);
    vcpu.set_system_registers(&system)?;
    vcpu.set_registers(&registers)
}

/// The PIC's output on its way to the boot vCPU.
#[derive(Debug, Default)]
struct BootInterrupt {
    asserted: Arc<AtomicBool>,
    /// Known once the boot vCPU has its thread; before that it looks by itself.
    vcpu: OnceLock<Arc<Mailbox>>,
}

impl BootInterrupt {
    fn connect(&self, mailbox: &Arc<Mailbox>) {
        // A second boot vCPU does not exist.
        let _first = self.vcpu.set(Arc::clone(mailbox));
    }
}

impl ExtInt for BootInterrupt {
    fn set_output(&self, asserted: bool) {
        let before = self.asserted.swap(asserted, Ordering::AcqRel);
        if asserted
            && !before
            && let Some(vcpu) = self.vcpu.get()
        {
            vcpu.nudge();
        }
    }
}

struct ChipsetPins(Arc<Chipset>);

impl Chips for ChipsetPins {
    fn end_of_interrupt(&self, vector: u8) {
        self.0.ioapic_eoi(vector);
    }

    fn acknowledge(&self) -> Option<u8> {
        self.0.pic_pending().then(|| self.0.pic_acknowledge())
    }
}
