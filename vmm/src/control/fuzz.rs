//! A client that sends anything.

use super::Outbox;
use super::connection::Connection;
use super::server::take_frames;
use crate::machine::inbox::{Inbox, Note};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use vmm_api::control::Reply;
use vmm_api::state::{Job, PauseReason, RunState, decide};

/// Bytes that one client sends at most: what a socket takes without a reader.
const MOST: usize = 64 << 10;

/// Lines that a client sends as frames; a line that begins with an exclamation mark goes out as it is.
/// The first frame should be a hello. Whether a request got through.
pub fn control(bytes: &[u8]) -> bool {
    let (Ok((mut client, server)), Ok(inbox), Ok(outbox)) =
        (UnixStream::pair(), Inbox::new(), Outbox::new())
    else {
        return false;
    };
    let Ok(mut connection) = Connection::new(server) else {
        return false;
    };
    let mut sent = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        match line.strip_prefix(b"!") {
            Some(raw) => sent.extend_from_slice(raw),
            None => {
                sent.extend_from_slice(&(line.len() as u32).to_le_bytes());
                sent.extend_from_slice(line);
            }
        }
    }
    sent.truncate(MOST);
    if client.write_all(&sent).is_err() || client.shutdown(Shutdown::Write).is_err() {
        return false;
    }
    // It has closed: however it went, this ends.
    let over = take_frames(&mut connection, 1, &inbox, &outbox);
    assert!(over.is_err(), "a client that has gone is still there");
    let states = [
        RunState::Running,
        RunState::Paused {
            reasons: [PauseReason::User].into(),
        },
    ];
    let mut asked = false;
    while let Some(note) = inbox.take() {
        asked = true;
        let Note::Client(request, mut ticket) = note else {
            panic!("a client left {note:?}")
        };
        if let Some(kind) = request.kind() {
            for state in &states {
                decide(state, None, kind);
                decide(state, Some(Job::Save), kind);
            }
        }
        assert!(ticket.take_fds().is_empty(), "descriptors from nowhere");
        ticket.answer(Ok(Reply::Done));
    }
    asked
}
