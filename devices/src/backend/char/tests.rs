//! The hub with real sockets, pipes and ptys. Every wait is for something that must come; nothing
//! is timed.

use super::*;
use rustix::pipe::{fcntl_getpipe_size, pipe};
use rustix::pty::{OpenptFlags, grantpt, openpt, unlockpt};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Condvar;
use vmm_api::console::{Attach, Attached, REPLAY_BYTES, Role, to_line};

/// A front-end with a FIFO of 16 bytes.
#[derive(Default)]
struct Fifo {
    bytes: Mutex<Vec<u8>>,
    came: Condvar,
    closed: AtomicBool,
}

impl Front for Fifo {
    fn room(&self) -> usize {
        if self.closed.load(Ordering::SeqCst) {
            return 0;
        }
        16 - self.bytes.lock().unwrap().len()
    }

    fn receive(&self, bytes: &[u8]) {
        let mut fifo = self.bytes.lock().unwrap();
        fifo.extend(bytes);
        assert!(fifo.len() <= 16, "more than there was room for");
        self.came.notify_all();
    }
}

impl Fifo {
    /// Reads `count` bytes as a guest does: one at a time, telling the hub after each.
    fn read(&self, hub: &Hub, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            let mut fifo = self.bytes.lock().unwrap();
            while fifo.is_empty() {
                fifo = self.came.wait(fifo).unwrap();
            }
            all.push(fifo.remove(0));
            drop(fifo);
            hub.input_wanted();
        }
        all
    }
}

struct Console {
    hub: Arc<Hub>,
    front: Arc<Fifo>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Console {
    fn new(mut files: HubFiles) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("console");
        let listener = UnixListener::bind(&path).expect("a socket");
        files.console = Some(listener.into());
        let hub = Hub::new("serial0", files).expect("a hub");
        let front = Arc::new(Fifo::default());
        let weak: Weak<Fifo> = Arc::downgrade(&front);
        hub.attach(weak);
        Self {
            hub,
            front,
            path,
            _folder: folder,
        }
    }

    fn attach(&self, attach: Attach) -> (BufReader<UnixStream>, Attached) {
        let mut socket = UnixStream::connect(&self.path).expect("listening");
        socket.write_all(&to_line(&attach)).expect("sent");
        let mut reader = BufReader::new(socket);
        let mut line = String::new();
        reader.read_line(&mut line).expect("answered");
        let answer = serde_json::from_str(&line).expect("an answer");
        (reader, answer)
    }
}

const SEES: Attach = Attach {
    write: false,
    force: false,
};
const WRITES: Attach = Attach {
    write: true,
    force: false,
};
const FORCES: Attach = Attach {
    write: true,
    force: true,
};

fn expect(from: &mut impl Read, text: &[u8]) {
    let mut got = vec![0; text.len()];
    from.read_exact(&mut got).expect("output");
    assert_eq!(got, text);
}

#[test]
fn viewers_see_what_was_and_what_comes() {
    let console = Console::new(HubFiles::default());
    console.hub.write(b"before ");
    let (mut first, answer) = console.attach(SEES);
    assert_eq!(
        answer,
        Attached {
            role: Role::Viewer,
            replay: 7
        }
    );
    console.hub.write(b"after");
    let (mut second, _) = console.attach(WRITES);
    expect(&mut first, b"before after");
    expect(&mut second, b"before after");
    console.hub.write(b"!");
    expect(&mut first, b"!");
    expect(&mut second, b"!");
}

#[test]
fn the_replay_is_the_last_64_kib() {
    let console = Console::new(HubFiles::default());
    console.hub.write(&[b'x'; 3 * REPLAY_BYTES]);
    console.hub.write(b"end");
    let (mut viewer, answer) = console.attach(SEES);
    assert_eq!(answer.replay, REPLAY_BYTES as u64);
    let mut replay = vec![0; REPLAY_BYTES];
    viewer.read_exact(&mut replay).expect("output");
    assert!(replay.ends_with(b"xend"));
}

