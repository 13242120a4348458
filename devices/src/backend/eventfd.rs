//! An eventfd as both worlds want it: `vmm-sys-util`'s type for doorbells, a borrowed descriptor
//! for whoever waits.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};
use vmm_sys_util::eventfd::EventFd;

/// The descriptor of `event`, for as long as `event` is borrowed.
pub fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: `event` owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
