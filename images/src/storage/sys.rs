//! The system calls of this crate, each wrapped once with its safety reason.
#![allow(unsafe_code)]
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::Buffer;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn offset(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

/// preadv at `at`; at most 1024 pieces.
pub(crate) fn preadv(fd: BorrowedFd<'_>, bufs: &[Buffer], at: u64) -> io::Result<usize> {
    let n = bufs.len().min(1024) as libc::c_int;
    // SAFETY: Buffer is an iovec, and its contract says that the memory is valid and may be
    // written until the request is over; this call ends before it returns.
    count(unsafe { libc::preadv(fd.as_raw_fd(), bufs.as_ptr().cast(), n, offset(at)?) })
}

/// pwritev at `at`; at most 1024 pieces.
pub(crate) fn pwritev(fd: BorrowedFd<'_>, bufs: &[Buffer], at: u64) -> io::Result<usize> {
    let n = bufs.len().min(1024) as libc::c_int;
    // SAFETY: as in preadv; the memory is only read.
    count(unsafe { libc::pwritev(fd.as_raw_fd(), bufs.as_ptr().cast(), n, offset(at)?) })
}

/// preadv that never waits for the disk: fails with EAGAIN where it would.
pub(crate) fn preadv_nowait(fd: BorrowedFd<'_>, bufs: &[Buffer], at: u64) -> io::Result<usize> {
    let n = bufs.len().min(1024) as libc::c_int;
    // SAFETY: as in preadv.
    count(unsafe {
        let iov = bufs.as_ptr().cast();
        libc::preadv2(fd.as_raw_fd(), iov, n, offset(at)?, libc::RWF_NOWAIT)
    })
}

/// fdatasync.
pub(crate) fn fdatasync(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fdatasync(fd.as_raw_fd()) }).map(|_| ())
}

/// fallocate with the mode bits of fallocate(2).
pub(crate) fn fallocate(fd: BorrowedFd<'_>, mode: i32, at: u64, len: u64) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset(at)?, offset(len)?) }).map(|_| ())
}

/// A non-blocking eventfd, closed on exec.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    // SAFETY: the kernel just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one; a counter that is full is as good as a signal, so the result does not matter.
pub(crate) fn eventfd_write(fd: BorrowedFd<'_>) {
    let one = 1u64;
    // SAFETY: eight readable bytes.
    unsafe { libc::write(fd.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
}

/// Reads and clears the counter; None when it is zero. Meant to be called after a poll.
pub(crate) fn eventfd_read(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut value = 0u64;
    let mut iov = libc::iovec {
        iov_base: std::ptr::from_mut(&mut value).cast(),
        iov_len: 8,
    };
    // SAFETY: one iovec over eight writable bytes that outlive the call.
    let n = unsafe { libc::preadv2(fd.as_raw_fd(), &raw mut iov, 1, -1, libc::RWF_NOWAIT) };
    if n == 8 {
        return Ok(Some(value));
    }
    let error = io::Error::last_os_error();
    if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
        return Ok(None);
    }
    // SAFETY: eight writable bytes; for kernels whose eventfds know no RWF_NOWAIT.
    let n = unsafe { libc::read(fd.as_raw_fd(), std::ptr::from_mut(&mut value).cast(), 8) };
    if n == 8 {
        return Ok(Some(value));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(None),
        _ => Err(error),
    }
}

/// Waits until the event is readable or one of `fds` has one of its events; which of `fds` have.
/// An error of one descriptor counts too, so that its user meets it.
pub(crate) fn poll_ready(
    event: BorrowedFd<'_>,
    fds: &[(i32, libc::c_short)],
    timeout: Option<Duration>,
) -> Vec<bool> {
    let mut polled: Vec<libc::pollfd> = std::iter::once((event.as_raw_fd(), libc::POLLIN))
        .chain(fds.iter().copied())
        .map(|(fd, events)| libc::pollfd {
            fd,
            events,
            revents: 0,
        })
        .collect();
    let time = timeout.map(|d| libc::timespec {
        tv_sec: libc::time_t::try_from(d.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: d.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the array has the given length and lives through the call, like the time.
    let n = unsafe {
        libc::ppoll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            time,
            std::ptr::null(),
        )
    };
    polled
        .iter()
        .skip(1)
        .map(|p| n > 0 && p.revents != 0)
        .collect()
}

/// The open flags of a descriptor (O_DIRECT, access mode).
pub(crate) fn flags(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })
}

/// Sets the flags that can be changed on an open descriptor.
pub(crate) fn set_flags(fd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) }).map(|_| ())
}

