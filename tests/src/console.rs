//! `vm console` of a guest with a shell, used through pipes.

use crate::linux::{BOOT, Marks};
use crate::serial::{Serial, SerialError};
use crate::world::World;
use std::io::Write;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

/// A console that is open.
pub struct Console {
    process: Child,
    keys: ChildStdin,
    /// What it shows.
    pub screen: Serial,
    asked: u32,
}

impl Console {
    /// Opens the console of a running domain.
    pub fn open(world: &World, name: &str) -> Self {
        Self::attach(world, &["console", name])
    }

    /// Opens the console with this alias.
    pub fn open_device(world: &World, name: &str, alias: &str) -> Self {
        Self::attach(world, &["console", name, "--devname", alias])
    }

    fn attach(world: &World, arguments: &[&str]) -> Self {
        let mut process = world
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("vm console");
        let keys = process.stdin.take().expect("a pipe");
        let screen = Serial::collect(process.stdout.take().expect("a pipe"));
        Self {
            process,
            keys,
            screen,
            asked: 0,
        }
    }

    /// Waits for text, as long as an emulated boot takes.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let found = self.screen.expect_within(text, BOOT);
        found.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Types a command line.
    pub fn send(&mut self, line: &str) {
        writeln!(self.keys, "{line}").expect("typed");
    }

    /// Waits for the login prompt of a Debian disk and logs in as root, who has no password.
    #[track_caller]
    pub fn log_in(&mut self) {
        self.wait_for("login: ");
        self.send("root");
        self.wait_for("# ");
    }

    /// Runs a command and returns what it printed.
    #[track_caller]
    pub fn shell(&mut self, command: &str) -> String {
        let said = self.shell_within(command, BOOT);
        said.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// As [`Self::shell`], for a command that may take long.
    ///
    /// # Errors
    /// When its end has not come in time, or cannot come any more.
    pub fn shell_within(&mut self, command: &str, time: Duration) -> Result<String, SerialError> {
        self.asked += 1;
        let marks = Marks::new(self.asked);
        self.send(&marks.around(command));
        self.screen.expect_within(&marks.from(), time)?;
        let said = self.screen.expect_within(&marks.to(), time)?;
        Ok(marks.within(&said))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
