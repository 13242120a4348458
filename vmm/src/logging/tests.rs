//! Lines as they come out. One global log per process: everything is in one test.

use super::*;
use std::sync::Arc;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // A sink that complains in the log must not lock the log up.
        tracing::warn!("the sink complains");
        self.0.lock().expect("one writer").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_are_single_bounded_and_limited() {
    let lines = Lines::default();
    let log = Log {
        level: Level::INFO,
        state: Mutex::new(State {
            sink: Box::new(lines.clone()),
            limits: Limits::default(),
        }),
        started: Instant::now(),
    };
    tracing::subscriber::with_default(log, || {
        tracing::debug!("not at this level");
        tracing::warn!(disk = "vda", "two\nlines");
        tracing::info!("{}", "x".repeat(1 << 20));
        for number in 0..1000 {
            tracing::warn!(number, "from the guest");
        }
    });
    let text = String::from_utf8(lines.0.lock().expect("done").clone()).expect("UTF-8");
    let all: Vec<_> = text.lines().collect();
    assert!(
        all[0].contains(" WARN ") && all[0].contains("two\\nlines disk=\"vda\""),
        "{}",
        all[0]
    );
    assert!(all[1].len() < MAX_LINE + 64);
    assert!(all.len() < 50, "{} lines", all.len());
    assert!(!text.contains("complains"));
}
