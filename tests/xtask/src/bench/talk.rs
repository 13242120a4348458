//! A test guest under load: it says when its work begins and ends, and meanwhile the process is watched.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines};
use std::process::Child;

use anyhow::{Context, Result, bail};

use super::peers::{Guest, Running, Vmm};

/// Clock ticks of /proc in a second.
const TICKS: f64 = 100.0;

/// A guest that runs, and what it has said.
pub struct Talk {
    running: Running,
    lines: Lines<BufReader<File>>,
    said: String,
}

impl Talk {
    pub fn start(vmm: &Vmm, guest: &Guest) -> Result<Self> {
        let running = vmm.start(guest, || {})?;
        let serial = running.serial.try_clone();
        let serial = serial.context("cannot read the serial line")?;
        Ok(Self {
            running,
            lines: BufReader::new(serial).lines(),
            said: String::new(),
        })
    }

    /// The next line that begins with a word.
    pub fn until(&mut self, word: &str) -> Result<String> {
        for line in &mut self.lines {
            let line = line.context("cannot read the serial line")?;
            if line.trim_end().starts_with(word) {
                return Ok(line);
            }
            self.said.push_str(&line);
            self.said.push('\n');
        }
        bail!("the guest ended before it said '{word}': {}", self.said)
    }

    /// Seconds of CPU time of the process's threads, without those that are vCPUs.
    pub fn cpu(&self) -> f64 {
        cpu_of(self.running.child.id())
    }

    /// Waits for the guest to pass, and for its process to be gone.
    pub fn end(mut self) -> Result<()> {
        self.until("PASS")?;
        end(&mut self.running.child).context("cannot wait")
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // A second time does no harm: nobody else has waited for it.
        drop(end(&mut self.running.child));
    }
}

fn end(child: &mut Child) -> std::io::Result<()> {
    drop(child.kill());
    child.wait().map(drop)
}

/// The number behind `name=` in a line of the guest.
pub fn number(line: &str, name: &str) -> f64 {
    let mut words = line.split_whitespace();
    let found = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
}

fn cpu_of(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let ticks = tasks.into_iter().flatten().flatten().filter_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        if name.starts_with("vcpu") || name.starts_with("CPU ") {
            return None;
        }
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        // The command in parentheses may contain anything, so fields are counted after it.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace().skip(11);
        let user: f64 = fields.next()?.parse().ok()?;
        let system: f64 = fields.next()?.parse().ok()?;
        Some(user + system)
    });
    ticks.sum::<f64>() / TICKS
}
