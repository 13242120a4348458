//! The process's own log: lines of bounded number into files of bounded size.
//!
//! ```text
//! tracing event -> limit (per place in the code) -> one line -> rotating files or standard error
//! ```
//!
//! The guest can make devices and vCPU threads log, so every place in the code has a budget: a burst,
//! then a slow trickle, and a count of what was left out. Nothing here opens a path. A log that cannot
//! be written loses lines; it never stops the guest and never recurses.

mod limit;

use limit::{Limits, Verdict};
use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Longest line, in bytes.
const MAX_LINE: usize = 4096;

/// Where lines go.
pub type Sink = Box<dyn Write + Send>;

struct Log {
    level: Level,
    state: Mutex<State>,
    started: Instant,
}

struct State {
    sink: Sink,
    limits: Limits,
}

/// Sends all further events of this process to `sink`. Only the first call has an effect.
pub fn start(sink: Sink, level: Level) {
    let log = Log {
        level,
        state: Mutex::new(State {
            sink,
            limits: Limits::default(),
        }),
        started: Instant::now(),
    };
    // A second one keeps the first: there is one log per process.
    let _first = tracing::subscriber::set_global_default(log);
}

thread_local! {
    /// Set while this thread writes a line, so that the sink's own complaints do not recurse.
    static WRITING: Cell<bool> = const { Cell::new(false) };
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        if WRITING.replace(true) {
            return;
        }
        self.write(event);
        WRITING.set(false);
    }

    // There are no spans in this program: events say where they belong.
    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
}

impl Log {
    fn write(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let place = metadata.callsite();
        let left_out = match state.limits.ask(place, self.started.elapsed()) {
            Verdict::Drop => return,
            Verdict::Write { left_out } => left_out,
        };
        let mut line = Line(String::with_capacity(160));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let _fits = write!(
            line,
            "{}.{:03} {:5} {}:",
            now.as_secs(),
            now.subsec_millis(),
            metadata.level(),
            metadata.target()
        );
        event.record(&mut line);
        if left_out > 0 {
            let _fits = write!(line, " ({left_out} like this were left out)");
        }
        let mut text = line.0;
        text.push('\n');
        // A log that cannot be written loses lines.
        let _lost = state.sink.write_all(text.as_bytes());
        let _lost = state.sink.flush();
    }
}

/// A line that stays one line and does not grow without end.
struct Line(String);

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.0.len() >= MAX_LINE {
                return Ok(());
            }
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _fits = match field.name() {
            "message" => write!(self, " {value:?}"),
            name => write!(self, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests;
