//! The heap: one for all threads.
//!
//! glibc gives each thread an arena of its own, with address space to reserve and pages that only
//! that thread uses. The threads of this process allocate little and seldom at the same time.

/// Makes all threads share the main heap. Must come before the first thread.
pub(super) fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a parameter of the allocator; memory that is allocated already stays as it is.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}
