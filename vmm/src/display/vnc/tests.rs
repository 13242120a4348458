//! A client of our own against the server: coming in, pictures, keys, and clients that mean harm.

mod coming;

use super::auth;
use super::socket::Dialect;
use super::{Rules, Server};
use devices::backend::display::{Cursor, Display, Event, InputSink, Rect, Screen, code};
use flate2::{Decompress, FlushDecompress};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vmm_api::spec::{InputModel, SharePolicy};

/// Far more than anything takes here, and an end for what never comes.
const DEADLINE: Duration = Duration::from_secs(120);

struct House {
    folder: TempDir,
    display: Arc<Display>,
    /// Where it listens with TCP.
    tcp: SocketAddr,
    _server: Server,
}

impl House {
    fn new(password: Option<&str>, share: SharePolicy) -> Self {
        Self::with(Rules {
            name: "web01".into(),
            password: password.map(Into::into),
            password_until: None,
            share,
            patience: DEADLINE,
            typing: DEADLINE,
        })
    }

    fn with(rules: Rules) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let unix = |name| UnixListener::bind(folder.path().join(name)).expect("a socket");
        let tcp = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = tcp.local_addr().expect("its address");
        let listeners: [(OwnedFd, _); 3] = [
            (unix("vnc").into(), Dialect::Plain),
            (unix("web").into(), Dialect::Web),
            (tcp.into(), Dialect::Plain),
        ];
        for (listener, _) in &listeners {
            rustix::io::ioctl_fionbio(listener, true).expect("a socket");
        }
        let display = Arc::new(Display::default());
        let server = Server::serve(listeners.into(), rules, &display).expect("a server");
        Self {
            folder,
            display,
            tcp: address,
            _server: server,
        }
    }

    fn unix(&self, name: &str) -> UnixStream {
        let socket = UnixStream::connect(self.folder.path().join(name)).expect("the server");
        socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
        socket
    }

    fn tcp(&self) -> TcpStream {
        let socket = TcpStream::connect(self.tcp).expect("the server");
        socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
        socket
    }

    fn connect(&self) -> Client {
        Client::on(self.unix("vnc"))
    }

    /// A client that is in and takes these encodings.
    fn enter(&self, encodings: &[i32]) -> Client {
        self.let_in(self.connect(), encodings)
    }

    fn let_in(&self, mut client: Client, encodings: &[i32]) -> Client {
        client.greet(b"RFB 003.008\n");
        assert_eq!(client.read(2), [1, 1]);
        client.send(&[1]);
        assert_eq!(client.read(4), [0; 4]);
        client.send(&[1]);
        client.read_init();
        client.encodings(encodings);
        client
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

struct Client {
    socket: Box<dyn Stream>,
    stream: Decompress,
}

/// A rectangle of an update.
#[derive(Debug)]
struct Part {
    rect: Rect,
    encoding: i32,
    /// Four bytes a pixel, or what the pseudo-encoding has.
    data: Vec<u8>,
}

impl Client {
    fn on(socket: impl Stream + 'static) -> Self {
        Self {
            socket: Box::new(socket),
            stream: Decompress::new(true),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }

    fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.socket.read_exact(&mut bytes).expect("bytes");
        bytes
    }

    fn number(&mut self) -> u32 {
        let bytes = self.read(4);
        u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn half(&mut self) -> u32 {
        let bytes = self.read(2);
        u32::from(bytes[0]) << 8 | u32::from(bytes[1])
    }

    /// Whether the server has closed.
    fn is_out(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => {
                let late = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
                assert!(!late.contains(&error.kind()), "it is still there");
                // A reset is an end too.
                true
            }
        }
    }

    fn greet(&mut self, version: &[u8]) {
        assert_eq!(self.read(12), b"RFB 003.008\n");
        self.send(version);
    }

    fn read_init(&mut self) -> (u32, u32) {
        let size = (self.half(), self.half());
        self.read(16);
        let length = self.number();
        assert_eq!(self.read(length as usize), b"web01");
        size
    }

    fn encodings(&mut self, encodings: &[i32]) {
        let mut bytes = vec![2, 0, 0, encodings.len() as u8];
        bytes.extend(encodings.iter().flat_map(|number| number.to_be_bytes()));
        self.send(&bytes);
    }

    fn request(&mut self, incremental: bool) {
        self.send(&[3, u8::from(incremental), 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    }

    fn update(&mut self) -> Vec<Part> {
        assert_eq!(self.read(2), [0, 0]);
        let count = self.half();
        (0..count).map(|_| self.part()).collect()
    }

    fn part(&mut self) -> Part {
        let rect = Rect {
            x: self.half(),
            y: self.half(),
            width: self.half(),
            height: self.half(),
        };
        let encoding = self.number().cast_signed();
        let area = (rect.width * rect.height) as usize;
        let data = match encoding {
            0 => self.read(area * 4),
            16 => self.zrle(rect),
            -239 => self.read(area * 4 + (rect.width.div_ceil(8) * rect.height) as usize),
            -308 => {
                let screens = self.number() >> 24;
                self.read(screens as usize * 16)
            }
            _ => Vec::new(),
        };
        Part {
            rect,
            encoding,
            data,
        }
    }

    /// A rectangle of ZRLE, decoded without a line of the encoder.
    fn zrle(&mut self, rect: Rect) -> Vec<u8> {
        let length = self.number() as usize;
        let packed = self.read(length);
        let mut plain = Vec::with_capacity(64 + (rect.width * rect.height) as usize * 8);
        self.stream
            .decompress_vec(&packed, &mut plain, FlushDecompress::Sync)
            .expect("zlib");
        let (mut at, mut out) = (0, vec![0; (rect.width * rect.height) as usize * 4]);
        let mut take = |count: usize| {
            at += count;
            plain[at - count..at].to_vec()
        };
        for top in (0..rect.height).step_by(64) {
            for left in (0..rect.width).step_by(64) {
                let (wide, high) = ((rect.width - left).min(64), (rect.height - top).min(64));
                let kind = usize::from(take(1)[0]);
                assert!(kind <= 16, "a kind that is not used: {kind}");
                let colours: Vec<_> = (0..kind).map(|_| take(3)).collect();
                for y in top..top + high {
                    let bits = match kind {
                        0 | 1 => 0,
                        2 => 1,
                        3 | 4 => 2,
                        _ => 4,
                    };
                    let packed = take((wide as usize * bits).div_ceil(8));
                    for x in 0..wide {
                        let colour = match kind {
                            0 => take(3),
                            1 => colours[0].clone(),
                            _ => {
                                let bit = x as usize * bits;
                                let shift = 8 - bits - bit % 8;
                                let index = packed[bit / 8] >> shift & ((1 << bits) - 1);
                                colours[usize::from(index)].clone()
                            }
                        };
                        let place = ((y * rect.width + left + x) * 4) as usize;
                        out[place..place + 3].copy_from_slice(&colour);
                    }
                }
            }
        }
        out
    }
}

/// A picture with squares of every kind.
fn paint(display: &Display, width: u32, height: u32) {
    display.resize(width, height);
    display.paint(Rect::of(width, height), |y, row| {
        for (x, pixel) in (0_u32..).zip(row.chunks_exact_mut(4)) {
            let value = match (x / 64 + y / 64) % 4 {
                0 => 7,
                1 => x % 2 * 200,
                2 => (x + y) % 11 * 20,
                _ => x.wrapping_mul(y).wrapping_mul(0x9e37_79b9) >> 8,
            };
            pixel.copy_from_slice(&(value & 0xff_ffff).to_le_bytes());
        }
    });
}

fn assemble(parts: &[Part], width: u32, height: u32) -> Vec<u8> {
    let mut picture = vec![0xee; (width * height * 4) as usize];
    for part in parts.iter().filter(|part| part.encoding >= 0) {
        let rows = part.data.chunks_exact(part.rect.width as usize * 4);
        for (y, row) in (part.rect.y..).zip(rows) {
            let start = ((y * width + part.rect.x) * 4) as usize;
            picture[start..start + row.len()].copy_from_slice(row);
        }
    }
    picture
}

#[test]
fn every_version_is_let_in() {
    let house = House::new(None, SharePolicy::Ignore);
    let mut old = house.connect();
    old.greet(b"RFB 003.003\n");
    assert_eq!(old.number(), 1);
    old.send(&[0]);
    assert_eq!(old.read_init(), (640, 480));
    let mut middle = house.connect();
    middle.greet(b"RFB 003.007\n");
    assert_eq!(middle.read(2), [1, 1]);
    middle.send(&[1, 1]);
    assert_eq!(middle.read_init(), (640, 480));
    let mut new = house.enter(&[0]);
    new.request(false);
    let parts = new.update();
    assert_eq!(assemble(&parts, 640, 480), vec![0; 640 * 480 * 4]);
}

#[test]
fn the_password_opens_and_nothing_else_does() {
    let house = House::new(Some("geheim"), SharePolicy::AllowExclusive);
    for (password, right) in [("geheim", true), ("Geheim", false), ("", false)] {
        let mut client = house.connect();
        client.greet(b"RFB 003.008\n");
        assert_eq!(client.read(2), [1, 2]);
        client.send(&[2]);
        let challenge = client.read(16).try_into().expect("a challenge");
        client.send(&auth::answer(password.as_bytes(), challenge));
        if right {
            assert_eq!(client.number(), 0);
            client.send(&[1]);
            client.read_init();
        } else {
            assert_eq!(client.number(), 1);
            let length = client.number();
            assert_eq!(client.read(length as usize), b"the password is wrong");
            assert!(client.is_out());
        }
    }
    // Without being asked nobody comes in.
    let mut client = house.connect();
    client.greet(b"RFB 003.008\n");
    assert_eq!(client.read(2), [1, 2]);
    client.send(&[1, 1]);
    assert_eq!(client.number(), 1);
}

#[test]
fn raw_and_packed_pictures_are_the_picture() {
    let house = House::new(None, SharePolicy::AllowExclusive);
    paint(&house.display, 333, 222);
    let whole = house.display.copy(Rect::of(333, 222));
    for encodings in [&[0][..], &[16, 0]] {
        let mut client = house.enter(encodings);
        for _ in 0..3 {
            client.request(false);
            let parts = client.update();
            assert!(parts.iter().all(|part| part.encoding == encodings[0]));
            assert_eq!(assemble(&parts, 333, 222), whole);
        }
        // Then only what changes.
        client.request(true);
        let rect = Rect {
            x: 100,
            y: 100,
            width: 2,
            height: 2,
        };
        house.display.paint(rect, |_, row| row.fill(0));
        let parts = client.update();
        assert!(parts.iter().all(|part| part.rect.width <= 64), "{parts:?}");
        paint(&house.display, 333, 222);
    }
}

#[test]
fn a_client_follows_sizes_and_pointers_when_it_can() {
    struct Wishes(Mutex<Vec<(u32, u32)>>);
    impl Screen for Wishes {
        fn wish(&self, width: u32, height: u32) {
            self.0.lock().unwrap().push((width, height));
        }
    }
    let house = House::new(None, SharePolicy::AllowExclusive);
    let wishes = Arc::new(Wishes(Mutex::default()));
    let screen: Arc<dyn Screen> = wishes.clone();
    house.display.set_screen(Arc::downgrade(&screen));
    let mut client = house.enter(&[0, -308, -239]);
    let told = client.update();
    assert_eq!((told[0].encoding, told[0].rect), (-308, Rect::of(640, 480)));
    client.request(true);
    client.update();
    client.request(true);
    house.display.resize(80, 60);
    // The size comes alone: what else it had would be forgotten with the old picture.
    let parts = client.update();
    assert_eq!(parts.len(), 1, "{parts:?}");
    assert_eq!((parts[0].encoding, parts[0].rect), (-308, Rect::of(80, 60)));
    client.request(true);
    let pixels = client.update();
    assert_eq!(assemble(&pixels, 80, 60), vec![0; 80 * 60 * 4]);
    client.request(true);
    house.display.set_cursor(Some(Cursor {
        width: 2,
        height: 2,
        hot: (1, 0),
        pixels: vec![255; 16],
    }));
    let parts = client.update();
    let pointer = parts.iter().find(|part| part.encoding == -239);
    assert_eq!(pointer.expect("a pointer").data[16..], [0xc0, 0xc0]);
    let mut wish = vec![251, 0, 4, 0, 3, 0, 1, 0];
    wish.extend([0; 16]);
    client.send(&wish);
    let answer = client.update();
    assert_eq!((answer[0].rect.x, answer[0].rect.y), (1, 4), "forwarded");
    assert_eq!(*wishes.0.lock().unwrap(), [(1024, 768)]);
    // One that cannot sees as much as it knows of.
    let mut simple = house.enter(&[0]);
    simple.request(false);
    simple.update();
    house.display.resize(400, 300);
    simple.request(true);
    let parts = simple.update();
    assert!(
        parts.iter().all(|part| part.rect.is_within(80, 60)),
        "{parts:?}"
    );
}

#[test]
fn keys_and_buttons_arrive_and_are_let_go_with_their_client() {
    struct Keys(Mutex<Vec<Event>>);
    impl InputSink for Keys {
        fn model(&self) -> InputModel {
            InputModel::Keyboard
        }
        fn group(&self, events: &[Event]) {
            self.0.lock().unwrap().extend(events);
        }
    }
    let house = House::new(None, SharePolicy::AllowExclusive);
    let keys = Arc::new(Keys(Mutex::default()));
    let sink: Arc<dyn InputSink> = keys.clone();
    house.display.add_input(Arc::downgrade(&sink));
    let mut client = house.enter(&[0, -258]);
    assert_eq!(client.update()[0].encoding, -258);
    client.send(&[4, 1, 0, 0, 0, 0, 0, b'a']);
    client.send(&[255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x9d]);
    client.send(&[4, 0, 0, 0, 0, 0, 0, b'a']);
    drop(client);
    let key = |code: u16, down: u32| [Event::new(code::EV_KEY, code, down), Event::SYN];
    let expected = [key(30, 1), key(97, 1), key(30, 0), key(97, 0)].concat();
    let begun = Instant::now();
    while keys.0.lock().unwrap().len() < expected.len() {
        assert!(begun.elapsed() < DEADLINE, "keys are not let go");
        std::thread::yield_now();
    }
    assert_eq!(*keys.0.lock().unwrap(), expected);
}

#[test]
fn a_client_that_does_not_read_holds_up_neither_painter_nor_others() {
    let house = House::new(None, SharePolicy::AllowExclusive);
    paint(&house.display, 1600, 1200);
    let mut lazy = house.enter(&[0]);
    for _ in 0..50 {
        lazy.request(false);
    }
    let mut quick = house.enter(&[16]);
    for round in 0..20_u32 {
        quick.request(round > 0);
        let whole = Rect::of(1600, 1200);
        house.display.paint(whole, |_, row| row.fill(round as u8));
        quick.update();
    }
    // It gets the picture of now, not those that it has missed.
    let mut parts = lazy.update();
    while parts.iter().map(|p| p.data.len()).sum::<usize>() < 1600 * 1200 * 4 {
        lazy.request(true);
        parts.extend(lazy.update());
    }
}

#[test]
fn nonsense_ends_its_client_only() {
    let house = House::new(None, SharePolicy::AllowExclusive);
    let mut bystander = house.enter(&[0]);
    for greeting in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 64],
        b"RFB 003.008\n\x07",
    ] {
        let mut client = house.connect();
        client.send(greeting);
        client.read(12);
        let _ = client.is_out();
    }
    for message in [
        &[99_u8][..],
        &[2, 0, 255, 255],
        &[6, 0, 0, 0, 255, 255, 255, 255],
        &[255, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 32, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let mut client = house.enter(&[0]);
        client.send(message);
        assert!(client.is_out(), "{message:?}");
    }
    // A long clipboard is read over.
    bystander.send(&[6, 0, 0, 0, 0, 1, 0, 0]);
    bystander.send(&vec![b'x'; 0x1_0000]);
    bystander.request(false);
    bystander.update();
}
