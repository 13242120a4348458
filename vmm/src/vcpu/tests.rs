//! vCPU threads on this machine's KVM, with a few bytes of real-mode code as the guest.

use super::*;
use crate::kvm::{System, Vm, kick};
use crate::memory;
use devices::bus::{Bus, BusDevice, Reservation};
use devices::host::MachineRequests;
use std::fs::OpenOptions;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};
use vmm_api::control::Event;
use vmm_api::spec::MemorySpec;

mod external;

/// Where the guest's code is.
const CODE: u64 = 0x1000;

struct NoChips;

impl Chips for NoChips {
    fn end_of_interrupt(&self, _vector: u8) {}
    fn acknowledge(&self) -> Option<u8> {
        None
    }
}

struct Ear(Mutex<mpsc::Sender<String>>);

impl Ear {
    fn tell(&self, text: impl Into<String>) {
        let _heard = self.0.lock().expect("one teller").send(text.into());
    }
}

impl MachineRequests for Ear {
    fn power_off(&self) {
        self.tell("power off");
    }
    fn reset(&self) {
        self.tell("reset");
    }
    fn crashed(&self, detail: &str) {
        self.tell(format!("crashed: {detail}"));
    }
    fn debug_exit(&self, code: u8) {
        self.tell(format!("exit {code}"));
    }
    fn io_error(&self, device: &str, _detail: &str) {
        self.tell(format!("error on {device}"));
    }
    fn event(&self, _event: Event) {}
}

/// Ports 0x3f8 and 0xf4: everything written is told.
struct Teller(Arc<Ear>);

impl BusDevice for Teller {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0x5a);
    }
    fn write(&self, _offset: u64, data: &[u8]) {
        self.0.tell(format!("{data:02x?}"));
    }
}

/// Port 0x80: a write is told, and is the last that the guest does.
struct LastWish(Arc<Ear>);

impl BusDevice for LastWish {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}
    fn write(&self, _offset: u64, data: &[u8]) {
        no_further();
        self.0.tell(format!("{data:02x?}"));
    }
}

struct Machine {
    vcpu: VcpuThread,
    told: mpsc::Receiver<String>,
    memory: Arc<devices::memory::GuestMemory>,
    _vm: Arc<Vm>,
    _ports: Vec<Reservation>,
}

/// What the boot vCPU's interrupt pin hangs on.
type Pins = (Arc<dyn Chips>, Arc<AtomicBool>);

/// A machine with one vCPU at real-mode `code`, or `None` where there is no KVM.
fn machine(code: &[u8]) -> Option<Machine> {
    machine_with(code, |_| (Arc::new(NoChips), Arc::default()))
}

/// The same with the interrupt controllers that `chips` puts on the port bus.
fn machine_with(code: &[u8], chips: impl FnOnce(&Bus) -> Pins) -> Option<Machine> {
    let kvm = match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(file) => file,
        Err(error) => {
            println!("skipped: /dev/kvm: {error}");
            return None;
        }
    };
    kick::install_handler().expect("a signal handler");
    let system = System::new(kvm.into()).expect("a usable KVM");
    let memory = memory::build(&MemorySpec::anonymous(2 << 20)).expect("2 MiB");
    memory
        .write_slice(code, GuestAddress(CODE))
        .expect("inside RAM");
    let memory = Arc::new(memory);
    let mut vm = system.create_vm().expect("a VM");
    vm.set_memory(Arc::clone(&memory)).expect("a slot");
    vm.enable_split_irqchip().expect("split irqchip");
    let vcpu = vm.create_vcpu(0).expect("a vCPU");
    vcpu.set_cpuid(&system.supported_cpuid().expect("CPUID"))
        .expect("CPUID is taken");
    let mut sregs = vcpu.system_registers().expect("sregs");
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_system_registers(&sregs).expect("sregs");
    let mut regs = vcpu.registers().expect("regs");
    regs.rip = CODE;
    regs.rflags = 2;
    vcpu.set_registers(&regs).expect("regs");
    let (sender, told) = mpsc::channel();
    let ear = Arc::new(Ear(Mutex::new(sender)));
    let pio = Bus::new();
    let mut ports: Vec<_> = [(0x3f8, 1), (0xf4, 1)]
        .into_iter()
        .map(|(port, len)| {
            pio.insert(port, len, Arc::new(Teller(Arc::clone(&ear))))
                .expect("free ports")
        })
        .collect();
    let last = pio.insert(0x80, 1, Arc::new(LastWish(Arc::clone(&ear))));
    ports.push(last.expect("a free port"));
    let (chips, external) = chips(&pio);
    let board = Board {
        pio,
        mmio: Bus::new(),
        chips,
        requests: ear,
        external,
        shutdown_resets: false,
    };
    Some(Machine {
        vcpu: VcpuThread::start(vcpu, Arc::new(board)).expect("a thread"),
        told,
        memory,
        _vm: Arc::new(vm),
        _ports: ports,
    })
}

