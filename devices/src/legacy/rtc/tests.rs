//! The chip at times of our choosing, then the device.

use super::*;
use crate::legacy::testing::FakeLine;
use proptest::prelude::*;

const S: i128 = 1_000_000_000;
/// 2023-11-14 22:13:20 UTC, a Tuesday.
const NOW: i128 = 1_700_000_000 * S;

fn get(chip: &mut Chip, register: u8, host: i128) -> u8 {
    chip.select(register);
    chip.read(host)
}

fn set(chip: &mut Chip, register: u8, value: u8, host: i128) {
    chip.select(register);
    chip.write(value, host);
}

/// Century, year, month, day, hour, minute, second as the registers give them.
fn time(chip: &mut Chip, host: i128) -> [u8; 7] {
    [0x32, 9, 8, 7, 4, 2, 0].map(|register| get(chip, register, host))
}

#[test]
fn it_shows_the_hosts_time_in_bcd() {
    let mut chip = Chip::new(0, NOW);
    assert_eq!(
        time(&mut chip, NOW),
        [0x20, 0x23, 0x11, 0x14, 0x22, 0x13, 0x20]
    );
    assert_eq!(get(&mut chip, 6, NOW), 3, "Tuesday");
    assert_eq!(get(&mut chip, 0, NOW + 5 * S), 0x25);
    assert_eq!(get(&mut chip, 0x0d, NOW), 0x80);
}

#[test]
fn local_time_is_an_offset() {
    let mut chip = Chip::new(-3600, NOW);
    assert_eq!(get(&mut chip, 4, NOW), 0x21);
    let mut chip = Chip::new(2 * 3600, NOW);
    assert_eq!((get(&mut chip, 4, NOW), get(&mut chip, 7, NOW)), (0, 0x15));
}

#[test]
fn binary_and_twelve_hours_are_how_the_same_time_is_written() {
    let mut chip = Chip::new(0, NOW);
    set(&mut chip, 0x0b, 0x06, NOW);
    assert_eq!(time(&mut chip, NOW), [20, 23, 11, 14, 22, 13, 20]);
    set(&mut chip, 0x0b, 0x00, NOW);
    assert_eq!(get(&mut chip, 4, NOW), 0x90);
    assert_eq!(get(&mut chip, 4, NOW + 2 * 3600 * S), 0x12, "midnight");
    assert_eq!(get(&mut chip, 4, NOW + 14 * 3600 * S), 0x92, "noon");
}

#[test]
fn setting_the_clock_as_linux_does_starts_half_a_second_before_the_next() {
    let mut chip = Chip::new(0, NOW);
    set(&mut chip, 0x0b, 0x82, NOW);
    set(&mut chip, 0x0a, 0x76, NOW);
    for (register, value) in [
        (0x32, 0x20),
        (9, 0x30),
        (8, 0x02),
        (7, 0x28),
        (4, 0x23),
        (2, 0x59),
        (0, 0x59),
    ] {
        set(&mut chip, register, value, NOW);
    }
    assert_eq!(get(&mut chip, 0, NOW + 9 * S), 0x59, "it stands");
    let later = NOW + 9 * S;
    set(&mut chip, 0x0b, 0x02, later);
    set(&mut chip, 0x0a, 0x26, later);
    assert_eq!(get(&mut chip, 0, later + S / 2 - 1), 0x59);
    assert_eq!(
        time(&mut chip, later + S / 2),
        [0x20, 0x30, 0x03, 0x01, 0x00, 0x00, 0x00]
    );
}

#[test]
fn a_single_field_can_be_set_while_running() {
    let mut chip = Chip::new(0, NOW);
    set(&mut chip, 2, 0x00, NOW);
    assert_eq!(
        time(&mut chip, NOW + S),
        [0x20, 0x23, 0x11, 0x14, 0x22, 0x00, 0x21]
    );
}

#[test]
fn the_update_bit_is_on_for_two_milliseconds_of_a_second() {
    let mut chip = Chip::new(0, NOW);
    let mut updating = |host| get(&mut chip, 0x0a, host) & 0x80 != 0;
    assert!(!updating(NOW));
    assert!(!updating(NOW + S - 2_228_001));
    assert!(updating(NOW + S - 2_228_000));
    assert!(updating(NOW + S - 1));
    assert!(!updating(NOW + S));
    set(&mut chip, 0x0b, 0x82, NOW + S);
    assert_eq!(get(&mut chip, 0x0a, NOW + 2 * S - 1) & 0x80, 0, "held");
}

