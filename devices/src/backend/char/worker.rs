//! The hub's one thread: it polls the console socket, the viewers and the pty, and carries output
//! to everybody who is only a position in the history.
//!
//! ```text
//!        +--> carry output --> new output since? --yes--> nap (poll, 5 ms)  --+
//!        |                          \--no--> say asleep, look once more,      |
//!        |                                   poll without limit --------------+
//!        +------------------------- serve what poll reported <----------------+
//! ```
//!
//! The nap is what makes a talkative guest cheap: it rings the eventfd once per nap, not per byte.

use super::history::History;
use super::input::Input;
use super::log::RotatingLog;
use super::viewer::{Progress, Viewer};
use super::{Shared, lock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vmm_api::console::Role;

/// Bytes moved at once.
pub(super) const BUFFER: usize = 4096;
/// Connections that a console serves at once.
const MAX_VIEWERS: usize = 32;
/// How long output is gathered before the listeners get it.
const NAP: Duration = Duration::from_millis(5);
/// How long the end, or a flush, waits for listeners that are not up to date.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);

/// What the thread serves.
pub(super) struct Endpoints {
    pub(super) log: Option<RotatingLog>,
    pub(super) console: Option<OwnedFd>,
    pub(super) pty: Option<Pty>,
}

/// The master of a pty, and the other side that is held open.
pub(super) struct Pty {
    master: OwnedFd,
    _slave: OwnedFd,
    position: u64,
}

impl Pty {
    pub(super) fn new(master: OwnedFd, slave: OwnedFd) -> Self {
        Self {
            master,
            _slave: slave,
            position: 0,
        }
    }

    /// Writes what is new; what does not fit is dropped, since nobody may be there to read it.
    fn follow(&mut self, history: &Mutex<History>) -> Progress {
        loop {
            let mut buffer = [0; BUFFER];
            let bytes = copy_new(history, &mut self.position, &mut buffer);
            if bytes.is_empty() {
                return Progress::Fine;
            }
            match rustix::io::write(&self.master, bytes) {
                Ok(count) => self.position += count as u64,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.position = lock(history).head();
                    return Progress::Fine;
                }
                Err(_) => return Progress::Over,
            }
        }
    }
}

/// Copies output from `position` on, which is moved forward when that is no longer kept.
pub(super) fn copy_new<'a>(
    history: &Mutex<History>,
    position: &mut u64,
    buffer: &'a mut [u8],
) -> &'a [u8] {
    let history = lock(history);
    let bytes = history.peek(position);
    let count = bytes.len().min(buffer.len());
    for (place, byte) in buffer.iter_mut().zip(bytes) {
        *place = *byte;
    }
    buffer.get(..count).unwrap_or_default()
}

struct State<'a> {
    shared: &'a Shared,
    endpoints: Endpoints,
    viewers: Vec<Viewer>,
    next_number: u64,
    /// Who types.
    writer: Option<u64>,
    input: Input,
    log_position: u64,
    output_lags: bool,
}

/// What the thread waits for in one round, in the order of the descriptors.
#[derive(Debug, Clone, Copy)]
enum Source {
    Wake,
    Console,
    Pty,
    Output,
    Viewer(u64),
}

/// Serves until the hub is dropped.
pub(super) fn run(shared: &Shared, endpoints: Endpoints) {
    let mut state = State {
        shared,
        endpoints,
        viewers: Vec::new(),
        next_number: 0,
        writer: None,
        input: Input::default(),
        log_position: 0,
        output_lags: false,
    };
    let mut seen = 0;
    while !shared.closing.load(Ordering::SeqCst) {
        state.carry_output();
        state.update_followed();
        let mut head = lock(&shared.history).head();
        let mut limit = Some(NAP);
        if head == seen {
            shared.asleep.store(true, Ordering::SeqCst);
            head = lock(&shared.history).head();
            if head == seen {
                limit = None;
            }
        }
        seen = head;
        state.wait_and_serve(limit);
        shared.asleep.store(false, Ordering::SeqCst);
    }
    state.finish();
}

