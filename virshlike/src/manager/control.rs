//! Requests to a running guest, in virsh's words.

use super::{Domain, Manager};
use crate::error::{Error, Kind, Result};
use crate::runtime::guest::{ANSWER, Guest, explain};
use crate::runtime::{cgroup, rundir};
use std::time::{Duration, Instant};
use vmm_api::control::client::ClientError;
use vmm_api::control::{Event, Reply, Request};

/// A guest that was asked to power off and has not.
fn still_on(domain: &Domain, waited: Duration) -> Error {
    let message = format!(
        "waited {} s for domain '{}' to shut down: it still runs",
        waited.as_secs(),
        domain.name
    );
    Error::new(Kind::Timeout, message)
        .hint("a guest without ACPI support ignores its power button")
        .hint(format!("reset it at once: vm reset {}", domain.name))
}

impl Manager {
    /// Holds the vCPUs.
    ///
    /// # Errors
    /// It is not running, or paused already.
    pub fn suspend(&self, domain: &Domain) -> Result<()> {
        self.ask(domain, Request::Pause, "suspend")
    }

    /// Lets the vCPUs run.
    ///
    /// # Errors
    /// It is not running, or not paused.
    pub fn resume(&self, domain: &Domain) -> Result<()> {
        self.ask(domain, Request::Resume, "resume")
    }

    /// Presses the power button; the guest decides.
    ///
    /// # Errors
    /// It is not running, or paused.
    pub fn shutdown(&self, domain: &Domain) -> Result<Guest> {
        let guest = self.running(domain)?;
        self.ask(domain, Request::Powerdown, "shutdown")?;
        Ok(guest)
    }

    /// Resets the machine at once.
    ///
    /// # Errors
    /// It is not running.
    pub fn reset(&self, domain: &Domain) -> Result<()> {
        self.ask(domain, Request::Reset, "reset")
    }

    /// Stops the job that holds the machine.
    ///
    /// # Errors
    /// It is not running, or there is no job.
    pub fn abort_job(&self, domain: &Domain) -> Result<()> {
        // Without the domain's lock: the command whose job it is holds that.
        self.running(domain)?.call(Request::AbortJob, ANSWER)?;
        self.note(domain.uuid, "domjobabort", &domain.name, "");
        Ok(())
    }

    fn ask(&self, domain: &Domain, request: Request, verb: &str) -> Result<()> {
        let _domain = self.store.lock_domain(domain.uuid, &domain.name)?;
        self.running(domain)?.call(request, ANSWER)?;
        self.note(domain.uuid, verb, &domain.name, "");
        Ok(())
    }

    /// Ends the guest; returns when its process is gone and its images are free.
    ///
    /// # Errors
    /// It is not running, or cannot be ended.
    pub fn destroy(&self, domain: &Domain) -> Result<()> {
        let _domain = self.store.lock_domain(domain.uuid, &domain.name)?;
        let guest = self.running(domain)?;
        guest.destroy()?;
        guest.dir().tidy()?;
        cgroup::forget(&domain.name);
        self.note(domain.uuid, "destroy", &domain.name, "");
        Ok(())
    }

    /// Waits until a guest that was asked to end has ended, and tidies up after it.
    ///
    /// # Errors
    /// [`Kind::Timeout`] when it still runs after `patience`.
    pub fn wait_off(&self, domain: &Domain, guest: &Guest, patience: Duration) -> Result<()> {
        if guest.wait_end(patience)? {
            let _domain = self.store.lock_domain(domain.uuid, &domain.name)?;
            guest.dir().tidy()?;
            cgroup::forget(&domain.name);
            return Ok(());
        }
        Err(still_on(domain, patience).hint(format!("end it at once: vm destroy {}", domain.name)))
    }

    /// Presses the power button; when the guest has powered off its machine starts again, in the same
    /// process. With `patience` it returns when that has happened.
    ///
    /// # Errors
    /// It is not running, or paused; [`Kind::Timeout`] when it has not powered off after `patience`.
    pub fn reboot(&self, domain: &Domain, patience: Option<Duration>) -> Result<()> {
        let guest = self.running(domain)?;
        // Events are listened to before anything can happen.
        let mut resets = match patience {
            Some(_) => Some(guest.subscribe()?),
            None => None,
        };
        self.ask(domain, Request::Reboot, "reboot")?;
        let Some((patience, client)) = patience.zip(resets.as_mut()) else {
            return Ok(());
        };
        let until = Instant::now() + patience;
        loop {
            match client.next_event(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Reset) => return Ok(()),
                Ok(_) => {}
                Err(ClientError::Timeout(_)) => return Err(still_on(domain, patience)),
                Err(error) => return Err(explain(&error, &format!("domain '{}'", domain.name))),
            }
        }
    }

    /// Counters of every device, by alias.
    ///
    /// # Errors
    /// Its process does not answer.
    pub fn device_stats(
        &self,
        guest: &Guest,
    ) -> Result<serde_json::Map<String, serde_json::Value>> {
        match guest.call(Request::Stats { device: None }, ANSWER)? {
            Reply::Stats { devices } => Ok(devices),
            _ => Err(Error::new(
                Kind::Guest,
                "the guest's process answered beside the question",
            )),
        }
    }

    /// Tidies up after guests that ended by themselves, on the way of a verb that writes anyway.
    /// Waits for nobody: what cannot be tidied now is tidied later.
    pub(super) fn sweep(&self) {
        self.networks().sweep();
        for dir in rundir::runs(&self.store.layout().run).unwrap_or_default() {
            let Ok(rundir::Liveness::Ended(last)) = dir.liveness() else {
                continue;
            };
            let uuid = dir
                .path()
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            let Some(uuid) = uuid else { continue };
            let Some(_domain) = self.store.try_lock_domain(uuid, &last.name) else {
                continue;
            };
            // Both may fail where somebody was faster, and are done by the next one.
            if dir.tidy().is_ok() {
                cgroup::forget(&last.name);
            }
        }
    }
}
