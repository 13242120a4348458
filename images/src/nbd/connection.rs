//! One client.
//!
//! ```text
//! socket --reader--> request --budget--> a task of its own: perform --> outbox --writer--> socket
//! ```
//!
//! The reader stops while the budget is used up; it comes back when replies have left. So a client
//! that sends without reading, or asks for much at once, costs at most the budget. Replies leave in
//! the order in which they are ready, those of one turn of the executor together.
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::handshake::{Handshake, MAX_OPTION, Next};
use super::proto::{self, Command, OPTION_MAGIC, REQUEST_LEN, Request, Terms, be32, be64};
use super::stream::{Reader, Stream};
use super::{Export, perform};
use crate::exec;
use crate::storage::IoBuf;

/// Requests at work at a time.
const MAX_REQUESTS: usize = 256;
/// Bytes of requests at work and of replies that wait to be sent. A request fits in any case.
const MAX_BYTES: u64 = 64 << 20;
/// What a request costs beside its data.
const REQUEST_COST: u64 = 1 << 10;
/// A client that has not finished its handshake by then is sent away.
const HANDSHAKE_TIME: Duration = Duration::from_secs(60);
/// Replies that are sent with one call.
const BATCH: usize = 128;
/// Buffers that are kept for the next request of the same length.
const SPARE: usize = 64;
/// Larger buffers are not kept.
const SPARE_LEN: usize = 256 << 10;

/// A reply, and what it costs until it has left.
pub(super) struct Reply {
    pub(super) head: Vec<u8>,
    pub(super) data: Option<IoBuf>,
}

struct Waiting {
    reply: Reply,
    cost: u64,
}

#[derive(Default)]
struct State {
    /// Requests and bytes in use.
    requests: usize,
    bytes: u64,
    outbox: Vec<Waiting>,
    /// The reader waits for the budget.
    reader: Option<Waker>,
    /// The writer waits for replies.
    writer: Option<Waker>,
    /// Somebody waits for the writer's end.
    ended: Option<Waker>,
    /// No request comes any more.
    closed: bool,
    writer_done: bool,
    spare: Vec<IoBuf>,
}

