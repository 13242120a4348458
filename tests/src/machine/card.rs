//! What carries the frames of a machine's network card.

use super::Builder;
use super::opened::Opened;
use crate::tap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vmm_api::spec::NetBackend;

/// The other end of a card.
#[derive(Clone)]
pub(super) enum Card {
    /// A tap, by its name.
    Tap(String),
    /// So many queues of a tap.
    Queues(String, usize),
    /// A peer on a stream.
    Stream(Arc<UnixStream>),
}

impl Card {
    pub(super) fn open(&self, opened: &mut Opened) -> io::Result<NetBackend> {
        Ok(match self {
            Self::Tap(name) => NetBackend::Taps(vec![opened.keep(tap::open(name)?)]),
            Self::Queues(name, count) => {
                let queues = (0..*count).map(|_| Ok(opened.keep(tap::open_queue(name)?)));
                NetBackend::Taps(queues.collect::<io::Result<_>>()?)
            }
            Self::Stream(socket) => NetBackend::Stream(opened.keep(socket.try_clone()?)),
        })
    }
}

impl Builder {
    /// A network card on the tap of this name, in the network of the thread that prepares the machine.
    pub fn tap(mut self, name: &str) -> Self {
        self.card = Some(Card::Tap(name.into()));
        self
    }

    /// A network card with so many queue pairs, on a tap that has several queues.
    pub fn tap_queues(mut self, name: &str, count: usize) -> Self {
        self.card = Some(Card::Queues(name.into(), count));
        self
    }

    /// A network card on this socket, which carries frames with their length in front.
    pub fn stream(mut self, socket: UnixStream) -> Self {
        self.card = Some(Card::Stream(Arc::new(socket)));
        self
    }
}
