//! `vm top`

use crate::cli::console::terminal::{Raw, Signals};
use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result, plain_io};
use crate::manager::Manager;
use crate::manager::usage::{Counters, Usage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Show what running domains use of this host, the busiest first
///
/// On a terminal it goes on until 'q': c, m, d, n sort by CPU, memory, disk and network, i by id, the
/// space bar looks at once. Otherwise it prints one table, measured over one interval.
#[derive(Debug, clap::Args)]
pub struct Top {
    /// Seconds between two looks
    #[arg(short = 'd', long, value_name = "SECONDS", value_parser = interval)]
    interval: Option<Duration>,
    /// Print one table and end, also on a terminal
    #[arg(long)]
    once: bool,
    /// What comes first: cpu, memory, disk, network or id
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "cpu",
        hide_default_value = true
    )]
    sort: Sort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    Cpu,
    Memory,
    Disk,
    Network,
    Id,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it takes seconds".to_string())?;
    match (0.1..=3600.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err("it takes 0.1 to 3600 seconds".into()),
    }
}

/// What one domain used per second between two looks.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    id: u32,
    name: String,
    state: &'static str,
    /// Percent of one host processor; absent until it was seen twice.
    cpu_percent: Option<f64>,
    vcpus: u32,
    memory: u64,
    resident: u64,
    read_bytes_per_second: Option<u64>,
    write_bytes_per_second: Option<u64>,
    rx_bytes_per_second: Option<u64>,
    tx_bytes_per_second: Option<u64>,
}

struct Look {
    at: Instant,
    usage: Vec<Usage>,
}

impl Look {
    fn now(manager: &Manager) -> Result<Self> {
        let usage = manager.usage()?;
        Ok(Self {
            at: Instant::now(),
            usage,
        })
    }
}

impl Verb for Top {
    const NAME: &'static str = "top";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let alive = !self.once
            && !context.ui.is_json()
            && io::stdout().is_terminal()
            && io::stdin().is_terminal();
        let first = Look::now(manager)?;
        if alive {
            context.ui.no_end();
            return self.watch(context, first);
        }
        std::thread::sleep(self.interval.unwrap_or(Duration::from_secs(1)));
        let rows = rows(&first, &Look::now(manager)?, self.sort);
        if context.ui.is_json() {
            return context.ui.json(&rows);
        }
        context.ui.data(&table(&rows, context.ui.quiet))
    }
}

impl Top {
    /// The interactive form. The terminal comes back on every way out.
    fn watch(&self, context: &Context, first: Look) -> Result<()> {
        let manager = context.manager()?;
        let signals = Signals::catch()?;
        let _raw = Raw::enter()?;
        let _screen = Screen::enter();
        let interval = self.interval.unwrap_or(Duration::from_secs(2));
        let (mut sort, mut last, mut now) = (self.sort, first, None);
        let mut next = Instant::now() + Duration::from_secs(1).min(interval);
        loop {
            let shown = now.as_ref().unwrap_or(&last);
            draw(&rows(&last, shown, sort), sort)?;
            let key = wait(&signals, next.saturating_duration_since(Instant::now()))?;
            match key {
                Some(b'q' | 0x03 | 0x04 | 0x1b) => return Ok(()),
                Some(b'c') => sort = Sort::Cpu,
                Some(b'm') => sort = Sort::Memory,
                Some(b'd') => sort = Sort::Disk,
                Some(b'n') => sort = Sort::Network,
                Some(b'i') => sort = Sort::Id,
                Some(b' ') => next = Instant::now(),
                _ => {}
            }
            if Instant::now() >= next {
                if let Some(shown) = now.take() {
                    last = shown;
                }
                now = Some(Look::now(manager)?);
                next = Instant::now() + interval;
            }
        }
    }
}

/// The terminal's second screen for as long as it lives.
struct Screen;

impl Screen {
    fn enter() -> Self {
        // A terminal that cannot be written to shows nothing either way.
        let _ = io::stdout().write_all(b"\x1b[?1049h\x1b[?25l");
        Self
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout();
        let _ = out
            .write_all(b"\x1b[?25h\x1b[?1049l")
            .and_then(|()| out.flush());
    }
}

/// A key that was pressed, `q` for a signal or the end of input, `None` when time is up.
fn wait(signals: &Signals, time: Duration) -> Result<Option<u8>> {
    let stdin = io::stdin();
    let time = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    let mut fds = [
        PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
    ];
    match poll(&mut fds, Some(&time)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(failed("wait for a key", error.into())),
    }
    let [keys, ends] = fds;
    if !ends.revents().is_empty() {
        return Ok(Some(b'q'));
    }
    if keys.revents().is_empty() {
        return Ok(None);
    }
    let mut key = [0];
    match rustix::io::read(&stdin, &mut key) {
        Ok(0) => Ok(Some(b'q')),
        Ok(_) => Ok(key.first().copied()),
        Err(rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(failed("read a key", error.into())),
    }
}

fn failed(what: &str, error: io::Error) -> Error {
    Error::new(Kind::Io, format!("cannot {what}")).cause(plain_io(&error))
}

fn draw(rows: &[Row], sort: Sort) -> Result<()> {
    let (columns, lines) = rustix::termios::tcgetwinsize(io::stdout()).map_or((80, 24), |size| {
        (usize::from(size.ws_col), usize::from(size.ws_row))
    });
    let time = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
    let head = format!(
        "{time}  {} running, by {sort:?}   q quit  c m d n i sort  space look",
        rows.len()
    );
    let mut text = String::from("\x1b[H");
    let table = table(rows, false);
    for line in std::iter::once(head.as_str())
        .chain(table.lines())
        .take(lines.max(2) - 1)
    {
        text.extend(line.chars().take(columns));
        text.push_str("\x1b[K\r\n");
    }
    text.push_str("\x1b[J");
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| failed("draw", error))
}

