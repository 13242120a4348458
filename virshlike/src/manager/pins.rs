//! Pins: on which of the host's processors the threads of a guest run; set while it runs, in its
//! definition, or both.

use super::amend::Place;
use super::definition::mistakes;
use super::node::{Kernel, format_list, parse_list};
use super::{Domain, Manager};
use crate::error::{Error, Kind, Result, plain_io};
use crate::model::{self, CpuList, CpuTune, Pinned};
use crate::runtime::Guest;
use crate::runtime::guest::ANSWER;
use crate::runtime::threads;
use crate::xml::Document;
use std::time::{Duration, Instant};

/// What a change is about, in virsh's words.
#[derive(Debug, Clone, Copy, Default)]
pub struct Affects {
    /// `--live`.
    pub live: bool,
    /// `--config`.
    pub config: bool,
}

impl Manager {
    /// The running guest where that is meant, and whether the definition is. Without a word it is
    /// the guest of a running domain, else the definition.
    ///
    /// # Errors
    /// One that is asked for and not there.
    pub fn affected(&self, domain: &Domain, affects: Affects) -> Result<(Option<Guest>, bool)> {
        let guest = self.guest(domain)?;
        if affects.live && guest.is_none() {
            return Err(Error::invalid_operation("domain is not running"));
        }
        if affects.config && !domain.persistent {
            return Err(Error::invalid_operation(
                "transient domains do not have any persistent config",
            ));
        }
        let neither = !affects.live && !affects.config;
        let config = affects.config || neither && guest.is_none();
        Ok((guest.filter(|_| affects.live || neither), config))
    }

    /// Where each vCPU may run.
    ///
    /// # Errors
    /// As [`Manager::affected`]; threads that cannot be seen.
    pub fn vcpu_affinity(&self, domain: &Domain, affects: Affects) -> Result<Vec<(u32, String)>> {
        let (guest, _) = self.affected(domain, affects)?;
        let (_, model) = self.current_definition(domain, guest.as_ref())?;
        if let Some(guest) = guest {
            let vcpus = threads::vcpus_of(process(&guest)?);
            if vcpus.is_empty() {
                return Err(unseen(&guest));
            }
            let found = vcpus.into_iter().map(|vcpu| (vcpu.index, vcpu.allowed));
            return Ok(found.collect());
        }
        let list = |index| written(model.cputune.vcpu(index));
        Ok((0..model.vcpus.max)
            .map(|index| (index, list(index)))
            .collect())
    }

    /// Where the threads that are no vCPUs may run.
    ///
    /// # Errors
    /// As [`Manager::vcpu_affinity`].
    pub fn emulator_affinity(&self, domain: &Domain, affects: Affects) -> Result<String> {
        let (guest, _) = self.affected(domain, affects)?;
        let (_, model) = self.current_definition(domain, guest.as_ref())?;
        match guest {
            Some(guest) => threads::allowed(process(&guest)?).ok_or_else(|| unseen(&guest)),
            None => Ok(written(model.cputune.others())),
        }
    }

    /// Pins threads; `r` as a list takes the pin away.
    ///
    /// # Errors
    /// No such vCPU; processors that the host has not; a definition that cannot be written.
    pub fn pin(&self, domain: &Domain, pinned: Pinned, list: &str, affects: Affects) -> Result<()> {
        let list = match list {
            "r" => None,
            text => Some(model::cpu_list(text).ok_or_else(|| {
                Error::new(
                    Kind::Usage,
                    format!("invalid argument: '{text}' is no list of processors"),
                )
                .hint("such as 0-3,^2; r takes the pin away")
            })?),
        };
        let text = list.as_ref().map(format_list);
        let edit = |document: &mut Document, model: &model::Domain, _: Place| {
            refuse_stranger(model, pinned)?;
            model::set_pin(document, pinned, text.as_deref()).map_err(|found| mistakes(&found))
        };
        let tell = |guest: &Guest, after: &model::Domain| {
            // An iothread that loses its pin runs where the emulator's threads do.
            let otherwise = match pinned {
                Pinned::Iothread(_) => after.cputune.others().cloned(),
                Pinned::Vcpu(_) | Pinned::Emulator => None,
            };
            let everywhere = list.or(otherwise).unwrap_or_else(every_processor);
            pin_threads(process(guest)?, pinned, &everywhere, &after.cputune)
        };
        if self.amend(domain, affects, edit, tell)? {
            self.note(domain.uuid, "pin", &domain.name, &format!("{pinned:?}"));
        }
        Ok(())
    }
}

