//! One client: what it says, and what it is shown.

use super::handshake;
use super::house::{Guest, House};
use super::keys;
use super::message::{self, Message};
use super::pixels::Format;
use super::socket::{Dialect, Gone, Incoming, Socket};
use super::update::{self, Abilities, Update};
use super::zrle::Zrle;
use devices::backend::display::{Pointer, Rect, Viewer};
use devices::virtio::worker::{First, race};
use images::exec::yield_now;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

/// Reasons and statuses of the extended desktop size: the server's, this client's; forwarded, prohibited.
const BY_SERVER: u16 = 0;
const BY_CLIENT: u16 = 1;
const PROHIBITED: u16 = 1;
const FORWARDED: u16 = 4;

/// What reader and writer share.
struct State {
    format: Format,
    abilities: Abilities,
    /// The size that the client knows.
    size: (u32, u32),
    /// It waits for an update.
    waiting: bool,
    /// It is to be told that keys may come by their place.
    tell_scancodes: bool,
    /// It is to be told of the size, with a reason and a status.
    tell_size: Option<(u16, u16)>,
    /// Keys that it holds.
    down: BTreeSet<u16>,
    buttons: u8,
}

/// One client.
pub(super) struct Client {
    socket: Socket,
    house: Rc<House>,
    viewer: Arc<Viewer>,
    state: RefCell<State>,
}

impl Client {
    /// Serves a client until it has left, or the guest's bell tells it to.
    pub(super) async fn serve(fd: OwnedFd, dialect: Dialect, house: Rc<House>, guest: Rc<Guest>) {
        let left = race(guest.bell.heard(), Self::live(fd, dialect, house, &guest)).await;
        match left {
            First::A(()) => tracing::info!("a VNC client makes room for another one"),
            First::B(Err(Gone(why))) => tracing::info!(why, "a VNC client is left"),
            First::B(Ok(())) => {}
        }
    }

    async fn live(
        fd: OwnedFd,
        dialect: Dialect,
        house: Rc<House>,
        guest: &Rc<Guest>,
    ) -> Result<(), Gone> {
        let strict = house.rules.password.is_none();
        let open = Socket::open(fd, dialect, strict);
        let socket = handshake::in_time(house.rules.patience, open).await?;
        let mut incoming = Incoming::new(&socket);
        let init = handshake::enter(&socket, &mut incoming, &house.rules).await?;
        let rest = incoming.bytes().to_vec();
        house.enter(guest, init.shared).map_err(Gone)?;
        let viewer = house.display.look();
        let size = house.display.size();
        handshake::welcome(&socket, &house, size, Format::default()).await?;
        tracing::info!(shared = init.shared, "a VNC client has come in");
        let client = Self {
            socket,
            house,
            viewer,
            state: RefCell::new(State {
                format: Format::default(),
                abilities: Abilities::default(),
                size,
                waiting: false,
                tell_scancodes: false,
                tell_size: None,
                down: BTreeSet::new(),
                buttons: 0,
            }),
        };
        let (First::A(result) | First::B(result)) = race(client.listen(rest), client.show()).await;
        result
    }

    /// Hears messages until there is an end of them.
    async fn listen(&self, already: Vec<u8>) -> Result<(), Gone> {
        let mut incoming = Incoming::with(&self.socket, already);
        loop {
            match message::parse(incoming.bytes()) {
                Err(nonsense) => return Err(Gone(nonsense.0)),
                Ok(None) => incoming.more().await?,
                Ok(Some((message, length))) => {
                    incoming.consume(length);
                    if let Message::Skip(mut left) = message {
                        left -= incoming.consume(left);
                        while left > 0 {
                            incoming.more().await?;
                            left -= incoming.consume(left);
                        }
                    } else {
                        self.hear(message);
                    }
                    // Somebody who talks without end shares the thread with the others.
                    yield_now().await;
                }
            }
        }
    }

