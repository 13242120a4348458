//! Inputs that get to the heart of each body: what a proper driver does, as a script.
//!
//! Bytes here are the choices that `script` and `attacker` read, in their order; a body whose script
//! changes makes the seed miss, which a test notices.

/// Choices of a driver, with `lead` before each step.
struct Steps {
    lead: u8,
    bytes: Vec<u8>,
}

/// Which of the attacker's lengths.
const HEADER: &[u8] = &[2, 2];
const SECTOR: &[u8] = &[2, 4];
const FRAME: &[u8] = &[2, 5];
const ONE: &[u8] = &[2, 0];
/// Four times sixteen bytes.
const COMMAND: &[u8] = &[1, 4];
/// Which of its flags.
const NONE: u8 = 0;
const NEXT: u8 = 1;
const WRITE: u8 = 3;
const NEXT_WRITE: u8 = 5;
/// Features that a driver agrees on: the usual ones.
const FEATURES: [u8; 5] = [0; 5];

impl Steps {
    /// Behind what the body reads first.
    fn after(first: &[u8]) -> Self {
        Self {
            lead: 4,
            bytes: first.to_vec(),
        }
    }

    fn step(&mut self, queue: u8, what: &[u8]) {
        self.bytes.extend([self.lead, queue]);
        self.bytes.extend_from_slice(what);
    }

    /// Descriptor `at` of a queue: bytes from the piece `data`, so many, with flags; the next is `at` + 1.
    fn describe(&mut self, queue: u8, at: u8, data: u8, (length, flags): (&[u8], u8)) {
        let head = [0, 0, at, 1, 4, data];
        self.step(queue, &[&head, length, &[flags, 1, at + 1]].concat());
    }

    fn offer(&mut self, queue: u8, head: u8) {
        self.step(queue, &[5, 1, head]);
    }

    /// A request's header in the piece `data`: which of the attacker's kinds, and a sector.
    fn header(&mut self, data: u8, kind: u8, sector: u8) {
        self.step(0, &[9, data, kind, 0, 0, 0, 0, 1, sector, 1, 0, 1, 0]);
    }

    /// The host does what it does in this body.
    fn host(&mut self) {
        self.bytes.push(1);
    }

    /// Time for the device's thread.
    fn wait(&mut self) {
        self.bytes.extend([2; 60]);
    }

    fn seed(self) -> Vec<u8> {
        self.bytes
    }
}

/// A chain that is read and written.
pub fn chains() -> Vec<u8> {
    let readable = [4, 0, 0x40, 2, 64, NEXT, 1];
    let writable = [4, 0, 0x50, 2, 64, WRITE, 0];
    let table = [0, 2, 0, 0];
    [&[0, 2][..], &readable, &writable, &table, &[0; 16]].concat()
}

/// A request that is offered, and finished by the device.
pub fn transport() -> Vec<u8> {
    let mut steps = Steps::after(&FEATURES);
    steps.lead = 1;
    steps.describe(0, 0, 0, (SECTOR, WRITE));
    steps.offer(0, 0);
    // The device's turn, its first queue, and how.
    steps.bytes.extend([0, 0, 7, 1, 0, 16]);
    steps.seed()
}

/// A sector that is read.
pub fn block_request() -> Vec<u8> {
    // A TiB, writable, with discard; 16 bytes to read and 513 to write.
    let disk = [3, 0, 1, 1, 16, 2, 1, 2];
    [&disk[..], &[0, 1, 0, 1]].concat()
}

/// A sector that is written and read again.
pub fn block() -> Vec<u8> {
    let mut steps = Steps::after(&[&[0][..], &FEATURES].concat());
    for (first, kind, data) in [(0, 1, NEXT), (3, 0, NEXT_WRITE)] {
        steps.header(first, kind, 1);
        steps.describe(0, first, first, (HEADER, NEXT));
        steps.describe(0, first + 1, 40, (SECTOR, data));
        steps.describe(0, first + 2, 60, (ONE, WRITE));
        steps.offer(0, first);
    }
    steps.wait();
    steps.seed()
}

/// Frames from and to the driver.
fn frames(mut steps: Steps) -> Vec<u8> {
    for at in 0..4 {
        steps.describe(0, at, at * 30, (FRAME, WRITE));
        steps.offer(0, at);
    }
    for at in 0..2 {
        steps.describe(1, at, 120 + at * 30, (FRAME, NONE));
        steps.offer(1, at);
    }
    for _ in 0..3 {
        steps.wait();
        steps.host();
    }
    steps.wait();
    steps.seed()
}

/// Frames that go and come back.
pub fn net() -> Vec<u8> {
    frames(Steps::after(&FEATURES))
}

/// Frames that go, and the peer's.
pub fn net_stream() -> Vec<u8> {
    frames(Steps::after(&[&[64][..], &FEATURES].concat()))
}

/// Two queue pairs, which a card may have.
pub fn net_control() -> Vec<u8> {
    vec![4, 0, 2, 0]
}

