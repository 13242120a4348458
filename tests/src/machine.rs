//! A `vmm` process that runs the test guest (or any kernel), the way a manager starts one: every
//! file is opened here and passed as a descriptor, the spec names the numbers.
//!
//! ```text
//! Builder --start--> Machine { process, serial, control socket, console socket, end record }
//! ```
//!
//! Dropping a [`Machine`] kills its process and waits for it.

mod boot;
mod card;
mod opened;

pub use boot::SEABIOS;

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use card::Card;
use opened::Opened;
use tempfile::TempDir;
use uuid::Uuid;
use vmm_api::console::{Attach, Attached, to_line};
use vmm_api::control::client::{Client, ClientError};
use vmm_api::control::{Reply, Request};
use vmm_api::end::EndRecord;
use vmm_api::spec::{
    BlkSpec, ConsoleSpec, CpuSpec, DebugExitSpec, DeviceKind, DeviceSpec, Fd, HostSpec,
    ImageFormat, ImageSpec, MACHINE_NEWEST, MacAddress, MachineSpec, MemorySpec, NetSpec, Origin,
    PciAddress, PortSpec, PortStream, RngSpec, SPEC_VERSION, SerialSpec,
};

use crate::program;
use crate::serial::{PATIENCE, Serial};

/// A disk of a machine.
#[derive(Clone)]
pub struct Disk {
    path: PathBuf,
    format: ImageFormat,
    read_only: bool,
    adjust: fn(&mut BlkSpec),
}

impl Disk {
    /// A raw image.
    pub fn raw(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: ImageFormat::Raw,
            read_only: false,
            adjust: |_| {},
        }
    }

    /// A qcow2 image without a backing file.
    pub fn qcow2(path: impl Into<PathBuf>) -> Self {
        Self {
            format: ImageFormat::Qcow2,
            ..Self::raw(path)
        }
    }

    /// The guest may not write.
    pub fn read_only(self) -> Self {
        Self {
            read_only: true,
            ..self
        }
    }

    /// Changes the spec of this disk before the start.
    pub fn adjust(self, adjust: fn(&mut BlkSpec)) -> Self {
        Self { adjust, ..self }
    }
}

/// What a machine is to be.
#[derive(Clone)]
pub struct Builder {
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    cmdline: String,
    firmware: Option<PathBuf>,
    memory: u64,
    cpus: u32,
    disks: Vec<Disk>,
    rng: bool,
    card: Option<Card>,
    channel: bool,
    paused: bool,
    restore: Option<PathBuf>,
    program: Option<PathBuf>,
    adjust: fn(&mut MachineSpec),
}

impl Builder {
    /// The test guest with this command line (see its table of tests), 128 MiB, one vCPU.
    pub fn guest(cmdline: &str) -> Self {
        Self {
            kernel: None,
            initrd: None,
            cmdline: cmdline.into(),
            firmware: None,
            memory: 128 << 20,
            cpus: 1,
            disks: Vec::new(),
            rng: false,
            card: None,
            channel: false,
            paused: false,
            restore: None,
            program: None,
            adjust: |_| {},
        }
    }

    /// Another kernel instead of the test guest.
    pub fn kernel(mut self, kernel: &Path, initrd: Option<&Path>) -> Self {
        self.kernel = Some(kernel.into());
        self.initrd = initrd.map(Into::into);
        self
    }

    /// MiB of RAM.
    pub fn memory(mut self, mib: u64) -> Self {
        self.memory = mib << 20;
        self
    }

    /// Number of vCPUs.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// One more disk.
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// An entropy device.
    pub fn rng(mut self) -> Self {
        self.rng = true;
        self
    }

    /// A console device with a channel on port 1, whose socket is `channel` in the machine's folder.
    pub fn channel(mut self) -> Self {
        self.channel = true;
        self
    }

    /// vCPUs stay paused until resumed.
    pub fn paused(mut self) -> Self {
        self.paused = true;
        self
    }

    /// Goes on from a saved state.
    pub fn restore(mut self, state: &Path) -> Self {
        self.restore = Some(state.into());
        self
    }

    /// Another `vmm` than the one that is built with the tests.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Changes the spec at the end.
    pub fn adjust(mut self, adjust: fn(&mut MachineSpec)) -> Self {
        self.adjust = adjust;
        self
    }

    /// Starts the process.
    ///
    /// # Errors
    /// When a program does not compile, or a file cannot be opened or the process not be started.
    pub fn start(&self) -> io::Result<Machine> {
        let mut prepared = self.prepare()?;
        prepared
            .command
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let serial = Serial::collect(prepared.output);
        let mut child = prepared.opened.spawn(&mut prepared.command)?;
        let log = child.stderr.take().map(Serial::collect);
        let Prepared { folder, spec, .. } = prepared;
        Ok(Machine {
            child,
            serial,
            log,
            folder,
            spec,
            ended: None,
        })
    }