/// One client's connection.
pub(super) struct Connection {
    stream: Stream,
    export: Rc<Export>,
    terms: Cell<Terms>,
    state: RefCell<State>,
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Connection {
    pub(super) fn new(stream: Stream, export: Rc<Export>) -> Connection {
        Connection {
            stream,
            export,
            terms: Cell::default(),
            state: RefCell::default(),
        }
    }

    /// Ends the connection after what is at work.
    pub(super) fn shutdown(&self) {
        self.stream.shutdown();
    }

    /// Talks to the client until one of both has enough.
    pub(super) async fn run(self: &Rc<Self>) {
        let mut reader = Reader::new(&self.stream);
        let agreed = within(HANDSHAKE_TIME, self.handshake(&mut reader)).await;
        match agreed {
            Some(Ok(true)) => {}
            Some(Ok(false)) => return,
            Some(Err(error)) => return tracing::debug!(%error, "a handshake ended early"),
            None => return tracing::debug!("a client did not finish its handshake in time"),
        }
        let me = self.clone();
        if exec::spawn_local(async move { me.write_replies().await }).is_err() {
            return;
        }
        if let Err(error) = self.take_requests(&mut reader).await {
            tracing::debug!(%error, "a client is gone");
        }
        self.finish().await;
        self.stream.shutdown();
    }

    /// True if the transmission begins.
    async fn handshake(&self, reader: &mut Reader<'_>) -> io::Result<bool> {
        self.say(&proto::greeting()).await?;
        let mut handshake = Handshake::new(&self.export);
        let mut flags = [0; 4];
        reader.exact(&mut flags).await?;
        if !handshake.client_flags(be32(&flags, 0)) {
            return Ok(false);
        }
        loop {
            let mut header = [0; 16];
            reader.exact(&mut header).await?;
            if be64(&header, 0) != OPTION_MAGIC {
                return Ok(false);
            }
            let (option, len) = (be32(&header, 8), be32(&header, 12));
            let (out, next) = if len > MAX_OPTION {
                reader.skip(len.into()).await?;
                handshake.too_big(option)
            } else {
                let mut data = vec![0; len as usize];
                reader.exact(&mut data).await?;
                handshake.option(option, &data)
            };
            self.say(&out).await?;
            match next {
                Next::Option => {}
                Next::Close => return Ok(false),
                Next::Transmission => {
                    self.terms.set(handshake.terms());
                    return Ok(true);
                }
            }
        }
    }

    async fn say(&self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(&mut [IoSlice::new(bytes)]).await
    }

    async fn take_requests(self: &Rc<Self>, reader: &mut Reader<'_>) -> io::Result<()> {
        loop {
            let mut header = [0; REQUEST_LEN];
            reader.exact(&mut header).await?;
            let Some(request) = Request::parse(&header) else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "what it sent is no request",
                ));
            };
            match request.command(&self.terms.get()) {
                Ok(Command::Disconnect) => return Ok(()),
                Ok(command) => {
                    let cost = perform::cost(command, &request) + REQUEST_COST;
                    self.budget(cost).await;
                    let data = match self.payload(reader, &request).await {
                        Ok(data) => data,
                        Err(error) => {
                            self.refund(cost);
                            return Err(error);
                        }
                    };
                    self.start(request, command, data, cost)?;
                }
                Err(refusal) => {
                    reader.skip(request.payload().into()).await?;
                    self.budget(REQUEST_COST).await;
                    let reply = perform::refused(&self.terms.get(), &request, refusal);
                    self.send(reply, REQUEST_COST);
                }
            }
        }
    }

    async fn payload(
        &self,
        reader: &mut Reader<'_>,
        request: &Request,
    ) -> io::Result<Option<IoBuf>> {
        if request.payload() == 0 {
            return Ok(None);
        }
        let mut data = self.buffer(request.payload() as usize);
        reader.exact(&mut data).await?;
        Ok(Some(data))
    }

    fn start(
        self: &Rc<Self>,
        request: Request,
        command: Command,
        data: Option<IoBuf>,
        cost: u64,
    ) -> io::Result<()> {
        let me = self.clone();
        exec::spawn_local(async move {
            let reply = perform::perform(&me, &request, command, data).await;
            me.send(reply, cost);
        })
    }

    /// Waits until there is room for one more request.
    async fn budget(&self, cost: u64) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            let room = state.requests < MAX_REQUESTS && state.bytes + cost <= MAX_BYTES;
            if room || state.requests == 0 {
                state.requests += 1;
                state.bytes += cost;
                return Poll::Ready(());
            }
            state.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn refund(&self, cost: u64) {
        let mut state = self.state.borrow_mut();
        state.requests -= 1;
        state.bytes -= cost;
        wake(&mut state.reader);
        if state.closed {
            wake(&mut state.writer);
        }
    }

    fn send(&self, reply: Reply, cost: u64) {
        let mut state = self.state.borrow_mut();
        state.outbox.push(Waiting { reply, cost });
        wake(&mut state.writer);
    }

    /// Sends replies until no request is left. What cannot be sent is thrown away.
    async fn write_replies(&self) {
        let mut broken = false;
        while let Some(batch) = self.next_batch().await {
            let mut pieces: Vec<IoSlice<'_>> = Vec::with_capacity(batch.len() * 2);
            for waiting in &batch {
                pieces.push(IoSlice::new(&waiting.reply.head));
                if let Some(data) = &waiting.reply.data {
                    pieces.push(IoSlice::new(data));
                }
            }
            if !broken && let Err(error) = self.stream.write_all(&mut pieces).await {
                tracing::debug!(%error, "a client does not take its replies");
                broken = true;
                // The reader learns of it too.
                self.stream.shutdown();
            }
            drop(pieces);
            for waiting in batch {
                self.refund(waiting.cost);
                if let Some(data) = waiting.reply.data {
                    self.keep(data);
                }
            }
        }
        let mut state = self.state.borrow_mut();
        state.writer_done = true;
        wake(&mut state.ended);
    }

    async fn next_batch(&self) -> Option<Vec<Waiting>> {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if !state.outbox.is_empty() {
                let n = state.outbox.len().min(BATCH);
                let rest = state.outbox.split_off(n);
                return Poll::Ready(Some(std::mem::replace(&mut state.outbox, rest)));
            }
            if state.closed && state.requests == 0 {
                return Poll::Ready(None);
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits for what is at work and for its replies to leave.
    async fn finish(&self) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if state.writer_done {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut state.closed, true) {
                wake(&mut state.writer);
            }
            state.ended = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(super) fn export(&self) -> &Export {
        &self.export
    }

    pub(super) fn terms(&self) -> Terms {
        self.terms.get()
    }

    /// Memory for a transfer, with any content.
    pub(super) fn buffer(&self, len: usize) -> IoBuf {
        let spare = &mut self.state.borrow_mut().spare;
        match spare.iter().rposition(|buf| buf.len() == len) {
            Some(at) => spare.swap_remove(at),
            None => IoBuf::zeroed(len),
        }
    }

    /// Takes memory back that is used no more.
    pub(super) fn keep(&self, buf: IoBuf) {
        if buf.is_empty() || buf.len() > SPARE_LEN {
            return;
        }
        let spare = &mut self.state.borrow_mut().spare;
        if spare.len() >= SPARE {
            spare.remove(0);
        }
        spare.push(buf);
    }
}

/// What `f` gives, or None when it takes longer than `time`.
async fn within<T>(time: Duration, f: impl Future<Output = T>) -> Option<T> {
    let (mut f, mut end) = (pin!(f), pin!(exec::sleep(time)));
    poll_fn(|cx| match f.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => end.as_mut().poll(cx).map(|()| None),
    })
    .await
}
