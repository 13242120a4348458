//! A client that says anything, for fuzz bodies.

use super::client::Client;
use super::{House, Rules};
use devices::backend::display::{Display, Rect};
use images::exec::{Engine, Executor};
use std::cell::RefCell;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use vmm_api::spec::SharePolicy;

/// Bytes that a client says at most: they fit a socket's buffer.
const MOST: usize = 32 << 10;

/// Everything that a client says at once before it goes.
pub fn client(bytes: &[u8]) {
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
    let house = Rc::new(House {
        rules: Rules {
            name: "fuzz".into(),
            password: None,
            password_until: None,
            share: SharePolicy::AllowExclusive,
        },
        display,
        guests: RefCell::default(),
    });
    let bell = house.admit().expect("an empty house");
    let executor = Executor::new(Engine::Threads).expect("an executor");
    executor.block_on(Client::serve(ours.into(), house, bell));
    // Read only now, so that the server also met a client that does not read.
    drop(theirs);
}
