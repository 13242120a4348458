//! A client that says anything, for fuzz bodies.
//!
//! The first byte of an input says how it is said, the others are said. Bit 0: a web page asks for a
//! WebSocket in words of its own. Bit 1: the client reads nothing until it has gone.

use super::client::Client;
use super::house::{House, Rules};
use super::socket::Dialect;
use devices::backend::display::{Display, Rect};
use images::exec::{Engine, Executor, readable, spawn_local, writable};
use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use vmm_api::spec::SharePolicy;

/// Bytes that a client says at most: they fit a socket's buffer.
const MOST: usize = 32 << 10;
/// A client that was told more has seen the picture: greetings and sizes are shorter.
const PICTURE: usize = 250;
/// What opens a WebSocket.
const OPEN: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Everything that a client says before it goes. Whether it was shown the picture.
pub fn client(bytes: &[u8]) -> bool {
    let Some((how, bytes)) = bytes.split_first() else {
        return false;
    };
    say(*how, bytes, Dialect::Plain).len() > PICTURE
}

/// As [`client`], for a web page: a WebSocket is opened and answered first, since nobody may say more
/// before that.
pub fn web(bytes: &[u8]) -> bool {
    let Some((how, bytes)) = bytes.split_first() else {
        return false;
    };
    let heard = say(*how, bytes, Dialect::Web);
    let head = heard.windows(4).position(|four| four == END_OF_HEAD);
    head.is_some_and(|head| heard.starts_with(b"HTTP/1.1 101 ") && heard.len() - head > PICTURE)
}

/// What the client was told.
fn say(how: u8, bytes: &[u8], dialect: Dialect) -> Vec<u8> {
    let Ok((ours, mut theirs)) = UnixStream::pair() else {
        return Vec::new();
    };
    let bytes = bytes.get(..MOST).unwrap_or(bytes);
    ours.set_nonblocking(true).expect("a socket");
    theirs.set_nonblocking(true).expect("a socket");
    let display = Arc::new(Display::default());
    display.resize(200, 100);
    display.paint(Rect::of(200, 100), |y, row| row.fill(y as u8));
    let patience = Duration::from_secs(60);
    let rules = Rules {
        name: "fuzz".into(),
        password: None,
        password_until: None,
        share: SharePolicy::AllowExclusive,
        patience,
        typing: patience,
    };
    let house = Rc::new(House::new(rules, display));
    let guest = house.admit(None);
    let heard = Rc::new(RefCell::new(Vec::new()));
    let executor = Executor::new(Engine::Threads).expect("an executor");
    let page = Page {
        socket: theirs.try_clone().expect("a socket"),
        heard: Rc::clone(&heard),
    };
    let (said, opens) = (bytes.to_vec(), dialect == Dialect::Web && how & 1 == 0);
    executor.block_on(async move {
        spawn_local(async move {
            // Whoever is sent away hears no more, and says no more.
            let _ = page.live(&said, opens, how & 2 == 0).await;
        })
        .expect("an executor");
        Client::serve(ours.into(), dialect, house, guest).await;
    });
    drop(executor);
    let mut heard = heard.borrow().clone();
    // What is left is there: the server has gone.
    let _ = theirs.read_to_end(&mut heard);
    heard
}

/// The client's side.
struct Page {
    socket: UnixStream,
    heard: Rc<RefCell<Vec<u8>>>,
}

impl Page {
    async fn live(&self, said: &[u8], opens: bool, reads: bool) -> std::io::Result<()> {
        if opens {
            self.write(OPEN).await?;
            while !self.heard.borrow().ends_with(END_OF_HEAD) {
                // The greeting of RFB follows only when there was time: byte by byte.
                if self.read(1).await? == 0 {
                    return Ok(());
                }
            }
        }
        self.write(said).await?;
        self.socket.shutdown(Shutdown::Write)?;
        while reads && self.read(4096).await? > 0 {}
        Ok(())
    }

    async fn write(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match (&self.socket).write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    writable(self.socket.as_fd()).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Hears at most so many bytes; none at the end.
    async fn read(&self, most: usize) -> std::io::Result<usize> {
        let mut bytes = vec![0; most];
        loop {
            match (&self.socket).read(&mut bytes) {
                Ok(count) => {
                    let heard = bytes.get(..count).unwrap_or_default();
                    self.heard.borrow_mut().extend_from_slice(heard);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    readable(self.socket.as_fd()).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