/// Random bytes that the host has.
pub fn rng() -> Vec<u8> {
    let mut steps = Steps::after(&[&[0][..], &FEATURES].concat());
    steps.host();
    steps.describe(0, 0, 0, (SECTOR, WRITE));
    steps.offer(0, 0);
    steps.wait();
    steps.seed()
}

/// A port that the driver has, opens, and writes to while a client is there.
pub fn virtio_console() -> Vec<u8> {
    // Several ports, the usual features, and messages by their places in the body's lists: it can take
    // ports, has port 1, and opens it.
    let said = [[0, 0, 1], [1, 2, 1], [1, 5, 1]].concat();
    let mut first = [&[1][..], &FEATURES, &said].concat();
    first.resize(1 + FEATURES.len() + 3 * super::serial::MESSAGES, 0);
    let mut steps = Steps::after(&first);
    steps.host();
    for at in 0..3 {
        steps.describe(3, at, at, (HEADER, NONE));
        steps.offer(3, at);
    }
    steps.wait();
    steps.describe(5, 0, 100, (SECTOR, NONE));
    steps.offer(5, 0);
    for _ in 0..3 {
        steps.wait();
        steps.host();
    }
    steps.seed()
}

/// A picture that is made, given memory, filled, and shown.
pub fn gpu() -> Vec<u8> {
    // Kinds and numbers by their places in the body's lists.
    const CREATE: u8 = 1;
    const SHOW: u8 = 3;
    const FLUSH: u8 = 4;
    const TRANSFER: u8 = 5;
    const ATTACH: u8 = 6;
    const SIDE: u8 = 5;
    // Half of RAM, which begins where the commands are.
    const HALF: u8 = 7;
    let commands: [(u8, &[u8]); 5] = [
        (CREATE, &[1, 1, SIDE, SIDE]),
        (ATTACH, &[1, 1, HALF, 0, HALF, 0]),
        (TRANSFER, &[0, 0, SIDE, SIDE, 0, 0, 1, 0]),
        (SHOW, &[0, 0, SIDE, SIDE, 0, 1]),
        (FLUSH, &[0, 0, SIDE, SIDE, 1, 0]),
    ];
    let mut first = Vec::new();
    for (kind, numbers) in commands {
        first.push(kind);
        first.extend_from_slice(numbers);
        first.resize(first.len().next_multiple_of(11), 0);
    }
    first.resize(16 * 11, 0);
    first.extend(FEATURES);
    let mut steps = Steps::after(&first);
    steps.host();
    for command in 0..5 {
        steps.describe(0, 2 * command, command, (COMMAND, NEXT));
        steps.describe(0, 2 * command + 1, 100 + 8 * command, (SECTOR, WRITE));
        steps.offer(0, 2 * command);
    }
    for _ in 0..3 {
        steps.wait();
        steps.host();
    }
    steps.seed()
}

/// Keys, and room for them.
pub fn input() -> Vec<u8> {
    let mut steps = Steps::after(&[&[0][..], &FEATURES].concat());
    for at in 0..8 {
        steps.describe(0, at, at, (HEADER, WRITE));
        steps.offer(0, at);
    }
    for _ in 0..4 {
        steps.host();
    }
    steps.wait();
    steps.seed()
}

/// Pages that are given up.
pub fn balloon() -> Vec<u8> {
    // Two flags of the spec, what a driver agrees on, and the balloon's features.
    let mut steps = Steps::after(&[&[0, 0][..], &FEATURES, &[0]].concat());
    steps.host();
    steps.describe(0, 0, 0, (HEADER, NONE));
    steps.offer(0, 0);
    steps.wait();
    steps.seed()
}

/// A function and a root port that are switched on and told where they are.
pub fn pci() -> Vec<u8> {
    // Places in the body's list of functions, an offset, how many bytes, a value of one, and by which way.
    const PORT: u8 = 1;
    const FUNCTION: u8 = 3;
    let ecam = |function, offset, length, value| [function, 1, offset, length, 1, value, 0];
    let select = [FUNCTION, 1, 4, 0, 1, 0, 5];
    let write = [FUNCTION, 1, 4, 2, 1, 2, 6];
    [
        ecam(FUNCTION, 4, 2, 6),
        ecam(FUNCTION, 0x13, 0, 0xd0),
        ecam(PORT, 0x19, 0, 1),
        ecam(PORT, 4, 2, 6),
        select,
        write,
    ]
    .concat()
}

/// An interrupt that the PIC is set up for, and that is taken.
pub fn ports() -> Vec<u8> {
    // Places in the list of ports: the master's command and data.
    let write = |port: u8, value: u8| [0, 1, port, 0, 1, value];
    let set_up = [(0, 0x11), (1, 8), (1, 4), (1, 1), (1, 0)];
    let set_up = set_up.map(|(port, value)| write(port, value)).concat();
    [&set_up[..], &[12, 4, 1, 13]].concat()
}

/// A machine that was changed in one place, which it can have.
pub fn saved_state() -> Vec<u8> {
    let changes = (0..=u8::MAX).map(|section| vec![0, 0, section, 2, 0, 0, 1, 1, 1]);
    let mut accepted = changes.filter(|change| super::saved_state(change));
    accepted.next().unwrap_or_default()
}
