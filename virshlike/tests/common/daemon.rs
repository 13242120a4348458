//! A `vm daemon` of a test's own.

use super::World;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that is ready, its journal, and what it tells.
pub struct Daemon {
    /// Its process.
    pub child: Child,
    journal: UnixDatagram,
}

impl Daemon {
    /// Starts one, and waits until it is ready.
    pub fn start(world: &World) -> Self {
        let (ready, journal) = (world.path("ready"), world.path("journal"));
        for path in [&ready, &journal] {
            // One of an earlier daemon.
            let _ = fs::remove_file(path);
        }
        let notify = UnixDatagram::bind(&ready).expect("a socket");
        let heard = UnixDatagram::bind(&journal).expect("a socket");
        for socket in [&notify, &heard] {
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        }
        let child = world
            .command("vm")
            .arg("daemon")
            .env("NOTIFY_SOCKET", &ready)
            .env("VM_JOURNAL_SOCKET", &journal)
            .stdout(Stdio::null())
            .spawn()
            .expect("a daemon");
        let mut bytes = [0; 256];
        let count = notify.recv(&mut bytes).expect("it is ready");
        assert!(bytes[..count].starts_with(b"READY=1"), "{bytes:?}");
        Self {
            child,
            journal: heard,
        }
    }

    /// Waits for an entry with these words in the host's journal.
    #[track_caller]
    pub fn wait_for(&self, name: &str, action: &str) -> String {
        let mut seen = String::new();
        let (name, action) = (format!("VM_NAME={name}\n"), format!("VM_ACTION={action}\n"));
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut bytes = [0; 4096];
            let Ok(count) = self.journal.recv(&mut bytes) else {
                break;
            };
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if text.contains(&name) && text.contains(&action) {
                return text;
            }
            seen.push_str(&text);
        }
        panic!("no {action} of {name} in:\n{seen}");
    }

    /// Ends it by a signal.
    pub fn end(mut self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill").success());
        self.child.wait().expect("it ends");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
