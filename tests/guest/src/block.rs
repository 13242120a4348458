//! virtio-blk (virtio 1.3, 5.2): a driver of one function per request kind, and the tests on it.

use crate::boot::Boot;
use crate::memory::{self, load, store};
use crate::say;
use crate::virtio::{Device, Part, Queue};

const BLOCK: u16 = 2;
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const NO_SUCH_KIND: u32 = 0x1234;

const F_RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;
const F_QUEUES: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const WANTED: u64 = F_RO | F_FLUSH | F_DISCARD | F_WRITE_ZEROES;
/// Where the configuration has the number of queues.
const QUEUES: u64 = 34;

pub const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;
/// A status that no device answers: it shows whether the byte was written.
const NOT_ANSWERED: u8 = 0xee;

pub const SECTOR: u64 = 512;
/// Largest transfer of a request here.
const BUFFER: u64 = 256 << 10;

/// One disk with its queue and, per request, a header, a status byte and a buffer.
pub struct Disk {
    device: Device,
    queue: Queue,
    headers: u64,
    buffers: u64,
    buffer_size: u64,
    /// Its size in sectors.
    pub sectors: u64,
}

impl Disk {
    /// Finds and starts a disk whose requests carry up to `buffer_size` bytes.
    pub fn start(index: u64, buffer_size: u64, interrupts: bool) -> Self {
        let mut device = Device::find(BLOCK, index).start(WANTED, 0);
        let queue = device.queue(0, interrupts.then_some(0));
        Self::on(&device, queue, buffer_size)
    }

    /// As [`Disk::start`], with several queues, each as a disk of its own.
    pub fn start_queues<const N: usize>(index: u64, buffer_size: u64) -> [Self; N] {
        let mut device = Device::find(BLOCK, index).start(WANTED | F_QUEUES, F_QUEUES);
        let there: u16 = load(device.config + QUEUES);
        assert!(usize::from(there) >= N, "the disk has {there} queues");
        let queues: [Queue; N] = device.queues();
        queues.map(|queue| Self::on(&device, queue, buffer_size))
    }

    fn on(device: &Device, queue: Queue, buffer_size: u64) -> Self {
        let slots = u64::from(queue.requests());
        Self {
            headers: memory::take(slots * 64),
            buffers: memory::take(slots * buffer_size),
            buffer_size,
            sectors: load(device.config),
            device: device.clone(),
            queue,
        }
    }

    /// Requests that can be under way at a time.
    pub fn slots(&self) -> u16 {
        self.queue.requests()
    }

    /// The buffer of a request.
    pub fn buffer(&self, slot: u16) -> u64 {
        self.buffers + u64::from(slot) * self.buffer_size
    }

    fn header(&self, slot: u16) -> u64 {
        self.headers + u64::from(slot) * 64
    }

    fn prepare(&self, slot: u16, kind: u32, sector: u64) -> (Part, Part) {
        let header = self.header(slot);
        store(header, kind);
        store(header + 4, 0u32);
        store(header + 8, sector);
        store(header + 16, NOT_ANSWERED);
        (
            Part::to_device(header, 16),
            Part::from_device(header + 16, 1),
        )
    }

    /// Queues a read into the request's buffer.
    pub fn submit_read(&mut self, slot: u16, sector: u64, bytes: u64) {
        self.submit_read_to(self.buffer(slot), slot, sector, bytes);
    }

    /// Queues a read to any place.
    pub fn submit_read_to(&mut self, place: u64, slot: u16, sector: u64, bytes: u64) {
        let (head, status) = self.prepare(slot, IN, sector);
        let data = Part::from_device(place, bytes as u32);
        self.queue.submit(slot, &[head, data, status]);
    }

    /// Queues a write of the request's buffer.
    pub fn submit_write(&mut self, slot: u16, sector: u64, bytes: u64) {
        let (head, status) = self.prepare(slot, OUT, sector);
        let data = Part::to_device(self.buffer(slot), bytes as u32);
        self.queue.submit(slot, &[head, data, status]);
    }

    /// Tells the device; whether it wanted to be told.
    pub fn kick(&mut self) -> bool {
        self.queue.kick()
    }

    /// A finished request and its status.
    pub fn done(&mut self) -> Option<(u16, u8)> {
        let (slot, _) = self.queue.done()?;
        Some((slot, load(self.header(slot) + 16)))
    }

    /// Sends what was queued as request 0 and waits for its status.
    fn finish(&mut self) -> u8 {
        let _told = self.kick();
        let (slot, status) = memory::wait_for("the disk", || self.done());
        assert!(slot == 0, "an answer to request {slot}, which was not sent");
        assert!(
            status != NOT_ANSWERED,
            "the device left the status byte alone"
        );
        status
    }

    fn read(&mut self, sector: u64, bytes: u64) -> u8 {
        self.submit_read(0, sector, bytes);
        self.finish()
    }

    fn write(&mut self, sector: u64, bytes: u64) -> u8 {
        self.submit_write(0, sector, bytes);
        self.finish()
    }

    /// A request without data.
    fn bare(&mut self, kind: u32) -> u8 {
        let (head, status) = self.prepare(0, kind, 0);
        self.queue.submit(0, &[head, status]);
        self.finish()
    }

