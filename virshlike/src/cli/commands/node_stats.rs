//! `vm nodecpustats`, `vm nodememstats` and `vm freecell`: what the kernel counts of this host
//! (proc(5), `/proc/stat`, `/proc/meminfo`, and the same per NUMA cell in sysfs).

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Nanoseconds of a tick of /proc/stat, 100 of which are a second on every architecture that KVM has.
const TICK: u64 = 10_000_000;

/// Print how the processors of this host spend their time, in nanoseconds
#[derive(Debug, clap::Args)]
pub struct Nodecpustats {
    /// Only this processor
    #[arg(long, value_name = "NUMBER")]
    cpu: Option<u32>,
    /// In percent of one second
    #[arg(long)]
    percent: bool,
}

/// Times of all processors or of one, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    user: u64,
    system: u64,
    idle: u64,
    iowait: u64,
}

impl Times {
    /// The line of a processor in /proc/stat.
    fn parse(text: &str, cpu: Option<u32>) -> Option<Self> {
        let wanted = cpu.map_or("cpu".to_string(), |number| format!("cpu{number}"));
        let line = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(&wanted))?;
        let fields: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .map_while(|field| field.parse().ok())
            .collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or(0);
        Some(Self {
            user: field(0).saturating_add(field(1)),
            system: field(2).saturating_add(field(5)).saturating_add(field(6)),
            idle: field(3),
            iowait: field(4),
        })
    }

    fn fields(self) -> [(&'static str, u64); 4] {
        [
            ("user", self.user),
            ("system", self.system),
            ("idle", self.idle),
            ("iowait", self.iowait),
        ]
    }
}

impl Verb for Nodecpustats {
    const NAME: &'static str = "nodecpustats";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let first = self.look()?;
        if self.percent {
            std::thread::sleep(Duration::from_secs(1));
            let second = self.look()?;
            return percent(context, first, second);
        }
        if context.ui.is_json() {
            let fields = first.fields().into_iter();
            let fields: Map<String, Value> = fields
                .map(|(name, ticks)| (name.to_string(), ticks.saturating_mul(TICK).into()))
                .collect();
            return context.ui.json(&fields);
        }
        for (name, ticks) in first.fields() {
            let label = format!("{name}:");
            let time = ticks.saturating_mul(TICK);
            context.ui.line(format!("{label:<15} {time:>20}"))?;
        }
        Ok(())
    }
}

impl Nodecpustats {
    fn look(&self) -> Result<Times> {
        let path = Path::new("/proc/stat");
        let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
        Times::parse(&text, self.cpu).ok_or_else(|| {
            let cpu = self.cpu.unwrap_or(0);
            Error::new(
                Kind::NotFound,
                format!("this host has no processor {cpu} online"),
            )
        })
    }
}

fn percent(context: &Context, first: Times, second: Times) -> Result<()> {
    let spent: Vec<(&str, u64)> = second
        .fields()
        .into_iter()
        .zip(first.fields())
        .map(|((name, after), (_, before))| (name, after.saturating_sub(before)))
        .collect();
    let all: u64 = spent.iter().map(|(_, ticks)| ticks).sum::<u64>().max(1);
    let share = |ticks: u64| ticks as f64 * 100.0 / all as f64;
    let busy: u64 = spent.iter().take(2).map(|(_, ticks)| ticks).sum();
    let mut lines = vec![("usage", share(busy))];
    lines.extend(spent.into_iter().map(|(name, ticks)| (name, share(ticks))));
    if context.ui.is_json() {
        let fields = lines.into_iter();
        let fields: Map<String, Value> = fields
            .map(|(name, percent)| (name.to_string(), percent.into()))
            .collect();
        return context.ui.json(&fields);
    }
    for (name, percent) in lines {
        let label = format!("{name}:");
        context.ui.line(format!("{label:<15} {percent:>5.1}%"))?;
    }
    Ok(())
}

/// Print the memory of this host in KiB
#[derive(Debug, clap::Args)]
pub struct Nodememstats {
    /// Only this NUMA cell
    #[arg(long, value_name = "NUMBER")]
    cell: Option<u32>,
}

