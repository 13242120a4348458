//! The block through its ports, and the timer over machine time.

use super::registers::Registers;
use super::*;
use crate::legacy::clock::{SECOND, nanoseconds};
use crate::legacy::testing::FakeLine;
use crate::testing::FakeRequests;

struct Machine {
    bus: Bus,
    line: Arc<FakeLine>,
    requests: Arc<FakeRequests>,
    pm: Pm,
}

fn machine(origin: Origin<'_>) -> Machine {
    let bus = Bus::new();
    let line = Arc::new(FakeLine::default());
    let requests = Arc::new(FakeRequests::default());
    let pm = Pm::create(&bus, line.clone(), requests.clone(), origin)
        .expect("free ports and good state");
    Machine {
        bus,
        line,
        requests,
        pm,
    }
}

impl Machine {
    fn write(&self, port: u16, value: u16) {
        assert!(self.bus.write(port.into(), &value.to_le_bytes()));
    }

    fn read(&self, port: u16) -> u16 {
        let mut value = [0; 2];
        assert!(self.bus.read(port.into(), &mut value));
        u16::from_le_bytes(value)
    }

    fn read32(&self, port: u16) -> u32 {
        let mut value = [0; 4];
        assert!(self.bus.read(port.into(), &mut value));
        u32::from_le_bytes(value)
    }
}

#[test]
fn the_power_button_raises_the_sci_until_its_status_is_cleared() {
    let machine = machine(Origin::Fresh);
    machine.pm.controller().press_power_button();
    assert!(!machine.line.level(), "not enabled");
    machine.write(PM1A_EVENT + 2, 0x0100);
    assert!(machine.line.level());
    assert_eq!(machine.read(PM1A_EVENT), 0x0100);
    machine.write(PM1A_EVENT, 0x0100);
    assert!(!machine.line.level());
    assert_eq!(machine.read(PM1A_EVENT), 0);
    machine.pm.controller().press_power_button();
    assert_eq!(machine.line.rises(), 2);
}

#[test]
fn sleep_type_0_is_power_off_and_others_are_not() {
    let machine = machine(Origin::Fresh);
    let offs = || machine.requests.power_offs.load(Ordering::SeqCst);
    assert_eq!(machine.read(PM1A_CONTROL), 1, "ACPI mode from the start");
    machine.write(PM1A_CONTROL, (1 << 13) | (1 << 10));
    machine.write(PM1A_CONTROL, 0);
    assert_eq!(offs(), 0);
    machine.write(PM1A_CONTROL, 1 << 13);
    assert_eq!(offs(), 1);
    assert_eq!(machine.read(PM1A_CONTROL), 1, "SLP_EN cannot be read");
    // Byte by byte, as some loaders do.
    assert!(machine.bus.write(0x605, &[0x20]));
    assert_eq!(offs(), 2);
}

#[test]
fn general_purpose_events_raise_the_sci_when_enabled() {
    let machine = machine(Origin::Fresh);
    assert!(machine.bus.write(0x628, &[0x02]));
    machine.pm.controller().raise_gpe(0);
    assert!(!machine.line.level());
    machine.pm.controller().raise_gpe(1);
    assert!(machine.line.level());
    assert_eq!(machine.read(GPE0), 3);
    assert!(machine.bus.write(GPE0.into(), &[0x02]));
    assert!(!machine.line.level());
    machine.pm.controller().raise_gpe(63);
    machine.pm.controller().raise_gpe(64);
    assert_eq!(machine.read(GPE0 + 6), 0x8000);
}

#[test]
fn the_timer_runs_stands_while_paused_and_cannot_be_written() {
    let machine = machine(Origin::Fresh);
    let first = machine.read32(TIMER);
    while machine.read32(TIMER) == first {}
    machine.pm.pause();
    let saved = machine.pm.save().expect("plain data");
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert_eq!(machine.pm.save().expect("plain data"), saved);
    machine.pm.resume();
    let before = machine.read32(TIMER);
    assert!(machine.bus.write(TIMER.into(), &[0; 4]));
    assert!(machine.read32(TIMER) >= before);
}

#[test]
fn the_timer_counts_with_its_frequency_and_wraps_at_32_bits() {
    let registers = Registers::default();
    let timer = |now| {
        let mut value = [0; 4];
        registers.read(8, &mut value, now);
        u32::from_le_bytes(value)
    };
    assert_eq!(timer(SECOND), 3_579_545);
    assert_eq!(timer(nanoseconds(1 << 32, TIMER_HERTZ)), 0);
    assert_eq!(timer(nanoseconds((1 << 32) + 7, TIMER_HERTZ)), 7);
}

#[test]
fn the_highest_bit_of_the_timer_raises_the_sci_when_asked_for() {
    let mut registers = Registers::default();
    assert_eq!(registers.next_event(), None);
    registers.write(2, 1);
    let change = nanoseconds(1 << 31, TIMER_HERTZ);
    assert_eq!(registers.next_event(), Some(change));
    registers.advance(change - 1);
    assert!(!registers.sci());
    registers.advance(change);
    assert!(registers.sci() && registers.next_event().is_none());
    registers.write(0, 1);
    assert!(!registers.sci());
    assert_eq!(
        registers.next_event(),
        Some(nanoseconds(2 << 31, TIMER_HERTZ))
    );
}

#[test]
fn an_asserted_sci_comes_back_with_the_state() {
    let before = machine(Origin::Fresh);
    before.write(PM1A_EVENT + 2, 0x0100);
    before.pm.controller().press_power_button();
    before.pm.pause();
    let Ok(Saved::Sections(sections)) = before.pm.save() else {
        panic!("it has state");
    };
    let after = machine(Origin::Restored(&sections));
    assert!(after.line.level());
    after.pm.reset();
    assert!(!after.line.level());
}
