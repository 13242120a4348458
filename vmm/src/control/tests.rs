//! The server with a driver that answers everything, against well-behaved and hostile clients.

use super::*;
use crate::machine::inbox::{Inbox, Note};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use vmm_api::control::client::{Client, ClientError};
use vmm_api::control::frame::MAX_FRAME;
use vmm_api::control::{Event, Hello, Reply, Request, frame};
use vmm_api::state::PauseReason;

const PATIENCE: Duration = Duration::from_secs(30);

struct Served {
    folder: tempfile::TempDir,
    outbox: Outbox,
    inbox: Inbox,
    server: Option<Server>,
}

impl Served {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("c")).expect("bound");
        let inbox = Inbox::new().expect("an inbox");
        let outbox = Outbox::new().expect("an outbox");
        let server = Server::start(listener.into(), inbox.clone(), outbox.clone());
        let answers = inbox.clone();
        thread::spawn(move || {
            loop {
                match answers.take() {
                    Some(Note::Client(Request::AbortJob, _)) => return,
                    // The number of descriptors that came with the call, as a counter.
                    Some(Note::Client(Request::Save, mut ticket)) => {
                        let mut devices = serde_json::Map::new();
                        devices.insert("fds".into(), ticket.take_fds().len().into());
                        ticket.answer(Ok(Reply::Stats { devices }));
                    }
                    Some(Note::Client(_, ticket)) => ticket.answer(Ok(Reply::Done)),
                    _ => thread::yield_now(),
                }
            }
        });
        Self {
            folder,
            outbox,
            inbox,
            server: Some(server.expect("a thread")),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("c")
    }

    fn client(&self) -> Client {
        Client::connect(&self.path(), PATIENCE).expect("connected")
    }

    fn raw(&self) -> UnixStream {
        let socket = UnixStream::connect(self.path()).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let ticket = self.outbox.ticket(0, 0, Vec::new());
        self.inbox.leave(Note::Client(Request::AbortJob, ticket));
        if let Some(server) = self.server.take() {
            server.finish();
        }
    }
}