impl Verb for Nodememstats {
    const NAME: &'static str = "nodememstats";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let figures = memory(self.cell)?;
        if context.ui.is_json() {
            let figures: Map<String, Value> = figures
                .into_iter()
                .map(|(name, kib)| (name.to_string(), kib.into()))
                .collect();
            return context.ui.json(&figures);
        }
        for (name, kib) in figures {
            context.ui.line(format!("{name:<7}: {kib:>20} KiB"))?;
        }
        Ok(())
    }
}

/// Figures of the host, or of one NUMA cell, in KiB; those that the kernel does not tell are absent.
fn memory(cell: Option<u32>) -> Result<Vec<(&'static str, u64)>> {
    let path = cell.map_or("/proc/meminfo".to_string(), |cell| {
        format!("/sys/devices/system/node/node{cell}/meminfo")
    });
    let text = fs::read_to_string(&path).map_err(|error| match cell {
        Some(cell) => Error::new(Kind::NotFound, format!("this host has no NUMA cell {cell}")),
        None => Error::io("read", Path::new(&path), &error),
    })?;
    let words = [
        ("total", "MemTotal"),
        ("free", "MemFree"),
        ("buffers", "Buffers"),
        ("cached", "Cached"),
    ];
    let found = words
        .into_iter()
        .filter_map(|(name, word)| Some((name, figure(&text, word)?)));
    Ok(found.collect())
}

/// A line such as `MemFree: 12 kB` or `Node 0 MemFree: 12 kB`.
fn figure(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (before, value) = line.split_once(':')?;
        if before.split_whitespace().last() != Some(word) {
            return None;
        }
        value.split_whitespace().next()?.parse().ok()
    })
}

/// Print the free memory of this host, or of its NUMA cells, in KiB
#[derive(Debug, clap::Args)]
pub struct Freecell {
    /// Only this NUMA cell
    #[arg(id = "cellno", long = "cellno", value_name = "NUMBER")]
    cell: Option<u32>,
    /// Every cell, and their sum
    #[arg(long, conflicts_with = "cellno")]
    all: bool,
}

impl Verb for Freecell {
    const NAME: &'static str = "freecell";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let free = |cell| -> Result<u64> {
            let figures = memory(cell)?;
            let found = figures.into_iter().find(|(name, _)| *name == "free");
            Ok(found.map_or(0, |(_, kib)| kib))
        };
        let mut lines: Vec<(String, u64)> = Vec::new();
        if self.all {
            let mut cell = 0;
            while let Ok(kib) = free(Some(cell)) {
                lines.push((cell.to_string(), kib));
                cell += 1;
            }
            if lines.is_empty() {
                // A kernel without NUMA: one cell with everything.
                lines.push(("0".into(), free(None)?));
            }
            let sum = lines.iter().map(|(_, kib)| kib).sum();
            lines.push(("Total".into(), sum));
        } else {
            let label = self.cell.map_or("Total".into(), |cell| cell.to_string());
            lines.push((label, free(self.cell)?));
        }
        if context.ui.is_json() {
            let cells: Map<String, Value> = lines
                .into_iter()
                .map(|(cell, kib)| (cell.to_lowercase(), kib.into()))
                .collect();
            return context.ui.json(&cells);
        }
        if !self.all {
            for (cell, kib) in lines {
                context.ui.line(format!("{cell}: {kib} KiB"))?;
            }
            return Ok(());
        }
        for (cell, kib) in lines {
            if cell == "Total" {
                context.ui.sentence("-".repeat(20))?;
            }
            context.ui.line(format!("{cell:>5}: {kib:>10} KiB"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let text = "cpu  10 1 5 100 7 1 1 0 0 0\ncpu0 4 0 2 50 3 0 0 0 0 0\nintr 1\n";
        let all = Times::parse(text, None).unwrap();
        assert_eq!(all.fields().map(|(_, ticks)| ticks), [11, 7, 100, 7]);
        assert_eq!(Times::parse(text, Some(0)).unwrap().user, 4);
        assert_eq!(Times::parse(text, Some(7)), None);
        let cell = "Node 0 MemTotal:  9 kB\nNode 0 MemFree: 4 kB\n";
        assert_eq!(figure(cell, "MemFree"), Some(4));
        assert_eq!(figure("MemFreeX: 1 kB\nMemFree:  2 kB", "MemFree"), Some(2));
    }
}
