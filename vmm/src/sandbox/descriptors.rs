//! Taking possession of the descriptors that the manager passed.
//!
//! A number in the spec becomes an owned descriptor exactly once, here, at start. All of them, and
//! whatever else was inherited, get close-on-exec: nothing that this process starts has a use for them.

use devices::files::Files;
use std::collections::BTreeSet;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Standard input, output and error belong to the process, not to the spec.
const FIRST_PASSED: RawFd = 3;

/// Opens what is closed of the standard streams, as nothing. The next file would get the number
/// otherwise, and messages would be written into it.
pub(super) fn hold_standard_streams() {
    for number in 0..FIRST_PASSED {
        // SAFETY: asks for flags only; a number that is not open makes the call fail.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0 {
            continue;
        }
        // SAFETY: a path that ends with a zero. The lowest free number is this one, and it stays open.
        unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
    }
}

/// A number that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// No such descriptor is open.
    #[error("descriptor {0} is named in the spec but was not passed to this process")]
    NotOpen(RawFd),
    /// It is one of the standard three.
    #[error("descriptor {0} is a standard stream; the spec may name 3 and above")]
    Standard(RawFd),
}

/// Takes the descriptors with these numbers. Numbers that appear twice are taken once: the second
/// user is refused when it asks for it.
///
/// # Errors
/// [`AdoptError`] for the first number that cannot be taken; nothing is taken then.
pub fn adopt(numbers: &BTreeSet<RawFd>) -> Result<Files, AdoptError> {
    for number in numbers {
        check(*number)?;
    }
    close_all_on_exec();
    let files = Files::default();
    for number in numbers {
        // SAFETY: it is open, and this is the only place that turns numbers into owners; main
        // calls it once.
        files.add(*number, unsafe { OwnedFd::from_raw_fd(*number) });
    }
    Ok(files)
}

/// Takes one descriptor, the spec's own, before anything is known about the others.
///
/// # Errors
/// [`AdoptError`].
pub fn take_one(number: RawFd) -> Result<OwnedFd, AdoptError> {
    check(number)?;
    // SAFETY: as in `adopt`; main calls it once, before, and the spec cannot name the same number
    // again because it is closed by then.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn check(number: RawFd) -> Result<(), AdoptError> {
    if number < FIRST_PASSED {
        return Err(AdoptError::Standard(number));
    }
    // SAFETY: asks for flags only; a number that is not open makes the call fail.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(AdoptError::NotOpen(number));
    }
    Ok(())
}

fn close_all_on_exec() {
    let first = libc::c_uint::try_from(FIRST_PASSED).unwrap_or(3);
    let flags = i32::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or(0);
    // SAFETY: changes a flag of descriptors, closes none. Kernels before 5.11 do not know the call;
    // this process never executes another program, so nothing is lost there.
    unsafe { libc::close_range(first, libc::c_uint::MAX, flags) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;
    use vmm_api::spec::Fd;

    #[test]
    fn a_passed_descriptor_is_taken_once() {
        let number = std::fs::File::open("/dev/null")
            .expect("open")
            .into_raw_fd();
        let files = adopt(&BTreeSet::from([number])).expect("it is open");
        let _owned = files.take(Fd(number)).expect("first");
        assert!(files.take(Fd(number)).is_err(), "second");
    }

    #[test]
    fn numbers_that_are_not_open_or_not_ours_are_refused() {
        let closed = adopt(&BTreeSet::from([1_000_000])).expect_err("not open");
        assert_eq!(closed, AdoptError::NotOpen(1_000_000));
        let standard = adopt(&BTreeSet::from([1])).expect_err("standard output");
        assert_eq!(standard, AdoptError::Standard(1));
    }
}
