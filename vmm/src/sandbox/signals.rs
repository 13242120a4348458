//! Signals: SIGTERM is the power button, SIGHUP and SIGPIPE are ignored, a core dump never holds
//! guest RAM (its mappings see to that).

use signal_hook::consts::SIGTERM;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Tells when SIGTERM came.
#[derive(Debug)]
pub struct Termination {
    socket: UnixStream,
}

impl Termination {
    /// True when SIGTERM came since the last time.
    pub fn came(&self) -> bool {
        use std::io::Read;
        let mut came = false;
        let mut bytes = [0; 16];
        while matches!((&self.socket).read(&mut bytes), Ok(count) if count > 0) {
            came = true;
        }
        came
    }
}

impl AsFd for Termination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Makes writing to a pipe or socket that nobody reads an error instead of the end.
pub(super) fn ignore_broken_pipes() {
    // SAFETY: ignoring a signal runs no code of ours. It cannot fail for this signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Sets the process's signals up.
///
/// # Errors
/// What the host says.
pub fn prepare_signals() -> io::Result<Termination> {
    // SAFETY: ignoring a signal runs no code of ours. A guest outlives the terminal or the login
    // that it was started from.
    if unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    let (ours, handlers) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGTERM, handlers)?;
    Ok(Termination { socket: ours })
}
