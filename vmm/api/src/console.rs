//! What is said on a console socket before the bytes flow.
//!
//! ```text
//! viewer                                   vmm
//!   | ---- Attach, one JSON line ---------> |
//!   | <--- Attached, one JSON line -------- |
//!   | <--- the last output, then live ----- |   raw bytes
//!   | ---- what is typed -----------------> |   raw bytes; dropped unless the viewer is the writer
//! ```
//!
//! Any number of viewers may be attached; at most one writes. When the writer leaves, nobody
//! writes until somebody attaches and asks for it. A viewer that reads too slowly loses output and
//! is told so by nothing but the gap: it must never slow the guest.

use serde::{Deserialize, Serialize};

/// Longest line in either direction, in bytes, newline included.
pub const MAX_LINE: usize = 512;

/// How many bytes of the last output a new viewer is shown.
pub const REPLAY_BYTES: usize = 64 << 10;

/// The viewer's line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Wants to type, if nobody else does.
    #[serde(default)]
    pub write: bool,
    /// Takes typing over from whoever has it (`vm console --force`).
    #[serde(default)]
    pub force: bool,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// What this viewer may do.
    pub role: Role,
    /// Bytes of earlier output that follow at once.
    pub replay: u64,
}

/// What a viewer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sees and types.
    Writer,
    /// Sees.
    Viewer,
}

/// One line as it goes over the socket.
pub fn to_line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_object_is_a_plain_viewer() {
        let attach: Attach = serde_json::from_str("{}").expect("defaults");
        assert_eq!(
            attach,
            Attach {
                write: false,
                force: false
            }
        );
    }

    #[test]
    fn lines_stay_under_their_limit() {
        let line = to_line(&Attached {
            role: Role::Writer,
            replay: u64::MAX,
        });
        assert!(line.len() < MAX_LINE);
        assert_eq!(line.last(), Some(&b'\n'));
    }
}
