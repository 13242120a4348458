//! What happens, to everyone who listens on `run/daemon/events`: one line of JSON per change.

use super::Notice;
use std::io;
use std::path::Path;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::{self, Receiver, error::RecvError};

/// How far behind a listener may be, in changes, until it is let go.
const BEHIND: usize = 256;

/// The listeners.
pub(super) struct Fanout {
    listener: UnixListener,
    lines: broadcast::Sender<String>,
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
            lines: broadcast::channel(BEHIND).0,
        })
    }

    /// Takes in whoever comes; never returns.
    pub(super) async fn serve(&self) {
        loop {
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    tokio::spawn(serve(socket, self.lines.subscribe()));
                }
                // Too many are open: the next one may fit again.
                Err(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
            }
        }
    }

    /// Tells everyone.
    pub(super) fn tell(&self, notice: &Notice) {
        let mut line = serde_json::to_string(notice).unwrap_or_default();
        line.push('\n');
        // It fails when nobody listens.
        let _ = self.lines.send(line);
    }
}

async fn serve(mut socket: UnixStream, mut lines: Receiver<String>) {
    let mut nothing = [0; 64];
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Ok(line) => {
                    if socket.write_all(line.as_bytes()).await.is_err() {
                        return;
                    }
                }
                // It sees the end and knows that it missed something.
                Err(RecvError::Lagged(_) | RecvError::Closed) => return,
            },
            // Listeners have nothing to say; their end is heard.
            read = tokio::io::AsyncReadExt::read(&mut socket, &mut nothing) => {
                if !matches!(read, Ok(1..)) {
                    return;
                }
            }
        }
    }
}
