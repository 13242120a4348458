//! Descriptors that the daemon's event loop waits for.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that can be waited for until it is readable, in the event loop of the caller.
///
/// # Errors
/// A descriptor that cannot be waited for.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` has one number all its life, and it moves into the result, which gives up
    // its registration before the descriptor is closed.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}
