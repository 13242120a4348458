//! The timer as a device: ports, ticks and pauses. Counting is tested with the channel.

use super::*;
use crate::legacy::testing::{Board, FakeLine};

fn timer(origin: Origin<'_>) -> (Bus, Arc<FakeLine>, Pit) {
    let bus = Bus::new();
    let line = Arc::new(FakeLine::default());
    let pit = Pit::create(&bus, line.clone(), origin).expect("free ports and good state");
    (bus, line, pit)
}

fn out(bus: &Bus, writes: &[(u64, u8)]) {
    for (port, value) in writes {
        assert!(bus.write(*port, &[*value]));
    }
}

fn read(bus: &Bus, port: u64) -> u8 {
    let mut byte = [0];
    assert!(bus.read(port, &mut byte));
    byte[0]
}

fn wait_for(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
}

#[test]
fn a_periodic_timer_ticks_until_it_is_reprogrammed() {
    let (bus, line, _pit) = timer(Origin::Fresh);
    out(&bus, &[(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)]);
    wait_for(|| line.rises() > 3);
    // A control word without a count stops it.
    out(&bus, &[(0x43, 0x34)]);
    let ticks = line.rises();
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(line.rises(), ticks);
    assert!(!line.level(), "a tick is a pulse");
}

#[test]
fn a_one_shot_ticks_once() {
    let (bus, line, _pit) = timer(Origin::Fresh);
    out(&bus, &[(0x43, 0x30), (0x40, 0x00), (0x40, 0x02)]);
    wait_for(|| line.rises() == 1);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(line.rises(), 1);
}

#[test]
fn a_pause_holds_ticks_and_causes_no_storm() {
    let (bus, line, pit) = timer(Origin::Fresh);
    out(&bus, &[(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)]);
    wait_for(|| line.rises() > 0);
    pit.pause();
    let ticks = line.rises();
    let saved = pit.save().expect("plain data");
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(line.rises(), ticks);
    assert_eq!(
        pit.save().expect("plain data"),
        saved,
        "machine time stands"
    );
    pit.resume();
    wait_for(|| line.rises() > ticks);
}

#[test]
fn a_restored_timer_stands_until_it_is_resumed() {
    let (bus, _, pit) = timer(Origin::Fresh);
    out(&bus, &[(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)]);
    pit.pause();
    let Ok(Saved::Sections(sections)) = pit.save() else {
        panic!("it has state");
    };
    let (_, line, restored) = timer(Origin::Restored(&sections));
    std::thread::sleep(std::time::Duration::from_millis(10));
    assert_eq!(line.rises(), 0);
    restored.resume();
    wait_for(|| line.rises() > 1);
}

#[test]
fn a_guest_cannot_make_a_storm() {
    let (bus, line, pit) = timer(Origin::Fresh);
    let start = std::time::Instant::now();
    out(&bus, &[(0x43, 0x34), (0x40, 0x01), (0x40, 0x00)]);
    wait_for(|| line.rises() > 5);
    pit.pause();
    let most = start.elapsed().as_nanos() / u128::from(SHORTEST_PERIOD) + 1;
    assert!(u128::from(line.rises()) <= most);
}

#[test]
fn ticks_that_came_too_late_are_counted_and_not_repeated() {
    let mut registers = Registers::fresh();
    registers.clock = Clock::stopped(0);
    registers.write(0x43, 0x34);
    registers.write(0x40, 0xa9);
    registers.write(0x40, 0x04);
    // 1193 ticks are a millisecond less 152 ns; ten of them have passed.
    registers.clock = Clock::stopped(10_000_000);
    assert!(registers.take_tick());
    assert!(!registers.take_tick());
    assert_eq!(registers.lost, 9);
}

#[test]
fn the_speaker_port_gates_channel_2_and_shows_its_output() {
    let (bus, _, pit) = timer(Origin::Fresh);
    pit.pause();
    // What Linux does to calibrate its TSC: mode 0, gate on, wait for bit 5.
    out(
        &bus,
        &[(0x61, 0x01), (0x43, 0xb0), (0x42, 0x10), (0x42, 0x00)],
    );
    assert_eq!(read(&bus, 0x61) & 0x03, 0x01);
    wait_for(|| read(&bus, 0x61) & 0x20 != 0);
    out(&bus, &[(0x61, 0x02)]);
    assert_eq!(read(&bus, 0x61) & 0x03, 0x02);
}

#[test]
fn read_back_latches_status_and_count_of_several_channels() {
    let board = Board::new(Origin::Fresh);
    board.out(0x43, 0x38);
    board.out(0x40, 0x00);
    board.out(0x40, 0x80);
    board.out(0x43, 0xc6);
    // Status: output high, count loaded, both bytes, mode 4.
    assert_eq!(board.read(0x40), 0xb8);
    assert_eq!(board.read(0x41) & 0x40, 0x40, "channel 1 has no count");
    assert!(board.read(0x40) != 0 || board.read(0x40) != 0);
}

#[test]
fn one_shots_follow_each_other_as_linux_programs_them() {
    let (bus, line, _pit) = timer(Origin::Fresh);
    out(&bus, &[(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)]);
    wait_for(|| line.rises() > 2);
    out(&bus, &[(0x43, 0x38)]);
    for round in 0..300_u32 {
        let before = line.rises();
        let count = [15, 300, 1193, 2000][round as usize % 4];
        let [low, high] = u16::to_le_bytes(count);
        out(&bus, &[(0x40, low), (0x40, high)]);
        wait_for(|| line.rises() > before);
    }
}
