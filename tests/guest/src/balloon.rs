//! A driver for a balloon (virtio 1.3, 5.5) that does as the host asks, and sees what became of its pages.

use crate::boot::Boot;
use crate::memory::{self, load, store};
use crate::port::Serial;
use crate::say;
use crate::virtio::{Device, Part, Queue};

/// Device type of a balloon.
pub const BALLOON: u16 = 5;
/// Statistics and free page reporting: with both, queue 3 is for reports.
pub const FEATURES: u64 = 1 << 1 | 1 << 5;
pub const DEFLATE: u16 = 1;
pub const REPORTING: u16 = 3;

/// Pages from here to the end of RAM come and go.
const AREA: u64 = 32 << 20;
const PAGE: u64 = 4096;
/// Page frames of a request.
const BATCH: u64 = 1024;
/// What is reported as free when that is asked for.
const FREE: u64 = 4 << 20;

/// Test: gives up as many pages as the configuration says until a `q` is typed; an `r` has the end of RAM
/// reported as free.
pub fn test(boot: &Boot) {
    let mut device = Device::find(BALLOON, 0).start(FEATURES, FEATURES);
    let mut inflate = device.queue(0, None);
    let mut deflate = device.queue(DEFLATE, None);
    let mut reporting = device.queue(REPORTING, None);
    let list = memory::take(PAGE);
    let most = (boot.ram_end - AREA) / PAGE;
    (0..most).for_each(fill);
    let mut held = 0;
    say!("ready");
    loop {
        match Serial::typed() {
            Some(b'q') => break,
            Some(b'r') => report(&mut reporting, boot.ram_end - FREE, held, most),
            _ => {}
        }
        let wanted = u64::from(load::<u32>(device.config)).min(most);
        if wanted == held {
            continue;
        }
        if wanted > held {
            tell(&mut inflate, list, held..wanted);
        } else {
            tell(&mut deflate, list, wanted..held);
            for page in wanted..held {
                expect(page, 0);
                fill(page);
            }
        }
        held = wanted;
        (held..most).for_each(|page| expect(page, !page));
        store(device.config + 4, held as u32);
        say!("holds {held} pages");
    }
}

/// Tells the device of pages, some at a time.
fn tell(queue: &mut Queue, list: u64, pages: core::ops::Range<u64>) {
    for first in pages.clone().step_by(BATCH as usize) {
        let count = BATCH.min(pages.end - first);
        for at in 0..count {
            let frame = (AREA / PAGE + first + at) as u32;
            store(list + 4 * at, frame);
        }
        finish(queue, Part::to_device(list, 4 * count as u32));
    }
}

fn report(queue: &mut Queue, start: u64, held: u64, most: u64) {
    let first = (start - AREA) / PAGE;
    assert!(held <= first, "pages in the balloon are not free");
    finish(queue, Part::from_device(start, FREE as u32));
    for page in first..most {
        expect(page, 0);
        fill(page);
    }
    say!("reported {FREE} bytes");
}

fn finish(queue: &mut Queue, part: Part) {
    queue.submit(0, &[part]);
    let _told = queue.kick();
    memory::wait_for("the balloon", || queue.done());
}

fn fill(page: u64) {
    store(AREA + page * PAGE, !page);
}

fn expect(page: u64, value: u64) {
    let found: u64 = load(AREA + page * PAGE);
    assert!(
        found == value,
        "page {page} holds {found:#x}, not {value:#x}"
    );
}
