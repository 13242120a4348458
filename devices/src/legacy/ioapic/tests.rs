//! The IOAPIC, through its registers.

use crate::legacy::testing::Board;
use crate::state::{Origin, Section};

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const REMOTE_IRR: u32 = 1 << 14;

fn board() -> Board {
    Board::new(Origin::Fresh)
}

fn entry(pin: u8) -> u8 {
    0x10 + 2 * pin
}

#[test]
fn identification() {
    let board = board();
    assert_eq!(board.ioapic_read(1), 0x0017_0020);
    board.ioapic_write(0, 0x0f00_0000);
    assert_eq!(
        (board.ioapic_read(0), board.ioapic_read(2)),
        (0x0f00_0000, 0x0f00_0000)
    );
    assert_eq!(board.ioapic_read(entry(23)), MASKED);
    assert_eq!((board.ioapic_read(entry(24)), board.ioapic_read(3)), (0, 0));
}

#[test]
fn an_edge_is_sent_once_with_its_destination() {
    let board = board();
    board.ioapic_write(entry(5) + 1, 3 << 24);
    board.ioapic_write(entry(5), (1 << 11) | (1 << 8) | 0x55);
    board.chipset.ioapic.set_pin(5, true);
    board.chipset.ioapic.set_pin(5, true);
    let sent = board.apic.sent.lock().unwrap().clone();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].address, sent[0].data), (0xfee0_3004, 0x155));
    assert!(
        board.apic.routes.lock().unwrap().is_empty(),
        "an edge has no end to report"
    );
}

#[test]
fn a_masked_edge_is_lost_and_a_masked_level_waits() {
    let board = board();
    board.ioapic_write(entry(5), MASKED | 0x55);
    board.ioapic_write(entry(6), MASKED | LEVEL | 0x56);
    board.chipset.ioapic.set_pin(5, true);
    board.chipset.ioapic.set_pin(6, true);
    board.ioapic_write(entry(5), 0x55);
    board.ioapic_write(entry(6), LEVEL | 0x56);
    assert_eq!(board.apic.vectors(), [0x56]);
}

#[test]
fn a_level_is_sent_again_at_its_end_while_it_is_high() {
    let board = board();
    board.ioapic_write(entry(9), LEVEL | 0x39);
    board.chipset.ioapic.set_pin(9, true);
    assert_eq!(board.ioapic_read(entry(9)), LEVEL | REMOTE_IRR | 0x39);
    assert_eq!(board.apic.routes.lock().unwrap()[&9].data, 0xc039);
    board.chipset.ioapic.set_pin(9, false);
    board.chipset.ioapic.set_pin(9, true);
    assert_eq!(board.apic.vectors(), [0x39], "not while in service");
    board.chipset.ioapic_eoi(0x38);
    assert!(board.apic.vectors().is_empty(), "another vector");
    board.chipset.ioapic_eoi(0x39);
    assert_eq!(board.apic.vectors(), [0x39]);
    board.chipset.ioapic.set_pin(9, false);
    // The EOI register does the same.
    board
        .host
        .mmio
        .write(super::BASE + 0x40, &0x39_u32.to_le_bytes());
    assert_eq!(board.ioapic_read(entry(9)), LEVEL | 0x39);
    assert!(board.apic.vectors().is_empty());
}

#[test]
fn a_pin_masked_in_service_keeps_its_route_until_its_end() {
    let board = board();
    board.ioapic_write(entry(9), LEVEL | 0x39);
    board.chipset.ioapic.set_pin(9, true);
    board.ioapic_write(entry(9), MASKED | LEVEL | 0x39);
    assert!(board.apic.routes.lock().unwrap().contains_key(&9));
    board.chipset.ioapic_eoi(0x39);
    assert!(!board.apic.routes.lock().unwrap().contains_key(&9));
    assert_eq!(board.apic.vectors(), [0x39]);
    board.ioapic_write(entry(9), LEVEL | 0x39);
    assert_eq!(board.apic.vectors(), [0x39], "still high");
}

#[test]
fn read_only_bits_cannot_be_written_and_edge_mode_clears_remote_irr() {
    let board = board();
    board.ioapic_write(entry(1), 0xffff_ffff);
    assert_eq!(board.ioapic_read(entry(1)), 0x0001_afff);
    board.ioapic_write(entry(1) + 1, 0xffff_ffff);
    assert_eq!(board.ioapic_read(entry(1) + 1), 0xff00_0000);
    board.ioapic_write(entry(9), LEVEL | 0x39);
    board.chipset.ioapic.set_pin(9, true);
    board.ioapic_write(entry(9), MASKED | 0x39);
    assert_eq!(board.ioapic_read(entry(9)), MASKED | 0x39);
}

#[test]
fn external_interrupt_entries_are_left_to_the_pic() {
    let board = board();
    board.ioapic_write(entry(0), 7 << 8);
    board.chipset.ioapic.set_pin(0, true);
    assert!(board.apic.vectors().is_empty());
}

#[test]
fn a_pin_in_service_is_routed_again_after_a_restore() {
    let before = board();
    before.ioapic_write(entry(9), LEVEL | 0x39);
    before.chipset.ioapic.set_pin(9, true);
    before.ioapic_write(entry(9), MASKED | LEVEL | 0x39);
    let sections = before.save();
    let after = Board::new(Origin::Restored(&sections));
    assert!(after.apic.routes.lock().unwrap().contains_key(&9));
    after.ioapic_write(entry(9), LEVEL | 0x39);
    after.chipset.ioapic_eoi(0x39);
    assert_eq!(after.apic.vectors(), [0x39]);
}

#[test]
fn state_with_another_number_of_pins_is_refused() {
    let board = board();
    let mut sections = board.save();
    let payload = super::IoapicState {
        id: 0,
        select: 0,
        entries: vec![0; 3],
        levels: 0,
    };
    sections[1] = Section::new(super::KIND, super::KIND, super::VERSION, &payload).unwrap();
    let own = sections[1..2].to_vec();
    let apic = board.apic.clone();
    let made = super::Ioapic::create(&crate::bus::Bus::new(), apic, Origin::Restored(&own));
    assert!(made.is_err_and(|error| error.to_string().contains("3 entries instead of 24")));
}
