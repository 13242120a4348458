//! What is saved of the keyboard controller and its keyboard.

use serde::{Deserialize, Serialize};

/// Section kind.
pub const KIND: &str = "i8042";
/// Version of [`I8042State`].
pub const VERSION: u32 = 1;

/// The controller, its output port and the keyboard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State {
    /// The command byte.
    pub command_byte: u8,
    /// The byte in the output buffer, if any.
    pub output: Option<u8>,
    /// That byte came from the controller's side of the mouse.
    pub output_is_aux: bool,
    /// The last write went to port 0x64.
    pub last_was_command: bool,
    /// A controller command that awaits its byte.
    pub awaits: Option<u8>,
    /// The output port.
    pub output_port: u8,
    /// Bytes of the keyboard that have not reached the output buffer, oldest first; at most 16.
    pub queue: Vec<u8>,
    /// A keyboard command that awaits its byte.
    pub keyboard_awaits: Option<u8>,
    /// The keyboard's scan code set, 1 to 3.
    pub scan_set: u8,
    /// The byte that the keyboard sent last.
    pub last_sent: u8,
}