fn hear(machine: &Machine) -> String {
    machine
        .told
        .recv_timeout(Duration::from_secs(30))
        .expect("the guest says something")
}

#[test]
fn a_guest_writes_to_a_port_and_reads_from_one() {
    // mov dx,0x3f8; mov al,'A'; out dx,al; in al,dx; out dx,al; mov al,5; out 0xf4,al; hlt; jmp -3
    let code = [
        0xba, 0xf8, 0x03, 0xb0, 0x41, 0xee, 0xec, 0xee, 0xb0, 0x05, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd,
    ];
    let Some(machine) = machine(&code) else {
        return;
    };
    assert!(machine.told.try_recv().is_err(), "it starts parked");
    machine.vcpu.mailbox().run();
    for expected in ["[41]", "[5a]", "[05]"] {
        assert_eq!(hear(&machine), expected);
    }
}

#[test]
fn string_and_wide_accesses_are_served_unit_by_unit() {
    // mov si,0x1020; mov cx,3; mov dx,0x3f8; rep outsb; mov ax,0xbbaa; mov dx,0xf4; out dx,ax
    let mut code = vec![
        0xbe, 0x20, 0x10, 0xb9, 0x03, 0x00, 0xba, 0xf8, 0x03, 0xf3, 0x6e, 0xb8, 0xaa, 0xbb, 0xba,
        0xf4, 0x00, 0xef, 0xf4, 0xeb, 0xfd,
    ];
    code.resize(0x20, 0x90);
    code.extend_from_slice(b"xyz");
    let Some(machine) = machine(&code) else {
        return;
    };
    machine.vcpu.mailbox().run();
    for expected in ["[78]", "[79]", "[7a]", "[aa]"] {
        assert_eq!(hear(&machine), expected);
    }
}

#[test]
fn a_last_wish_is_completed_and_nothing_comes_after_it() {
    // mov al,7; out 0x80,al; out 0xf4,al; hlt; jmp -3
    let code = [0xb0, 0x07, 0xe6, 0x80, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];
    let Some(machine) = machine(&code) else {
        return;
    };
    machine.vcpu.mailbox().run();
    assert_eq!(hear(&machine), "[07]");
    let registers = machine.vcpu.call(|vcpu| vcpu.registers());
    let registers = registers.expect("the thread lives").expect("registers");
    assert_eq!(registers.rip, CODE + 4, "behind the write");
    let mailbox = format!("{:?}", machine.vcpu.mailbox());
    assert!(mailbox.ends_with("-> Park)"), "{mailbox}");
    assert!(machine.told.try_recv().is_err(), "it ran on");
    machine.vcpu.mailbox().run();
    assert_eq!(hear(&machine), "[07]");
}

