//! Messages of the control queues (virtio 1.3 §5.3.6.2): a port, an event, a value, and for a name
//! its bytes. Read and written by pure functions.

/// Bytes of a message without a name.
pub(super) const LENGTH: usize = 8;

mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const PORT_ADD: u16 = 1;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const CONSOLE_PORT: u16 = 4;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

/// What a driver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// It can take ports, or could not be set up.
    DeviceReady(bool),
    /// It has this port, or could not add it.
    PortReady(u32, bool),
    /// A process of the guest has this port open, or not any more.
    PortOpen(u32, bool),
}

/// The message in `bytes`; `None` for one that makes no sense.
pub(super) fn parse(bytes: &[u8]) -> Option<Said> {
    let [p0, p1, p2, p3, e0, e1, v0, v1] = *bytes.first_chunk::<LENGTH>()?;
    let port = u32::from_le_bytes([p0, p1, p2, p3]);
    let yes = u16::from_le_bytes([v0, v1]) != 0;
    match u16::from_le_bytes([e0, e1]) {
        event::DEVICE_READY => Some(Said::DeviceReady(yes)),
        event::PORT_READY => Some(Said::PortReady(port, yes)),
        event::PORT_OPEN => Some(Said::PortOpen(port, yes)),
        _ => None,
    }
}

/// What a driver is told of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It is there.
    Add,
    /// It is a console.
    Console,
    /// Its name.
    Name,
    /// Somebody is at the host's end, or nobody.
    Open(bool),
}

impl Told {
    /// The message about port `number`, whose name is `name`.
    pub(super) fn bytes(self, number: u32, name: &str) -> Vec<u8> {
        let (event, value) = match self {
            Self::Add => (event::PORT_ADD, 1),
            Self::Console => (event::CONSOLE_PORT, 1),
            Self::Name => (event::PORT_NAME, 1),
            Self::Open(open) => (event::PORT_OPEN, u16::from(open)),
        };
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        if self == Self::Name {
            bytes.extend(name.as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_written_as_the_specification_has_them() {
        for (bytes, expected) in [
            (&[0, 0, 0, 0, 0, 0, 1, 0][..], Some(Said::DeviceReady(true))),
            (&[9, 0, 0, 0, 3, 0, 0, 0], Some(Said::PortReady(9, false))),
            (&[1, 2, 0, 0, 6, 0, 1, 0], Some(Said::PortOpen(0x201, true))),
            (&[1, 0, 0, 0, 6, 0, 1, 0, 77], Some(Said::PortOpen(1, true))),
            (&[1, 0, 0, 0, 7, 0, 1, 0], None),
            (&[1, 0, 0, 0, 6, 1, 1, 0], None),
            (&[1, 0, 0, 0, 6, 0, 1], None),
            (&[], None),
        ] {
            assert_eq!(parse(bytes), expected, "{bytes:?}");
        }
        assert_eq!(Told::Add.bytes(3, "x"), [3, 0, 0, 0, 1, 0, 1, 0]);
        assert_eq!(Told::Open(false).bytes(3, "x"), [3, 0, 0, 0, 6, 0, 0, 0]);
        assert_eq!(
            Told::Name.bytes(3, "xy"),
            [3, 0, 0, 0, 7, 0, 1, 0, b'x', b'y']
        );
    }
}