    /// Everything up to the start of the process.
    ///
    /// # Errors
    /// When a program does not compile, or a file cannot be opened.
    pub fn prepare(&self) -> io::Result<Prepared> {
        let folder = tempfile::Builder::new().prefix("vm-test-").tempdir()?;
        let (output, guest_output) = io::pipe()?;
        let end = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(folder.path().join("end"))?;
        let control = UnixListener::bind(folder.path().join("control"))?;
        let console = UnixListener::bind(folder.path().join("console"))?;
        let mut opened = Opened::default();
        let serial = SerialSpec {
            port: 0,
            console: Some(opened.keep(console)),
            output: Some(opened.keep(guest_output)),
            ..SerialSpec::default()
        };
        let host = HostSpec {
            kvm: Some(opened.open("/dev/kvm", true)?),
            control: Some(opened.keep(control)),
            end_reason: Some(opened.keep(end)),
            start_paused: self.paused,
            powerdown_seconds: 60,
            ..HostSpec::default()
        };
        let mut spec = self.spec(serial, host, &mut opened)?;
        let debug_console = self.debug_console(folder.path(), &mut opened)?;
        spec.devices.extend(debug_console);
        if self.channel {
            let listener = UnixListener::bind(folder.path().join("channel"))?;
            spec.devices.push(channel(opened.keep(listener)));
        }
        let mut file = tempfile::tempfile()?;
        file.write_all(&spec.to_json().map_err(io::Error::other)?)?;
        file.rewind()?;
        let spec_fd = opened.keep(file);
        let program = self.program.clone().map_or_else(program::vmm, Ok)?;
        let mut command = Command::new(program);
        command
            .arg("--spec-fd")
            .arg(spec_fd.0.to_string())
            .stdin(Stdio::null());
        Ok(Prepared {
            command,
            opened,
            output,
            folder,
            spec,
        })
    }

    fn spec(
        &self,
        serial: SerialSpec,
        host: HostSpec,
        opened: &mut Opened,
    ) -> io::Result<MachineSpec> {
        let boot = self.boot(opened)?;
        let origin = match &self.restore {
            None => Origin::Fresh,
            Some(path) => Origin::Restore {
                state: opened.named(path)?,
            },
        };
        let mut spec = MachineSpec {
            version: SPEC_VERSION,
            name: "test".into(),
            uuid: Uuid::from_u128(0x7e57),
            machine: MACHINE_NEWEST.into(),
            cpus: CpuSpec::fixed(self.cpus),
            memory: MemorySpec::anonymous(self.memory),
            boot,
            end_actions: vmm_api::spec::EndActions::default(),
            rtc_offset: 0,
            devices: self.devices(serial, opened)?,
            origin,
            host,
        };
        (self.adjust)(&mut spec);
        Ok(spec)
    }

    fn devices(&self, serial: SerialSpec, opened: &mut Opened) -> io::Result<Vec<DeviceSpec>> {
        let plain = |id: &str, kind| DeviceSpec {
            id: id.into(),
            address: None,
            kind,
        };
        let mut devices = vec![
            plain("serial0", DeviceKind::Serial(serial)),
            plain(
                "debug-exit0",
                DeviceKind::DebugExit(DebugExitSpec::default()),
            ),
        ];
        for (slot, disk) in (2..).zip(&self.disks) {
            let image = ImageSpec {
                file: opened.open(&disk.path, !disk.read_only)?,
                path: disk.path.display().to_string(),
                format: disk.format,
                backing: None,
                data_file: None,
            };
            let mut blk = BlkSpec::new(image);
            blk.read_only = disk.read_only;
            (disk.adjust)(&mut blk);
            devices.push(DeviceSpec {
                id: format!("virtio-disk{}", slot - 2),
                address: PciAddress::new(0, slot, 0),
                kind: DeviceKind::VirtioBlk(blk),
            });
        }
        if self.rng {
            let source = opened.open("/dev/urandom", false)?;
            devices.push(DeviceSpec {
                id: "rng0".into(),
                address: PciAddress::new(0, 16, 0),
                kind: DeviceKind::VirtioRng(RngSpec {
                    source,
                    rate_bytes: None,
                    period_ms: None,
                }),
            });
        }
        if let Some(card) = &self.card {
            let backend = card.open(opened)?;
            let mac = MacAddress([0x52, 0x54, 0, 0, 0, 1]);
            devices.push(DeviceSpec {
                id: "net0".into(),
                address: PciAddress::new(0, 18, 0),
                kind: DeviceKind::VirtioNet(NetSpec::new(backend, mac)),
            });
        }
        Ok(devices)
    }
}

fn channel(listener: Fd) -> DeviceSpec {
    let port = PortSpec {
        number: 1,
        id: "channel0".into(),
        name: Some("test.0".into()),
        console: false,
        stream: PortStream::Socket { listener },
    };
    DeviceSpec {
        id: "virtio-serial0".into(),
        address: PciAddress::new(0, 17, 0),
        kind: DeviceKind::VirtioConsole(ConsoleSpec {
            max_ports: 2,
            ports: vec![port],
        }),
    }
}

