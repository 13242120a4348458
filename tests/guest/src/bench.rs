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

/// Test: `count=` transfers of `bytes=`, `depth=` at a time, `random=1` or in sequence, `write=1` or
/// reads.
pub fn disk(boot: &Boot) {
    let bytes = boot.number("bytes", 4096);
    let count = boot.number("count", 1000);
    let write = boot.number("write", 0) != 0;
    let mut disk = Disk::start(boot.number("disk", 0), bytes, false);
    let depth = boot.number("depth", 1).min(u64::from(disk.slots()));
    let mut places = Places {
        random: boot.number("random", 0) != 0,
        fit: disk.sectors / (bytes / 512),
        step: bytes / 512,
        state: 0x9e37_79b9_7f4a_7c15,
    };
    assert!(places.fit > 0 && depth > 0 && count >= depth, "too small");
    let mut send = |disk: &mut Disk, slot: u16| {
        let sector = places.next();
        if write {
            disk.submit_write(slot, sector, bytes);
        } else {
            disk.submit_read(slot, sector, bytes);
        }
    };
    // Round one touches every buffer, which does not count.
    for slot in 0..depth as u16 {
        send(&mut disk, slot);
    }
    let _told = disk.kick();
    for _ in 0..depth {
        finish(&mut disk);
    }
    say!("go");
    for slot in 0..depth as u16 {
        send(&mut disk, slot);
    }
    let mut kicks = u64::from(disk.kick());
    let (mut sent, mut done) = (depth, 0);
    while done < count {
        let mut slot = Some(finish(&mut disk));
        // All that have ended get a successor, and one bell tells of them.
        while let Some(ended) = slot {
            done += 1;
            if sent < count {
                send(&mut disk, ended);
                sent += 1;
            }
            slot = disk.done().map(checked);
        }
        kicks += u64::from(disk.kick());
    }
    say!("done kicks={kicks}");
}

fn finish(disk: &mut Disk) -> u16 {
    checked(memory::wait_for("the disk", || disk.done()))
}

fn checked((slot, status): (u16, u8)) -> u16 {
    assert!(status == 0, "request {slot}: status {status}");
    slot
}
