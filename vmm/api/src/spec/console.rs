//! virtio console devices of the spec: ports, and what is behind each.

use super::{Fd, LogSpec};
use serde::{Deserialize, Serialize};

/// Most ports of one console device, port 0 included.
pub const MAX_CONSOLE_PORTS: u16 = 128;

/// A virtio console device; libvirt's `<controller type='virtio-serial'>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleSpec {
    /// Ports that the guest is told there can be, 1 to [`MAX_CONSOLE_PORTS`]; every number of
    /// `ports` is below it.
    pub max_ports: u16,
    /// Ports that are there, each number once.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
}

/// A port of a console device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// Its number; libvirt's `<address port=.../>`. Drivers without ports know number 0 only.
    pub number: u16,
    /// Alias of the console or channel, for counters and messages.
    pub id: String,
    /// The name that the guest sees (`/dev/virtio-ports/NAME`); consoles need none.
    #[serde(default)]
    pub name: Option<String>,
    /// A console (`hvc0` in Linux) rather than a plain channel.
    #[serde(default)]
    pub console: bool,
    /// What is behind it.
    pub stream: PortStream,
}

/// What is behind a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum PortStream {
    /// Nothing: what the guest writes is forgotten.
    Null,
    /// A listening Unix stream socket. One client at a time has the port; its coming and going is
    /// what the guest sees as the port's host side opening and closing.
    Socket {
        /// The socket.
        listener: Fd,
    },
    /// A console hub, as a serial port has it.
    Console {
        /// Where everything that the guest writes is logged.
        #[serde(default)]
        log: Option<LogSpec>,
        /// A listening Unix stream socket for console viewers.
        #[serde(default)]
        socket: Option<Fd>,
        /// The master side of a pty.
        #[serde(default)]
        pty: Option<Fd>,
    },
}
