//! State changes in the host's journal, with fields to look for:
//! `journalctl VM_NAME=web01`, `journalctl VM_ACTION=stopped`.
//!
//! The native protocol of journald (systemd.io, "Native Journal Protocol"): one datagram per entry,
//! `NAME=value` lines, or name, length and bytes where a value has line breaks. This module must
//! never wait: a journal that does not keep up loses entries.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Longest value that is sent, in bytes; entries must fit into a datagram.
const MAX_VALUE: usize = 4096;

/// How much an entry matters, as in syslog(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Something failed and was not mended.
    Error = 3,
    /// Something failed.
    Warning = 4,
    /// What happened.
    Info = 6,
}

/// A change of a domain.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// Its name: `VM_NAME`.
    pub name: &'a str,
    /// Its UUID: `VM_UUID`.
    pub uuid: Uuid,
    /// What was done or happened, one word: `VM_ACTION`.
    pub action: &'a str,
    /// User id of whoever did it: `VM_UID`.
    pub uid: u32,
    /// More, or empty: `VM_DETAIL`.
    pub detail: &'a str,
    /// How much it matters.
    pub priority: Priority,
}

/// The host's journal.
#[derive(Debug)]
pub struct Journald {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Journald {
    /// The host's, or the one that `VM_JOURNAL_SOCKET` names; `None` where there is none. A store
    /// below another root is not the host's business, so only a named one is told of it.
    pub fn of_host(other_root: bool) -> Option<Self> {
        let named = std::env::var_os("VM_JOURNAL_SOCKET").map(PathBuf::from);
        let usual = || (!other_root).then(|| PathBuf::from(SOCKET));
        Self::at(&named.or_else(usual)?)
    }

    fn at(path: &Path) -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        path.exists().then(|| Self {
            path: path.into(),
            socket,
        })
    }

    /// Writes an entry.
    pub fn note(&self, change: &Change<'_>) {
        // An entry that is lost changes nothing; the domain's own journal has it.
        let _ = self.socket.send_to(&entry(change), &self.path);
    }
}

fn entry(change: &Change<'_>) -> Vec<u8> {
    let mut message = format!("domain '{}': {}", change.name, change.action);
    if !change.detail.is_empty() {
        message.push_str(": ");
        message.push_str(change.detail);
    }
    let mut bytes = Vec::new();
    let uuid = change.uuid.to_string();
    let (priority, uid) = ((change.priority as u8).to_string(), change.uid.to_string());
    for (name, value) in [
        ("MESSAGE", message.as_str()),
        ("PRIORITY", &priority),
        ("SYSLOG_IDENTIFIER", "vm"),
        ("VM_NAME", change.name),
        ("VM_UUID", &uuid),
        ("VM_ACTION", change.action),
        ("VM_UID", &uid),
        ("VM_DETAIL", change.detail),
    ] {
        if !value.is_empty() {
            field(&mut bytes, name, value);
        }
    }
    bytes
}

fn field(bytes: &mut Vec<u8>, name: &str, value: &str) {
    let value = value.as_bytes();
    let value = value.get(..MAX_VALUE).unwrap_or(value);
    bytes.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change<'a>(detail: &'a str) -> Change<'a> {
        Change {
            name: "web01",
            uuid: Uuid::nil(),
            action: "stopped",
            uid: 1000,
            detail,
            priority: Priority::Info,
        }
    }

    #[test]
    fn an_entry_has_the_fields_to_look_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        Journald::at(&path).unwrap().note(&change("crashed"));
        let mut bytes = [0; 1024];
        let count = listener.recv(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..count]);
        assert_eq!(
            text,
            "MESSAGE=domain 'web01': stopped: crashed\nPRIORITY=6\nSYSLOG_IDENTIFIER=vm\n\
             VM_NAME=web01\nVM_UUID=00000000-0000-0000-0000-000000000000\nVM_ACTION=stopped\n\
             VM_UID=1000\nVM_DETAIL=crashed\n"
        );
    }

    #[test]
    fn line_breaks_cannot_forge_a_field() {
        let bytes = entry(&change("x\nVM_NAME=other"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("VM_DETAIL\n\u{f}\0\0\0\0\0\0\0x\nVM_NAME=other\n"));
        assert!(text.starts_with("MESSAGE\n"));
    }

    #[test]
    fn a_host_without_a_journal_has_none() {
        assert!(Journald::at(Path::new("/nonexistent/socket")).is_none());
    }
}