    /// Discard or write zeroes over one range.
    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        let (head, status) = self.prepare(0, kind, 0);
        let buffer = self.buffer(0);
        store(buffer, sector);
        store(buffer + 8, sectors);
        store(buffer + 12, flags);
        self.queue
            .submit(0, &[head, Part::to_device(buffer, 16), status]);
        self.finish()
    }

    fn has(&self, feature: u64) -> bool {
        self.device.features & feature != 0
    }
}

/// Fills the buffer of request 0 with a pattern that no two places on a disk share.
fn fill(disk: &Disk, sector: u64, bytes: u64, salt: u64) {
    for at in (0..bytes).step_by(8) {
        store(disk.buffer(0) + at, pattern(sector * SECTOR + at, salt));
    }
}

fn verify(disk: &Disk, sector: u64, bytes: u64, salt: u64) {
    for at in (0..bytes).step_by(8) {
        let found: u64 = load(disk.buffer(0) + at);
        let expected = if salt == 0 {
            0
        } else {
            pattern(sector * SECTOR + at, salt)
        };
        assert!(
            found == expected,
            "sector {sector}+{at}: {found:#x}, not {expected:#x}"
        );
    }
}

fn pattern(place: u64, salt: u64) -> u64 {
    (place + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt
}

fn expect(what: &str, found: u8, expected: u8) {
    assert!(found == expected, "{what}: status {found}, not {expected}");
}

/// Test: every kind of request, with data verified.
pub fn test(boot: &Boot) {
    let interrupts = boot.number("irq", 0) != 0;
    let mut disk = Disk::start(boot.number("disk", 0), BUFFER, interrupts);
    let sectors = disk.sectors;
    say!(
        "blk: {sectors} sectors, features {:#x}",
        disk.device.features
    );
    let before = memory::interrupts();
    let mut sent = 0;
    if disk.has(F_RO) {
        fill(&disk, 0, SECTOR, 1);
        expect("write to a read-only disk", disk.write(0, SECTOR), IOERR);
        expect("read", disk.read(0, SECTOR), OK);
        return;
    }
    for (sector, bytes) in [
        (0, 512),
        (1, 4096),
        (7, 65536),
        (sectors - 8, 4096),
        (64, BUFFER),
    ] {
        fill(&disk, sector, bytes, 0x55);
        expect("write", disk.write(sector, bytes), OK);
        store(disk.buffer(0), 0u64);
        expect("read", disk.read(sector, bytes), OK);
        verify(&disk, sector, bytes, 0x55);
        sent += 2;
    }
    if disk.has(F_FLUSH) {
        expect("flush", disk.bare(FLUSH), OK);
    }
    let last = sectors - 1;
    expect("read past the end", disk.read(last, 2 * SECTOR), IOERR);
    expect(
        "read far past the end",
        disk.read(u64::MAX - 1, SECTOR),
        IOERR,
    );
    expect("unknown request", disk.bare(NO_SUCH_KIND), UNSUPPORTED);
    ranges(&mut disk);
    identity(&mut disk);
    assert!(!disk.device.needs_reset(), "the device wants a reset");
    if interrupts {
        let taken = memory::wait_for("interrupts", || {
            let taken = memory::interrupts() - before;
            (taken > 0).then_some(taken)
        });
        say!("blk: {taken} interrupts, at least {sent} requests");
    }
}

fn ranges(disk: &mut Disk) {
    fill(disk, 64, BUFFER, 0x55);
    expect("write", disk.write(64, BUFFER), OK);
    if disk.has(F_WRITE_ZEROES) {
        for flags in [0, 1] {
            expect("write zeroes", disk.range(WRITE_ZEROES, 72, 16, flags), OK);
            expect("read", disk.read(72, 16 * SECTOR), OK);
            verify(disk, 72, 16 * SECTOR, 0);
        }
        expect("read", disk.read(88, SECTOR), OK);
        verify(disk, 88, SECTOR, 0x55);
        say!("blk: write zeroes");
    }
    if disk.has(F_DISCARD) {
        expect("discard", disk.range(DISCARD, 128, 128, 0), OK);
        expect("read", disk.read(256, SECTOR), OK);
        verify(disk, 256, SECTOR, 0x55);
        let end = disk.sectors;
        expect(
            "discard past the end",
            disk.range(DISCARD, end, 8, 0),
            IOERR,
        );
        say!("blk: discard");
    }
}

fn identity(disk: &mut Disk) {
    let (head, status) = disk.prepare(0, GET_ID, 0);
    let buffer = disk.buffer(0);
    disk.queue
        .submit(0, &[head, Part::from_device(buffer, 20), status]);
    if disk.finish() == OK {
        let mut text = [0u8; 20];
        for (at, byte) in (0u64..).zip(&mut text) {
            *byte = load(buffer + at);
        }
        let end = text
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(text.len());
        say!(
            "blk: serial {}",
            core::str::from_utf8(&text[..end]).unwrap_or("?")
        );
    }
}

/// Test: reads everything and prints a checksum, for comparison with the file on the host.
pub fn checksum(boot: &Boot) {
    let mut disk = Disk::start(boot.number("disk", 0), BUFFER, false);
    let mut sum = 0u64;
    let mut sector = 0;
    while sector < disk.sectors {
        let bytes = BUFFER.min((disk.sectors - sector) * SECTOR);
        expect("read", disk.read(sector, bytes), OK);
        for at in (0..bytes).step_by(8) {
            sum = sum.rotate_left(5) ^ load::<u64>(disk.buffer(0) + at);
        }
        sector += bytes / SECTOR;
    }
    say!("blkread: {:#018x}", sum);
}
