//! A tap in a network of its own, for a card of a guest: frames into it, and the kernel's count of what
//! came out.
//!
//! ```text
//! guest -- card -- vmm -- tap -- kernel: counts what the guest sends, and drops it
//!                          ^--- Sender: a packet socket, numbered frames to the guest
//! ```
//!
//! The network is that of one thread and of what this starts; it goes with them. Nothing here touches a
//! network of the machine.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::thread;

/// Opens a queue of a tap: `_IOW('T', 202, int)` (linux/if_tun.h).
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// The tap's name.
pub const NAME: &str = "tap0";
/// EtherType for local experiments, as the test guest expects it.
const EXPERIMENT: u16 = 0x88b5;
/// Frames per call of a [`Sender`].
const BATCH: usize = 64;

/// What the kernel counted on the tap; "received" is what the guest sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub received_bytes: u64,
    pub received: u64,
    /// Frames that went to the guest's side.
    pub sent: u64,
    /// Frames for the guest that found the tap's queue full.
    pub sent_dropped: u64,
}

/// Runs `work` on a thread with a network of its own, in which there is the tap [`NAME`], up.
///
/// # Errors
/// When there is no right to make a network, no `ip`, or no taps in this kernel.
pub fn in_own_network<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    with_flags(&["vnet_hdr"], work)
}

/// As [`in_own_network`]; the tap has several queues, each opened by [`open_queue`].
///
/// # Errors
/// As there.
pub fn in_own_network_of_queues<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    with_flags(&["vnet_hdr", "multi_queue"], work)
}

fn with_flags<T: Send>(flags: &[&str], work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: it takes no pointer; only this thread gets another network.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            let add = ["tuntap", "add", "dev", NAME, "mode", "tap"];
            ip(&[&add[..], flags].concat())?;
            // Without addresses the kernel has nothing to say on it.
            ip(&["link", "set", NAME, "addrgenmode", "none"])?;
            ip(&["link", "set", NAME, "up"])?;
            Ok(work())
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ip(words: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(words).output()?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!(
        "ip {}: {errors}",
        words.join(" ")
    )))
}

/// A queue of the tap `name`, as a manager passes it to a `vmm`.
///
/// # Errors
/// When there are no taps, or this one is in use.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    open_with(name, 0)
}

/// One of several queues of the tap `name`.
///
/// # Errors
/// As [`open`], and when the tap has only one.
pub fn open_queue(name: &str) -> io::Result<OwnedFd> {
    open_with(name, libc::IFF_MULTI_QUEUE)
}

fn open_with(name: &str, more: libc::c_int) -> io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data, for which zero bytes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the name has an end.
    let place = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    for (place, byte) in place.zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an ifreq, which `request` is.
    if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

/// The counters of the tap in this thread's network.
///
/// # Errors
/// When it is not there.
pub fn counters() -> io::Result<Counters> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| {
        let (name, rest) = line.split_once(':')?;
        (name.trim() == NAME).then_some(rest)
    });
    let line = line.ok_or_else(|| io::Error::other(format!("there is no {NAME}")))?;
    let numbers: Vec<u64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    // Eight of the receiving side, eight of the sending one: bytes, packets, errors, drops first.
    let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
    Ok(Counters {
        received_bytes: number(0),
        received: number(1),
        sent: number(9),
        sent_dropped: number(11),
    })
}

/// Numbered frames for the test guest's `net-rx`.
pub struct Sender {
    socket: OwnedFd,
    /// A batch, frame after frame.
    frames: Vec<u8>,
    bytes: usize,
    next: u32,
}

impl Sender {
    /// A sender of frames of `bytes` (at least 60) into the tap.
    ///
    /// # Errors
    /// Without the right to packet sockets.
    pub fn new(bytes: usize) -> io::Result<Self> {
        // SAFETY: no pointer; the descriptor is new and nobody else's.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = std::ffi::CString::new(NAME)?;
        // SAFETY: sockaddr_ll is plain data, for which zero bytes are a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        // SAFETY: the name is a string with an end.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        address.sll_ifindex = index.cast_signed();
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer is to a sockaddr_ll of that size.
        if unsafe { libc::bind(fd, (&raw const address).cast(), size) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut frame = vec![0; bytes.max(60)];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&[0x02, 0, 0, 0, 0, 2]);
        frame[12..14].copy_from_slice(&EXPERIMENT.to_be_bytes());
        Ok(Self {
            socket,
            bytes: frame.len(),
            frames: frame.repeat(BATCH),
            next: 0,
        })
    }

    /// How many the kernel has taken so far.
    pub fn sent(&self) -> u64 {
        self.next.into()
    }

    /// Sends up to `count` frames, one batch at most; how many the kernel took.
    ///
    /// # Errors
    /// What the kernel says; a full queue is none.
    pub fn send(&mut self, count: usize) -> io::Result<usize> {
        let count = count.min(BATCH);
        for (frame, number) in self.frames.chunks_mut(self.bytes).zip(self.next..) {
            frame[14..18].copy_from_slice(&number.to_le_bytes());
        }
        let mut pieces: Vec<libc::iovec> = self
            .frames
            .chunks_mut(self.bytes)
            .take(count)
            .map(|frame| libc::iovec {
                iov_base: frame.as_mut_ptr().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let message = |piece: &mut libc::iovec| {
            // SAFETY: mmsghdr is plain data, for which zero bytes are a value.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
            message
        };
        let mut messages: Vec<_> = pieces.iter_mut().map(message).collect();
        let (fd, first) = (self.socket.as_raw_fd(), messages.as_mut_ptr());
        // SAFETY: `count` messages at most are there, and they, their pieces and the frames live on.
        let sent = unsafe { libc::sendmmsg(fd, first, messages.len() as u32, 0) };
        let Ok(sent) = usize::try_from(sent) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR) => Ok(0),
                _ => Err(error),
            };
        };
        self.next += sent as u32;
        Ok(sent)
    }
}
