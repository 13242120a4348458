//! A client that says anything, for fuzz bodies.

use super::client::Client;
use super::house::{House, Rules};
use super::socket::Dialect;
use devices::backend::display::{Display, Rect};
use images::exec::{Engine, Executor};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use vmm_api::spec::SharePolicy;

/// Bytes that a client says at most: they fit a socket's buffer.
const MOST: usize = 32 << 10;

/// Everything that a client says at once before it goes.
pub fn client(bytes: &[u8]) {
    say(bytes, Dialect::Plain);
}

/// What a web page says: the request that opens a WebSocket, where the first byte does not ask for a
/// request of its own, and then anything.
pub fn web(bytes: &[u8]) {
    const OPEN: &[u8] =
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    match bytes.split_first() {
        Some((0x80.., rest)) => say(rest, Dialect::Web),
        Some((_, rest)) => say(&[OPEN, rest].concat(), Dialect::Web),
        None => {}
    }
}

fn say(bytes: &[u8], dialect: Dialect) {
    let Ok((ours, mut theirs)) = UnixStream::pair() else {
        return;
    };
    let bytes = bytes.get(..MOST).unwrap_or(bytes);
    ours.set_nonblocking(true).expect("a socket");
    if theirs.write_all(bytes).is_err() || theirs.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let display = Arc::new(Display::default());
    display.resize(200, 100);
    display.paint(Rect::of(200, 100), |y, row| row.fill(y as u8));
    let rules = Rules {
        name: "fuzz".into(),
        password: None,
        password_until: None,
        share: SharePolicy::AllowExclusive,
        patience: Duration::from_secs(60),
    };
    let house = Rc::new(House::new(rules, display));
    let guest = house.admit(None);
    let executor = Executor::new(Engine::Threads).expect("an executor");
    executor.block_on(Client::serve(ours.into(), dialect, house, guest));
    // Read only now, so that the server also met a client that does not read.
    drop(theirs);
}