fn rows(before: &Look, now: &Look, sort: Sort) -> Vec<Row> {
    let elapsed = now.at.saturating_duration_since(before.at);
    let known: BTreeMap<(Uuid, u32), Counters> = before
        .usage
        .iter()
        .filter_map(|usage| Some(((usage.uuid, usage.id), usage.counters?)))
        .collect();
    let mut rows: Vec<Row> = now
        .usage
        .iter()
        .map(|usage| row(usage, known.get(&(usage.uuid, usage.id)), elapsed))
        .collect();
    let sum = |a: Option<u64>, b: Option<u64>| a.unwrap_or(0).saturating_add(b.unwrap_or(0));
    rows.sort_by(|a, b| {
        let order = match sort {
            Sort::Cpu => b
                .cpu_percent
                .unwrap_or(0.0)
                .total_cmp(&a.cpu_percent.unwrap_or(0.0)),
            Sort::Memory => b.resident.cmp(&a.resident),
            Sort::Disk => sum(b.read_bytes_per_second, b.write_bytes_per_second)
                .cmp(&sum(a.read_bytes_per_second, a.write_bytes_per_second)),
            Sort::Network => sum(b.rx_bytes_per_second, b.tx_bytes_per_second)
                .cmp(&sum(a.rx_bytes_per_second, a.tx_bytes_per_second)),
            Sort::Id => std::cmp::Ordering::Equal,
        };
        order.then(a.id.cmp(&b.id))
    });
    rows
}

fn row(usage: &Usage, before: Option<&Counters>, elapsed: Duration) -> Row {
    let now = usage.counters.unwrap_or_default();
    let seconds = elapsed.as_secs_f64();
    let known = before.filter(|_| seconds > 0.0 && usage.counters.is_some());
    let rate = |figure: fn(&Counters) -> u64| {
        known.map(|before| (figure(&now).saturating_sub(figure(before)) as f64 / seconds) as u64)
    };
    Row {
        id: usage.id,
        name: usage.name.clone(),
        state: usage.state.as_str(),
        cpu_percent: known.map(|before| {
            now.cpu_time_ns.saturating_sub(before.cpu_time_ns) as f64 / 1e7 / seconds
        }),
        vcpus: now.vcpus,
        memory: now.memory,
        resident: now.resident,
        read_bytes_per_second: rate(|of| of.read_bytes),
        write_bytes_per_second: rate(|of| of.write_bytes),
        rx_bytes_per_second: rate(|of| of.rx_bytes),
        tx_bytes_per_second: rate(|of| of.tx_bytes),
    }
}

fn table(rows: &[Row], quiet: bool) -> String {
    let mut table = Table::new(&[
        "Id", "Name", "State", "CPU %", "vCPUs", "Memory", "Resident", "Read/s", "Write/s", "Rx/s",
        "Tx/s",
    ]);
    let rate = |value: Option<u64>| value.map_or_else(|| "-".to_string(), size);
    for row in rows {
        table.row([
            row.id.to_string(),
            row.name.clone(),
            row.state.to_string(),
            row.cpu_percent
                .map_or_else(|| "-".to_string(), |percent| format!("{percent:.1}")),
            row.vcpus.to_string(),
            size(row.memory),
            size(row.resident),
            rate(row.read_bytes_per_second),
            rate(row.write_bytes_per_second),
            rate(row.rx_bytes_per_second),
            rate(row.tx_bytes_per_second),
        ]);
    }
    table.render(quiet)
}

/// Bytes in the largest unit that leaves a number of at least one.
fn size(bytes: u64) -> String {
    const UNITS: &[&str] = &["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    match unit == 0 || value >= 100.0 {
        true => format!("{value:.0} {name}"),
        false => format!("{value:.1} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::State;

    fn usage(id: u32, cpu: u64, read: u64) -> Usage {
        Usage {
            id,
            name: format!("d{id}"),
            uuid: Uuid::from_u128(u128::from(id)),
            state: State::Running,
            started: 0,
            counters: Some(Counters {
                cpu_time_ns: cpu,
                read_bytes: read,
                ..Counters::default()
            }),
        }
    }

    #[test]
    fn rates_are_taken_between_two_looks_and_the_busiest_comes_first() {
        let at = Instant::now();
        let before = Look {
            at,
            usage: vec![usage(1, 0, 0), usage(2, 0, 0)],
        };
        let now = Look {
            at: at + Duration::from_secs(2),
            usage: vec![
                usage(1, 1_000_000_000, 4096),
                usage(2, 2_000_000_000, 0),
                usage(3, 9, 9),
            ],
        };
        let rows = rows(&before, &now, Sort::Cpu);
        let ids: Vec<u32> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids, [2, 1, 3]);
        assert_eq!(rows[0].cpu_percent, Some(100.0));
        assert_eq!(rows[1].read_bytes_per_second, Some(2048));
        // One that was not there before has no rate yet.
        assert_eq!(rows[2].cpu_percent, None);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(512 << 20), "512 MiB");
    }
}
