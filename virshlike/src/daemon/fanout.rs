//! What happens, to everyone who listens on `run/daemon/events`, a line of JSON each.
//!
//! ```text
//! connect                          changes: time, domain, uuid, action, detail
//! connect, say "happenings\n"      {"version":1}, then what `vm event` prints: time, domain, uuid,
//!                                  event, detail; nothing that happens behind the answer is missed
//! ```
//!
//! A listener that falls behind is let go: it sees the end and knows that it missed something.

use super::Notice;
use crate::manager::watch::heard::{ASKED, HELLO, Told};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::{self, Receiver, error::RecvError};

/// How far behind a listener may be, in changes, until it is let go.
const BEHIND: usize = 256;
/// How long a listener may take no notice of a line until it is let go.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than a listener has to say.
const MOST: usize = 64;

/// The listeners.
pub(super) struct Fanout {
    listener: UnixListener,
    changes: broadcast::Sender<String>,
    happenings: broadcast::Sender<String>,
}

impl Fanout {
    /// Listens at `path`, whose folder only the owner may enter.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self {
            listener: UnixListener::bind(path)?,
            changes: broadcast::channel(BEHIND).0,
            happenings: broadcast::channel(BEHIND).0,
        })
    }

    /// Takes in whoever comes; never returns.
    pub(super) async fn serve(&self) {
        loop {
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    let happenings = self.happenings.clone();
                    tokio::spawn(serve(socket, self.changes.subscribe(), happenings));
                }
                // Too many are open: the next one may fit again.
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// Tells everyone who listens to changes.
    pub(super) fn tell(&self, notice: &Notice) {
        send(&self.changes, notice);
    }

    /// Tells everyone who asked for happenings.
    pub(super) fn tell_happening(&self, told: &Told) {
        send(&self.happenings, told);
    }
}

fn send<T: serde::Serialize>(to: &broadcast::Sender<String>, line: &T) {
    let mut line = serde_json::to_string(line).unwrap_or_default();
    line.push('\n');
    // It fails when nobody listens.
    let _ = to.send(line);
}

async fn serve(
    mut socket: UnixStream,
    mut lines: Receiver<String>,
    happenings: broadcast::Sender<String>,
) {
    let mut said = Vec::new();
    let mut bytes = [0; MOST];
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Ok(line) => {
                    if !say(&mut socket, &line, PATIENCE).await {
                        return;
                    }
                }
                Err(RecvError::Lagged(_) | RecvError::Closed) => return,
            },
            read = socket.read(&mut bytes) => {
                let Ok(count @ 1..) = read else { return };
                said.extend_from_slice(bytes.get(..count).unwrap_or_default());
                if said == ASKED.as_bytes() {
                    lines = happenings.subscribe();
                    if !say(&mut socket, HELLO, PATIENCE).await {
                        return;
                    }
                }
                // Whatever else it says means nothing, and is not kept.
                said.truncate(MOST);
            }
        }
    }
}

/// Whether a line could be said; one who stands still with a full socket would be kept for ever.
async fn say(socket: &mut UnixStream, line: &str, patience: Duration) -> bool {
    let said = tokio::time::timeout(patience, socket.write_all(line.as_bytes())).await;
    matches!(said, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_stands_still_is_let_go() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut socket, listener) = UnixStream::pair().unwrap();
            let line = "x".repeat(4096);
            let mut said = 0;
            while say(&mut socket, &line, Duration::from_millis(50)).await {
                said += 1;
            }
            assert!(said > 0);
            drop(listener);
            assert!(!say(&mut socket, &line, PATIENCE).await);
        });
    }
}
