//! An image over the Network Block Device protocol: any client reads and writes it through this
//! engine.
//!
//! | file         | what                                                                        |
//! |--------------|-----------------------------------------------------------------------------|
//! | `proto`      | requests, replies and their numbers, as pure functions                      |
//! | `handshake`  | options and their answers, as a pure state machine                          |
//! | `stream`     | bytes to and from a socket                                                  |
//! | `connection` | one client: requests in, many at work at a time, replies out                |
//! | `perform`    | what a request does to the image                                            |
//!
//! All connections live on the thread of one executor. A client is a stranger: what it says is
//! bounded before it is believed, what it does not read is bounded too, and one that is slow, silent
//! or gone holds up nobody else. There is no TLS: serve a Unix socket or the loopback address.
mod connection;
mod handshake;
mod perform;
mod proto;
mod stream;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

pub use stream::Listener;
pub(crate) use stream::Stream;

use crate::error::{Error, Result};
use crate::exec;
use crate::image::Image;
use connection::Connection;

/// What clients see.
pub struct Export {
    image: Arc<Image>,
    name: String,
    description: String,
    /// Where in the image it begins, and its length, in bytes.
    offset: u64,
    size: u64,
    read_only: bool,
    multi_conn: bool,
    /// Transfers of this size and alignment need no copying, in bytes.
    preferred: u32,
}

impl Export {
    /// All of an active image, under the empty name, which is what clients ask for by default.
    pub fn new(image: Arc<Image>) -> Export {
        let preferred = image.alignment().clamp(4096, 65536);
        Export {
            size: image.virtual_size(),
            read_only: image.read_only(),
            image,
            name: String::new(),
            description: String::new(),
            offset: 0,
            multi_conn: true,
            preferred,
        }
    }

    /// Its name and a description for people.
    ///
    /// # Errors
    /// Names of more than 4096 bytes, which the protocol does not allow.
    pub fn named(mut self, name: &str, description: &str) -> Result<Export> {
        if name.len() > 4096 || description.len() > 4096 {
            return Err(Error::invalid(
                "names and descriptions of exports have at most 4096 bytes",
            ));
        }
        self.name = name.to_owned();
        self.description = description.to_owned();
        Ok(self)
    }

    /// Begins so many bytes into the image.
    ///
    /// # Errors
    /// An offset beyond the image.
    pub fn from_offset(mut self, offset: u64) -> Result<Export> {
        self.size = self
            .image
            .virtual_size()
            .checked_sub(offset)
            .ok_or_else(|| Error::invalid(format!("offset {offset} is beyond the image")))?;
        self.offset = offset;
        Ok(self)
    }

    /// Refuses writes.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Export {
        self.read_only |= read_only;
        self
    }

    /// An export of a small image in memory.
    #[cfg(test)]
    fn for_test(name: &str, size: usize) -> Export {
        let memory = crate::storage::MemoryStorage::with_bytes(&vec![0; size]);
        let options = crate::OpenOptions::new(crate::Format::Raw);
        let image = Image::open_storage(memory.into(), "test", &options, &crate::DenyAll);
        let export = Export::new(Arc::new(image.expect("an image")));
        export.named(name, "").expect("a name")
    }
}

/// How a server behaves.
#[derive(Debug, Clone, Copy)]
pub struct ServeOptions {
    /// Clients at a time; 0 means any number. The others wait.
    pub shared: usize,
    /// Go on when the last client has gone.
    pub persistent: bool,
}

/// The connections of a server.
#[derive(Default)]
struct Clients {
    open: RefCell<Vec<Rc<Connection>>>,
    waker: RefCell<Option<Waker>>,
    /// Somebody was here.
    seen: Cell<bool>,
}

impl Clients {
    fn count(&self) -> usize {
        self.open.borrow().len()
    }

    fn add(&self, connection: &Rc<Connection>) {
        self.seen.set(true);
        self.open.borrow_mut().push(connection.clone());
    }

    fn remove(&self, connection: &Rc<Connection>) {
        self.open
            .borrow_mut()
            .retain(|other| !Rc::ptr_eq(other, connection));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn watch(&self, waker: &Waker) {
        *self.waker.borrow_mut() = Some(waker.clone());
    }
}

enum Event {
    Client,
    Done,
}

/// Serves an export until `stop` ends or, unless persistent, the last client has gone. Requests that
/// are at work then are finished. The image stays active.
///
/// # Errors
/// The listening socket failed.
pub async fn serve(
    listener: &Listener,
    export: Export,
    options: ServeOptions,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let fail = |e: std::io::Error| Error::io("cannot wait for clients", &e);
    listener.set_nonblocking().map_err(fail)?;
    // A client that opens a second connection because it may must not wait for itself.
    let multi_conn = options.shared != 1;
    let export = Rc::new(Export {
        multi_conn,
        ..export
    });
    let clients: Rc<Clients> = Rc::default();
    let mut stop = pin!(stop);
    let result = loop {
        let mut ready = pin!(exec::readable(listener.fd()));
        let event = poll_fn(|cx| {
            clients.watch(cx.waker());
            let idle = clients.count() == 0 && clients.seen.get() && !options.persistent;
            if idle || stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Event::Done));
            }
            if options.shared != 0 && clients.count() >= options.shared {
                return Poll::Pending;
            }
            ready.as_mut().poll(cx).map_ok(|()| Event::Client)
        })
        .await;
        match event.and_then(|event| match event {
            Event::Client => Ok((false, listener.accept()?)),
            Event::Done => Ok((true, None)),
        }) {
            Ok((true, _)) => break Ok(()),
            Ok((false, Some(stream))) => start(stream, &export, &clients)?,
            // Whatever was in the way may take a moment to pass.
            Ok((false, None)) => exec::sleep(std::time::Duration::from_millis(10)).await,
            Err(error) => break Err(fail(error)),
        }
    };
    for connection in clients.open.borrow().iter() {
        connection.shutdown();
    }
    poll_fn(|cx| {
        clients.watch(cx.waker());
        match clients.count() {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    result
}

fn start(stream: Stream, export: &Rc<Export>, clients: &Rc<Clients>) -> Result<()> {
    let connection = Rc::new(Connection::new(stream, export.clone()));
    clients.add(&connection);
    let clients = clients.clone();
    exec::spawn_local(async move {
        connection.run().await;
        clients.remove(&connection);
    })
    .map_err(|e| Error::io("cannot serve a client", &e))
}

/// Serves one client to its end: for fuzzing.
pub(crate) async fn serve_one(stream: Stream, export: Export) {
    let connection = Rc::new(Connection::new(stream, Rc::new(export)));
    connection.run().await;
}
