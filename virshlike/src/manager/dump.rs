//! A running guest's memory as a file.

use super::output::OutputFile;
use super::{Domain, Manager};
use crate::error::Result;
use crate::model;
use crate::runtime::guest::{ANSWER, explain};
use crate::runtime::rundir::{self, RunDir};
use crate::runtime::{cgroup, cores};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use vmm_api::control::Request;
use vmm_api::spec::EndAction;
use vmm_api::state::AfterDump;

/// How long a dump may take: a terabyte at a slow disk's speed.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// Cores that a guest may leave which restarts after each crash, before it is started anew.
const CORES_OF_ONE_RUN: usize = 4;

impl Manager {
    /// Files for the cores of a guest that is about to start, where its definition wants them.
    pub(super) fn core_files(&self, model: &model::Domain) -> Result<Vec<(File, PathBuf)>> {
        let count = match model.on_crash {
            _ if !model.core_on_crash => return Ok(Vec::new()),
            EndAction::Restart => CORES_OF_ONE_RUN,
            EndAction::Destroy | EndAction::Preserve => 1,
        };
        cores::create(&self.store.layout().dump(), &model.name, count)
    }

    /// Removes files for cores that an earlier uptime of the host left without one, where its records
    /// went with it. What runs at the host's boot calls this.
    pub fn sweep_cores(&self) {
        let Some(boot) = booted() else { return };
        let layout = self.store.layout();
        let runs = rundir::runs(&layout.run).unwrap_or_default();
        let records = runs.iter().filter_map(RunDir::record);
        let named = records.flat_map(|record| record.cores);
        let named = named.map(PathBuf::from).collect();
        match cores::sweep(&layout.dump(), &named, boot) {
            0 => {}
            count => tracing::info!("{count} files for cores of an earlier uptime were empty"),
        }
    }

    /// Writes RAM and registers of a guest into `path`, for its owner alone. The file has its name only when
    /// it is whole.
    ///
    /// # Errors
    /// The domain is not running or busy; the file cannot be written, or something that is no plain file
    /// has its name: nothing is left of it then, and what was there stays.
    pub fn core_dump(&self, domain: &Domain, path: &Path, then: AfterDump) -> Result<()> {
        let guest = self.running(domain)?;
        let what = format!("the process of domain '{}'", domain.name);
        let part = OutputFile::create(path)?;
        let dumped = guest.connect(ANSWER).and_then(|mut client| {
            client.call(Request::Dump { then }, &[part.file().as_fd()], PATIENCE)
        });
        dumped.map_err(|error| explain(&error, &what))?;
        part.keep()?;
        if then == AfterDump::Crash && guest.wait_end(ANSWER)? {
            let _domain = self.store.lock_domain(domain.uuid, &domain.name)?;
            guest.dir().tidy()?;
            cgroup::forget(&domain.name);
        }
        self.note(
            domain.uuid,
            "dump",
            &domain.name,
            &path.display().to_string(),
        );
        Ok(())
    }
}

/// When the host was started (proc(5), `btime` of `/proc/stat`), by its clock of now.
fn booted() -> Option<SystemTime> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    UNIX_EPOCH.checked_add(Duration::from_secs(line.trim().parse().ok()?))
}
