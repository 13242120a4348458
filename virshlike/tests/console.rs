//! The console as a person meets it: a terminal in raw mode, and back again on every way out.

mod common;

use common::World;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Stdio};

struct Terminal {
    master: File,
    slave: File,
    seen: String,
}

impl Terminal {
    fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        Self {
            master: master.into(),
            slave,
            seen: String::new(),
        }
    }

    fn attach(&self, world: &World, arguments: &[&str]) -> Child {
        let end = || Stdio::from(self.slave.try_clone().unwrap());
        world
            .command("vm")
            .args(arguments)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap()
    }

    /// Reads until `words` were seen; a console that never shows them fails the test at its end.
    fn wait_for(&mut self, words: &str) {
        let mut bytes = [0; 1024];
        while !self.seen.contains(words) {
            let count = self.master.read(&mut bytes).unwrap();
            assert!(count > 0, "the terminal was closed; seen: {}", self.seen);
            self.seen
                .push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }
}

fn running() -> World {
    let world = World::new();
    let path = world.write_xml("a", "");
    world.ok(&["define", path.to_str().unwrap()]);
    world.ok(&["start", "a"]);
    world
}

#[test]
fn typing_is_echoed_and_the_escape_character_leaves() {
    let world = running();
    let mut terminal = Terminal::new();
    let mut child = terminal.attach(&world, &["console", "a"]);
    terminal.wait_for("Connected to domain 'a'");
    terminal.wait_for("Escape character is ^] (Ctrl + ])");
    terminal.wait_for("fake guest");
    assert!(terminal.is_raw());
    terminal.master.write_all(b"hello\x03").unwrap();
    terminal.wait_for("hello\x03");
    terminal.master.write_all(b"\x1d").unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!terminal.is_raw());
}

#[test]
fn another_escape_character_leaves_and_the_usual_one_is_typed() {
    let world = running();
    let mut terminal = Terminal::new();
    let mut child = terminal.attach(&world, &["console", "a", "--escape", "^A"]);
    terminal.wait_for("Escape character is ^A (Ctrl + A)");
    terminal.wait_for("fake guest");
    terminal.master.write_all(b"x\x1dy").unwrap();
    terminal.wait_for("x\x1dy");
    terminal.master.write_all(b"\x01").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_signal_leaves_with_the_terminal_as_it_was() {
    for signal in [
        rustix::process::Signal::TERM,
        rustix::process::Signal::HUP,
        rustix::process::Signal::INT,
    ] {
        let world = running();
        let mut terminal = Terminal::new();
        let mut child = terminal.attach(&world, &["console", "a"]);
        terminal.wait_for("fake guest");
        assert!(terminal.is_raw());
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        child.wait().unwrap();
        assert!(!terminal.is_raw(), "{signal:?}");
    }
}

#[test]
fn the_end_of_the_guest_ends_the_console() {
    let world = running();
    let mut terminal = Terminal::new();
    let mut child = terminal.attach(&world, &["console", "a"]);
    terminal.wait_for("fake guest");
    world.ok(&["destroy", "a"]);
    terminal.wait_for("the console was closed");
    assert!(child.wait().unwrap().success());
    assert!(!terminal.is_raw());
}

#[test]
fn start_with_console_attaches() {
    let world = World::new();
    let path = world.write_xml("a", "");
    world.ok(&["define", path.to_str().unwrap()]);
    let mut terminal = Terminal::new();
    let mut child = terminal.attach(&world, &["start", "a", "--console"]);
    terminal.wait_for("Domain 'a' started");
    terminal.wait_for("fake guest");
    terminal.master.write_all(b"\x1d").unwrap();
    assert!(child.wait().unwrap().success());
}
