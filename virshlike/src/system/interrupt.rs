//! Ctrl+C that ends a wait and not the process, as long as somebody waits.

use super::wake::is_readable;
use signal_hook::SigId;
use signal_hook::consts::SIGINT;
use signal_hook::low_level::{pipe, unregister};
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

/// Whether Ctrl+C ends the process, once it was heard here: in a shell other commands follow.
static DEFAULT: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
    let default = Arc::new(AtomicBool::new(false));
    // Without it Ctrl+C does nothing after the first wait.
    let _ = signal_hook::flag::register_conditional_default(SIGINT, Arc::clone(&default));
    default
});

/// Hears SIGINT until it is dropped.
#[derive(Debug)]
pub struct Interrupt {
    heard: PipeReader,
    registered: SigId,
}

impl Interrupt {
    /// From here on.
    ///
    /// # Errors
    /// What the system says.
    pub fn hear() -> io::Result<Self> {
        let (heard, told) = io::pipe()?;
        DEFAULT.store(false, Ordering::SeqCst);
        let registered = pipe::register(SIGINT, told)?;
        Ok(Self { heard, registered })
    }

    /// Whether it came.
    pub fn came(&self) -> bool {
        is_readable(self.heard.as_fd())
    }
}

impl AsFd for Interrupt {
    /// Can be read from once it came.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        unregister(self.registered);
        DEFAULT.store(true, Ordering::SeqCst);
    }
}
