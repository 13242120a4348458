//! `vm logs`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a followed log is looked at.
const TICK: Duration = Duration::from_millis(200);

/// Print the log of a domain's process, or with --console what its guest wrote
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The domain: name, id or UUID
    domain: String,
    /// What the guest wrote on its serial console
    #[arg(long)]
    console: bool,
    /// Go on printing what comes
    #[arg(short, long)]
    follow: bool,
    /// Only so many lines from the end
    #[arg(short = 'n', long, value_name = "LINES")]
    lines: Option<usize>,
}

impl Verb for Logs {
    const NAME: &'static str = "logs";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let folder = manager.store().layout().logs(&domain.name);
        let name = if self.console {
            "console.log"
        } else {
            "vmm.log"
        };
        let mut bytes = Vec::new();
        let mut found = false;
        // Newest content is in the first file.
        for suffix in [".2", ".1", ""] {
            let path = folder.join(format!("{name}{suffix}"));
            found |= read_all(&path, &mut bytes)?;
        }
        if !found {
            return Err(Error::new(
                Kind::NotFound,
                format!("domain '{}' has no log yet", domain.name),
            )
            .hint(format!(
                "it is written when it is started: vm start {}",
                domain.name
            )));
        }
        context.ui.no_end();
        let show = if self.console {
            as_it_is
        } else {
            in_local_time
        };
        context.ui.data(&show(&String::from_utf8_lossy(last_lines(
            &bytes, self.lines,
        ))))?;
        if self.follow {
            follow(context, &folder.join(name), show)?;
        }
        Ok(())
    }
}

fn as_it_is(text: &str) -> String {
    text.to_string()
}

/// The process counts seconds since the epoch at the start of its lines; people read the time of day.
fn in_local_time(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| {
            let stamp = line.split_once(' ').and_then(|(stamp, rest)| {
                let (seconds, millis) = stamp.split_once('.')?;
                let nanos = millis.parse::<i32>().ok()?.checked_mul(1_000_000)?;
                let time = jiff::Timestamp::new(seconds.parse().ok()?, nanos).ok()?;
                let zoned = time.to_zoned(jiff::tz::TimeZone::system());
                Some((zoned.strftime("%Y-%m-%d %H:%M:%S%.3f%z"), rest))
            });
            match stamp {
                Some((time, rest)) => format!("{time} {rest}"),
                None => line.to_string(),
            }
        })
        .collect()
}

fn read_all(path: &Path, bytes: &mut Vec<u8>) -> Result<bool> {
    match File::open(path) {
        Ok(mut file) => {
            file.read_to_end(bytes)
                .map_err(|error| Error::io("read", path, &error))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("read", path, &error)),
    }
}

fn last_lines(bytes: &[u8], lines: Option<usize>) -> &[u8] {
    let Some(lines) = lines else { return bytes };
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let start = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n')
        .nth(lines.saturating_sub(1))
        .map_or(0, |(at, _)| at + 1);
    if lines == 0 {
        return &[];
    }
    bytes.get(start..).unwrap_or_default()
}

/// Prints what is added. A file that became shorter was started again: its old content is in the
/// next one, and was printed before.
fn follow(context: &Context, path: &PathBuf, show: fn(&str) -> String) -> Result<()> {
    let mut at = std::fs::metadata(path).map_or(0, |found| found.len());
    loop {
        std::thread::sleep(TICK);
        let Ok(mut file) = File::open(path) else {
            continue;
        };
        let length = file.metadata().map_or(0, |found| found.len());
        if length < at {
            at = 0;
        }
        if length == at {
            continue;
        }
        let mut bytes = Vec::new();
        let read = file
            .seek(SeekFrom::Start(at))
            .and_then(|_| file.read_to_end(&mut bytes));
        read.map_err(|error| Error::io("read", path, &error))?;
        at += u64::try_from(bytes.len()).unwrap_or(0);
        context.ui.data(&show(&String::from_utf8_lossy(&bytes)))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_become_the_time_of_day_and_other_lines_stay() {
        let shown = in_local_time("1700000000.250 INFO machine: up\nfree text\n1.5x y\n");
        let mut lines = shown.lines();
        let first = lines.next().unwrap();
        assert!(first.starts_with("2023-11-1"), "{first}");
        assert!(
            first.contains(".250") && first.ends_with(" INFO machine: up"),
            "{first}"
        );
        assert_eq!(lines.collect::<Vec<_>>(), ["free text", "1.5x y"]);
        assert_eq!(in_local_time("9.9999999999 x"), "9.9999999999 x");
    }

    #[test]
    fn lines_are_counted_from_the_end() {
        let text = b"one\ntwo\nthree\n";
        assert_eq!(last_lines(text, None), text);
        assert_eq!(last_lines(text, Some(1)), b"three\n");
        assert_eq!(last_lines(text, Some(2)), b"two\nthree\n");
        assert_eq!(last_lines(text, Some(9)), text);
        assert_eq!(last_lines(text, Some(0)), b"");
        assert_eq!(last_lines(b"", Some(3)), b"");
    }
}
