//! Several frames in one call of the kernel.
//!
//! A tap takes and gives one frame per call, and at 64 bytes entering the kernel is a fifth of what
//! a frame costs. So a burst is put into an io_uring that carries it out within one
//! `io_uring_enter`: nothing in it may wait (`RWF_NOWAIT`; that the tap is non-blocking is not enough,
//! io_uring would wait in its stead), so each frame is done or refused when that returns. Must never
//! return while the kernel may still touch the memory of a frame. Where there is no io_uring, where
//! it cannot but wait, and for a single frame, it is a call per frame.
//!
//! ```text
//! Untried --first burst--> Ring --the kernel refuses it--> Plain
//!    +-----------no ring here------------------------------^
//! ```
#![allow(unsafe_code)]

use super::Tap;
use images::Buffer;
use io_uring::{IoUring, Probe, opcode, squeue, types};
use std::io;
use std::os::fd::AsRawFd;
use std::thread;

/// Frames of one call at most.
pub const MOST: usize = 64;
/// Pieces that the kernel takes for one frame (IOV_MAX).
pub const MOST_PIECES: usize = 1024;
/// "Where it stands": a tap has no offsets.
const NO_OFFSET: u64 = u64::MAX;

enum State {
    Untried,
    Ring(Box<IoUring>),
    Plain,
}

/// Sends and receives bursts for one queue of a tap. Stays on the thread that uses it first.
pub struct Batch {
    state: State,
    /// Per frame: bytes, or a negative errno.
    results: Vec<i32>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").finish_non_exhaustive()
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            state: State::Untried,
            results: Vec::new(),
        }
    }
}

impl Batch {
    /// One that asks for no ring.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self {
            state: State::Plain,
            results: Vec::new(),
        }
    }

    /// Sends up to [`MOST`] frames, each with its header and in pieces of guest memory; per frame
    /// how many bytes went out, or a negative errno: `EINVAL` for one in more than [`MOST_PIECES`],
    /// and the frames behind it go out all the same.
    pub fn send(&mut self, tap: &Tap, frames: &[&[Buffer]]) -> &[i32] {
        let frames = frames.get(..MOST).unwrap_or(frames);
        // SAFETY: the caller lends the pieces until this returns; the list of them is his as well.
        if !unsafe { self.run(frames.len(), |at| write(tap, frames[at])) } {
            let sent = frames.iter().map(|pieces| outcome(tap.send(pieces)));
            self.results.extend(sent);
        }
        &self.results
    }

    /// Receives up to [`MOST`] frames with their headers, each into the pieces of one room; per room
    /// how many bytes came, or a negative errno: `EAGAIN` when there was none for it. No list of
    /// pieces may be longer than [`MOST_PIECES`].
    pub fn receive(&mut self, tap: &Tap, rooms: &[&[Buffer]]) -> &[i32] {
        let rooms = rooms.get(..MOST).unwrap_or(rooms);
        // SAFETY: as for sending.
        if !unsafe { self.run(rooms.len(), |at| read(tap, rooms[at])) } {
            self.results.resize(rooms.len(), -libc::EAGAIN);
            for (room, result) in rooms.iter().zip(&mut self.results) {
                *result = outcome(tap.scatter(room));
                if *result < 0 {
                    break;
                }
            }
        }
        &self.results
    }

    /// Lets the kernel carry out `count` entries, and waits for all of them; false when that is not
    /// the way for them, and nothing was done.
    ///
    /// # Safety
    /// What the entries point at stays valid until this returns.
    unsafe fn run(&mut self, count: usize, entry: impl Fn(usize) -> squeue::Entry) -> bool {
        self.results.clear();
        if count < 2 {
            return false;
        }
        if matches!(self.state, State::Untried) {
            self.state = match build() {
                Ok(ring) => State::Ring(Box::new(ring)),
                Err(error) => {
                    tracing::debug!(%error, "no io_uring for a tap: a call per frame");
                    State::Plain
                }
            };
        }
        let State::Ring(ring) = &mut self.state else {
            return false;
        };
        self.results.resize(count, -libc::EAGAIN);
        let mut pushed = 0;
        {
            let mut queue = ring.submission();
            for at in 0..count {
                let entry = entry(at).user_data(at as u64);
                // SAFETY: the kernel reads the list of pieces and moves their bytes between here and the
                // completion. Both stay, for the caller keeps them until `run` returns, and `finish`
                // returns only when each entry that the kernel has taken has completed: also after an
                // error, for which it goes on waiting. Nothing between here and there unwinds or awaits,
                // so no drop of this batch, nor of a future that holds it, comes in between. Entries that
                // the kernel has not taken lie in the ring, which after an error is dropped with them and
                // never entered again: nothing reads what they point at.
                if unsafe { queue.push(&entry) }.is_err() {
                    break;
                }
                pushed += 1;
            }
        }
        if let Err(error) = finish(ring, pushed, &mut self.results) {
            tracing::warn!(%error, "io_uring refuses frames: a call per frame from now on");
            self.state = State::Plain;
        } else if self.results.first() == Some(&-libc::EOPNOTSUPP) {
            // A tap of Linux before 5.11. It was refused before anything was done.
            self.state = State::Plain;
            self.results.clear();
            return false;
        }
        true
    }
}