fn lock_request(kind: i32, start: u64, len: u64) -> libc::flock {
    // SAFETY: flock is plain numbers, all zero is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = start as libc::off_t;
    lock.l_len = len as libc::off_t;
    lock
}

/// Takes (`F_RDLCK`) or gives up (`F_UNLCK`) a lock of the open file description.
pub(crate) fn ofd_lock(fd: BorrowedFd<'_>, kind: i32, start: u64, len: u64) -> io::Result<()> {
    let mut lock = lock_request(kind, start, len);
    // SAFETY: a valid flock that lives through the call.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) }).map(|_| ())
}

/// True if another open file description holds any lock on the bytes.
pub(crate) fn ofd_locked_by_others(fd: BorrowedFd<'_>, start: u64, len: u64) -> io::Result<bool> {
    let mut lock = lock_request(libc::F_WRLCK, start, len);
    // SAFETY: a valid flock that lives through the call.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// What statx says of direct I/O: (memory alignment, offset alignment). None where the kernel or
/// the file system does not tell; (0, 0) where direct I/O is not supported.
pub(crate) fn direct_alignment(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    // SAFETY: statx is plain numbers, all zero is a valid value.
    let mut st: libc::statx = unsafe { std::mem::zeroed() };
    let (at, mask) = (libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN);
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor; st lives through the call.
    let r = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), at, mask, &raw mut st) };
    let known = r == 0 && st.stx_mask & libc::STATX_DIOALIGN != 0;
    known.then_some((st.stx_dio_mem_align, st.stx_dio_offset_align))
}

/// The size in bytes of a block device or a regular file: where its end is.
pub(crate) fn end_offset(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: no memory is passed. The file position is not used by this crate.
    let end = unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_END) };
    u64::try_from(end).map_err(|_| io::Error::last_os_error())
}

/// The next data at or after `from` (None: none up to the end), or the next hole.
pub(crate) fn seek(fd: BorrowedFd<'_>, from: u64, data: bool) -> io::Result<Option<u64>> {
    let whence = if data {
        libc::SEEK_DATA
    } else {
        libc::SEEK_HOLE
    };
    // SAFETY: no memory is passed. The file position is not used by this crate.
    let at = unsafe { libc::lseek(fd.as_raw_fd(), offset(from)?, whence) };
    match u64::try_from(at) {
        Ok(at) => Ok(Some(at)),
        Err(_) => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            e => Err(e),
        },
    }
}

/// Copies within the kernel, from an offset of one file to one of another; how much. Blocks, and file
/// systems that can share the space instead of copying it.
pub(crate) fn copy_range(
    from: BorrowedFd<'_>,
    from_at: u64,
    to: BorrowedFd<'_>,
    to_at: u64,
    len: u64,
) -> io::Result<u64> {
    let (mut from_at, mut to_at) = (from_at as libc::loff_t, to_at as libc::loff_t);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    // SAFETY: both descriptors are open, both offsets are this frame's.
    let n = unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            &raw mut from_at,
            to.as_raw_fd(),
            &raw mut to_at,
            len,
            0,
        )
    };
    u64::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Lets a range of one file share the space of a range of another one on the same file system.
pub(crate) fn clone_range(
    from: BorrowedFd<'_>,
    from_at: u64,
    to: BorrowedFd<'_>,
    to_at: u64,
    len: u64,
) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: from.as_raw_fd().into(),
        src_offset: from_at,
        src_length: len,
        dest_offset: to_at,
    };
    // SAFETY: both descriptors are open, and the kernel only reads the structure.
    let result = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONERANGE as _, &raw const range) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
