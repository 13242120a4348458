//! The controller as Linux's driver and boot loaders use it.

use super::*;
use crate::legacy::testing::FakeLine;
use crate::testing::FakeRequests;
use std::sync::atomic::Ordering;

struct Machine {
    bus: Bus,
    line: Arc<FakeLine>,
    requests: Arc<FakeRequests>,
    _device: I8042,
}

fn machine() -> Machine {
    let bus = Bus::new();
    let line = Arc::new(FakeLine::default());
    let requests = Arc::new(FakeRequests::default());
    let device =
        I8042::create(&bus, line.clone(), requests.clone(), Origin::Fresh).expect("free ports");
    Machine {
        bus,
        line,
        requests,
        _device: device,
    }
}

impl Machine {
    fn out(&self, port: u16, value: u8) {
        assert!(self.bus.write(port.into(), &[value]));
    }

    fn read(&self, port: u16) -> u8 {
        let mut byte = [0];
        assert!(self.bus.read(port.into(), &mut byte));
        byte[0]
    }

    /// Everything that waits in the output buffer.
    fn drain(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.read(0x64) & 1 != 0 {
            bytes.push(self.read(0x60));
        }
        bytes
    }

    fn command(&self, command: u8) -> Vec<u8> {
        self.out(0x64, command);
        self.drain()
    }

    fn resets(&self) -> u32 {
        self.requests.resets.load(Ordering::SeqCst)
    }
}

#[test]
fn the_self_tests_pass_and_the_command_byte_reads_back() {
    let machine = machine();
    assert!(machine.drain().is_empty());
    assert_eq!(machine.command(0xaa), [0x55]);
    assert_eq!(machine.command(0xab), [0x00]);
    machine.out(0x64, 0x60);
    machine.out(0x60, 0x74);
    assert_eq!(machine.command(0x20), [0x74]);
    assert_eq!(machine.read(0x64) & 0x14, 0x14);
}

#[test]
fn the_mouse_is_reported_absent_without_a_wait() {
    let machine = machine();
    // Linux first loops a byte through the mouse's side and wants it marked as the mouse's...
    machine.out(0x64, 0xd3);
    machine.out(0x60, 0x5a);
    assert_eq!(machine.read(0x64) & 0x21, 0x01);
    assert_eq!(machine.drain(), [0x5a]);
    // ...then asks for the interface test, where 1 to 3 mean that there is none.
    assert_eq!(machine.command(0xa9), [0x02]);
    machine.out(0x64, 0xd4);
    machine.out(0x60, 0xf2);
    assert_eq!(machine.read(0x64) & 0x21, 0x21);
    assert_eq!(machine.drain(), [0xfe]);
}

#[test]
fn the_keyboard_answers_with_one_interrupt_per_byte() {
    let machine = machine();
    machine.out(0x60, 0xf2);
    assert!(machine.line.level());
    assert_eq!(machine.drain(), [0xfa, 0xab, 0x41]);
    assert_eq!(machine.line.rises(), 3);
    assert!(!machine.line.level());
    for (byte, answer) in [
        (0xed, 0xfa),
        (0x02, 0xfa),
        (0xf4, 0xfa),
        (0xee, 0xee),
        (0x12, 0xfe),
    ] {
        machine.out(0x60, byte);
        assert_eq!(machine.drain(), [answer], "{byte:#x}");
    }
    machine.out(0x60, 0xff);
    assert_eq!(machine.drain(), [0xfa, 0xaa]);
}

#[test]
fn identification_and_scan_set_follow_the_translation() {
    let machine = machine();
    machine.out(0x64, 0x60);
    machine.out(0x60, 0x05);
    machine.out(0x60, 0xf2);
    assert_eq!(machine.drain(), [0xfa, 0xab, 0x83]);
    for byte in [0xf0, 0x03, 0xf0, 0x00] {
        machine.out(0x60, byte);
    }
    assert_eq!(machine.drain(), [0xfa, 0xfa, 0xfa, 0xfa, 0x03]);
}

#[test]
fn a_keyboard_that_is_off_keeps_its_bytes() {
    let machine = machine();
    machine.out(0x60, 0xf2);
    machine.out(0x64, 0xad);
    assert_eq!(machine.read(0x60), 0xfa);
    assert!(machine.drain().is_empty());
    machine.out(0x64, 0xae);
    assert_eq!(machine.drain(), [0xab, 0x41]);
}

#[test]
fn no_interrupt_is_raised_when_it_is_off() {
    let machine = machine();
    machine.out(0x64, 0x60);
    machine.out(0x60, 0x40);
    machine.out(0x60, 0xf4);
    assert!(!machine.line.level() && machine.read(0x64) & 1 == 1);
}

#[test]
fn there_are_three_ways_to_a_reset() {
    let machine = machine();
    machine.out(0x64, 0xfe);
    assert_eq!(machine.resets(), 1);
    machine.out(0x64, 0xff);
    assert_eq!(machine.resets(), 1, "pulses no line");
    machine.out(0x64, 0xd1);
    machine.out(0x60, 0xfe);
    assert_eq!(machine.resets(), 2);
    machine.out(0x92, 0x03);
    assert_eq!(machine.resets(), 3);
}

#[test]
fn a20_is_on_and_both_ports_agree_about_it() {
    let machine = machine();
    assert_eq!(machine.read(0x92), 0x02);
    machine.out(0x92, 0x00);
    assert_eq!(machine.command(0xd0), [0x01]);
    machine.out(0x64, 0xd1);
    machine.out(0x60, 0xdf);
    assert_eq!(machine.read(0x92), 0x02);
    assert_eq!(machine.resets(), 0);
}
