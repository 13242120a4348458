//! The debug console at port 0x402: where firmware says what it does, byte by byte.
//!
//! SeaBIOS and OVMF look whether reading gives 0xe9 before they say anything, so without this device
//! a start is quieter and quicker. What is written goes to a file, line by line, up to [`LIMIT`]: a
//! guest must not fill the host's disk. It has no state that a guest could see.

use super::{lock, ports};
use crate::bus::Reservation;
use crate::device::Device;
use crate::registry::{Context, CreateError};
use crate::state::{Saved, StateError};
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use vmm_api::spec::DebugConsoleSpec;

/// The port.
pub const PORT: u16 = 0x402;
/// What a reader finds there when somebody listens.
const LISTENING: u8 = 0xe9;
/// Bytes that are kept of one process's life.
pub const LIMIT: usize = 1 << 20;
/// The longest line that is written in one piece.
const LINE: usize = 512;

struct Output {
    file: File,
    line: Vec<u8>,
    left: usize,
}

impl Output {
    fn take(&mut self, byte: u8) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        self.line.push(byte);
        if byte == b'\n' || self.line.len() >= LINE || self.left == 0 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        // What cannot be kept is lost: it is for people who look, and no guest may wait for it.
        let _lost = self.file.write_all(&self.line);
        self.line.clear();
    }
}

struct Register(Mutex<Output>);

impl ports::PortDevice for Register {
    fn read(&self, _port: u16) -> u8 {
        LISTENING
    }

    fn write(&self, _port: u16, value: u8) {
        lock(&self.0).take(value);
    }
}

/// The device.
pub struct DebugConsole {
    id: String,
    register: Arc<Register>,
    _ports: Vec<Reservation>,
}

impl DebugConsole {
    /// Makes it.
    ///
    /// # Errors
    /// [`CreateError`] when the port is taken, or its file is not there or one that writing could wait for.
    pub fn create(
        id: &str,
        spec: &DebugConsoleSpec,
        context: &Context,
    ) -> Result<Self, CreateError> {
        let taken = context.files.take(spec.output);
        let file = File::from(taken.map_err(|source| CreateError::File {
            id: id.into(),
            source,
        })?);
        let host = |source| CreateError::Host {
            id: id.into(),
            what: "its output".into(),
            source,
        };
        if !file.metadata().map_err(host)?.is_file() {
            return Err(host(io::Error::other("give a regular file")));
        }
        let register = Arc::new(Register(Mutex::new(Output {
            file,
            line: Vec::with_capacity(LINE),
            left: LIMIT,
        })));
        let ports = ports::claim(&context.pio, &register, &[(PORT, 1)]);
        let ports = ports.map_err(|source| CreateError::Bus {
            id: id.into(),
            source,
        })?;
        Ok(Self {
            id: id.into(),
            register,
            _ports: ports,
        })
    }
}

impl Device for DebugConsole {
    fn id(&self) -> &str {
        &self.id
    }

    fn pause(&self) {
        lock(&self.register.0).flush();
    }

    fn resume(&self) {}

    fn reset(&self) {}

    fn save(&self) -> Result<Saved, StateError> {
        Ok(Saved::Stateless)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeMachine;
    use std::io::{Read, Seek, SeekFrom};
    use std::os::fd::OwnedFd;
    use vmm_api::spec::Fd;

    fn create(
        machine: &FakeMachine,
        file: impl Into<OwnedFd>,
    ) -> Result<DebugConsole, CreateError> {
        machine.context.files.add(7, file.into());
        let spec = DebugConsoleSpec { output: Fd(7) };
        DebugConsole::create("debug0", &spec, &machine.context)
    }

    #[test]
    fn lines_reach_the_file_up_to_the_limit() {
        let mut file = tempfile::tempfile().expect("a file");
        let machine = FakeMachine::new(4096);
        let bus = &machine.context.pio;
        let device = create(&machine, file.try_clone().expect("a copy")).expect("a free port");
        let mut byte = [0];
        assert!(bus.read(0x402, &mut byte));
        assert_eq!(byte, [0xe9]);
        for letter in b"SeaBIOS\nhalf a line" {
            bus.write(0x402, &[*letter]);
        }
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).expect("a file");
        file.read_to_string(&mut text).expect("text");
        assert_eq!(text, "SeaBIOS\n");
        for _ in 0..LIMIT {
            bus.write(0x402, b"x");
        }
        device.pause();
        assert_eq!(file.metadata().expect("a file").len(), LIMIT as u64);
    }

    #[test]
    fn an_output_that_could_stall_is_refused() {
        let (_ours, theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
        assert!(create(&FakeMachine::new(4096), theirs).is_err());
    }
}
