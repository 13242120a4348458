//! A tap device: Ethernet frames with a virtio header in front, one descriptor per queue.
//!
//! The manager makes the tap and passes its descriptors; here they are only checked, told what the
//! guest can take, and read and written. Linux documents this in networking/tuntap.
#![allow(unsafe_code)]

mod batch;

pub use batch::{Batch, MOST, MOST_PIECES};

use images::Buffer;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes of the header in front of each frame (virtio 1.3 §5.1.6).
pub const HEADER: usize = 12;

/// What a tap may hand to the guest unfinished (TUN_F_*).
pub mod offload {
    /// Frames without a checksum.
    pub const CHECKSUM: u32 = 1;
    /// TCP over IPv4 in pieces larger than the MTU.
    pub const TSO4: u32 = 2;
    /// TCP over IPv6 likewise.
    pub const TSO6: u32 = 4;
}

/// Flags of the interface (linux/if_tun.h).
const IFF_TAP: i16 = 0x0002;
const IFF_ATTACH_QUEUE: i16 = 0x0200;
const IFF_DETACH_QUEUE: i16 = 0x0400;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;

/// Requests of the tun driver: 'T' and a number, with a direction and a size.
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNGETIFF: libc::c_ulong = 0x8004_54d2;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUNSETQUEUE: libc::c_ulong = 0x4004_54d9;

/// A descriptor that is no tap of the right kind.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel does not know it as one, or refuses a setting.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// It was opened another way.
    #[error("the tap was opened with flags {0:#06x}; it needs IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    Flags(i16),
}

/// One queue of a tap.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    /// False for the sockets that stand in for taps in tests: they have no settings.
    settings: bool,
}

impl Tap {
    /// Takes an opened queue of a tap and makes it non-blocking.
    ///
    /// # Errors
    /// [`TapError`] for anything that is no tap with virtio headers.
    pub fn new(fd: OwnedFd) -> Result<Self, TapError> {
        let tap = Self { fd, settings: true };
        // SAFETY: ifreq is plain data, for which zero bytes are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        tap.control("asking whether it is a tap", |fd| {
            // SAFETY: TUNGETIFF fills an ifreq, which `request` is.
            unsafe { libc::ioctl(fd, TUNGETIFF, &raw mut request) }
        })?;
        // SAFETY: TUNGETIFF fills the flags of the union; any bits are a value of them.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let needed = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        if flags & needed != needed {
            return Err(TapError::Flags(flags));
        }
        let size = HEADER as libc::c_int;
        tap.control("setting the size of its headers", |fd| {
            // SAFETY: TUNSETVNETHDRSZ reads an int, which `size` is.
            unsafe { libc::ioctl(fd, TUNSETVNETHDRSZ, &raw const size) }
        })?;
        tap.non_blocking()?;
        Ok(tap)
    }

    /// A datagram socket that stands in for a tap in tests and fuzz bodies.
    pub(crate) fn socket(fd: OwnedFd) -> Self {
        let tap = Self {
            fd,
            settings: false,
        };
        tap.non_blocking().expect("a socket");
        tap
    }

    fn non_blocking(&self) -> Result<(), TapError> {
        fcntl_getfl(&self.fd)
            .and_then(|flags| fcntl_setfl(&self.fd, flags | OFlags::NONBLOCK))
            .map_err(|error| TapError::Kernel {
                what: "making it non-blocking",
                source: error.into(),
            })
    }

    fn control(
        &self,
        what: &'static str,
        call: impl FnOnce(i32) -> libc::c_int,
    ) -> Result<(), TapError> {
        if self.settings && call(self.fd.as_raw_fd()) < 0 {
            return Err(TapError::Kernel {
                what,
                source: io::Error::last_os_error(),
            });
        }
        Ok(())
    }

    /// Tells the kernel what it may leave unfinished in frames for the guest ([`offload`]).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_offload(&self, what: u32) -> Result<(), TapError> {
        self.control("setting its offloads", |fd| {
            // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
            unsafe { libc::ioctl(fd, TUNSETOFFLOAD, libc::c_ulong::from(what)) }
        })
    }

    /// Lets this queue of a multi-queue tap carry frames, or not.
    ///
    /// # Errors
    /// What the kernel says; repeating the same is an error too.
    pub fn attach(&self, attached: bool) -> Result<(), TapError> {
        // SAFETY: ifreq is plain data, for which zero bytes are a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_flags = if attached {
            IFF_ATTACH_QUEUE
        } else {
            IFF_DETACH_QUEUE
        };
        self.control("switching a queue on or off", |fd| {
            // SAFETY: TUNSETQUEUE reads an ifreq, which `request` is.
            unsafe { libc::ioctl(fd, TUNSETQUEUE, &raw const request) }
        })
    }

    /// The descriptor, to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads one frame with its header; an error of kind `WouldBlock` when there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| {
            rustix::io::read(&self.fd, &mut *frame)
        })?)
    }

    /// Reads one frame with its header into pieces of memory, one behind the other, as
    /// [`Tap::receive`] does. Bytes without room are lost.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn scatter(&self, pieces: &[Buffer]) -> io::Result<usize> {
        self.vectored(pieces, libc::readv)
    }

    /// Writes one frame with its header from pieces of guest memory.
    ///
    /// # Errors
    /// What the kernel says, such as for a header that makes no sense.
    pub fn send(&self, pieces: &[Buffer]) -> io::Result<usize> {
        self.vectored(pieces, libc::writev)
    }

    fn vectored(
        &self,
        pieces: &[Buffer],
        call: unsafe extern "C" fn(i32, *const libc::iovec, i32) -> isize,
    ) -> io::Result<usize> {
        let count = libc::c_int::try_from(pieces.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let list = pieces.as_ptr().cast::<libc::iovec>();
        loop {
            // SAFETY: readv or writev; a Buffer is an iovec (repr(transparent)) whose memory is mapped
            // while the caller lends it; the call ends before the loan does.
            let moved = unsafe { call(self.fd.as_raw_fd(), list, count) };
            if let Ok(moved) = usize::try_from(moved) {
                return Ok(moved);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests;
