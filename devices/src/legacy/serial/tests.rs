//! The serial port: registers as a driver uses them, then the device on a console.

use super::*;
use crate::testing::FakeMachine;
use proptest::prelude::*;
use std::fs::File;
use std::io::Read;
use vmm_api::spec::Fd;

const RBR: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

fn get(uart: &mut Uart, register: u64) -> u8 {
    uart.read(register).0
}

#[test]
fn it_looks_like_a_16550a() {
    let mut uart = Uart::new();
    assert_eq!(get(&mut uart, IIR), 0x01);
    uart.write(IIR, 0x01);
    assert_eq!(get(&mut uart, IIR), 0xc1, "FIFOs on");
    uart.write(IIR, 0x20);
    assert_eq!(get(&mut uart, IIR), 0x01, "no 64-byte FIFO, and off again");
    uart.write(SCR, 0xa5);
    assert_eq!(get(&mut uart, SCR), 0xa5);
    uart.write(IER, 0xff);
    assert_eq!(get(&mut uart, IER), 0x0f);
    uart.write(MCR, 0xff);
    assert_eq!(get(&mut uart, MCR), 0x1f);
    assert_eq!(get(&mut uart, LSR), 0x60);
}

#[test]
fn the_divisor_is_behind_its_latch() {
    let mut uart = Uart::new();
    uart.write(LCR, 0x83);
    uart.write(RBR, 0x01);
    uart.write(IER, 0x02);
    assert_eq!((get(&mut uart, RBR), get(&mut uart, IER)), (0x01, 0x02));
    uart.write(LCR, 0x03);
    assert_eq!((get(&mut uart, RBR), get(&mut uart, IER)), (0, 0));
    assert_eq!(uart.write(RBR, b'x'), Effect::Transmit(b'x'));
}

#[test]
fn the_transmitter_interrupts_when_empty_and_is_silenced_by_reading() {
    let mut uart = Uart::new();
    assert!(!uart.irq());
    uart.write(IER, 0x02);
    assert!(uart.irq(), "it is empty");
    assert_eq!((get(&mut uart, IIR), get(&mut uart, IIR)), (0x02, 0x01));
    uart.write(RBR, b'x');
    assert!(uart.irq(), "and at once empty again");
    uart.write(IER, 0x00);
    assert!(!uart.irq());
}

#[test]
fn received_bytes_interrupt_at_the_trigger_level_and_by_timeout_below() {
    let mut uart = Uart::new();
    uart.write(IIR, 0x81);
    uart.write(IER, 0x01);
    uart.receive(1);
    assert_eq!(get(&mut uart, IIR), 0xcc, "timeout");
    (2..=8).for_each(|byte| uart.receive(byte));
    assert_eq!(get(&mut uart, IIR), 0xc4);
    assert_eq!(get(&mut uart, LSR), 0x61);
    for byte in 1..=8 {
        assert_eq!(get(&mut uart, RBR), byte);
    }
    assert!(!uart.irq());
    assert_eq!(get(&mut uart, LSR), 0x60);
}

#[test]
fn one_byte_too_many_is_an_overrun() {
    let mut uart = Uart::new();
    uart.write(IER, 0x04);
    uart.receive(1);
    uart.receive(2);
    assert_eq!(get(&mut uart, IIR), 0x06);
    assert_eq!(get(&mut uart, LSR), 0x63);
    assert_eq!(get(&mut uart, LSR), 0x61, "told once");
    assert_eq!(get(&mut uart, RBR), 1, "the first byte is kept");
}

#[test]
fn loop_back_returns_bytes_and_modem_lines() {
    let mut uart = Uart::new();
    assert_eq!(get(&mut uart, MSR), 0xb0);
    // What Linux does to see whether a port is there.
    uart.write(MCR, 0x1a);
    assert_eq!(get(&mut uart, MSR) & 0xf0, 0x90);
    assert_eq!(uart.room(), 0, "the outside is cut off");
    assert_eq!(uart.write(RBR, b'x'), Effect::None);
    assert_eq!(get(&mut uart, RBR), b'x');
    uart.write(MCR, 0x00);
    assert_eq!(
        get(&mut uart, MSR),
        0xb0 | 0x02,
        "DSR came back since the last read"
    );
}

