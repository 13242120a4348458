//! Waiting for what a guest says.
//!
//! A thread collects everything; tests look for text in what has come so far and not been passed
//! over yet. Deadlines are only there to end a test that would hang; they are never what is tested.

use std::fmt;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for a guest that may have stopped for good.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What was waited for did not come.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// The time is over.
    #[error("{0:?} did not come within {1:?}; the guest said:\n{2}")]
    Timeout(String, Duration, Tail),
    /// The other end is closed.
    #[error("{0:?} did not come before the end; the guest said:\n{1}")]
    Closed(String, Tail),
}

/// The last part of an output.
#[derive(Debug)]
pub struct Tail(String);

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    collected: Mutex<Collected>,
    grown: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.collected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// An output that is being collected.
pub struct Serial {
    shared: Arc<Shared>,
    passed: usize,
}

impl Serial {
    /// Collects from `source` until its end.
    pub fn collect(mut source: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = source.read(&mut buffer).unwrap_or(0);
                let mut collected = writer.lock();
                collected
                    .bytes
                    .extend_from_slice(buffer.get(..count).unwrap_or_default());
                collected.closed = count == 0;
                writer.grown.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Self { shared, passed: 0 }
    }

    /// Waits for `text` and passes over everything up to its end, which it returns.
    ///
    /// # Errors
    /// When it has not come after [`PATIENCE`], or cannot come any more.
    pub fn expect(&mut self, text: &str) -> Result<String, SerialError> {
        self.expect_within(text, PATIENCE)
    }

    /// As [`Self::expect`], with another patience.
    ///
    /// # Errors
    /// When it has not come in time, or cannot come any more.
    pub fn expect_within(&mut self, text: &str, time: Duration) -> Result<String, SerialError> {
        let deadline = Instant::now() + time;
        let mut collected = self.shared.lock();
        loop {
            let fresh = collected.bytes.get(self.passed..).unwrap_or_default();
            if let Some(at) = position(fresh, text.as_bytes()) {
                let end = at + text.len();
                let passed = String::from_utf8_lossy(fresh.get(..end).unwrap_or_default());
                let passed = passed.into_owned();
                self.passed += end;
                return Ok(passed);
            }
            if collected.closed {
                return Err(SerialError::Closed(text.into(), tail(&collected.bytes)));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(SerialError::Timeout(
                    text.into(),
                    time,
                    tail(&collected.bytes),
                ));
            }
            let waited = self.shared.grown.wait_timeout(collected, left);
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything up to the end of the output.
    ///
    /// # Errors
    /// When it does not end.
    pub fn to_end(&mut self) -> Result<String, SerialError> {
        self.to_end_within(PATIENCE)
    }

    /// As [`Serial::to_end`], waiting for `patience` at most.
    ///
    /// # Errors
    /// When it does not end.
    pub fn to_end_within(&mut self, patience: Duration) -> Result<String, SerialError> {
        let deadline = Instant::now() + patience;
        let mut collected = self.shared.lock();
        while !collected.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let tail = tail(&collected.bytes);
                return Err(SerialError::Timeout("the end".into(), patience, tail));
            }
            let waited = self.shared.grown.wait_timeout(collected, left);
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(String::from_utf8_lossy(&collected.bytes).into_owned())
    }

    /// Everything so far, without waiting.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().bytes).into_owned()
    }
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len().max(1))
        .position(|window| window == wanted)
}

fn tail(bytes: &[u8]) -> Tail {
    let start = bytes.len().saturating_sub(2000);
    Tail(String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn text_is_found_once_and_in_order() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut serial = Serial::collect(reader);
        writer.write_all(b"one two one").unwrap();
        assert_eq!(serial.expect("one").unwrap(), "one");
        assert_eq!(serial.expect("one").unwrap(), " two one");
        drop(writer);
        assert!(matches!(serial.expect("one"), Err(SerialError::Closed(..))));
        assert_eq!(serial.to_end().unwrap(), "one two one");
    }

    #[test]
    fn what_does_not_come_is_an_error_that_shows_the_output() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut serial = Serial::collect(reader);
        writer.write_all(b"only this").unwrap();
        serial.expect("only").unwrap();
        let error = serial
            .expect_within("that", Duration::from_millis(20))
            .unwrap_err();
        assert!(error.to_string().contains("only this"), "{error}");
    }
}