fn write(tap: &Tap, pieces: &[Buffer]) -> squeue::Entry {
    let (fd, list, count) = vector(tap, pieces);
    match pieces {
        [_] => {
            // SAFETY: there is one.
            let piece = unsafe { *list };
            // A descriptor's length is 32 bits wide.
            opcode::Write::new(fd, piece.iov_base.cast(), piece.iov_len as u32)
                .offset(NO_OFFSET)
                .rw_flags(libc::RWF_NOWAIT)
                .build()
        }
        _ => opcode::Writev::new(fd, list, count)
            .offset(NO_OFFSET)
            .rw_flags(libc::RWF_NOWAIT)
            .build(),
    }
}

fn read(tap: &Tap, pieces: &[Buffer]) -> squeue::Entry {
    let (fd, list, count) = vector(tap, pieces);
    opcode::Readv::new(fd, list, count)
        .offset(NO_OFFSET)
        .rw_flags(libc::RWF_NOWAIT)
        .build()
}

fn vector(tap: &Tap, pieces: &[Buffer]) -> (types::Fd, *const libc::iovec, u32) {
    // A Buffer is an iovec: repr(transparent). A count that is too large is the kernel's to refuse.
    let count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
    let list = pieces.as_ptr().cast();
    (types::Fd(tap.fd.as_raw_fd()), list, count)
}

/// Hands `pushed` entries over and takes their results. After an error none is with the kernel, and
/// some may still be in the ring.
fn finish(ring: &mut IoUring, pushed: usize, results: &mut [i32]) -> io::Result<()> {
    let mut done = 0;
    while done < pushed {
        let entered = ring.submit_and_wait(pushed - done);
        for completion in ring.completion() {
            done += 1;
            let at = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
            if let Some(result) = results.get_mut(at) {
                *result = completion.result();
            }
        }
        let Err(error) = entered else { continue };
        let handed_over = pushed - ring.submission().len();
        if error.kind() != io::ErrorKind::Interrupted && handed_over == done {
            return Err(error);
        }
        // What the kernel has must end first.
        thread::yield_now();
    }
    Ok(())
}

fn build() -> io::Result<IoUring> {
    let entries = MOST as u32;
    // One thread submits, and completions need not interrupt it: cheaper where the kernel knows it.
    let tuned = IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .dontfork()
        .build(entries);
    let ring = tuned.or_else(|_| IoUring::builder().dontfork().build(entries))?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Readv::CODE,
        opcode::Write::CODE,
        opcode::Writev::CODE,
    ];
    match needed.iter().all(|code| probe.is_supported(*code)) {
        true => Ok(ring),
        false => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
    }
}

fn outcome(result: io::Result<usize>) -> i32 {
    match result {
        Ok(count) => i32::try_from(count).unwrap_or(i32::MAX),
        Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn pair() -> (Tap, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().expect("sockets");
        theirs.set_nonblocking(true).expect("a socket");
        (Tap::socket(ours.into()), theirs)
    }

    fn buffer(bytes: &mut [u8]) -> Buffer {
        // SAFETY: every test keeps the bytes until its batch has returned.
        unsafe { Buffer::from_raw(bytes.as_mut_ptr(), bytes.len()) }
    }

    #[test]
    fn frames_go_out_in_order_and_refusals_belong_to_their_frame() {
        for mut batch in [Batch::default(), Batch::plain()] {
            let (tap, theirs) = pair();
            let mut memory = vec![7_u8; 400 << 10];
            let (frames, huge) = memory.split_at_mut(4000);
            let mut pieces: Vec<Vec<Buffer>> = frames
                .chunks_mut(1000)
                .map(|frame| {
                    frame[0] = frame.as_ptr().addr() as u8;
                    let (head, body) = frame.split_at_mut(12);
                    vec![buffer(head), buffer(body)]
                })
                .collect();
            // More than the socket ever takes at once.
            pieces[1] = vec![buffer(huge)];
            let list: Vec<&[Buffer]> = pieces.iter().map(Vec::as_slice).collect();
            let results = batch.send(&tap, &list).to_vec();
            assert_eq!(results[0], 1000);
            assert!(results[1] < 0);
            assert_eq!(results[2..], [1000, 1000]);
            for at in [0, 2, 3] {
                let mut got = [0; 2000];
                assert_eq!(theirs.recv(&mut got).expect("a frame"), 1000);
                assert_eq!(got[..1000], memory[at * 1000..][..1000]);
            }
        }
    }

    #[test]
    fn what_is_there_comes_in_order_and_the_rest_says_so() {
        for mut batch in [Batch::default(), Batch::plain()] {
            let (tap, theirs) = pair();
            let mut memory = vec![0_u8; 800];
            let pieces: Vec<[Buffer; 2]> = memory
                .chunks_mut(100)
                .map(|room| {
                    let (head, body) = room.split_at_mut(3);
                    [buffer(head), buffer(body)]
                })
                .collect();
            let rooms: Vec<&[Buffer]> = pieces.iter().map(|pieces| &pieces[..]).collect();
            assert_eq!(batch.receive(&tap, &rooms), [-libc::EAGAIN; 8]);
            for length in 1..=5_u8 {
                let frame = vec![length; usize::from(length)];
                theirs.send(&frame).expect("send");
            }
            let results = batch.receive(&tap, &rooms);
            assert_eq!(results[..6], [1, 2, 3, 4, 5, -libc::EAGAIN]);
            for length in 1..=5_usize {
                let room = &memory[(length - 1) * 100..][..100];
                assert!(
                    room[..length]
                        .iter()
                        .all(|byte| usize::from(*byte) == length)
                );
                assert!(room[length..].iter().all(|byte| *byte == 0));
            }
        }
    }
}
