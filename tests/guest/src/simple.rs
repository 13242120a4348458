//! Tests that need no disk.

use crate::block::{Disk, SECTOR};
use crate::boot::Boot;
use crate::memory;
use crate::net;
use crate::port::{self, Serial};
use crate::say;
use crate::virtio::{Device, Part};

/// Device type of an entropy source (virtio 1.3, 5.4).
pub const ENTROPY: u16 = 4;

pub fn hello() {
    let selector: u64;
    // SAFETY: reading a selector changes nothing.
    unsafe { core::arch::asm!("mov {}, cs", out(reg) selector, options(nomem, nostack)) };
    say!("hello from ring {}", selector & 3);
}

pub fn idle() {
    say!("ready");
    loop {
        port::halt();
    }
}

pub fn spin(boot: &Boot) {
    let counter = boot.number("counter", 32 << 20);
    say!("ready");
    for value in 1u64.. {
        memory::store(counter, value);
    }
}

pub fn beat(boot: &Boot) {
    let gap = boot.number("gap", 1) * 1_000_000;
    let count = boot.number("count", u64::MAX);
    say!("ready");
    for _ in 0..count {
        let start = cycles();
        while cycles().wrapping_sub(start) < gap {
            core::hint::spin_loop();
        }
        Serial::send(b'.');
    }
    say!("");
}

/// Leaves and subleaves that tests look at.
const LEAVES: [(u32, u32); 8] = [
    (0, 0),
    (1, 0),
    (7, 0),
    (0xb, 0),
    (0xb, 1),
    (0x8000_0000, 0),
    (0x8000_0001, 0),
    (0x8000_0008, 0),
];

pub fn cpuid() {
    for (leaf, subleaf) in LEAVES {
        let found = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        say!(
            "cpuid {:x}.{:x} {:x} {:x} {:x} {:x}",
            leaf,
            subleaf,
            found.eax,
            found.ebx,
            found.ecx,
            found.edx
        );
    }
}

pub fn echo() {
    say!("ready");
    loop {
        match Serial::typed() {
            Some(b'q') => break,
            Some(byte) => Serial::send(byte.to_ascii_uppercase()),
            None => core::hint::spin_loop(),
        }
    }
    say!("");
}

/// Ends the machine in the way that `how=` says.
pub fn end(boot: &Boot) -> ! {
    say!("ready");
    match boot.option("how") {
        Some("off") => port::out16(0x604, 0x2000),
        Some("reset") => {
            port::out8(0xcf9, 2);
            port::out8(0xcf9, 6);
        }
        Some("panic") => port::out8(0x505, 1),
        // Nobody handles this one.
        Some("fault") => undefined(),
        other => panic!("how={other:?} is no way to end"),
    }
    loop {
        port::halt();
    }
}

fn undefined() {
    // SAFETY: an undefined instruction has no effect but its exception.
    unsafe { core::arch::asm!("ud2", options(nomem, nostack)) }
}

pub fn dirty(boot: &Boot) {
    let pages = boot.number("pages", 1024);
    let rounds = boot.number("rounds", u64::MAX);
    let area = 32 << 20;
    assert!(
        area + pages * 4096 <= boot.ram_end,
        "{pages} pages do not fit into RAM"
    );
    say!("ready");
    for round in 1..=rounds {
        for page in 0..pages {
            let at = area + page * 4096;
            let found: u64 = memory::load(at);
            let expected = if round == 1 {
                0
            } else {
                (round - 1) << 32 | page
            };
            assert!(
                found == expected,
                "page {page} holds {found:#x}, not {expected:#x}"
            );
            memory::store(at, round << 32 | page);
        }
        if round % 64 == 0 {
            say!("round {round}");
        }
        if Serial::typed() == Some(b'q') {
            say!("stopped after {round}");
            break;
        }
    }
}

pub fn rng() {
    let mut device = Device::find(ENTROPY, 0).start(0, 0);
    let mut queue = device.queue(0, None);
    let buffer = memory::take(4096);
    let mut seen = [false; 256];
    for _ in 0..4 {
        queue.submit(0, &[Part::from_device(buffer, 4096)]);
        let _told = queue.kick();
        let (_, length) = memory::wait_for("random bytes", || queue.done());
        assert!(length > 0 && length <= 4096, "{length} bytes for 4096");
        for at in 0..u64::from(length) {
            seen[usize::from(memory::load::<u8>(buffer + at))] = true;
        }
    }
    let kinds = seen.iter().filter(|seen| **seen).count();
    assert!(kinds > 64, "only {kinds} different bytes: not random");
    say!("rng: {kinds} different bytes");
}

/// Counts RAM, and writes to the last page of each part of it.
pub fn ram(boot: &Boot) {
    let mut total = 0;
    boot.ram(|start, size| {
        let last = start + size - 8;
        memory::map(last);
        memory::store(last, last);
        let found: u64 = memory::load(last);
        assert!(found == last, "{found:#x} at {last:#x}");
        total += size;
    });
    say!("ram {total} bytes");
}

/// Touches the end of RAM when a byte is typed, or has a device do it: itself, or the kernel for it.
pub fn lost(boot: &Boot) {
    let place = boot.ram_end - 4096;
    match boot.option("by") {
        Some("cpu") => {
            wait_for_a_byte();
            memory::store(place, 1u64);
            panic!("memory that is not there was written");
        }
        Some("disk") => {
            let mut disk = Disk::start(0, SECTOR, false);
            wait_for_a_byte();
            disk.submit_read_to(place, 0, 0, 4096);
            let _told = disk.kick();
            let (_, status) = memory::wait_for("what cannot come", || disk.done());
            panic!("status {status} from nowhere");
        }
        Some("net") => lost_by((net::NETWORK, net::TRANSMIT), Part::to_device(place, 512)),
        _ => lost_by((ENTROPY, 0), Part::from_device(place, 64)),
    }
}

/// Has a queue of a device take what is not there.
fn lost_by((device, queue): (u16, u16), part: Part) {
    let mut queue = Device::find(device, 0).start(0, 0).queue(queue, None);
    wait_for_a_byte();
    queue.submit(0, &[part]);
    let _told = queue.kick();
    let (_, length) = memory::wait_for("what cannot come", || queue.done());
    panic!("{length} bytes came from nowhere");
}

fn wait_for_a_byte() {
    say!("ready");
    while Serial::typed().is_none() {
        core::hint::spin_loop();
    }
}

/// The time stamp counter.
pub fn cycles() -> u64 {
    // SAFETY: reading it changes nothing.
    unsafe { core::arch::x86_64::_rdtsc() }
}
