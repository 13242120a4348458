//! One lab host from power on to power off.
//!
//! ```text
//! our stdin, stdout <--> QEMU's stdin, stdout <--> hvc0 in the lab host (virtio console): the script
//! console.log       <--- ttyS0: the lab host's kernel
//! status            <--- port lab.status: the script's exit status, one line
//! pulse             <--- port lab.pulse: a line every few seconds, for as long as the host lives
//! ```
//!
//! An emulated processor that ran guests may halt for ever, whatever VMM they had. The pulse tells that
//! from a script that takes its time.

use std::fs::{self, File};
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::Lab;

/// The lab host's kernel: nothing that only costs time under emulation.
const KERNEL_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable \
    no_timer_check nokaslr audit=0 apparmor=0";
/// How long the machine may take to go off once the script has ended.
const GOING_OFF: Duration = Duration::from_secs(20);
/// A host without a pulse for this long is dead; it beats every five seconds of its own time.
const WITHOUT_PULSE: Duration = Duration::from_secs(90);
/// Typed three times in a row, Ctrl+\ ends a lab host whose script does not answer.
const WAY_OUT: u8 = 0x1c;

/// What a lab host is started with.
pub struct Host<'a> {
    pub lab: &'a Lab,
    /// Whether a reboot starts it again rather than ends it.
    pub reboots: bool,
    /// Its number; the script runs on the first.
    pub number: u32,
    /// How many there are.
    pub hosts: u32,
    /// Where this host keeps its files.
    pub folder: &'a Path,
    /// The disk that the run brings along.
    pub payload: &'a Path,
    pub cpus: u32,
    /// MiB.
    pub memory: u32,
    pub limit: Option<Duration>,
}

