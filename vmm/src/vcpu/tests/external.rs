//! External interrupts: from a wire over the PIC and the boot vCPU's interrupt pin to a handler of the
//! guest, as a PC without a programmed IOAPIC has them.

use super::*;
use crate::arch::state::VcpuState;
use devices::host::{ApicBus, ExtInt, IrqLine, MsiMessage};
use devices::legacy::{Chipset, ChipsetHost, ChipsetOptions};
use devices::state::Origin;
use std::sync::OnceLock;

/// The guest looks here for a byte that lets it take interrupts.
const GO: u64 = 0x8000;

/// Programs the PIC (vectors from 0x20, inputs 3 and 4 open), says `R`, waits with interrupts off
/// until [`GO`] is set, and then takes them in the loop of two or three bytes that follows. Handlers
/// of inputs 3 and 4 say `3` and `4`, and end the interrupt.
fn guest(rest: &[u8]) -> Vec<u8> {
    let mut code = vec![
        0xfa, // cli
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x70, // ds = ss = 0, sp = 0x7000
        0xc7, 0x06, 0x8c, 0x00, 0x80, 0x10, // vector 0x23 at 0:0x1080
        0xc7, 0x06, 0x8e, 0x00, 0x00, 0x00, //
        0xc7, 0x06, 0x90, 0x00, 0xa0, 0x10, // vector 0x24 at 0:0x10a0
        0xc7, 0x06, 0x92, 0x00, 0x00, 0x00, //
        0xb0, 0x11, 0xe6, 0x20, // ICW1: edges, cascade, ICW4 follows
        0xb0, 0x20, 0xe6, 0x21, // ICW2: vectors from 0x20
        0xb0, 0x04, 0xe6, 0x21, // ICW3
        0xb0, 0x01, 0xe6, 0x21, // ICW4: 8086 mode
        0xb0, 0xe7, 0xe6, 0x21, // OCW1: inputs 3 and 4
        0xba, 0xf8, 0x03, 0xb0, b'R', 0xee, // out 0x3f8, 'R'
        0x80, 0x3e, 0x00, 0x80, 0x00, // cmp byte [GO], 0
        0x74, 0xf9, // je -7
        0xfb, // sti
    ];
    code.extend(rest);
    for (at, letter) in [(0x80, b'3'), (0xa0, b'4')] {
        assert!(code.len() <= at);
        code.resize(at, 0x90);
        code.extend([0xba, 0xf8, 0x03, 0xb0, letter, 0xee]); // out 0x3f8, letter
        code.extend([0xb0, 0x20, 0xe6, 0x20, 0xcf]); // end of interrupt; iret
    }
    code
}

struct NoApic;

impl ApicBus for NoApic {
    fn send(&self, _message: MsiMessage) {}
    fn route_pin(&self, _pin: u32, _message: Option<MsiMessage>) {}
}

/// The PIC's output on its way to the vCPU's thread.
#[derive(Default)]
struct Pin {
    asserted: Arc<AtomicBool>,
    vcpu: OnceLock<Arc<Mailbox>>,
}

impl ExtInt for Pin {
    fn set_output(&self, asserted: bool) {
        self.asserted.store(asserted, Ordering::Release);
        if asserted && let Some(vcpu) = self.vcpu.get() {
            vcpu.nudge();
        }
    }
}

struct Silent;

impl MachineRequests for Silent {
    fn power_off(&self) {}
    fn reset(&self) {}
    fn crashed(&self, _detail: &str) {}
    fn debug_exit(&self, _code: u8) {}
    fn io_error(&self, _device: &str, _detail: &str) {}
    fn event(&self, _event: Event) {}
}

struct Pic(Arc<Chipset>);

impl Chips for Pic {
    fn end_of_interrupt(&self, _vector: u8) {}
    fn acknowledge(&self) -> Option<u8> {
        self.0.pic_pending().then(|| self.0.pic_acknowledge())
    }
}

struct Wired {
    machine: Machine,
    third: Arc<dyn IrqLine>,
    fourth: Arc<dyn IrqLine>,
}

/// A machine at [`guest`] that has said `R`.
fn wired(rest: &[u8]) -> Option<Wired> {
    let pin = Arc::new(Pin::default());
    let mut made = None;
    let machine = machine_with(&guest(rest), |pio| {
        let host = ChipsetHost {
            pio: pio.clone(),
            mmio: Bus::new(),
            apic: Arc::new(NoApic),
            ext_int: pin.clone(),
            requests: Arc::new(Silent),
        };
        let chipset = Chipset::create(&host, &ChipsetOptions::default(), Origin::Fresh);
        let chipset = Arc::new(chipset.expect("an empty bus"));
        made = Some(Arc::clone(&chipset));
        (Arc::new(Pic(chipset)), Arc::clone(&pin.asserted))
    })?;
    let lines = made.expect("made with the machine").irq_lines();
    assert!(pin.vcpu.set(Arc::clone(machine.vcpu.mailbox())).is_ok());
    machine.vcpu.mailbox().run();
    assert_eq!(hear(&machine), "[52]");
    Some(Wired {
        machine,
        third: lines.line(3),
        fourth: lines.line(4),
    })
}

fn let_go(wired: &Wired) {
    let memory = &wired.machine.memory;
    memory.write_obj(1_u8, GuestAddress(GO)).expect("in RAM");
}

