//! A console device with a channel on port 1 (virtio 1.3, 5.3): the driver's side of the control
//! queues, and an echo.

use crate::memory::{self, load, store};
use crate::say;
use crate::virtio::{Device, Part, Queue};

/// Device type of a console.
const CONSOLE: u16 = 3;
const MULTIPORT: u64 = 1 << 1;
/// Control events.
const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;
/// Bytes of each buffer.
const BYTES: u32 = 4096;

struct Line {
    queue: Queue,
    buffer: u64,
}

impl Line {
    fn new(device: &mut Device, index: u16) -> Self {
        Self {
            queue: device.queue(index, None),
            buffer: memory::take(BYTES.into()),
        }
    }

    /// What the device has to say next; its length.
    fn receive(&mut self, what: &str) -> u32 {
        self.queue
            .submit(0, &[Part::from_device(self.buffer, BYTES)]);
        let _told = self.queue.kick();
        memory::wait_for(what, || self.queue.done()).1
    }

    /// Sends what is in the buffer.
    fn send(&mut self, length: u32) {
        self.queue
            .submit(0, &[Part::to_device(self.buffer, length)]);
        let _told = self.queue.kick();
        let (_, written) = memory::wait_for("a write", || self.queue.done());
        assert!(written == 0, "{written} bytes written to a buffer to read");
    }

    /// Sends a control message.
    fn say(&mut self, port: u32, event: u16, value: u16) {
        store(self.buffer, port);
        store(self.buffer + 4, event);
        store(self.buffer + 6, value);
        self.send(8);
    }

    /// Waits for an event of port 1, over those of others; its value.
    fn hear(&mut self, event: u16) -> u16 {
        loop {
            let length = self.receive("a control message");
            assert!(length >= 8, "a control message of {length} bytes");
            let port: u32 = load(self.buffer);
            if port == 1 && load::<u16>(self.buffer + 4) == event {
                return load(self.buffer + 6);
            }
        }
    }
}

/// Test: sends back what comes on port 1, each byte plus one, until a buffer begins with `q`.
pub fn echo() {
    let mut device = Device::find(CONSOLE, 0).start(MULTIPORT, MULTIPORT);
    let mut hears = Line::new(&mut device, 2);
    let mut says = Line::new(&mut device, 3);
    let mut from = Line::new(&mut device, 4);
    let mut to = Line::new(&mut device, 5);
    says.say(0, DEVICE_READY, 1);
    hears.hear(PORT_ADD);
    says.say(1, PORT_READY, 1);
    hears.hear(PORT_NAME);
    says.say(1, PORT_OPEN, 1);
    say!("ready");
    assert!(hears.hear(PORT_OPEN) == 1, "a port closes before it opens");
    say!("connected");
    let mut echoed = 0;
    loop {
        let length = from.receive("a byte");
        if load::<u8>(from.buffer) == b'q' {
            break;
        }
        for at in 0..u64::from(length) {
            let byte: u8 = load(from.buffer + at);
            store(to.buffer + at, byte.wrapping_add(1));
        }
        to.send(length);
        echoed += u64::from(length);
    }
    assert!(hears.hear(PORT_OPEN) == 0, "a port that does not close");
    say!("echoed {echoed} bytes");
}
