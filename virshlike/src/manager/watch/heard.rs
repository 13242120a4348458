//! What `vm daemon` tells of domains, where one runs: a line of JSON each, over one connection,
//! instead of an ear at every guest. The other end is `daemon::fanout`.

use super::Happening;
use crate::error::plain_io;
use crate::store::Layout;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::time::Duration;
use uuid::Uuid;

/// Where a daemon listens, below a store's runtime directory.
pub(crate) const SOCKET: &str = "daemon/events";
/// What is said to it.
pub(crate) const ASKED: &str = "happenings\n";
/// What it answers.
pub(crate) const HELLO: &str = "{\"version\":1}\n";
/// How long its answer may take; one that hangs is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longer than any line of it.
const MOST: u64 = 64 << 10;

/// A line of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Seconds since the Unix epoch.
    pub time: u64,
    /// The domain's UUID, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// What happened.
    #[serde(flatten)]
    pub happening: Happening,
}

/// A connection to a daemon that tells everything from now on.
pub(super) struct Heard {
    lines: BufReader<UnixStream>,
}

impl Heard {
    /// Asks the daemon of a store; none when nobody answers there.
    pub(super) fn from(layout: &Layout) -> Option<Self> {
        match Self::ask(layout) {
            Ok(heard) => Some(heard),
            Err(error) => {
                tracing::debug!("no daemon tells of events: {}", plain_io(&error));
                None
            }
        }
    }

    fn ask(layout: &Layout) -> io::Result<Self> {
        let mut socket = UnixStream::connect(layout.run.join(SOCKET))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.write_all(ASKED.as_bytes())?;
        let mut heard = Self {
            lines: BufReader::new(socket),
        };
        // Changes may stand before the answer.
        loop {
            let line = heard.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if line.as_bytes() == HELLO.as_bytes() {
                heard.lines.get_ref().set_read_timeout(None)?;
                return Ok(heard);
            }
        }
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        self.lines.by_ref().take(MOST).read_line(&mut line)?;
        Ok(line.ends_with('\n').then_some(line))
    }

    /// Passes on what is told of domains that are `wanted`, until the daemon is gone or nobody hears.
    pub(super) fn pass_on(mut self, wanted: impl Fn(&Told) -> bool, sender: &Sender<Happening>) {
        while let Ok(Some(line)) = self.line() {
            let Ok(told) = serde_json::from_str::<Told>(&line) else {
                tracing::warn!("the daemon says what this vm does not understand");
                continue;
            };
            let happening = Happening {
                uuid: told.uuid,
                ..told.happening.clone()
            };
            if wanted(&told) && sender.send(happening).is_err() {
                return;
            }
        }
    }
}
