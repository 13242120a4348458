//! A long-running loop on disk, entropy source and serial line at once that notices every lost,
//! doubled or misdirected request. It keeps no clock, so it can be paused, saved and restored at any
//! point and must go on as if nothing had happened.
//!
//! ```text
//! each of `depth` requests:  Writing(n) -> answer -> Reading(n) -> answer, holds n -> Writing(n + 1)
//! ```
//!
//! A lost request never answers (the wait gives up), a doubled one answers while nothing is under
//! way, and a write that is done again later is seen as an old number in the sector.

use crate::block::{Disk, OK, SECTOR};
use crate::boot::Boot;
use crate::memory::{self, load, store};
use crate::port::Serial;
use crate::say;
use crate::simple::ENTROPY;
use crate::virtio::{Device, MAX_REQUESTS, Part, Queue};

/// Bytes of each transfer.
const BYTES: u64 = 4096;

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Idle,
    Writing(u64),
    Reading(u64),
}

struct Loop {
    disk: Disk,
    steps: [Step; MAX_REQUESTS as usize],
    answered: u64,
}

impl Loop {
    fn place(slot: u16) -> u64 {
        u64::from(slot) * (BYTES / SECTOR)
    }

    fn write(&mut self, slot: u16, number: u64) {
        let buffer = self.disk.buffer(slot);
        for at in (0..BYTES).step_by(8) {
            store(buffer + at, value(slot, number, at));
        }
        self.disk.submit_write(slot, Self::place(slot), BYTES);
        self.steps[usize::from(slot)] = Step::Writing(number);
    }

    fn read(&mut self, slot: u16, number: u64) {
        store(self.disk.buffer(slot), 0u64);
        self.disk.submit_read(slot, Self::place(slot), BYTES);
        self.steps[usize::from(slot)] = Step::Reading(number);
    }

    /// Takes one answer and sends what follows from it.
    fn answer(&mut self, slot: u16, status: u8, limit: u64) {
        assert!(status == OK, "request {slot}: status {status}");
        self.answered += 1;
        match self.steps[usize::from(slot)] {
            Step::Idle => panic!("an answer to request {slot}, which is not under way"),
            Step::Writing(number) => self.read(slot, number),
            Step::Reading(number) => {
                self.verify(slot, number);
                self.steps[usize::from(slot)] = Step::Idle;
                if self.answered < limit {
                    self.write(slot, number + 1);
                }
            }
        }
    }

    fn verify(&self, slot: u16, number: u64) {
        for at in (0..BYTES).step_by(8) {
            let found: u64 = load(self.disk.buffer(slot) + at);
            let expected = value(slot, number, at);
            assert!(
                found == expected,
                "request {slot} round {number}: {found:#x} at {at}"
            );
        }
    }

    fn under_way(&self) -> bool {
        self.steps.iter().any(|step| *step != Step::Idle)
    }
}

fn value(slot: u16, number: u64, at: u64) -> u64 {
    number << 24 | u64::from(slot) << 16 | at
}

/// Asks for random bytes, one request at a time, and counts the answers.
struct Entropy {
    queue: Queue,
    buffer: u64,
    answers: u64,
    waiting: bool,
}

impl Entropy {
    fn start() -> Self {
        let queue = Device::find(ENTROPY, 0).start(0, 0).queue(0, None);
        Self {
            queue,
            buffer: memory::take(64),
            answers: 0,
            waiting: false,
        }
    }

    fn turn(&mut self) {
        if !self.waiting {
            self.queue.submit(0, &[Part::from_device(self.buffer, 64)]);
            let _told = self.queue.kick();
            self.waiting = true;
        } else if let Some((request, length)) = self.queue.done() {
            assert!(
                request == 0 && length > 0,
                "rng answers {request} with {length} bytes"
            );
            self.answers += 1;
            self.waiting = false;
        }
    }
}

/// Test: `count` answers, then success; without a count until `q` is typed.
pub fn test(boot: &Boot) {
    let limit = boot.number("count", u64::MAX);
    let disk = Disk::start(boot.number("disk", 0), BYTES, false);
    let depth = boot.number("depth", 8).min(u64::from(disk.slots())) as u16;
    let mut entropy = (boot.number("rng", 0) != 0).then(Entropy::start);
    assert!(Loop::place(depth) <= disk.sectors, "the disk is too small");
    let mut work = Loop {
        disk,
        steps: [Step::Idle; MAX_REQUESTS as usize],
        answered: 0,
    };
    let mut limit_now = limit;
    say!("ready");
    for slot in 0..depth {
        work.write(slot, 1);
    }
    let _told = work.disk.kick();
    let mut next_line = 0;
    while work.under_way() {
        let (slot, status) = memory::wait_for("the disk", || work.disk.done());
        work.answer(slot, status, limit_now);
        let _told = work.disk.kick();
        if let Some(entropy) = &mut entropy {
            entropy.turn();
        }
        if work.answered >= next_line {
            next_line += 1024;
            say!("io {}", work.answered);
            if Serial::typed() == Some(b'q') {
                limit_now = 0;
            }
        }
    }
    assert!(work.disk.done().is_none(), "one answer too many");
    say!("ioloop: {} answers", work.answered);
    if let Some(entropy) = entropy {
        say!("ioloop: {} random answers", entropy.answers);
    }
}