/// Pins a guest's threads as its definition says, before its vCPUs run.
///
/// # Errors
/// Processors that the host has not; threads that cannot be seen.
pub(super) fn apply(guest: &Guest, tune: &CpuTune, vcpus: u32) -> Result<()> {
    let pid = process(guest)?;
    // A thread has its name a moment after it is there; until then it could be anyone.
    let deadline = Instant::now() + ANSWER;
    let wanted = usize::try_from(vcpus).unwrap_or(usize::MAX);
    while threads::vcpus_of(pid).len() < wanted && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    if let Some(list) = tune.others() {
        pin_threads(pid, Pinned::Emulator, list, tune)?;
    }
    for (id, list) in &tune.iothreads {
        pin_threads(pid, Pinned::Iothread(*id), list, tune)?;
    }
    for index in 0..vcpus {
        // A vCPU inherits nothing from the threads around it.
        let list = tune.vcpu(index).cloned().unwrap_or_else(every_processor);
        pin_threads(pid, Pinned::Vcpu(index), &list, tune)?;
    }
    Ok(())
}

fn pin_threads(pid: u32, pinned: Pinned, list: &CpuList, tune: &CpuTune) -> Result<()> {
    let (what, done) = match pinned {
        Pinned::Vcpu(index) => (format!("vCPU {index}"), threads::pin_vcpu(pid, index, list)),
        Pinned::Emulator => (
            "the emulator's threads".to_string(),
            threads::pin_others(pid, list, &tune.iothreads.keys().copied().collect()),
        ),
        Pinned::Iothread(id) => (
            format!("iothread {id}"),
            threads::pin_iothread(pid, id, list),
        ),
    };
    done.map_err(|error| {
        let error_text = if error.raw_os_error() == Some(libc::EINVAL) {
            format!("none of the processors {} is there", format_list(list))
        } else {
            plain_io(&error)
        };
        Error::new(Kind::Host, format!("cannot pin {what}"))
            .cause(error_text)
            .hint("vm nodecpumap --pretty lists the processors of this host")
    })
}

pub(super) fn process(guest: &Guest) -> Result<u32> {
    let mark = guest.record.process.filter(|mark| mark.exists());
    mark.map(|mark| mark.pid).ok_or_else(|| unseen(guest))
}

fn unseen(guest: &Guest) -> Error {
    let name = &guest.record.name;
    Error::new(
        Kind::Host,
        format!("the threads of domain '{name}' cannot be seen"),
    )
    .cause("/proc does not show its process")
}

fn refuse_stranger(model: &model::Domain, pinned: Pinned) -> Result<()> {
    match pinned {
        Pinned::Vcpu(index) if index >= model.vcpus.max => {
            let count = model.vcpus.max;
            let message = format!(
                "invalid argument: vcpu {index} is out of range of the {count} that there can be"
            );
            Err(Error::new(Kind::Usage, message))
        }
        Pinned::Iothread(id) if !model.iothreads.contains(&id) => {
            let message = format!("invalid argument: iothread {id} not found");
            Err(Error::new(Kind::Usage, message).hint(format!("vm iothreadinfo {}", model.name)))
        }
        Pinned::Vcpu(_) | Pinned::Emulator | Pinned::Iothread(_) => Ok(()),
    }
}

fn every_processor() -> CpuList {
    parse_list(&Kernel::default().cpu_map().map)
}

fn written(list: Option<&CpuList>) -> String {
    list.map_or_else(|| format_list(&every_processor()), format_list)
}