    fn hear(&self, message: Message) {
        let display = &self.house.display;
        let mut state = self.state.borrow_mut();
        match message {
            Message::Format(format) => {
                state.format = format;
                self.viewer.forget(Rect::of(state.size.0, state.size.1));
            }
            Message::Encodings(encodings) => {
                let before = state.abilities;
                state.abilities = Abilities::of(&encodings);
                state.tell_scancodes |= state.abilities.scancodes && !before.scancodes;
                if state.abilities.extended_size && !before.extended_size {
                    state.tell_size = Some((BY_SERVER, 0));
                }
                drop(state);
                self.viewer.bell.ring();
            }
            Message::Request { incremental, rect } => {
                if !incremental {
                    self.viewer.forget(rect);
                }
                state.waiting = true;
                drop(state);
                self.viewer.bell.ring();
            }
            Message::Key { down, keysym } => state.key(self, keys::of_keysym(keysym), down),
            Message::Scancode {
                down,
                keysym,
                scancode,
            } => {
                let key = keys::of_scancode(scancode).or_else(|| keys::of_keysym(keysym));
                state.key(self, key, down);
            }
            Message::Pointer { buttons, x, y } => {
                state.buttons = buttons;
                display.pointer(Pointer {
                    x: x.into(),
                    y: y.into(),
                    buttons,
                });
            }
            Message::Resize { width, height } => {
                let heard = display.wish(width.into(), height.into());
                let status = if heard { FORWARDED } else { PROHIBITED };
                state.tell_size = Some((BY_CLIENT, status));
                drop(state);
                self.viewer.bell.ring();
            }
            Message::Skip(_) => {}
        }
    }

    /// Shows what is new whenever the client is ready for it.
    async fn show(&self) -> Result<(), Gone> {
        let mut zrle = None;
        let mut from = 0;
        loop {
            self.tell().await?;
            let news = match self.state.borrow().waiting {
                true => self.viewer.take(),
                false => None,
            };
            let Some(news) = news else {
                self.viewer.bell.heard().await;
                continue;
            };
            let (format, abilities) = {
                let state = self.state.borrow();
                (state.format, state.abilities)
            };
            let mut update = Update::default();
            if let Some(size) = news.size.filter(|_| abilities.resizes()) {
                // A client forgets its picture at a new size, and many forget what else the update had:
                // the rest waits for the next request.
                self.viewer.put_back(&news);
                self.state.borrow_mut().size = size;
                self.state.borrow_mut().waiting = false;
                update.size(size, abilities.extended_size, (BY_SERVER, 0));
                self.socket.write(&update.finish()).await?;
                continue;
            }
            if news.cursor && abilities.cursor {
                update.cursor(self.house.display.cursor().as_deref(), &format);
            }
            let size = self.state.borrow().size;
            let (now, later) = update::share(&news, size, from);
            from = update::stopped(&later);
            later.iter().for_each(|rect| self.viewer.forget(*rect));
            for rect in now {
                let zrle = abilities.zrle.then(|| zrle.get_or_insert_with(Zrle::new));
                update
                    .part(rect, &self.house.display, &format, zrle)
                    .ok_or(Gone("its pictures cannot be packed any more"))?;
                yield_now().await;
            }
            if update.is_empty() {
                continue;
            }
            self.state.borrow_mut().waiting = false;
            self.socket.write(&update.finish()).await?;
        }
    }

    /// Tells what is told without being asked.
    async fn tell(&self) -> Result<(), Gone> {
        let mut update = Update::default();
        {
            let mut state = self.state.borrow_mut();
            if std::mem::take(&mut state.tell_scancodes) {
                update.scancodes();
            }
            let size = state.size;
            if let Some(why) = state.tell_size.take()
                && state.abilities.extended_size
            {
                update.size(size, true, why);
            }
        }
        match update.is_empty() {
            true => Ok(()),
            false => self.socket.write(&update.finish()).await,
        }
    }
}

impl State {
    fn key(&mut self, client: &Client, key: Option<u16>, down: bool) {
        let Some(key) = key else { return };
        match down {
            true => self.down.insert(key),
            false => self.down.remove(&key),
        };
        client.house.display.key(key, down);
    }
}

impl Drop for Client {
    /// Nothing stays pressed when its finger has gone.
    fn drop(&mut self) {
        let state = self.state.get_mut();
        for key in &state.down {
            self.house.display.key(*key, false);
        }
        if state.buttons != 0 {
            self.house.display.release_buttons();
        }
    }
}