impl State<'_> {
    fn carry_output(&mut self) {
        let head = lock(&self.shared.history).head();
        self.carry_to_log();
        if let Some(output) = &self.shared.output {
            self.output_lags = !output.follow(&mut lock(&self.shared.history));
        }
        let history = &self.shared.history;
        if let Some(pty) = &mut self.endpoints.pty
            && pty.follow(history) == Progress::Over
        {
            self.lose_pty();
        }
        let over =
            |viewer: &mut Viewer| viewer.is_attached() && viewer.follow(history) == Progress::Over;
        let gone: Vec<_> = self.viewers.extract_if(.., over).collect();
        for viewer in gone {
            self.part_with(viewer);
        }
        if !self.output_lags {
            *lock(&self.shared.carried) = head;
            self.shared.carried_on.notify_all();
        }
    }

    fn carry_to_log(&mut self) {
        let Some(log) = &mut self.endpoints.log else {
            return;
        };
        loop {
            let mut buffer = [0; BUFFER];
            let wanted = self.log_position;
            let bytes = copy_new(&self.shared.history, &mut self.log_position, &mut buffer);
            let skipped = self.log_position - wanted;
            let lost = log.write(bytes) as u64 + skipped;
            self.shared.log_lost.fetch_add(lost, Ordering::Relaxed);
            self.log_position += bytes.len() as u64;
            if bytes.is_empty() {
                return;
            }
        }
    }

    fn update_followed(&self) {
        let attached = self.viewers.iter().filter(|viewer| viewer.is_attached());
        let attached = attached.count();
        let followed = self.endpoints.log.is_some() || self.endpoints.pty.is_some() || attached > 0;
        self.shared.followed.store(followed, Ordering::SeqCst);
        self.shared
            .viewers
            .store(attached as u64, Ordering::Relaxed);
    }

    fn wait_and_serve(&mut self, limit: Option<Duration>) {
        self.move_input();
        let listens = self.input.has_room();
        for (source, events) in self.wait(listens, limit) {
            match source {
                Source::Wake => {
                    let mut count = [0; 8];
                    // Empty when another round has read it.
                    let _ = rustix::io::read(&self.shared.wake, &mut count);
                }
                Source::Console => self.accept(),
                Source::Pty => self.serve_pty(),
                // Served by the next round's output.
                Source::Output => {}
                Source::Viewer(number) => self.serve_viewer(number, events),
            }
        }
    }

    /// Polls for everything at once.
    fn wait(&self, listens: bool, limit: Option<Duration>) -> Vec<(Source, PollFlags)> {
        let mut sources = vec![Source::Wake];
        let mut polled = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        if let Some(console) = &self.endpoints.console {
            sources.push(Source::Console);
            polled.push(PollFd::new(console, PollFlags::IN));
        }
        if let Some(pty) = &self.endpoints.pty
            && listens
        {
            sources.push(Source::Pty);
            polled.push(PollFd::new(&pty.master, PollFlags::IN));
        }
        if let Some(output) = &self.shared.output
            && self.output_lags
        {
            sources.push(Source::Output);
            polled.push(PollFd::new(output, PollFlags::OUT));
        }
        for viewer in &self.viewers {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, listens || self.writer != Some(viewer.number));
            flags.set(PollFlags::OUT, viewer.is_blocked());
            sources.push(Source::Viewer(viewer.number));
            polled.push(PollFd::new(viewer, flags));
        }
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        match poll(&mut polled, limit.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Vec::new(),
            Err(error) => {
                // Out of memory in the kernel: better late than in a tight loop.
                tracing::warn!(%error, device = self.shared.id, "the console cannot poll");
                std::thread::sleep(NAP);
                return Vec::new();
            }
        }
        sources
            .into_iter()
            .zip(polled.iter().map(PollFd::revents))
            .filter(|(_, events)| !events.is_empty())
            .collect()
    }

    fn accept(&mut self) {
        let Some(console) = &self.endpoints.console else {
            return;
        };
        match accept_with(console, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => self.add_viewer(socket),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => {
                // The connection stays in the queue, so do not come back at once.
                tracing::warn!(%error, device = self.shared.id, "a viewer cannot be let in");
                std::thread::sleep(NAP);
            }
        }
    }

    /// A full house makes room by turning away whoever has not said what he wants.
    fn add_viewer(&mut self, socket: OwnedFd) {
        if self.viewers.len() >= MAX_VIEWERS {
            match self.viewers.iter().position(|other| !other.is_attached()) {
                Some(silent) => drop(self.viewers.remove(silent)),
                None => return,
            }
        }
        self.viewers.push(Viewer::new(self.next_number, socket));
        self.next_number += 1;
    }

    fn serve_viewer(&mut self, number: u64, events: PollFlags) {
        let Some(index) = self.viewers.iter().position(|one| one.number == number) else {
            return;
        };
        let progress = if events.contains(PollFlags::IN) {
            self.read_viewer(index)
        } else if events.intersects(PollFlags::HUP | PollFlags::ERR) {
            Progress::Over
        } else {
            Progress::Fine
        };
        if progress == Progress::Over {
            let viewer = self.viewers.remove(index);
            self.part_with(viewer);
        }
    }

    /// A viewer has left. What it typed as the writer still counts.
    fn part_with(&mut self, viewer: Viewer) {
        if self.writer != Some(viewer.number) {
            return;
        }
        self.writer = None;
        if !self.input.keep(viewer) {
            tracing::warn!(
                device = self.shared.id,
                "input of a viewer that left is dropped: the guest does not read its console, and \
                 what others typed before waits already"
            );
        }
    }

    fn read_viewer(&mut self, index: usize) -> Progress {
        let Some(viewer) = self.viewers.get_mut(index) else {
            return Progress::Fine;
        };
        if viewer.is_attached() {
            return if self.writer == Some(viewer.number) {
                progress_of(self.input.take(|buffer| viewer.typed(buffer)))
            } else {
                viewer.discard()
            };
        }
        let wish = match viewer.greet() {
            Ok(Some(wish)) => wish,
            Ok(None) => return Progress::Fine,
            Err(over) => return over,
        };
        let role = if wish.force || (wish.write && self.writer.is_none()) {
            self.writer = Some(viewer.number);
            Role::Writer
        } else {
            Role::Viewer
        };
        viewer.admit(role, &lock(&self.shared.history));
        // Before the answer, so that whoever has it is counted.
        self.update_followed();
        let viewer = self.viewers.get_mut(index);
        viewer.map_or(Progress::Fine, |viewer| viewer.follow(&self.shared.history))
    }

    /// Hands input over, and takes what the writer sent together with its line: no event tells of
    /// that.
    fn move_input(&mut self) {
        loop {
            self.input.deliver(self.shared);
            let writer = self.writer;
            let typed = |viewer: &&mut Viewer| writer == Some(viewer.number) && viewer.has_typed();
            let viewer = self.viewers.iter_mut().find(typed);
            let Some(viewer) = viewer.filter(|_| self.input.has_room()) else {
                return;
            };
            // The socket is not read here, so its end is not seen here either.
            let _taken = self.input.take(|buffer| viewer.typed(buffer));
        }
    }

    fn serve_pty(&mut self) {
        let Some(pty) = &self.endpoints.pty else {
            return;
        };
        let taken = self
            .input
            .take(|buffer| match rustix::io::read(&pty.master, &mut *buffer) {
                Ok(0) => Err(Progress::Over),
                Ok(count) => Ok(buffer.get(..count).unwrap_or_default()),
                Err(Errno::AGAIN | Errno::INTR) => Ok(&[]),
                Err(_) => Err(Progress::Over),
            });
        if progress_of(taken) == Progress::Over {
            self.lose_pty();
        }
    }

    fn lose_pty(&mut self) {
        tracing::warn!(
            device = self.shared.id,
            "the console's pty is gone; it goes on without"
        );
        self.endpoints.pty = None;
    }

    /// The last output for everybody, waiting a little for those who are slow.
    fn finish(&mut self) {
        let until = Instant::now() + LAST_WORDS;
        loop {
            self.carry_output();
            let blocked = self.output_lags || self.viewers.iter().any(Viewer::is_blocked);
            let now = Instant::now();
            if !blocked || now >= until {
                return;
            }
            // Only those who are blocked: nobody is let in and nothing is read any more.
            let mut polled = Vec::new();
            if let Some(output) = &self.shared.output
                && self.output_lags
            {
                polled.push(PollFd::new(output, PollFlags::OUT));
            }
            let slow = self.viewers.iter().filter(|viewer| viewer.is_blocked());
            polled.extend(slow.map(|viewer| PollFd::new(viewer, PollFlags::OUT)));
            let limit = Timespec::try_from(until - now).ok();
            if poll(&mut polled, limit.as_ref()).is_err() {
                return;
            }
        }
    }
}

fn progress_of(taken: Result<usize, Progress>) -> Progress {
    taken.err().unwrap_or(Progress::Fine)
}