#[test]
fn one_viewer_types_until_it_leaves_or_is_forced_out() {
    let console = Console::new(HubFiles::default());
    let (writer, answer) = console.attach(WRITES);
    assert_eq!(answer.role, Role::Writer);
    let (other, answer) = console.attach(WRITES);
    assert_eq!(answer.role, Role::Viewer);
    other.get_ref().write_all(b"ignored").expect("taken");
    writer.get_ref().write_all(b"typed").expect("taken");
    assert_eq!(console.front.read(&console.hub, 5), b"typed");
    let (forced, answer) = console.attach(FORCES);
    assert_eq!(answer.role, Role::Writer);
    writer.get_ref().write_all(b"too late").expect("taken");
    forced.get_ref().write_all(b"mine").expect("taken");
    assert_eq!(console.front.read(&console.hub, 4), b"mine");
    drop(forced);
    // Nobody writes until somebody asks for it; the place is free as soon as its end was seen.
    loop {
        let (next, answer) = console.attach(WRITES);
        if answer.role == Role::Writer {
            next.get_ref().write_all(b"next").expect("taken");
            assert_eq!(console.front.read(&console.hub, 4), b"next");
            break;
        }
    }
}

#[test]
fn input_waits_for_room_and_none_is_lost() {
    let console = Console::new(HubFiles::default());
    let (writer, _) = console.attach(WRITES);
    let typed: Vec<u8> = (0..2000_u32).map(|byte| byte as u8).collect();
    writer.get_ref().write_all(&typed).expect("taken");
    assert_eq!(console.front.read(&console.hub, typed.len()), typed);
}

/// Ends a viewer's connection and waits until the hub has seen it.
fn leave(console: &Console, viewer: BufReader<UnixStream>) {
    let before = console.hub.counters().viewers;
    drop(viewer);
    while console.hub.counters().viewers == before {
        // Output makes the hub go round.
        console.hub.write(b".");
        std::thread::yield_now();
    }
}

#[test]
fn what_a_viewer_typed_counts_after_it_left() {
    let console = Console::new(HubFiles::default());
    console.front.closed.store(true, Ordering::SeqCst);
    let typed: Vec<u8> = (0..1000_u32).map(|byte| byte as u8).collect();
    let (writer, _) = console.attach(WRITES);
    writer.get_ref().write_all(&typed).expect("taken");
    leave(&console, writer);
    let (next, answer) = console.attach(WRITES);
    assert_eq!(answer.role, Role::Writer, "the place is free at once");
    next.get_ref().write_all(b"next").expect("taken");
    console.front.closed.store(false, Ordering::SeqCst);
    console.hub.input_wanted();
    let expected = [&typed[..], b"next"].concat();
    assert_eq!(console.front.read(&console.hub, expected.len()), expected);
}

/// Types until the hub takes no more; how much that was.
fn type_until_full(console: &Console, writer: &mut BufReader<UnixStream>) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..64 {
        writer.get_ref().set_nonblocking(true).expect("a socket");
        loop {
            let byte = (all.len() % 251) as u8;
            match writer.get_ref().write(&[byte; 100]) {
                Ok(count) => all.extend(std::iter::repeat_n(byte, count)),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        // The hub has gone round when this has come.
        writer.get_ref().set_nonblocking(false).expect("a socket");
        console.hub.write(b"x");
        expect(writer, b"x");
    }
    all
}

#[test]
fn a_guest_that_does_not_read_makes_the_writer_wait_and_costs_no_memory() {
    let console = Console::new(HubFiles::default());
    console.front.closed.store(true, Ordering::SeqCst);
    let (mut first, _) = console.attach(WRITES);
    let mut expected = type_until_full(&console, &mut first);
    // What the socket holds, and the queue; a hub that read on would have taken it 64 times.
    assert!(expected.len() < 4 << 20, "{} bytes taken", expected.len());
    leave(&console, first);
    for number in 1..=2 * input::MAX_DEPARTED {
        let (writer, answer) = console.attach(WRITES);
        assert_eq!(answer.role, Role::Writer);
        writer.get_ref().write_all(&[number as u8]).expect("taken");
        leave(&console, writer);
        if number < input::MAX_DEPARTED {
            expected.push(number as u8);
        }
    }
    let (last, _) = console.attach(WRITES);
    last.get_ref().write_all(b"last").expect("taken");
    expected.extend(b"last");
    console.front.closed.store(false, Ordering::SeqCst);
    console.hub.input_wanted();
    assert!(console.front.read(&console.hub, expected.len()) == expected);
}

#[test]
fn input_sent_together_with_the_line_counts() {
    let console = Console::new(HubFiles::default());
    let mut socket = UnixStream::connect(&console.path).expect("listening");
    let mut bytes = to_line(&WRITES);
    bytes.extend(b"typed ahead of everything");
    socket.write_all(&bytes).expect("sent");
    assert_eq!(
        console.front.read(&console.hub, 25),
        b"typed ahead of everything"
    );
}

#[test]
fn no_input_is_handed_over_while_the_front_is_closed() {
    let console = Console::new(HubFiles::default());
    console.front.closed.store(true, Ordering::SeqCst);
    console.hub.quiesce();
    let (mut writer, _) = console.attach(WRITES);
    writer.get_ref().write_all(b"held").expect("taken");
    // The hub has gone round at least once when this output has come.
    console.hub.write(b"x");
    expect(&mut writer, b"x");
    assert!(console.front.bytes.lock().unwrap().is_empty());
    console.front.closed.store(false, Ordering::SeqCst);
    console.hub.input_wanted();
    assert_eq!(console.front.read(&console.hub, 4), b"held");
}

#[test]
fn a_bad_line_ends_the_connection_and_nothing_else() {
    let console = Console::new(HubFiles::default());
    let (mut good, _) = console.attach(SEES);
    for line in [
        b"hello\n".to_vec(),
        vec![b'x'; vmm_api::console::MAX_LINE],
        b"\xff\xfe\n".to_vec(),
    ] {
        let mut socket = UnixStream::connect(&console.path).expect("listening");
        socket.write_all(&line).expect("sent");
        // Closed with unread bytes is a reset; either way there is no answer.
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty());
    }
    console.hub.write(b"alive");
    expect(&mut good, b"alive");
}