/// Pulses both wires again and again; each pulse is one call of its handler, no more, no less.
fn pulse(wired: &Wired, rounds: u32) {
    for round in 0..rounds {
        // The lower priority first: the other may come while KVM has not delivered this one.
        wired.fourth.set_level(true);
        wired.third.set_level(true);
        let mut heard = [hear(&wired.machine), hear(&wired.machine)];
        heard.sort();
        assert_eq!(heard, ["[33]", "[34]"], "round {round}");
        wired.third.set_level(false);
        wired.fourth.set_level(false);
    }
    assert!(wired.machine.told.try_recv().is_err(), "nothing twice");
}

#[test]
fn an_interrupt_waits_until_the_guest_takes_interrupts() {
    // jmp -2
    let Some(wired) = wired(&[0xeb, 0xfe]) else {
        return;
    };
    wired.fourth.set_level(true);
    // The vCPU has looked at its pin when it has answered this.
    let index = wired.machine.vcpu.call(|vcpu| vcpu.index());
    assert_eq!(index, Ok(0));
    assert!(wired.machine.told.try_recv().is_err(), "interrupts are off");
    let_go(&wired);
    assert_eq!(hear(&wired.machine), "[34]");
    wired.fourth.set_level(false);
    pulse(&wired, 100);
}

#[test]
fn an_interrupt_wakes_a_halted_guest() {
    // hlt; jmp -3
    let Some(wired) = wired(&[0xf4, 0xeb, 0xfd]) else {
        return;
    };
    let_go(&wired);
    pulse(&wired, 100);
}

#[test]
fn no_kick_costs_an_interrupt() {
    for rest in [&[0xeb, 0xfe][..], &[0xf4, 0xeb, 0xfd]] {
        let Some(wired) = wired(rest) else { return };
        let_go(&wired);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    wired.machine.vcpu.mailbox().nudge();
                    // Kicks without a pause would leave the guest no time at all.
                    std::thread::sleep(Duration::from_micros(20));
                }
            });
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pulse(&wired, 500);
            }));
            done.store(true, Ordering::Relaxed);
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

#[test]
fn a_vector_that_kvm_has_no_room_for_is_held_and_given_later() {
    // hlt; jmp -3: the first is not taken while the vCPU stands still.
    let Some(wired) = wired(&[0xf4, 0xeb, 0xfd]) else {
        return;
    };
    let held = wired.machine.vcpu.call(|vcpu| {
        vcpu.interrupt(0x24).expect("room for one");
        let first = vcpu.held_interrupt();
        vcpu.interrupt(0x23).expect("held");
        (first, vcpu.held_interrupt())
    });
    assert_eq!(held, Ok((None, Some(0x23))));
    let_go(&wired);
    let heard = [hear(&wired.machine), hear(&wired.machine)];
    assert_eq!(heard, ["[34]", "[33]"]);
}

/// Where interrupts are on and nothing happens: halted, or in a loop.
const RESTS: [&[u8]; 2] = [&[0xf4, 0xeb, 0xfd], &[0xeb, 0xfe]];
const INTERRUPT_FLAG: u64 = 1 << 9;

/// A guest that takes interrupts, and stands still.
fn still(rest: &[u8]) -> Option<Wired> {
    let wired = wired(rest)?;
    let_go(&wired);
    let mailbox = wired.machine.vcpu.mailbox();
    loop {
        mailbox.park();
        mailbox.wait_parked();
        let state = wired.machine.vcpu.call(|vcpu| vcpu.save(&[]));
        let state = state.expect("the thread lives").expect("a state");
        // Right behind an STI none can be taken yet, and the manager of a vCPU would not give one.
        let shadowed = state
            .events
            .as_ref()
            .is_some_and(|e| e.interrupt_shadow != 0);
        if state.registers.rflags & INTERRUPT_FLAG != 0 && !shadowed {
            return Some(wired);
        }
        mailbox.run();
    }
}

/// Gives two interrupts, one more than KVM has room for, and saves.
fn give_two(wired: &Wired) -> VcpuState {
    let state = wired.machine.vcpu.call(|vcpu| {
        vcpu.interrupt(0x24).expect("room for one");
        vcpu.interrupt(0x23).expect("held");
        vcpu.save(&[]).expect("a state")
    });
    let state = state.expect("the thread lives");
    assert_eq!(state.held_interrupt, Some(0x23));
    if let Some(events) = &state.events {
        assert!(
            events.interrupt_injected && events.interrupt_vector == 0x24,
            "{events:?} {:?}",
            state.registers
        );
    }
    state
}

fn both_come_once(wired: &Wired) {
    wired.machine.vcpu.mailbox().run();
    let heard = [hear(&wired.machine), hear(&wired.machine)];
    assert_eq!(heard, ["[34]", "[33]"]);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(wired.machine.told.try_recv().is_err(), "nothing twice");
}

#[test]
fn interrupts_that_wait_are_not_lost_by_saving() {
    for rest in RESTS {
        let Some(wired) = still(rest) else { return };
        give_two(&wired);
        both_come_once(&wired);
    }
}

#[test]
fn interrupts_that_wait_come_after_a_restore() {
    for rest in RESTS {
        let Some(saved) = still(rest) else { return };
        let state = give_two(&saved);
        drop(saved);
        let Some(wired) = still(rest) else { return };
        let restored = wired.machine.vcpu.call(move |vcpu| vcpu.restore(&state));
        restored.expect("the thread lives").expect("restored");
        both_come_once(&wired);
    }
}
