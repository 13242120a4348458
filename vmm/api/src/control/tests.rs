use super::client::{Client, ClientError};
use super::*;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

#[test]
fn messages_survive_json() {
    let messages = [
        Message::Answer {
            id: 1,
            outcome: Outcome::Ok(Reply::Done),
        },
        Message::Answer {
            id: 2,
            outcome: Outcome::Error(ControlError::new(ErrorKind::State, "no")),
        },
        Message::Event {
            event: Event::Stopped {
                reason: EndReason::Crashed,
                detail: "triple fault".into(),
            },
        },
    ];
    for message in messages {
        let text = serde_json::to_string(&message).expect("plain data");
        assert_eq!(
            serde_json::from_str::<Message>(&text).expect(&text),
            message
        );
    }
}

#[test]
fn the_frozen_core_is_spelt_as_ever() {
    let calls = [
        (Request::Query, r#"{"id":1,"request":{"do":"query"}}"#),
        (Request::Events, r#"{"id":1,"request":{"do":"events"}}"#),
        (Request::Pause, r#"{"id":1,"request":{"do":"pause"}}"#),
        (Request::Resume, r#"{"id":1,"request":{"do":"resume"}}"#),
        (
            Request::Powerdown,
            r#"{"id":1,"request":{"do":"powerdown"}}"#,
        ),
        (Request::Destroy, r#"{"id":1,"request":{"do":"destroy"}}"#),
        (Request::Quit, r#"{"id":1,"request":{"do":"quit"}}"#),
        (
            Request::MigrateOut,
            r#"{"id":1,"request":{"do":"migrate-out"}}"#,
        ),
    ];
    for (request, text) in calls {
        assert_eq!(
            serde_json::to_string(&Call { id: 1, request }).expect("plain data"),
            text
        );
    }
}

#[test]
fn an_event_of_a_newer_build_is_no_error() {
    let text = r#"{"type":"event","event":"teleported","to":"mars"}"#;
    let message: Message = serde_json::from_str(text).expect("tolerant");
    assert_eq!(
        message,
        Message::Event {
            event: Event::Unknown
        }
    );
}

#[test]
fn a_call_carries_descriptors_and_events_wait_their_turn() {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let server = thread::spawn(move || {
        frame::receive(&theirs).expect("hello").expect("hello");
        frame::send_json(&theirs, &Hello::ours(&["save"]), &[]).expect("hello back");
        let call = frame::receive(&theirs).expect("call").expect("call");
        let parsed: Call = serde_json::from_slice(&call.body).expect("a call");
        let mut file = std::fs::File::from(call.fds.into_iter().next().expect("a descriptor"));
        file.write_all(b"saved")
            .expect("write through the descriptor");
        let event = Message::Event {
            event: Event::Running,
        };
        frame::send_json(&theirs, &event, &[]).expect("event");
        let answer = Message::Answer {
            id: parsed.id,
            outcome: Outcome::Ok(Reply::Done),
        };
        frame::send_json(&theirs, &answer, &[]).expect("answer");
    });
    let mut client = Client::from_socket(ours, SOON).expect("hello");
    assert_eq!(client.hello().capabilities, ["save"]);
    let mut file = tempfile::tempfile().expect("a file");
    let reply = client
        .call(Request::Save, &[file.as_fd()], SOON)
        .expect("an answer");
    assert_eq!(reply, Reply::Done);
    assert_eq!(
        client.next_event(SOON).expect("the kept event"),
        Event::Running
    );
    let mut text = String::new();
    file.rewind().expect("seek");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "saved");
    server.join().expect("server");
    assert!(matches!(client.next_event(SOON), Err(ClientError::Closed)));
}

#[test]
fn a_silent_process_is_an_error_with_the_time_waited() {
    let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
    let wait = Duration::from_millis(50);
    assert!(
        matches!(Client::from_socket(ours, wait), Err(ClientError::Timeout(time)) if time == wait)
    );
}

#[test]
fn a_length_over_the_limit_allocates_nothing() {
    let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
    ours.write_all(&u32::MAX.to_le_bytes()).expect("write");
    let error = frame::receive(&theirs).expect_err("4 GiB of JSON");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn versions_meet_at_the_highest_common_one() {
    let hello = |min, max| Hello {
        min,
        max,
        build: String::new(),
        capabilities: vec![],
    };
    assert_eq!(hello(1, 3).common(&hello(2, 5)), Some(3));
    assert_eq!(hello(4, 5).common(&hello(1, 3)), None);
}

#[test]
fn a_refusal_of_a_newer_build_is_understood_as_far_as_it_goes() {
    let text = r#"{"kind":"state","message":"no","accepted":["pause","teleport",{"dump":"resume"},{"x":1}]}"#;
    let error: ControlError = serde_json::from_str(text).expect("understood");
    let expected = [
        RequestKind::Pause,
        RequestKind::Dump(crate::state::AfterDump::Resume),
    ];
    assert_eq!(error.accepted, expected);
}
