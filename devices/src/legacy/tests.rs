//! The chipset as a whole: wires, and saved state.

use super::testing::Board;
use crate::state::Origin;
use proptest::prelude::*;

/// Unmasked, edge-triggered, fixed delivery to APIC 0.
const EDGE: u32 = 0;
/// The same, level-triggered.
const LEVEL: u32 = 1 << 15;

#[test]
fn a_line_reaches_both_controllers() {
    let board = Board::new(Origin::Fresh);
    board.init_pics();
    board.ioapic_write(0x10 + 2 * 4, EDGE | 0x34);
    let line = board.chipset.irq_lines().line(4);
    line.set_level(true);
    assert_eq!(board.apic.vectors(), [0x34]);
    assert!(board.ext_int.asserted() && board.chipset.pic_pending());
    assert_eq!(board.chipset.pic_acknowledge(), 0x24);
    assert!(!board.ext_int.asserted());
}

#[test]
fn the_timer_line_is_pin_2_and_gsi_2_leads_nowhere() {
    let board = Board::new(Origin::Fresh);
    board.init_pics();
    board.ioapic_write(0x10, EDGE | 0x30);
    board.ioapic_write(0x10 + 2 * 2, EDGE | 0x32);
    let lines = board.chipset.irq_lines();
    lines.line(0).set_level(true);
    assert_eq!(board.apic.vectors(), [0x32]);
    assert_eq!(board.chipset.pic_acknowledge(), 0x20);
    board.out(0x20, 0x20);
    for gsi in [2, super::GSI_COUNT, u32::MAX] {
        lines.line(gsi).set_level(true);
    }
    assert!(board.apic.vectors().is_empty() && !board.chipset.pic_pending());
}

#[test]
fn lines_above_15_reach_the_ioapic_only() {
    let board = Board::new(Origin::Fresh);
    board.init_pics();
    board.ioapic_write(0x10 + 2 * 17, LEVEL | 0x41);
    board.chipset.irq_lines().line(17).set_level(true);
    assert_eq!(board.apic.vectors(), [0x41]);
    assert!(!board.chipset.pic_pending());
}

#[test]
fn a_shared_line_is_the_or_of_its_sources_and_falls_when_one_is_unplugged() {
    let board = Board::new(Origin::Fresh);
    board.ioapic_write(0x10 + 2 * 20, LEVEL | 0x50);
    let lines = board.chipset.irq_lines();
    let (first, second) = (lines.line(20), lines.line(20));
    first.set_level(true);
    second.set_level(true);
    second.set_level(true);
    assert_eq!(board.apic.vectors(), [0x50]);
    first.set_level(false);
    board.chipset.ioapic_eoi(0x50);
    assert_eq!(board.apic.vectors(), [0x50], "the second still holds it");
    drop(second);
    board.chipset.ioapic_eoi(0x50);
    assert!(board.apic.vectors().is_empty());
}

#[test]
fn a_restored_device_that_asserts_its_line_again_makes_no_new_edge() {
    let before = Board::new(Origin::Fresh);
    before.init_pics();
    before.ioapic_write(0x10 + 2 * 4, EDGE | 0x34);
    let line = before.chipset.irq_lines().line(4);
    line.set_level(true);
    before.chipset.pic_acknowledge();
    let sections = before.save();
    let after = Board::new(Origin::Restored(&sections));
    let line = after.chipset.irq_lines().line(4);
    line.set_level(true);
    assert!(after.apic.vectors().is_empty() && !after.chipset.pic_pending());
    line.set_level(false);
    line.set_level(true);
    assert_eq!(after.apic.vectors(), [0x34]);
}

#[test]
fn a_reset_machine_is_a_fresh_one() {
    let board = Board::new(Origin::Fresh);
    let fresh = board.save();
    board.init_pics();
    for (port, value) in [
        (0x43, 0x34),
        (0x40, 1),
        (0x40, 0x40),
        (0x61, 3),
        (0x4d1, 0xff),
    ] {
        board.out(port, value);
    }
    board.ioapic_write(0x10 + 2 * 9, LEVEL | 0x39);
    assert_ne!(board.save(), fresh);
    for device in board.chipset.devices() {
        device.reset();
    }
    let plain = |mut sections: Vec<crate::state::Section>| {
        for section in &mut sections {
            // Machine time goes on where it is not part of the power-on state.
            if let Some(fields) = section.payload.as_object_mut() {
                fields.remove("now");
            }
        }
        sections
    };
    assert_eq!(plain(board.save()), plain(fresh));
    assert!(board.apic.routes.lock().unwrap().is_empty());
}

