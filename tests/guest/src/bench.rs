//! A disk under load for a benchmark: so many transfers of one size, so many at a time. The host takes
//! the time between the lines `go` and `done`.

use crate::block::Disk;
use crate::boot::Boot;
use crate::memory;
use crate::say;

/// Where transfers go.
struct Places {
    random: bool,
    /// Transfers that fit on the disk.
    fit: u64,
    /// Sectors of one.
    step: u64,
    state: u64,
}

impl Places {
    /// The sector of the next transfer.
    fn next(&mut self) -> u64 {
        if self.random {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            return self.state % self.fit * self.step;
        }
        self.state += 1;
        self.state % self.fit * self.step
    }
}

/// One queue under load.
struct Load {
    disk: Disk,
    places: Places,
    bytes: u64,
    write: bool,
    depth: u64,
    count: u64,
    sent: u64,
    done: u64,
    kicks: u64,
}

impl Load {
    fn new(boot: &Boot, disk: Disk) -> Self {
        let bytes = boot.number("bytes", 4096);
        let places = Places {
            random: boot.number("random", 0) != 0,
            fit: disk.sectors / (bytes / 512),
            step: bytes / 512,
            state: 0x9e37_79b9_7f4a_7c15,
        };
        let depth = boot.number("depth", 1).min(u64::from(disk.slots()));
        let count = boot.number("count", 1000);
        assert!(places.fit > 0 && depth > 0 && count >= depth, "too small");
        Self {
            disk,
            places,
            bytes,
            write: boot.number("write", 0) != 0,
            depth,
            count,
            sent: 0,
            done: 0,
            kicks: 0,
        }
    }

    fn send(&mut self, slot: u16) {
        let sector = self.places.next();
        if self.write {
            self.disk.submit_write(slot, sector, self.bytes);
        } else {
            self.disk.submit_read(slot, sector, self.bytes);
        }
        self.sent += 1;
    }

    fn kick(&mut self) {
        self.kicks += u64::from(self.disk.kick());
    }

    /// Fills the queue.
    fn begin(&mut self) {
        for slot in 0..self.depth as u16 {
            self.send(slot);
        }
        self.kick();
    }

    /// Touches every buffer, which does not count.
    fn warm(&mut self) {
        self.begin();
        for _ in 0..self.depth {
            checked(memory::wait_for("the disk", || self.disk.done()));
        }
        (self.sent, self.kicks) = (0, 0);
    }

    /// All that have ended get a successor, and one bell tells of them; `None` when none has.
    fn turn(&mut self) -> Option<()> {
        let before = self.done;
        while let Some(ended) = self.disk.done() {
            let slot = checked(ended);
            self.done += 1;
            if self.sent < self.count {
                self.send(slot);
            }
        }
        if self.done == before {
            return None;
        }
        self.kick();
        Some(())
    }
}

/// Test: `count=` transfers of `bytes=`, `depth=` at a time, `random=1` or in sequence, `write=1` or
/// reads; with `queues=2` as many on each of two queues at once.
pub fn disk(boot: &Boot) {
    let bytes = boot.number("bytes", 4096);
    let index = boot.number("disk", 0);
    match boot.number("queues", 1) {
        1 => run(boot, [Disk::start(index, bytes, false)]),
        2 => run(boot, Disk::start_queues::<2>(index, bytes)),
        more => panic!("{more} queues are not what this can do"),
    }
}

fn run<const N: usize>(boot: &Boot, disks: [Disk; N]) {
    let mut loads = disks.map(|disk| Load::new(boot, disk));
    loads.iter_mut().for_each(Load::warm);
    say!("go");
    loads.iter_mut().for_each(Load::begin);
    while loads.iter().any(|load| load.done < load.count) {
        memory::wait_for("the disk", || {
            let moved = loads.iter_mut().filter_map(Load::turn).count();
            (moved > 0).then_some(())
        });
    }
    let kicks: u64 = loads.iter().map(|load| load.kicks).sum();
    say!("done kicks={kicks}");
    for (number, load) in loads.iter().enumerate() {
        say!("queue {number}: {} answers", load.done);
    }
}

fn checked((slot, status): (u16, u8)) -> u16 {
    assert!(status == 0, "request {slot}: status {status}");
    slot
}