#[test]
fn a_viewer_that_does_not_read_loses_output_and_stalls_nobody() {
    let console = Console::new(HubFiles::default());
    let (mut slow, _) = console.attach(SEES);
    let (mut fast, _) = console.attach(SEES);
    let mut block = vec![b'.'; 4096];
    block[4095] = b'\n';
    for _ in 0..600 {
        console.hub.write(&block);
        let mut line = vec![0; 4096];
        fast.read_exact(&mut line).expect("output");
    }
    console.hub.write(b"END");
    expect(&mut fast, b"END");
    // The slow one gets what its socket held, a gap, and then the end.
    let mut all = Vec::new();
    let mut chunk = vec![0; 4096];
    while !all.ends_with(b"END") {
        let count = slow.read(&mut chunk).expect("output");
        assert_ne!(count, 0);
        all.extend(&chunk[..count]);
    }
    assert!(all.len() < 600 * 4096);
}

#[test]
fn more_viewers_than_fit_do_not_shut_out_those_who_ask() {
    let console = Console::new(HubFiles::default());
    let silent: Vec<_> = (0..80)
        .map(|_| UnixStream::connect(&console.path).expect("listening"))
        .collect();
    let (mut viewer, _) = console.attach(SEES);
    console.hub.write(b"seen");
    expect(&mut viewer, b"seen");
    drop(silent);
}

#[test]
fn everything_is_in_the_log_when_the_hub_is_gone() {
    let mut file = tempfile::tempfile().expect("a file");
    let log = LogFiles {
        files: vec![file.try_clone().expect("a descriptor").into()],
        max_bytes: 1 << 20,
    };
    let hub = Hub::new(
        "serial0",
        HubFiles {
            log: Some(log),
            ..HubFiles::default()
        },
    )
    .expect("a hub");
    let mut all = Vec::new();
    for number in 0..2000 {
        let line = format!("line {number}\n");
        hub.write(line.as_bytes());
        all.extend(line.into_bytes());
    }
    assert_eq!(hub.counters().log_lost, 0);
    drop(hub);
    let mut logged = Vec::new();
    file.rewind().expect("seekable");
    file.read_to_end(&mut logged).expect("readable");
    assert_eq!(logged, all);
}