#[test]
fn dropping_the_chipset_empties_the_buses() {
    let board = Board::new(Origin::Fresh);
    let host = board.host.clone();
    drop(board);
    assert!(!host.pio.write(0x20, &[0]) && !host.mmio.write(super::ioapic::BASE, &[0]));
}

/// One thing that a guest or a device does.
#[derive(Debug, Clone)]
enum Step {
    Out(u16, Vec<u8>),
    In(u16, usize),
    Mmio(u64, Vec<u8>),
    MmioRead(u64, usize),
    Line(u32, bool),
    Acknowledge,
    Eoi(u8),
}

/// Every port that the chipset has, and some that it has not.
const PORTS: &[u16] = &[
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71,
    0x92, 0x600, 0x602, 0x604, 0x605, 0x608, 0x620, 0x628, 0x62f, 0x67f,
];

fn step() -> impl Strategy<Value = Step> {
    let port = || prop::sample::select(PORTS);
    let bytes = || prop::collection::vec(any::<u8>(), 1..5);
    let register = || prop::sample::select(&[0_u64, 0x10, 0x40, 0x20, 0xff8][..]);
    prop_oneof![
        6 => (port(), bytes()).prop_map(|(port, bytes)| Step::Out(port, bytes)),
        3 => (port(), 1..5_usize).prop_map(|(port, len)| Step::In(port, len)),
        4 => (register(), bytes()).prop_map(|(register, bytes)| Step::Mmio(register, bytes)),
        1 => (register(), 1..9_usize).prop_map(|(register, len)| Step::MmioRead(register, len)),
        4 => (0..26_u32, any::<bool>()).prop_map(|(gsi, level)| Step::Line(gsi, level)),
        1 => Just(Step::Acknowledge),
        2 => any::<u8>().prop_map(Step::Eoi),
    ]
}

fn run(board: &Board, steps: &[Step]) {
    let lines = board.chipset.irq_lines();
    let lines: Vec<_> = (0..26).map(|gsi| lines.line(gsi)).collect();
    for step in steps {
        match step {
            Step::Out(port, bytes) => {
                board.host.pio.write((*port).into(), bytes);
            }
            Step::In(port, len) => {
                board.host.pio.read((*port).into(), &mut vec![0; *len]);
            }
            Step::Mmio(offset, bytes) => {
                board.host.mmio.write(super::ioapic::BASE + offset, bytes);
            }
            Step::MmioRead(offset, len) => {
                let at = super::ioapic::BASE + offset;
                board.host.mmio.read(at, &mut vec![0; *len]);
            }
            Step::Line(gsi, level) => lines[*gsi as usize].set_level(*level),
            Step::Acknowledge => {
                board.chipset.pic_acknowledge();
            }
            Step::Eoi(vector) => board.chipset.ioapic_eoi(*vector),
        }
    }
    for device in board.chipset.devices() {
        device.pause();
    }
}

proptest! {
    #[test]
    fn whatever_a_guest_does_its_state_survives_save_and_create(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let before = Board::new(Origin::Fresh);
        run(&before, &steps);
        let sections = before.save();
        prop_assert_eq!(&before.save(), &sections, "saving changes nothing");
        let text = serde_json::to_vec(&sections).unwrap();
        let read: Vec<crate::state::Section> = serde_json::from_slice(&text).unwrap();
        let after = Board::new(Origin::Restored(&read));
        prop_assert_eq!(&after.save(), &sections);
        prop_assert_eq!(after.chipset.pic_pending(), before.chipset.pic_pending());
        // What the local APICs must report the end of is known on both sides.
        let pins = |board: &Board| -> Vec<u32> {
            board.apic.routes.lock().unwrap().keys().copied().collect()
        };
        prop_assert_eq!(pins(&after), pins(&before));
    }
}
