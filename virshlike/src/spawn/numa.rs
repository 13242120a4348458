//! From which nodes of the host a process gets its memory (set_mempolicy(2), linux/mempolicy.h).
//!
//! It holds for everything that the process allocates, guest RAM first of all, in all of its threads,
//! and stays over exec. Between fork and exec this must only make system calls.

use std::io;

/// Nodes that a kernel can have at most (CONFIG_NODES_SHIFT is 10 at most).
const MOST_NODES: usize = 1024;
const WORDS: usize = MOST_NODES / 64;

/// A policy and the nodes it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPolicy {
    mode: libc::c_int,
    mask: [u64; WORDS],
}

impl MemoryPolicy {
    /// From these nodes and no others.
    pub fn bind(nodes: impl IntoIterator<Item = u32>) -> Self {
        Self::of(libc::MPOL_BIND, nodes)
    }

    /// From this node while it has any.
    pub fn preferred(node: u32) -> Self {
        Self::of(libc::MPOL_PREFERRED, [node])
    }

    /// From these nodes in turn.
    pub fn interleave(nodes: impl IntoIterator<Item = u32>) -> Self {
        Self::of(libc::MPOL_INTERLEAVE, nodes)
    }

    fn of(mode: libc::c_int, nodes: impl IntoIterator<Item = u32>) -> Self {
        let mut mask = [0; WORDS];
        for node in nodes {
            let word = usize::try_from(node / 64).ok();
            // No kernel has nodes beyond: they are found missing before anything is started.
            if let Some(word) = word.and_then(|word| mask.get_mut(word)) {
                *word |= 1 << (node % 64);
            }
        }
        Self { mode, mask }
    }

    /// Makes it the policy of this thread and of what it starts.
    pub(super) fn apply(&self) -> io::Result<()> {
        let (mask, bits) = (self.mask.as_ptr(), MOST_NODES + 1);
        // SAFETY: the kernel reads MOST_NODES bits, which is the mask; the count is one more than
        // the highest node, as the kernel takes it.
        let done = unsafe { libc::syscall(libc::SYS_set_mempolicy, self.mode, mask, bits) };
        if done == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            // A kernel without NUMA has one node, and all memory comes from it.
            error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
            error => Err(error),
        }
    }
}
