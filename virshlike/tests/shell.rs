//! The interactive shell: many commands in one process, from a file or a terminal.

mod common;

use common::World;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Output, Stdio};

/// A terminal of ten lines.
fn terminal() -> (File, File) {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let size = Winsize {
        ws_row: 10,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    (master.into(), slave)
}

/// Reads until all of the words were seen, one after the other. What comes behind them in the same
/// piece is gone: what is waited for next must be the answer to something typed next.
fn wait_for(master: &mut File, words: &[&str]) -> String {
    let mut seen = String::new();
    let mut bytes = [0; 1024];
    loop {
        let mut rest = seen.as_str();
        let came = |word: &&str| {
            let found = rest.split_once(word);
            rest = found.map_or(rest, |(_, behind)| behind);
            found.is_some()
        };
        if words.iter().all(came) {
            return seen;
        }
        let count = master.read(&mut bytes).unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

fn shell(world: &World, lines: &str) -> Output {
    let mut child = world
        .command("vm")
        .args(["-q", "shell"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(lines.as_bytes()).expect("typed");
    drop(input);
    child.wait_with_output().expect("it ends")
}

#[test]
fn commands_from_a_file_run_one_after_the_other() {
    let world = World::new();
    world.write_xml("one", "");
    let output = shell(
        &world,
        "# a comment\ndefine one.xml; start one\nlist --name; domstate 'one'\nquit\nlist\n",
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "one\nrunning\n");
    assert!(output.status.success());
}

#[test]
fn mistakes_are_told_and_the_last_exit_code_counts() {
    let world = World::new();
    let output = shell(&world, "strat x\nlist 'open\nshell\n");
    let errors = String::from_utf8_lossy(&output.stderr);
    for words in ["did you mean 'start'?", "a quote is not closed", "already"] {
        assert!(errors.contains(words), "{words}: {errors}");
    }
    assert_eq!(output.status.code(), Some(1));
    let output = shell(&world, "strat x\nlist\n");
    assert!(output.status.success());
}

#[test]
fn a_terminal_gets_a_prompt_completion_and_history() {
    let world = World::new();
    world.write_xml("web01", "");
    world.ok(&["define", "web01.xml"]);
    let (mut master, slave) = terminal();
    let end = || Stdio::from(slave.try_clone().unwrap());
    let mut child = world
        .command("vm")
        .arg("-i")
        .env("TERM", "xterm")
        .env("XDG_STATE_HOME", world.path("state"))
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    wait_for(&mut master, &["vm # "]);
    master.write_all(b"domst\tat").unwrap();
    master.write_all(b"\x15start w\t").unwrap();
    wait_for(&mut master, &["start web01"]);
    master.write_all(b"\r").unwrap();
    wait_for(&mut master, &["Domain 'web01' started", "vm # "]);
    master.write_all(b"quit\r").unwrap();
    assert!(child.wait().unwrap().success());
    let history = std::fs::read_to_string(world.path("state/vm/history")).unwrap();
    assert!(history.contains("start web01"), "{history}");
}

#[test]
fn long_output_on_a_terminal_goes_through_the_pager() {
    let world = World::new();
    let (mut master, slave) = terminal();
    let shown = |words: &[&str]| {
        let end = || Stdio::from(slave.try_clone().unwrap());
        let mut child = world
            .command("vm")
            .args(words)
            .env("VM_PAGER", "sed s/^/paged:/")
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        child.wait().unwrap();
    };
    shown(&["list"]);
    (&slave).write_all(b"END\n").unwrap();
    let short = wait_for(&mut master, &["END"]);
    assert!(!short.contains("paged:"), "{short}");
    shown(&["help", "domain"]);
    (&slave).write_all(b"END\n").unwrap();
    let long = wait_for(&mut master, &["END"]);
    assert!(long.contains("paged: Domain Management"), "{long}");
}