#[test]
fn updates_interrupt_once_until_register_c_is_read() {
    let mut chip = Chip::new(0, NOW);
    assert_eq!(chip.next_event(), None);
    set(&mut chip, 0x0b, 0x12, NOW + 1);
    assert_eq!(chip.next_event(), Some(NOW + S));
    chip.advance(NOW + 5 * S);
    assert!(chip.irq());
    assert_eq!(chip.next_event(), None, "the guest has not looked");
    assert_eq!(get(&mut chip, 0x0c, NOW + 5 * S), 0x90 | 0x40);
    assert!(!chip.irq());
    assert_eq!(chip.next_event(), Some(NOW + 6 * S));
    assert_eq!(get(&mut chip, 0x0c, NOW + 5 * S), 0);
}

#[test]
fn flags_can_be_polled_without_interrupts() {
    let mut chip = Chip::new(0, NOW);
    get(&mut chip, 0x0c, NOW);
    assert_eq!(get(&mut chip, 0x0c, NOW + S / 2048), 0);
    assert_eq!(get(&mut chip, 0x0c, NOW + S / 1024 + 1), 0x40);
    assert_eq!(get(&mut chip, 0x0c, NOW + S / 1024 + 1), 0);
    assert_eq!(get(&mut chip, 0x0c, NOW + S), 0x50);
    assert!(!chip.irq());
}

#[test]
fn the_alarm_matches_its_fields() {
    let mut chip = Chip::new(0, NOW);
    for (register, value) in [(1, 0x10), (3, 0x15), (5, 0x22), (0x0b, 0x22)] {
        set(&mut chip, register, value, NOW);
    }
    let at = NOW + (60 + 50) * S;
    assert_eq!(chip.next_event(), Some(at));
    chip.advance(at - 1);
    assert!(!chip.irq());
    chip.advance(at);
    assert_eq!(get(&mut chip, 0x0c, at) & 0xa0, 0xa0);
    assert_eq!(chip.next_event(), Some(at + 86_400 * S), "tomorrow");
    set(&mut chip, 5, 0xc0, at);
    assert_eq!(chip.next_event(), Some(at + 3600 * S), "every hour");
    set(&mut chip, 3, 0xff, at);
    assert_eq!(chip.next_event(), Some(at + 60 * S), "every minute");
    set(&mut chip, 1, 0xff, at);
    assert_eq!(chip.next_event(), Some(at + S), "every second");
    set(&mut chip, 1, 0x61, at);
    assert_eq!(chip.next_event(), None, "never");
}

#[test]
fn periodic_interrupts_have_the_rates_of_the_datasheet() {
    for (rate, hertz) in [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)] {
        let mut chip = Chip::new(0, NOW);
        set(&mut chip, 0x0a, 0x20 | rate, NOW);
        set(&mut chip, 0x0b, 0x42, NOW);
        let at = chip.next_event().expect("a tick") - NOW;
        assert!((at * hertz - S).abs() < hertz, "{rate}: {at}");
        chip.advance(NOW + at - 1);
        assert!(!chip.irq());
        chip.advance(NOW + at);
        assert!(chip.irq());
    }
    let mut chip = Chip::new(0, NOW);
    set(&mut chip, 0x0a, 0x20, NOW);
    set(&mut chip, 0x0b, 0x42, NOW);
    assert_eq!(chip.next_event(), None, "rate 0 is off");
}

#[test]
fn memory_keeps_its_bytes_over_a_reset_and_interrupts_do_not() {
    let mut chip = Chip::new(0, NOW);
    set(&mut chip, 0x8f, 0x05, NOW);
    set(&mut chip, 0x7f, 0xaa, NOW);
    set(&mut chip, 0x0b, 0x7a, NOW);
    chip.reset();
    assert_eq!(get(&mut chip, 0x0f, NOW), 0x05, "the shutdown code");
    assert_eq!(get(&mut chip, 0x7f, NOW), 0xaa);
    assert_eq!(get(&mut chip, 0x0b, NOW), 0x02);
    set(&mut chip, 0x0d, 0, NOW);
    assert_eq!(get(&mut chip, 0x0d, NOW), 0x80);
}

#[test]
fn a_host_clock_that_is_set_back_does_no_harm() {
    let mut chip = Chip::new(0, NOW);
    set(&mut chip, 0x0b, 0x12, NOW);
    chip.advance(NOW - 100 * S);
    assert_eq!(get(&mut chip, 0x0c, NOW - 100 * S), 0);
    assert_eq!(chip.next_event(), Some(NOW - 99 * S));
}

fn device(ahead: i64, origin: Origin<'_>) -> (Bus, Arc<FakeLine>, Rtc) {
    let bus = Bus::new();
    let line = Arc::new(FakeLine::default());
    let fresh = Fresh { ahead, memory: &[] };
    let rtc = Rtc::create(&bus, line.clone(), fresh, origin).expect("free ports, good state");
    (bus, line, rtc)
}

