//! The real driver: one `vmm` process per guest.

use super::cgroup;
use super::driver::{Launch, Launched, VmDriver};
use crate::error::{Error, Kind, Result, plain_io};
use crate::spawn::{self, Plan};
use crate::store::journal;
use rustix::fs::MemfdFlags;
use rustix::pipe::PipeFlags;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};
use vmm_api::cpu::HostCpu;
use vmm_api::speed::KernelSpeed;

/// How long a measurement of some ten milliseconds may take on a busy host.
const MEASURING: Duration = Duration::from_secs(10);

/// Starts the `vmm` that belongs to this build.
#[derive(Debug)]
pub struct ProcessDriver {
    program: PathBuf,
}

impl ProcessDriver {
    /// Finds the `vmm`: named by `VM_VMM`, beside this executable, or in `libexec/vm` near it.
    pub fn new() -> Self {
        let named = std::env::var_os("VM_VMM").map(PathBuf::from);
        let program = named.unwrap_or_else(|| {
            let own = std::env::current_exe().unwrap_or_default();
            let folder = own.parent().unwrap_or(Path::new("/"));
            let places = ["vmm", "../libexec/vm/vmm", "libexec/vm/vmm"];
            places
                .iter()
                .map(|place| folder.join(place))
                .find(|path| path.is_file())
                .unwrap_or_else(|| folder.join("../libexec/vm/vmm"))
        });
        Self { program }
    }
}

impl Default for ProcessDriver {
    fn default() -> Self {
        Self::new()
    }
}

impl VmDriver for ProcessDriver {
    fn ready(&self) -> Result<()> {
        if rustix::fs::access(&self.program, rustix::fs::Access::EXEC_OK).is_ok() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Host,
            format!("cannot find the guests' program {}", self.program.display()),
        )
        .cause("'vmm' is neither beside 'vm' nor in libexec/vm, or it is not executable")
        .hint("install the whole package, or name the program in VM_VMM"))
    }

    fn program(&self) -> &Path {
        &self.program
    }

    fn launch(&self, launch: Launch) -> Result<Box<dyn Launched>> {
        let group = cgroup::Group::for_guest(&launch.spec.name);
        let unlimited = group.limit(&launch.limits);
        let mut log = log_of(&launch);
        let spec_fd = launch.spec_file.as_raw_fd();
        let mut descriptors: Vec<_> = launch.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        descriptors.push(spec_fd);
        let mut arguments = vec!["--spec-fd".into(), spec_fd.to_string().into()];
        // Closed when the process is in its group: threads that the kernel starts for a machine stay
        // in the group that they were started in, where nothing could end them with it.
        let gate = group.adopts_later().then(gate).transpose()?;
        if let Some((theirs, _)) = &gate {
            descriptors.push(theirs.as_raw_fd());
            arguments.extend(["--after-fd".into(), theirs.as_raw_fd().to_string().into()]);
        }
        let child = spawn::spawn(Plan {
            program: self.program.clone(),
            arguments,
            descriptors,
            output: launch.output,
            cgroup: group.procs(),
            memory: launch.memory,
        })
        .map_err(|error| Error::io("start", &self.program, &error))?;
        if let Some(why) = group.adopt(child.id(), &launch.limits) {
            note(&mut log, &why);
        }
        drop(gate);
        Ok(Box::new(VmmProcess { child, unlimited }))
    }

    fn measure(&self, kvm: File) -> Result<KernelSpeed> {
        self.ask(
            "--measure-fd",
            &kvm,
            "cannot measure the speed of guest kernel code",
        )
    }

    fn host_cpu(&self, kvm: File) -> Result<HostCpu> {
        self.ask(
            "--cpuid-fd",
            &kvm,
            "cannot tell which CPU this host shows guests",
        )
    }
}

/// A pipe: the reader for the guest's process, and the writer that holds it back.
fn gate() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| {
        Error::new(Kind::Host, "cannot make a pipe").cause(plain_io(&error.into()))
    })
}

impl ProcessDriver {
    /// One question to the program about the KVM device, answered in JSON.
    fn ask<T: DeserializeOwned>(&self, flag: &str, kvm: &File, failure: &str) -> Result<T> {
        let cannot = |why: String| Error::new(Kind::Host, failure).cause(why);
        let memfd = rustix::fs::memfd_create("answer", MemfdFlags::CLOEXEC);
        let mut answer = File::from(memfd.map_err(|error| cannot(plain_io(&error.into())))?);
        let output = answer
            .try_clone()
            .map_err(|error| cannot(plain_io(&error)))?;
        let fd = kvm.as_raw_fd();
        let child = spawn::spawn(Plan {
            program: self.program.clone(),
            arguments: vec![flag.into(), fd.to_string().into()],
            descriptors: vec![fd],
            output,
            cgroup: None,
            memory: None,
        })
        .map_err(|error| Error::io("start", &self.program, &error))?;
        let mut process = VmmProcess {
            child,
            unlimited: Vec::new(),
        };
        let until = Instant::now() + MEASURING;
        while process.ended().is_none() {
            if Instant::now() > until {
                process.kill();
                let seconds = MEASURING.as_secs();
                return Err(cannot(format!("there was no answer after {seconds} s")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut text = String::new();
        answer
            .rewind()
            .and_then(|()| answer.read_to_string(&mut text))
            .map_err(|error| cannot(plain_io(&error)))?;
        serde_json::from_str(&text).map_err(|_| cannot(text.trim().to_string()))
    }
}

/// The log that the new process will write, open beside it.
fn log_of(launch: &Launch) -> Option<File> {
    let number = launch.spec.host.log.as_ref()?.files.first()?.0;
    let mut descriptors = launch.descriptors.iter();
    let descriptor = descriptors.find(|descriptor| descriptor.as_raw_fd() == number)?;
    descriptor.try_clone().ok().map(File::from)
}

/// Leaves a line in the guest's log. The descriptor is the one that the guest's process writes to,
/// so lines follow each other.
fn note(log: &mut Option<File>, why: &str) {
    let seconds = journal::seconds_now();
    let line = format!(
        "{seconds}.000  WARN vm: the guest stays in the cgroup of what started it and ends with \
         it: {why}\n"
    );
    // A log that cannot be written does not stop a guest.
    let _ = log.as_mut().map(|log| {
        log.seek(SeekFrom::End(0))?;
        log.write_all(line.as_bytes())
    });
}

struct VmmProcess {
    child: Child,
    unlimited: Vec<String>,
}

impl Launched for VmmProcess {
    fn pid(&self) -> Option<u32> {
        Some(self.child.id())
    }

    fn unlimited(&self) -> &[String] {
        &self.unlimited
    }

    fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(status.to_string())
    }

    fn kill(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
