//! Disk images: `vm image` and QEMU's tools, turn by turn on the same files.
//!
//! The ratio is how many times as fast we are: above 1 we win, in every row. Requests per second come
//! from what `bench` says of its own run; times are those of the whole program. The processor time is
//! that of the program, per request where there are requests.

mod cells;
mod queues;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::stats::Samples;
use super::usage::{self, Usage};
use crate::{packages, project};
use cells::{Cell, Scale, Work};

#[derive(clap::Args)]
pub struct ImageArgs {
    /// Rounds; each round measures both once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Small images, few requests, three rounds: a look, no result
    #[arg(long)]
    quick: bool,
    /// Only cells whose name has this in it; more than once for several
    #[arg(long = "only", value_name = "TEXT")]
    only: Vec<String>,
    /// Where the images go; a folder of the build folder if not said
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Use this `vm` instead of building one
    #[arg(long, value_name = "PATH")]
    vm: Option<PathBuf>,
    /// Install missing packages without asking
    #[arg(long)]
    yes: bool,
}

/// A tool that is measured.
struct Tool {
    name: &'static str,
    /// For verbs of whole images.
    words: Vec<String>,
    /// For serving one, on `{socket}`.
    server: Vec<String>,
}

/// What a tool did in one cell.
#[derive(Default, Clone)]
struct Row {
    /// Thousands of requests per second, or milliseconds.
    figure: Samples,
    cpu: Samples,
    memory: Samples,
}

pub fn run(args: &ImageArgs) -> Result<()> {
    // Whatever release of QEMU's tools is found first is the peer.
    if Command::new("qemu-img").arg("--version").output().is_err() {
        packages::need(&["qemu-utils"], args.yes)?;
    }
    let folder = args
        .folder
        .clone()
        .unwrap_or_else(|| project::target().join("bench-image"));
    fs::create_dir_all(&folder).context("cannot make a folder for the images")?;
    let scale = if args.quick {
        Scale {
            // Steps of 1028 KiB come to another place each time they go round.
            disk: 258,
            source: 128,
            fewer: 4,
        }
    } else {
        Scale {
            disk: 1024,
            source: 1024,
            fewer: 1,
        }
    };
    let rounds = if args.quick { 3 } else { args.rounds.max(1) };
    let tools = tools(args)?;
    // Other sizes make other images.
    let folder = folder.join(format!("{}-{}", scale.disk, scale.source));
    fs::create_dir_all(&folder).context("cannot make a folder for the images")?;
    source(&folder.join("src.raw"), scale.source)?;
    println!(
        "image: {rounds} rounds, images of {} MiB, {}\n",
        scale.disk,
        version(&folder)?
    );
    println!(
        "| cell | ours | QEMU | ratio | CPU, ours | QEMU | MiB, ours | QEMU |\n\
         |---|---|---|---|---|---|---|---|"
    );
    let wanted = |cell: &Cell| {
        args.only.is_empty()
            || args
                .only
                .iter()
                .any(|text| cell.name.contains(text.as_str()))
    };
    for cell in cells::all(scale).into_iter().filter(wanted) {
        let rows = measure(&cell, &tools, &folder, rounds)
            .with_context(|| format!("in the cell '{}'", cell.name))?;
        print(&cell, &rows);
    }
    match tools.first() {
        Some(ours) if queues::is_wanted(&args.only) => {
            queues::run(&ours.words, &folder, rounds, scale.disk, scale.fewer)
        }
        _ => Ok(()),
    }
}

fn tools(args: &ImageArgs) -> Result<Vec<Tool>> {
    let vm = match &args.vm {
        Some(vm) => vm.canonicalize().context("there is no such vm")?,
        None => {
            let words = ["build", "--release", "--package", "virshlike", "--locked"];
            project::run(project::cargo().args(words))?;
            project::target().join("release/vm")
        }
    };
    let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
    let vm = vm.to_string_lossy().into_owned();
    let ours = |text: &str| {
        let mut all = vec![vm.clone(), "image".into()];
        all.extend(words(text));
        all
    };
    Ok(vec![
        Tool {
            name: "ours",
            words: vec![vm.clone(), "image".into()],
            server: ours("serve -k {socket} -t -e 0 --cache none -f qcow2"),
        },
        Tool {
            name: "QEMU",
            words: words("qemu-img"),
            server: words("qemu-nbd -k {socket} -t -e 0 --cache=none --aio=io_uring -f qcow2"),
        },
    ])
}

fn version(folder: &Path) -> Result<String> {
    let said = project::output(
        Command::new("qemu-img")
            .arg("--version")
            .current_dir(folder),
    )?;
    Ok(said.lines().next().unwrap_or_default().to_string())
}

/// Measures a cell: in every round each tool once, and the other one first in every second.
fn measure(cell: &Cell, tools: &[Tool], folder: &Path, rounds: usize) -> Result<Vec<Row>> {
    for (file, command) in &cell.once {
        if !folder.join(file).exists() {
            shell(folder, command)?;
        }
    }
    let mut rows = vec![Row::default(); tools.len()];
    for round in 0..rounds {
        for turn in 0..tools.len() {
            let at = (turn + round) % tools.len();
            shell(folder, &cell.each)?;
            shell(folder, "sync")?;
            let (tool, row) = (&tools[at], &mut rows[at]);
            let (figure, usage) = once(cell, tool, folder).with_context(|| tool.name)?;
            row.figure.add(figure);
            row.cpu.add(match cell.work {
                Work::Requests(count) | Work::Server(count) => usage.cpu * 1e6 / count as f64,
                Work::Time => usage.cpu * 1e3,
            });
            row.memory.add(usage.memory);
        }
    }
    Ok(rows)
}

