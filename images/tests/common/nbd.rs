//! A small NBD client of our own: many requests in flight, each reply checked.
//!
//! Source: the NBD protocol, "Fixed newstyle negotiation" and "Transmission phase".
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const EXPORT_NAME: u32 = 1;

/// A request, with what it writes or how much it reads.
#[derive(Debug, Clone)]
pub enum Request {
    Read { at: u64, len: u32 },
    Write { at: u64, bytes: Vec<u8> },
    Zero { at: u64, len: u32 },
    Flush,
}

/// A connection.
pub struct Client {
    stream: UnixStream,
    pub size: u64,
}

impl Client {
    /// Connects; waits for the server to be there.
    pub fn new(socket: &Path) -> Client {
        let mut stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        };
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend(OPTION_MAGIC.to_be_bytes());
        hello.extend(EXPORT_NAME.to_be_bytes());
        hello.extend(0u32.to_be_bytes());
        stream.write_all(&hello).unwrap();
        let mut export = [0; 10];
        stream.read_exact(&mut export).unwrap();
        let size = u64::from_be_bytes(export[..8].try_into().unwrap());
        Client { stream, size }
    }

    /// Sends all, then takes all replies, in whatever order they come: what the reads read. None if
    /// the server is gone.
    pub fn send(&mut self, requests: &[Request]) -> Option<Vec<(u64, Vec<u8>)>> {
        let mut out = Vec::new();
        for (cookie, request) in requests.iter().enumerate() {
            let (kind, at, len, bytes): (u16, u64, u32, &[u8]) = match request {
                Request::Read { at, len } => (0, *at, *len, &[]),
                Request::Write { at, bytes } => (1, *at, bytes.len() as u32, bytes),
                Request::Flush => (3, 0, 0, &[]),
                Request::Zero { at, len } => (6, *at, *len, &[]),
            };
            out.extend(0x2560_9513u32.to_be_bytes());
            out.extend(0u16.to_be_bytes());
            out.extend(kind.to_be_bytes());
            out.extend((cookie as u64).to_be_bytes());
            out.extend(at.to_be_bytes());
            out.extend(len.to_be_bytes());
            out.extend(bytes);
        }
        self.stream.write_all(&out).ok()?;
        let mut read = Vec::new();
        for _ in requests {
            let mut reply = [0; 16];
            self.stream.read_exact(&mut reply).ok()?;
            assert_eq!(reply[..4], 0x6744_6698u32.to_be_bytes());
            let error = u32::from_be_bytes(reply[4..8].try_into().unwrap());
            let cookie = u64::from_be_bytes(reply[8..].try_into().unwrap());
            let request = &requests[cookie as usize];
            assert_eq!(error, 0, "{request:?}");
            if let Request::Read { at, len } = request {
                let mut bytes = vec![0; *len as usize];
                self.stream.read_exact(&mut bytes).ok()?;
                read.push((*at, bytes));
            }
        }
        Some(read)
    }
}