/// Reads until the server closes the connection.
fn is_dropped(mut socket: &UnixStream) -> bool {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn calls_are_answered_and_descriptors_arrive_with_them() {
    let served = Served::new();
    let mut client = served.client();
    assert_eq!(
        client.call(Request::Pause, &[], PATIENCE).expect("yes"),
        Reply::Done
    );
    let file = tempfile::tempfile().expect("a file");
    let reply = client.call(Request::Save, &[file.as_fd(), file.as_fd()], PATIENCE);
    let Reply::Stats { devices } = reply.expect("an answer") else {
        panic!("another reply");
    };
    assert_eq!(devices["fds"], 2);
    assert!(
        client
            .hello()
            .capabilities
            .iter()
            .any(|name| name == "save")
    );
}

#[test]
fn events_go_to_those_who_asked() {
    let served = Served::new();
    let (mut asked, mut silent) = (served.client(), served.client());
    asked
        .call(Request::Events, &[], PATIENCE)
        .expect("subscribed");
    let event = Event::Paused {
        reason: PauseReason::User,
        detail: String::new(),
    };
    served.outbox.tell(event.clone());
    assert_eq!(asked.next_event(PATIENCE).expect("told"), event);
    // An answer that comes after the event proves that no event came before it.
    silent.call(Request::Pause, &[], PATIENCE).expect("yes");
    let nothing = silent.next_event(Duration::from_millis(1));
    assert!(matches!(nothing, Err(ClientError::Timeout(_))));
}

#[test]
fn a_request_of_a_newer_build_is_answered() {
    let served = Served::new();
    let socket = served.raw();
    frame::send_json(&socket, &Hello::ours(&[]), &[]).expect("sent");
    frame::receive(&socket).expect("a hello").expect("open");
    let call = serde_json::json!({"id": 7, "request": {"do": "fly", "height": 3}});
    frame::send_json(&socket, &call, &[]).expect("sent");
    let answer = frame::receive(&socket).expect("an answer").expect("open");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(
        text.contains("\"id\":7") && text.contains("unsupported"),
        "{text}"
    );
}

#[test]
fn a_protocol_without_a_common_version_is_told_ours_and_dropped() {
    let served = Served::new();
    let socket = served.raw();
    let newer = Hello {
        min: 900,
        max: 901,
        ..Hello::ours(&[])
    };
    frame::send_json(&socket, &newer, &[]).expect("sent");
    frame::receive(&socket).expect("our hello").expect("open");
    assert!(is_dropped(&socket));
}

#[test]
fn hostile_bytes_cost_only_their_sender() {
    let served = Served::new();
    let mut good = served.client();
    let too_long = u32::try_from(MAX_FRAME + 1).expect("small").to_le_bytes();
    let hostile: [&[u8]; 5] = [
        &too_long,
        &[0xff; 64],
        &[0; 64],
        b"\x05\0\0\0hello",
        b"\x02\0\0\0{}",
    ];
    for bytes in hostile {
        let mut socket = served.raw();
        socket.write_all(bytes).expect("sent");
        assert!(is_dropped(&socket), "{bytes:?}");
        good.call(Request::Pause, &[], PATIENCE).expect("served");
    }
    // Half a frame, then nothing: it may stay, and nobody waits for it.
    let mut half = served.raw();
    half.write_all(&[9, 0]).expect("sent");
    good.call(Request::Pause, &[], PATIENCE).expect("served");
    let garbage = served.raw();
    frame::send_json(&garbage, &Hello::ours(&[]), &[]).expect("sent");
    frame::receive(&garbage).expect("a hello").expect("open");
    frame::send(&garbage, b"[1, 2", &[]).expect("sent");
    assert!(is_dropped(&garbage));
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_nobody_waits_for_it() {
    let served = Served::new();
    let socket = served.raw();
    frame::send_json(&socket, &Hello::ours(&[]), &[]).expect("sent");
    let events = serde_json::json!({"id": 1, "request": {"do": "events"}});
    frame::send_json(&socket, &events, &[]).expect("sent");
    let mut good = served.client();
    let detail = "x".repeat(64 << 10);
    for _ in 0..200 {
        served.outbox.tell(Event::Paused {
            reason: PauseReason::IoError,
            detail: detail.clone(),
        });
        good.call(Request::Pause, &[], PATIENCE).expect("served");
    }
    assert!(is_dropped(&socket), "12 MiB were kept for it");
}

#[test]
fn too_many_calls_at_once_are_refused_by_dropping() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(folder.path().join("c")).expect("bound");
    let inbox = Inbox::new().expect("an inbox");
    let outbox = Outbox::new().expect("an outbox");
    let server = Server::start(listener.into(), inbox.clone(), outbox).expect("a thread");
    let mut socket = UnixStream::connect(folder.path().join("c")).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    frame::send_json(&socket, &Hello::ours(&[]), &[]).expect("sent");
    let call = br#"{"id":1,"request":{"do":"pause"}}"#;
    let mut bytes = u32::try_from(call.len())
        .expect("small")
        .to_le_bytes()
        .to_vec();
    bytes.extend_from_slice(call);
    // Nobody answers here. The server may close before everything is written.
    let _sent = socket.write_all(&bytes.repeat(1000));
    assert!(is_dropped(&socket));
    let mut notes = 0;
    while inbox.take().is_some() {
        notes += 1;
    }
    assert!(notes <= 256, "{notes}");
    server.finish();
}

#[test]
fn the_last_words_are_sent_before_the_end() {
    let mut served = Served::new();
    let mut client = served.client();
    client
        .call(Request::Events, &[], PATIENCE)
        .expect("subscribed");
    served.outbox.tell(Event::Reset);
    served.server.take().expect("it runs").finish();
    assert_eq!(client.next_event(PATIENCE).expect("told"), Event::Reset);
    let closed = client.call(Request::Pause, &[], PATIENCE);
    assert!(matches!(
        closed,
        Err(ClientError::Closed | ClientError::Io(_))
    ));
}