fn out(bus: &Bus, register: u8, value: u8) {
    assert!(bus.write(0x70, &[register]) && bus.write(0x71, &[value]));
}

fn read(bus: &Bus, register: u8) -> u8 {
    let mut byte = [0];
    assert!(bus.write(0x70, &[register]) && bus.read(0x71, &mut byte));
    byte[0]
}

#[test]
fn interrupts_come_from_the_alarm_thread() {
    let (bus, line, _rtc) = device(0, Origin::Fresh);
    out(&bus, 0x0b, 0x42);
    for _ in 0..3 {
        while !line.level() {
            std::thread::yield_now();
        }
        assert_eq!(read(&bus, 0x0c) & 0xc0, 0xc0);
    }
    out(&bus, 0x0b, 0x02);
    read(&bus, 0x0c);
    assert!(!line.level());
}

#[test]
fn a_paused_clock_raises_nothing_and_one_interrupt_follows() {
    let (bus, line, rtc) = device(0, Origin::Fresh);
    rtc.pause();
    // The guest did this just before; a bus access would start the clock again.
    // Both at one instant: the flag of a tick since power-on would raise the line at once.
    rtc.clock.with(|inner| {
        let now = host_time();
        inner.chip.select(0x0c);
        inner.chip.read(now);
        inner.chip.select(0x0b);
        inner.chip.write(0x42, now);
    });
    std::thread::sleep(Duration::from_millis(5));
    assert!(!line.level());
    rtc.resume();
    assert!(line.level());
    assert_eq!(read(&bus, 0x0c) & 0xc0, 0xc0);
}

#[test]
fn a_restored_clock_keeps_its_offset_and_waits_for_resume() {
    let (bus, _, rtc) = device(0, Origin::Fresh);
    out(&bus, 9, 0x99);
    out(&bus, 0x0b, 0x42);
    rtc.pause();
    let Ok(Saved::Sections(sections)) = rtc.save() else {
        panic!("it has state");
    };
    let pending = sections[0].payload["flags"]
        .as_u64()
        .is_some_and(|flags| flags & 0x40 != 0);
    let (bus, line, restored) = device(0, Origin::Restored(&sections));
    assert_eq!(line.level(), pending);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(line.level(), pending, "nothing new before it is resumed");
    let again = restored.save().expect("plain data");
    assert_eq!(again, Saved::Sections(sections));
    restored.resume();
    assert!(line.level());
    assert_eq!(read(&bus, 9), 0x99);
}

proptest! {
    #[test]
    fn whatever_a_guest_does_its_state_survives_save_and_create(
        steps in prop::collection::vec((0..0x40_u8, any::<u8>(), any::<bool>(), any::<u32>()), 0..80),
        ahead in -86_400_i64..86_400,
    ) {
        let mut chip = Chip::new(ahead, NOW);
        let mut host = NOW;
        for (register, value, write, pause) in steps {
            host += i128::from(pause) * 100;
            if write {
                set(&mut chip, register, value, host);
            } else {
                get(&mut chip, register, host);
            }
            if let Some(event) = chip.next_event() {
                prop_assert!(event > host);
                // What was promised comes.
                let mut copy = Chip::from_state(&chip.state());
                copy.advance(event);
                prop_assert!(copy.irq());
            }
        }
        let state = chip.state();
        let mut again = Chip::from_state(&state);
        prop_assert_eq!(&again.state(), &state);
        prop_assert_eq!(again.next_event(), chip.next_event());
        prop_assert_eq!(time(&mut again, host + S), time(&mut chip, host + S));
    }
}

#[test]
fn a_fresh_memory_holds_what_firmware_is_told() {
    let bus = Bus::new();
    let fresh = Fresh {
        ahead: 0,
        memory: &[(0x0a, 0xff), (0x0d, 0), (0x32, 0x77), (0x5f, 3), (0xff, 1)],
    };
    let line = Arc::new(FakeLine::default());
    let rtc = Rtc::create(&bus, line, fresh, Origin::Fresh).expect("free ports");
    let get = |register: u8| {
        let mut byte = [0];
        bus.write(0x70, &[register]);
        assert!(bus.read(0x71, &mut byte));
        byte[0]
    };
    assert_eq!(get(0x5f), 3);
    assert_eq!(get(0x0d), 0x80, "the battery");
    assert_ne!(get(0x32), 0x77, "the century");
    // A reset leaves it as it is: there is a battery.
    bus.write(0x70, &[0x5f]);
    bus.write(0x71, &[9]);
    rtc.pause();
    rtc.reset();
    assert_eq!(get(0x5f), 9);
}