#[test]
fn after_a_flush_everything_is_in_the_log_and_with_the_viewers() {
    let mut file = tempfile::tempfile().expect("a file");
    let log = LogFiles {
        files: vec![file.try_clone().expect("a descriptor").into()],
        max_bytes: 1 << 20,
    };
    let console = Console::new(HubFiles {
        log: Some(log),
        ..HubFiles::default()
    });
    console.hub.flush();
    let (mut viewer, _) = console.attach(SEES);
    for round in 0..200_u8 {
        console.hub.write(&[round; 10]);
        console.hub.flush();
        let mut logged = Vec::new();
        file.rewind().expect("seekable");
        file.read_to_end(&mut logged).expect("readable");
        assert!(logged.ends_with(&[round; 10]));
        viewer.get_ref().set_nonblocking(true).expect("a socket");
        expect(&mut viewer, &[round; 10]);
    }
}

#[test]
fn a_plain_output_has_the_byte_before_write_returns_and_needs_no_thread() {
    let (reader, writer) = pipe().expect("a pipe");
    let hub = Hub::new(
        "serial0",
        HubFiles {
            output: Some(writer),
            ..HubFiles::default()
        },
    )
    .expect("a hub");
    hub.write(b"!");
    set_nonblocking(&reader).expect("a pipe");
    let mut byte = [0; 2];
    assert_eq!(rustix::io::read(&reader, &mut byte), Ok(1));
    assert!(matches!(*lock(&hub.worker), Worker::Waiting(_)));
}

#[test]
fn a_full_plain_output_is_caught_up_later_in_order() {
    let (reader, writer) = pipe().expect("a pipe");
    let size = fcntl_getpipe_size(&writer).expect("a pipe");
    let hub = Hub::new(
        "serial0",
        HubFiles {
            output: Some(writer),
            ..HubFiles::default()
        },
    )
    .expect("a hub");
    let all: Vec<u8> = (0..size + 20_000).map(|at| (at % 251) as u8).collect();
    for chunk in all.chunks(100) {
        hub.write(chunk);
    }
    let mut reader = File::from(reader);
    let mut got = vec![0; all.len()];
    reader.read_exact(&mut got).expect("output");
    assert!(got == all);
    drop(hub);
    assert_eq!(reader.read(&mut got).expect("output"), 0);
}

#[test]
fn an_output_that_nobody_reads_any_more_is_given_up() {
    let (reader, writer) = pipe().expect("a pipe");
    let hub = Hub::new(
        "serial0",
        HubFiles {
            output: Some(writer),
            ..HubFiles::default()
        },
    )
    .expect("a hub");
    drop(reader);
    hub.write(b"lost");
    hub.write(b"lost");
    assert!(hub.shared.output.is_some());
}

fn open_pty() -> Option<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).ok()?;
    grantpt(&master).ok()?;
    unlockpt(&master).ok()?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).ok()?;
    Some((master, slave))
}

#[test]
fn a_pty_carries_raw_bytes_both_ways_and_survives_its_terminal() {
    let Some((master, slave)) = open_pty() else {
        println!("skipped: no ptys here");
        return;
    };
    let console = Console::new(HubFiles {
        pty: Some(master),
        ..HubFiles::default()
    });
    let mut terminal = File::from(slave);
    console.hub.write(b"login: \x03\n");
    expect(&mut terminal, b"login: \x03\n");
    terminal.write_all(b"root\r\x03").expect("taken");
    assert_eq!(console.front.read(&console.hub, 6), b"root\r\x03");
    drop(terminal);
    // Nobody is there; a viewer still gets everything.
    let (mut viewer, _) = console.attach(SEES);
    console.hub.write(&[b'.'; 20_000]);
    console.hub.write(b"!");
    let mut all = vec![0; 9 + 20_001];
    viewer.read_exact(&mut all).expect("output");
    assert!(all.ends_with(b".!"));
}

#[test]
fn a_descriptor_that_is_no_pty_is_refused() {
    let file = tempfile::tempfile().expect("a file");
    let hub = Hub::new(
        "serial0",
        HubFiles {
            pty: Some(file.into()),
            ..HubFiles::default()
        },
    );
    assert!(hub.is_err());
}

#[test]
fn dropping_the_hub_ends_its_viewers_after_their_last_output() {
    let console = Console::new(HubFiles::default());
    let (mut viewer, _) = console.attach(SEES);
    console.hub.write(b"bye");
    drop(console.hub);
    let mut rest = Vec::new();
    viewer.read_to_end(&mut rest).expect("an end");
    assert_eq!(rest, b"bye");
}