#[test]
fn a_triple_fault_is_reported_and_the_vcpu_stands_still() {
    // lidt [0x1010] (limit 0); mov eax,cr0; or al,1; mov cr0,eax; ud2
    let mut code = vec![
        0x0f, 0x01, 0x1e, 0x10, 0x10, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0x0f, 0x0b,
    ];
    code.resize(0x20, 0);
    let Some(machine) = machine(&code) else {
        return;
    };
    machine.vcpu.mailbox().run();
    let told = hear(&machine);
    assert!(told.starts_with("crashed: "), "{told}");
    assert!(told.contains("rip="), "{told}");
    machine.vcpu.mailbox().wait_parked();
    assert!(machine.told.try_recv().is_err(), "told once");
}

/// A loop that counts at 0x8000 for ever: inc word [0x8000]; jmp -6.
const SPIN: [u8; 6] = [0xff, 0x06, 0x00, 0x80, 0xeb, 0xfa];

fn count(machine: &Machine) -> u16 {
    machine
        .memory
        .read_obj(GuestAddress(0x8000))
        .expect("inside RAM")
}

#[test]
fn thousands_of_kicks_are_never_lost() {
    let Some(machine) = machine(&SPIN) else {
        return;
    };
    let mailbox = machine.vcpu.mailbox();
    for round in 0..3000 {
        mailbox.run();
        if round % 7 == 0 {
            std::thread::yield_now();
        }
        mailbox.park();
        // A lost kick would wait here for ever: the guest never exits by itself.
        mailbox.wait_parked();
    }
    let parked = count(&machine);
    std::thread::yield_now();
    assert_eq!(count(&machine), parked, "it really stands still");
}

#[test]
fn jobs_run_between_entries_and_kicks_may_come_from_everywhere() {
    let Some(machine) = machine(&SPIN) else {
        return;
    };
    machine.vcpu.mailbox().run();
    let calls = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..300 {
                    let calls = Arc::clone(&calls);
                    let index = machine
                        .vcpu
                        .call(move |vcpu| {
                            calls.fetch_add(1, Ordering::Relaxed);
                            vcpu.index()
                        })
                        .expect("the thread lives");
                    assert_eq!(index, 0);
                    machine.vcpu.mailbox().nudge();
                }
            });
        }
    });
    assert_eq!(calls.load(Ordering::Relaxed), 900);
}

#[test]
fn a_panic_on_a_vcpu_thread_is_a_crash_of_the_guest_and_nobody_waits_for_ever() {
    let Some(machine) = machine(&SPIN) else {
        return;
    };
    machine.vcpu.mailbox().run();
    let lost = machine.vcpu.call(|_| panic!("made by this test"));
    assert!(lost.is_err());
    assert!(hear(&machine).starts_with("crashed: a vCPU thread"));
    machine.vcpu.mailbox().park();
    machine.vcpu.mailbox().wait_parked();
}

#[test]
fn state_survives_being_saved_and_restored_on_a_new_vcpu() {
    let Some(first) = machine(&SPIN) else { return };
    first.vcpu.mailbox().run();
    while count(&first) < 100 {
        std::thread::yield_now();
    }
    first.vcpu.mailbox().park();
    first.vcpu.mailbox().wait_parked();
    let msrs = crate::kvm::state_msrs(&[0x10, 0x174, 0x277, 0x6e0]);
    let saved = first
        .vcpu
        .call(move |vcpu| vcpu.save(&msrs))
        .expect("the thread lives")
        .expect("a state");
    let Some(second) = machine(&SPIN) else { return };
    let counted = count(&first);
    second
        .memory
        .write_obj(counted, GuestAddress(0x8000))
        .expect("inside RAM");
    let state = saved.clone();
    second
        .vcpu
        .call(move |vcpu| vcpu.restore(&state))
        .expect("the thread lives")
        .expect("restored");
    let again = second
        .vcpu
        .call(move |vcpu| vcpu.save(&[0x174, 0x277]))
        .expect("the thread lives")
        .expect("a state");
    assert_eq!(again.registers, saved.registers);
    assert_eq!(again.system, saved.system);
    assert_eq!(again.xsave, saved.xsave);
    assert_eq!(again.events, saved.events);
    second.vcpu.mailbox().run();
    while count(&second) == counted {
        std::thread::yield_now();
    }
}
