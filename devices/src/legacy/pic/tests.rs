//! The PICs, through their ports.

use crate::legacy::testing::Board;
use crate::state::Origin;

fn board() -> Board {
    let board = Board::new(Origin::Fresh);
    board.init_pics();
    board
}

fn pulse(board: &Board, irq: u32) {
    board.chipset.pic.set_input(irq, true);
    board.chipset.pic.set_input(irq, false);
}

#[test]
fn nothing_is_delivered_before_initialisation() {
    let board = Board::new(Origin::Fresh);
    pulse(&board, 1);
    pulse(&board, 12);
    assert!(!board.ext_int.asserted());
    assert_eq!((board.read(0x21), board.read(0xa1)), (0xff, 0xff));
}

#[test]
fn lower_inputs_go_first_and_wait_for_the_end_of_higher_ones() {
    let board = board();
    pulse(&board, 5);
    pulse(&board, 3);
    assert_eq!(board.chipset.pic_acknowledge(), 0x23);
    assert!(!board.ext_int.asserted(), "5 waits for 3");
    pulse(&board, 1);
    assert_eq!(board.chipset.pic_acknowledge(), 0x21, "1 interrupts 3");
    board.out(0x20, 0x20);
    board.out(0x20, 0x20);
    assert_eq!(board.chipset.pic_acknowledge(), 0x25);
}

#[test]
fn the_slave_comes_through_the_cascade() {
    let board = board();
    pulse(&board, 14);
    pulse(&board, 8);
    assert_eq!(board.chipset.pic_acknowledge(), 0x28);
    assert_eq!(
        board.chipset.pic_acknowledge(),
        0x27,
        "spurious: 14 waits for 8"
    );
    board.out(0xa0, 0x20);
    board.out(0x20, 0x20);
    assert_eq!(board.chipset.pic_acknowledge(), 0x2e);
}

#[test]
fn masked_edges_wait_and_the_mask_reads_back() {
    let board = board();
    board.out(0x21, 0xfe);
    pulse(&board, 4);
    assert!(!board.ext_int.asserted());
    assert_eq!(board.read(0x21), 0xfe);
    board.out(0x21, 0);
    assert_eq!(board.chipset.pic_acknowledge(), 0x24);
}

#[test]
fn an_acknowledge_without_a_request_is_spurious() {
    let board = board();
    assert_eq!(board.chipset.pic_acknowledge(), 0x27);
    board.out(0x20, 0x0b);
    assert_eq!(board.read(0x20), 0, "nothing is in service");
}

#[test]
fn level_inputs_ask_again_until_they_fall() {
    let board = board();
    board.out(0x4d1, 0x02);
    assert_eq!((board.read(0x4d0), board.read(0x4d1)), (0, 0x02));
    let end = || {
        board.out(0xa0, 0x20);
        board.out(0x20, 0x20);
    };
    board.chipset.pic.set_input(9, true);
    assert_eq!(board.chipset.pic_acknowledge(), 0x29);
    end();
    assert!(board.ext_int.asserted(), "still high");
    assert_eq!(board.chipset.pic_acknowledge(), 0x29);
    board.chipset.pic.set_input(9, false);
    end();
    assert!(!board.ext_int.asserted());
}

#[test]
fn the_trigger_of_timer_keyboard_cascade_and_rtc_cannot_be_changed() {
    let board = board();
    board.out(0x4d0, 0xff);
    board.out(0x4d1, 0xff);
    assert_eq!((board.read(0x4d0), board.read(0x4d1)), (0xf8, 0xde));
}

#[test]
fn automatic_end_of_interrupt_leaves_nothing_in_service() {
    let board = Board::new(Origin::Fresh);
    for (port, value) in [(0x20, 0x13), (0x21, 0x40), (0x21, 0x03)] {
        board.out(port, value);
    }
    pulse(&board, 6);
    pulse(&board, 7);
    assert_eq!(board.chipset.pic_acknowledge(), 0x46);
    assert_eq!(board.chipset.pic_acknowledge(), 0x47);
}

#[test]
fn rotation_puts_the_served_input_last() {
    let board = board();
    pulse(&board, 0);
    assert_eq!(board.chipset.pic_acknowledge(), 0x20);
    board.out(0x20, 0xa0);
    pulse(&board, 0);
    pulse(&board, 1);
    assert_eq!(board.chipset.pic_acknowledge(), 0x21);
    board.out(0x20, 0x61);
    assert_eq!(board.chipset.pic_acknowledge(), 0x20);
    board.out(0x20, 0x60);
    board.out(0x20, 0xc3);
    pulse(&board, 3);
    pulse(&board, 4);
    assert_eq!(
        board.chipset.pic_acknowledge(),
        0x24,
        "3 was set to be the last"
    );
}

#[test]
fn special_mask_mode_lets_lower_inputs_through() {
    let board = board();
    pulse(&board, 1);
    assert_eq!(board.chipset.pic_acknowledge(), 0x21);
    pulse(&board, 5);
    assert!(!board.ext_int.asserted());
    board.out(0x20, 0x68);
    board.out(0x21, 0x02);
    assert_eq!(board.chipset.pic_acknowledge(), 0x25);
}

#[test]
fn a_poll_acknowledges() {
    let board = board();
    board.out(0x20, 0x0c);
    assert_eq!(board.read(0x20) & 0x80, 0);
    pulse(&board, 6);
    board.out(0x20, 0x0c);
    assert_eq!(board.read(0x20), 0x86);
    board.out(0x20, 0x0b);
    assert_eq!(board.read(0x20), 0x40, "in service");
    board.out(0x20, 0x0a);
    assert_eq!(board.read(0x20), 0, "no request left");
}