fn once(cell: &Cell, tool: &Tool, folder: &Path) -> Result<(f64, Usage)> {
    let command = |words: &[String]| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(folder);
        command
    };
    let arguments = cell.arguments.split_whitespace();
    match cell.work {
        Work::Time => {
            let usage = usage::measure(command(&tool.words).args(arguments))?;
            Ok((usage.wall * 1e3, usage))
        }
        Work::Requests(count) => {
            let usage = usage::measure(command(&tool.words).args(arguments))?;
            Ok((rate(count, &usage.output)?, usage))
        }
        Work::Server(count) => {
            // One of the two wants an absolute path.
            let socket = folder.join("s").to_string_lossy().into_owned();
            let words = tool.server.iter().map(|w| w.replace("{socket}", &socket));
            let mut server = command(&words.collect::<Vec<_>>());
            let child = server
                .arg("b.full")
                .stdout(Stdio::null())
                .spawn()
                .context("cannot start the server")?;
            let client = client(cell, folder);
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .context("cannot end the server")?;
            let (_, cpu, memory) = usage::wait(child)?;
            // Whether a server leaves its socket is its own affair.
            let _ = fs::remove_file(folder.join("s"));
            let usage = Usage {
                cpu,
                memory,
                ..client?
            };
            Ok((rate(count, &usage.output)?, usage))
        }
    }
}

/// Runs the client of a server as soon as that listens.
fn client(cell: &Cell, folder: &Path) -> Result<Usage> {
    let socket = folder.join("s");
    // Ten seconds: nobody needs so long to open an image.
    for _ in 0..1000 {
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let arguments = cell.arguments.replace("{uri}", &uri);
    usage::measure(
        Command::new("qemu-img")
            .args(arguments.split_whitespace())
            .current_dir(folder),
    )
}

/// Thousands per second, from what `bench` says.
fn rate(count: u64, said: &str) -> Result<f64> {
    let seconds = said
        .lines()
        .find_map(|line| line.strip_prefix("Run completed in "))
        .and_then(|rest| rest.split(' ').next())
        .and_then(|text| text.parse::<f64>().ok());
    match seconds {
        Some(seconds) if seconds > 0.0 => Ok(count as f64 / seconds / 1e3),
        _ => bail!("bench did not say how long it took: {said}"),
    }
}

fn median(samples: &Samples) -> f64 {
    samples.summary().map_or(f64::NAN, |s| s.0)
}

fn print(cell: &Cell, rows: &[Row]) {
    let [ours, theirs] = rows else { return };
    let (a, b) = (median(&ours.figure), median(&theirs.figure));
    let (ratio, unit, cpu) = match cell.work {
        Work::Time => (b / a, " ms", " ms"),
        Work::Requests(_) | Work::Server(_) => (a / b, " k/s", " us"),
    };
    println!(
        "| {} | {a:.1}{unit} | {b:.1}{unit} | {ratio:.2} | {:.1}{cpu} | {:.1}{cpu} | {:.0} | {:.0} |",
        cell.name,
        median(&ours.cpu),
        median(&theirs.cpu),
        median(&ours.memory),
        median(&theirs.memory)
    );
}

fn shell(folder: &Path, command: &str) -> Result<()> {
    if command == "true" {
        return Ok(());
    }
    project::run(
        Command::new("sh")
            .args(["-ec", command])
            .current_dir(folder),
    )
}

/// A disk as disks are: a quarter holes, a quarter that does not compress, the rest text and records.
/// The same bytes on every machine.
fn source(path: &Path, mib: u64) -> Result<()> {
    if fs::metadata(path).is_ok_and(|found| found.len() == mib << 20) {
        return Ok(());
    }
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut file = File::create(path).context("cannot make the source")?;
    let words: Vec<Vec<u8>> = (0..2000)
        .map(|_| {
            let len = 2 + next() % 9;
            (0..len).map(|_| b'a' + (next() % 23) as u8).collect()
        })
        .collect();
    for piece in 0..mib {
        let mut bytes: Vec<u8> = Vec::with_capacity(1 << 20);
        match next() % 20 {
            0..=4 => continue,
            5..=9 => (0..1 << 17).for_each(|_| bytes.extend(next().to_le_bytes())),
            10..=15 => {
                while bytes.len() < 1 << 20 {
                    // Some words are more common than others.
                    let skew = (next() % 2000) * (next() % 2000) / 2000;
                    bytes.extend(&words[skew as usize]);
                    bytes.push(b' ');
                }
            }
            _ => (0..1 << 16).for_each(|at: u64| {
                bytes.extend((at * 16).to_le_bytes());
                bytes.extend(&next().to_le_bytes()[..6]);
                bytes.extend([0, 1]);
            }),
        }
        bytes.truncate(1 << 20);
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, piece << 20)
            .context("cannot write the source")?;
    }
    file.set_len(mib << 20).context("cannot size the source")?;
    file.flush().context("cannot write the source")
}