#[test]
fn changed_modem_lines_interrupt_until_read() {
    let mut uart = Uart::new();
    uart.write(IER, 0x08);
    uart.write(MCR, 0x10);
    assert_eq!(get(&mut uart, IIR), 0x00);
    assert_eq!(get(&mut uart, MSR), 0x0b);
    assert!(!uart.irq());
}

fn machine_with_output(state: Origin<'_>) -> (FakeMachine, File, Serial) {
    let machine = FakeMachine::new(4096);
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    machine.context.files.add(7, writer);
    let spec = SerialSpec {
        output: Some(Fd(7)),
        ..SerialSpec::default()
    };
    let serial =
        Serial::create("serial0", &spec, &machine.context, state).expect("free ports, good state");
    (machine, File::from(reader), serial)
}

#[test]
fn what_the_guest_writes_comes_out_and_counts() {
    let (machine, mut output, serial) = machine_with_output(Origin::Fresh);
    for byte in b"hello" {
        assert!(machine.context.pio.write(0x3f8, &[*byte]));
    }
    let mut got = [0; 5];
    output.read_exact(&mut got).expect("output");
    assert_eq!(&got, b"hello");
    assert_eq!(serial.stats()["bytes_written"], 5);
    drop(serial);
    assert!(!machine.context.pio.write(0x3f8, b"x"), "the port is free");
    assert_eq!(output.read(&mut got).expect("an end"), 0);
}

#[test]
fn reset_keeps_the_console_and_clears_the_registers() {
    let (machine, mut output, serial) = machine_with_output(Origin::Fresh);
    let fresh = serial.save().expect("plain data");
    for (offset, value) in [(LCR, 0x1b), (MCR, 0x0b), (IER, 0x0f), (SCR, 0x77)] {
        assert!(machine.context.pio.write(0x3f8 + offset, &[value]));
    }
    serial.pause();
    assert_ne!(serial.save().expect("plain data"), fresh);
    serial.reset();
    assert_eq!(serial.save().expect("plain data"), fresh);
    serial.resume();
    assert!(machine.context.pio.write(0x3f8, b"x"));
    let mut got = [0; 1];
    output.read_exact(&mut got).expect("output");
}

#[test]
fn specs_that_cannot_be_had_are_refused() {
    let machine = FakeMachine::new(4096);
    let make = |spec: &SerialSpec| {
        Serial::create("serial0", spec, &machine.context, Origin::Fresh)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let spec = SerialSpec {
        port: 4,
        ..SerialSpec::default()
    };
    assert!(make(&spec).contains("COM1 to COM4"));
    let spec = SerialSpec {
        output: Some(Fd(9)),
        ..SerialSpec::default()
    };
    assert!(make(&spec).contains("descriptor 9"));
}

proptest! {
    #[test]
    fn whatever_a_guest_does_its_state_survives_save_and_create(
        steps in prop::collection::vec((0..8_u64, any::<u8>(), 0..3_u8), 0..200),
    ) {
        let mut uart = Uart::new();
        for (register, value, what) in steps {
            match what {
                0 => { uart.read(register); }
                1 => { uart.write(register, value); }
                _ => (0..uart.room().min(3)).for_each(|_| uart.receive(value)),
            }
            prop_assert!(uart.room() <= uart::FIFO);
        }
        let state = uart.state();
        let mut again = Uart::from_state(&state);
        prop_assert_eq!(&again.state(), &state);
        prop_assert_eq!(again.irq(), uart.irq());
        for register in [IIR, LSR, MSR, RBR] {
            prop_assert_eq!(again.read(register), uart.read(register));
        }
    }
}
