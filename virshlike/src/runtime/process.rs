//! The real driver: one `vmm` process per guest.

use super::cgroup;
use super::driver::{Launch, Launched, VmDriver};
use crate::error::{Error, Kind, Result};
use crate::spawn::{self, Plan};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Child;

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

    /// The executable.
    pub fn program(&self) -> &Path {
        &self.program
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

    fn launch(&self, launch: Launch) -> Result<Box<dyn Launched>> {
        let group = cgroup::Group::for_guest(&launch.spec.name);
        let spec_fd = launch.spec_file.as_raw_fd();
        let mut descriptors: Vec<_> = launch.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        descriptors.push(spec_fd);
        let child = spawn::spawn(Plan {
            program: self.program.clone(),
            arguments: vec!["--spec-fd".into(), spec_fd.to_string().into()],
            descriptors,
            output: launch.output,
            cgroup: group.procs(),
        })
        .map_err(|error| Error::io("start", &self.program, &error))?;
        group.adopt(child.id());
        Ok(Box::new(VmmProcess { child }))
    }
}

struct VmmProcess {
    child: Child,
}

impl Launched for VmmProcess {
    fn pid(&self) -> Option<u32> {
        Some(self.child.id())
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