/// A process that only has to be started.
pub struct Prepared {
    /// Its command line.
    pub command: Command,
    opened: Opened,
    /// What the guest will say.
    pub output: PipeReader,
    folder: TempDir,
    spec: MachineSpec,
}

impl Prepared {
    /// Starts it; the folder with its sockets has to be kept for as long as they are needed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(mut self) -> io::Result<(Child, PipeReader, TempDir)> {
        let child = self.opened.spawn(&mut self.command)?;
        Ok((child, self.output, self.folder))
    }

    /// Holds it back for as long as the pipe is open.
    pub fn held_back(&mut self) -> io::Result<PipeWriter> {
        let (theirs, ours) = io::pipe()?;
        let fd = self.opened.keep(theirs).0.to_string();
        self.command.args(["--after-fd", &fd]);
        Ok(ours)
    }
}

/// A running `vmm`.
pub struct Machine {
    child: Child,
    /// What the guest says on its serial line.
    pub serial: Serial,
    log: Option<Serial>,
    folder: TempDir,
    /// The spec that it got.
    pub spec: MachineSpec,
    ended: Option<ExitStatus>,
}

impl Machine {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A folder that goes with the machine.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new control connection.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn control(&self) -> Result<Client, ClientError> {
        Client::connect(&self.folder.path().join("control"), PATIENCE)
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn request(&self, request: Request) -> Result<Reply, ClientError> {
        self.control()?.call(request, &[], PATIENCE)
    }

    /// Saves the machine into `path`.
    ///
    /// # Errors
    /// When the file cannot be made, or the machine refuses.
    pub fn save(&self, path: &Path) -> Result<(), ClientError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path);
        let file = file.map_err(ClientError::Io)?;
        self.control()?
            .call(Request::Save, &[file.as_fd()], PATIENCE)?;
        Ok(())
    }

    /// A console connection: the role that was given, and the raw line.
    ///
    /// # Errors
    /// When the socket cannot be reached or answers something else.
    pub fn console(&self, attach: Attach) -> io::Result<(Attached, UnixStream)> {
        let mut socket = UnixStream::connect(self.folder.path().join("console"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.write_all(&to_line(&attach))?;
        let mut line = Vec::new();
        // Byte by byte: what follows the line belongs to the guest.
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            socket.read_exact(&mut byte)?;
            line.extend_from_slice(&byte);
        }
        Ok((serde_json::from_slice(&line)?, socket))
    }

    /// Waits for the process and returns its exit code; -1 when a signal ended it.
    ///
    /// # Errors
    /// When it does not end, with what it logged.
    pub fn wait(&mut self) -> io::Result<i32> {
        let deadline = Instant::now() + PATIENCE;
        while self.ended.is_none() {
            self.ended = self.child.try_wait()?;
            if self.ended.is_none() {
                if Instant::now() > deadline {
                    let text = format!("the vmm does not end; its log:\n{}", self.log());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(self.ended.and_then(|status| status.code()).unwrap_or(-1))
    }

    /// Kills the process, as a crash would.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.ended = Some(self.child.wait()?);
        Ok(())
    }

    /// The last words of the process; `None` when it left none.
    pub fn end(&self) -> Option<EndRecord> {
        let text = fs::read(self.folder.path().join("end")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What the process logged so far.
    pub fn log(&self) -> String {
        self.log.as_ref().map(Serial::so_far).unwrap_or_default()
    }

    /// Waits for a line of the guest.
    ///
    /// # Panics
    /// When it does not come, with what the guest and the process said.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        match self.serial.expect(text) {
            Ok(passed) => passed,
            Err(error) => panic!("{error}\n{}", self.story()),
        }
    }

    /// What became of the process and what it logged, for a failure.
    pub fn story(&mut self) -> String {
        // A closed line comes just before the end of the process; a hanging one may stay.
        for _ in 0..100 {
            if self.ended.is_none() {
                self.ended = self.child.try_wait().ok().flatten();
                thread::sleep(Duration::from_millis(5));
            }
        }
        let end = self
            .end()
            .map(|end| format!("{:?}: {}", end.reason, end.detail));
        let state = match self.ended {
            None => "still runs".into(),
            Some(status) => format!("ended: {status}; its last words: {end:?}"),
        };
        let log = match &mut self.log {
            Some(log) if self.ended.is_some() => log.to_end().unwrap_or_else(|e| e.to_string()),
            _ => self.log(),
        };
        format!("the vmm {state}; its log:\n{log}")
    }

    /// Waits for the guest to end its test.
    ///
    /// # Panics
    /// When it ends in another way than by passing.
    #[track_caller]
    pub fn expect_pass(&mut self) {
        let code = self.wait();
        let said = self
            .serial
            .to_end()
            .unwrap_or_else(|error| error.to_string());
        let passed = matches!(code, Ok(0)) && said.contains("PASS");
        assert!(
            passed,
            "{code:?}; the guest said:\n{said}\n{}",
            self.story()
        );
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.ended.is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