impl Host<'_> {
    /// Starts it, and the other hosts as soon as they can reach it; passes the terminal through, and
    /// returns the script's exit status.
    pub fn run(&self, others: &[Host<'_>]) -> Result<u8> {
        let mut child = self.start(Stdio::piped(), Stdio::piped())?;
        let waiting = self.wait_for_cables().and_then(|()| {
            others
                .iter()
                .map(Host::start_waiting)
                .collect::<Result<Vec<_>>>()
        });
        let ended = waiting.and_then(|_others| self.watch(&mut child));
        // Whatever happened, nothing of it stays.
        drop(child.kill());
        drop(child.wait());
        ended?;
        self.status()
    }

    /// Starts a host that only waits to be asked by the first.
    pub fn start_waiting(&self) -> Result<Waiting> {
        self.start(Stdio::null(), Stdio::null()).map(Waiting)
    }

    fn start(&self, input: Stdio, output: Stdio) -> Result<Child> {
        fs::create_dir_all(self.folder).context("cannot make the host's folder")?;
        let log = File::create(self.folder.join("qemu.log")).context("cannot make the log")?;
        let mut command = self.lab.emulator().qemu();
        command
            .args(self.arguments())
            .env("TMPDIR", self.folder)
            .current_dir(self.folder);
        command.stdin(input).stdout(output).stderr(log);
        let child = command.spawn().context("cannot start the lab's QEMU")?;
        eprintln!(
            "lab: kvm0{} starts (emulated, AMD-V); its log: {}",
            self.number,
            self.console()
        );
        Ok(child)
    }

    /// One cable from the first host, which bridges them, to every other one.
    fn cables(&self) -> Vec<String> {
        let ends = if self.number == 1 {
            2..=self.hosts
        } else {
            self.number..=self.number
        };
        let (server, place) = if self.number == 1 {
            ("on", "")
        } else {
            ("off", "../")
        };
        ends.flat_map(|far| {
            let number = self.number;
            [
                "-netdev".to_owned(),
                // A path from the host's folder: a socket's path must be short.
                format!(
                    "stream,id=cable{far},server={server},addr.type=unix,addr.path={place}cable{far}"
                ),
                "-device".to_owned(),
                format!("virtio-net-pci,romfile=,netdev=cable{far},mac=52:54:00:77:{number:02x}:{far:02x}"),
            ]
        })
        .collect()
    }

    /// Waits until the other ends of the cables can be plugged in.
    pub fn wait_for_cables(&self) -> Result<()> {
        let started = Instant::now();
        let missing =
            || (2..=self.hosts).find(|far| !self.folder.join(format!("cable{far}")).exists());
        while missing().is_some() {
            if started.elapsed() > GOING_OFF {
                bail!(
                    "the first lab host does not offer its network; {}",
                    self.last_words()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn arguments(&self) -> Vec<String> {
        let file = |name: &str| self.lab.file(name).display().to_string();
        let disk = |id: &str, path: &str, how: &str| {
            [
                "-drive".to_owned(),
                format!("if=none,id={id},format=raw,file={path},{how}"),
                "-device".to_owned(),
                format!("virtio-blk-pci,drive={id}"),
            ]
        };
        let fixed = [
            "-M",
            "q35",
            "-accel",
            "tcg,thread=multi,tb-size=1024",
            "-cpu",
            "EPYC,+svm,+npt",
            "-object",
            "rng-random,id=rng0,filename=/dev/urandom",
            "-device",
            "virtio-rng-pci,rng=rng0",
            "-device",
            "virtio-serial-pci",
            "-chardev",
            "stdio,id=script,signal=off",
            "-device",
            "virtconsole,chardev=script",
        ];
        let status = self.folder.join("status");
        let pulse = self.folder.join("pulse");
        let mut arguments: Vec<String> = fixed.iter().map(ToString::to_string).collect();
        arguments.extend([
            "-chardev".into(),
            format!("file,id=status,path={}", status.display()),
            "-device".into(),
            "virtserialport,chardev=status,name=lab.status".into(),
            "-chardev".into(),
            format!("file,id=pulse,path={}", pulse.display()),
            "-device".into(),
            "virtserialport,chardev=pulse,name=lab.pulse".into(),
            "-serial".into(),
            format!("file:{}", self.console()),
            "-smp".into(),
            self.cpus.to_string(),
            "-m".into(),
            self.memory.to_string(),
            "-kernel".into(),
            file("kernel"),
            "-initrd".into(),
            file("host.cpio"),
            "-append".into(),
            format!("{KERNEL_LINE} lab.host={}", self.number),
        ]);
        if !self.reboots {
            arguments.push("-no-reboot".into());
        }
        arguments.extend(self.cables());
        // The root disk is written to a file that is gone with QEMU.
        arguments.extend(disk("root", &file("root.img"), "snapshot=on,cache=unsafe"));
        arguments.extend(disk("shared", &file("shared.img"), "readonly=on"));
        arguments.extend(disk(
            "run",
            &self.payload.display().to_string(),
            "readonly=on",
        ));
        arguments
    }

    fn console(&self) -> String {
        self.folder.join("console.log").display().to_string()
    }

    /// Carries bytes both ways until QEMU is gone, the limit is reached, or somebody leaves.
    fn watch(&self, child: &mut Child) -> Result<()> {
        let leave = Arc::new(AtomicBool::new(false));
        let terminal = RawTerminal::take()?;
        if let (Some(input), Some(_)) = (child.stdin.take(), &terminal) {
            let leave = Arc::clone(&leave);
            thread::spawn(move || type_into(input, &leave));
        }
        let output = child.stdout.take().context("QEMU has no output")?;
        let reader = thread::spawn(move || show(output));
        let started = Instant::now();
        let mut off_since = None;
        let mut pulse = Pulse::of(&self.folder.join("pulse"));
        let result = loop {
            if child.try_wait().context("cannot wait for QEMU")?.is_some() {
                break Ok(());
            }
            if leave.load(Ordering::Relaxed) {
                break Err(anyhow::anyhow!(
                    "you left the lab host while its script was running"
                ));
            }
            if self.limit.is_some_and(|limit| started.elapsed() > limit) {
                let seconds = started.elapsed().as_secs();
                break Err(anyhow::anyhow!(
                    "the script still ran after {seconds} s, the time limit (--time-limit); {}",
                    self.last_words()
                ));
            }
            if pulse.silence() > WITHOUT_PULSE {
                break Err(anyhow::anyhow!(
                    "the lab host's processor halted for ever; {}",
                    self.last_words()
                ));
            }
            if off_since.is_none() && self.status().is_ok() {
                off_since = Some(Instant::now());
            }
            if off_since.is_some_and(|since: Instant| since.elapsed() > GOING_OFF) {
                break Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        };
        drop(child.kill());
        drop(reader.join());
        drop(terminal);
        result
    }

    /// What the script's end left in the status file.
    fn status(&self) -> Result<u8> {
        let text = fs::read_to_string(self.folder.join("status")).unwrap_or_default();
        match text.strip_suffix('\n').map(str::parse) {
            Some(Ok(status)) => Ok(status),
            _ => bail!("the lab host ended without a status; {}", self.last_words()),
        }
    }

    /// The end of the lab host's own log.
    fn last_words(&self) -> String {
        let mut words = String::new();
        for name in ["console.log", "qemu.log"] {
            let bytes = fs::read(self.folder.join(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = text
                .lines()
                .filter(|line| !line.trim().is_empty())
                .collect();
            for line in lines.iter().skip(lines.len().saturating_sub(12)) {
                words.push_str(&format!("\n  {name}: {line}"));
            }
        }
        if words.is_empty() {
            "it said nothing".into()
        } else {
            format!("its last words:{words}")
        }
    }
}

fn show(mut from: ChildStdout) {
    let mut buffer = [0; 16384];
    let mut stdout = std::io::stdout();
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let Some(bytes) = buffer.get(..count) else {
            return;
        };
        if stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .is_err()
        {
            return;
        }
    }
}

fn type_into(mut input: ChildStdin, leave: &AtomicBool) {
    let mut buffer = [0; 4096];
    let mut outs = 0;
    while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
        let Some(bytes) = buffer.get(..count) else {
            return;
        };
        for byte in bytes {
            outs = if *byte == WAY_OUT { outs + 1 } else { 0 };
            if outs >= 3 {
                leave.store(true, Ordering::Relaxed);
                return;
            }
        }
        if input.write_all(bytes).and_then(|()| input.flush()).is_err() {
            return;
        }
    }
}

/// Whether a host still lives: the file grows.
struct Pulse {
    file: PathBuf,
    beats: u64,
    since: Instant,
}

impl Pulse {
    fn of(file: &Path) -> Self {
        Self {
            file: file.into(),
            beats: 0,
            since: Instant::now(),
        }
    }

    /// How long ago the last beat was seen, or the host was started.
    fn silence(&mut self) -> Duration {
        let beats = fs::metadata(&self.file).map_or(0, |data| data.len());
        if beats != self.beats {
            self.beats = beats;
            self.since = Instant::now();
        }
        self.since.elapsed()
    }
}

/// A host that is gone with this.
pub struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Our terminal in raw mode, as long as this lives.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn take() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() || !std::io::stdout().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).context("cannot set the terminal")?;
        eprint!("lab: Ctrl+\\ three times leaves\r\n");
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}
