//! The images that go with a domain when a person asks for that.
//!
//! ```text
//! choose: every refusal, nothing changed --> (a person agrees) --> once more, with all locks held -->
//!         undefine, noted with the paths --> delete one by one
//! ```
//!
//! The definition goes first: a crash in between leaves images that `vm history` names, never a domain
//! whose disk is gone. Must never delete what another domain has as a disk or beneath one, and never
//! anything but a plain file.

use super::{Domain, Manager, definition};
use crate::error::{Error, Kind, Result};
use crate::model::{self, DiskDevice, DiskSource};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Images in a chain, at most.
const MAX_DEPTH: usize = 200;

/// Which images a person wants to be rid of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Every disk that is this domain's alone: no CD-ROM, nothing read-only or shared.
    All,
    /// Disks by target or source.
    Named(Vec<String>),
}

/// An image that is going to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doomed {
    /// The disk that it is.
    pub target: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that it takes.
    pub allocated: u64,
}

/// A file, whatever path leads to it.
type Identity = (u64, u64);

impl Manager {
    /// The images that `wanted` names, each checked.
    ///
    /// # Errors
    /// The domain runs; no such disk; an image that is no plain file, or that another domain needs.
    pub fn storage_to_delete(&self, domain: &Domain, wanted: &Wanted) -> Result<Vec<Doomed>> {
        self.refuse_running(domain)?;
        let (_, model) = self.current_definition(domain, None)?;
        let chosen = choose(&model, wanted)?;
        let users = self.users_but(domain)?;
        chosen
            .into_iter()
            .filter(|(_, path)| !is_gone(path))
            .map(|(target, path)| doom(target, path, &users))
            .collect()
    }

    /// Targets and paths of the images that `wanted` names and that are not there.
    ///
    /// # Errors
    /// No such disk.
    pub fn storage_gone(&self, domain: &Domain, wanted: &Wanted) -> Result<Vec<(String, PathBuf)>> {
        let (_, model) = self.current_definition(domain, None)?;
        let mut chosen = choose(&model, wanted)?;
        chosen.retain(|(_, path)| is_gone(path));
        Ok(chosen)
    }

    /// Undefines a domain and deletes the images that [`Manager::storage_to_delete`] has chosen.
    ///
    /// # Errors
    /// As there and as [`Manager::undefine`], with nothing changed; or the first image that could not
    /// be deleted, after all others were tried.
    pub fn undefine_with_storage(
        &self,
        domain: &Domain,
        doomed: &[Doomed],
        mut done: impl FnMut(&Doomed),
    ) -> Result<()> {
        self.sweep();
        let _domain = self.store.lock_domain(domain.uuid, &domain.name)?;
        let writer = self.store.writer()?;
        self.still_defined(domain)?;
        // Others may have started or defined something since a person was asked.
        self.refuse_running(domain)?;
        let users = self.users_but(domain)?;
        for image in doomed {
            doom(image.target.clone(), image.path.clone(), &users)?;
        }
        let paths: Vec<String> = doomed
            .iter()
            .map(|image| image.path.display().to_string())
            .collect();
        let detail = format!("and deletes {}", paths.join(", "));
        self.remove_definition(domain, writer, &detail)?;
        let mut first = None;
        for image in doomed {
            match fs::remove_file(&image.path) {
                Ok(()) => done(image),
                Err(error) => {
                    let error = Error::io("delete", &image.path, &error);
                    first.get_or_insert(error.hint("its domain is undefined: delete it by hand"));
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn refuse_running(&self, domain: &Domain) -> Result<()> {
        match self.guest(domain)? {
            None => Ok(()),
            Some(_) => Err(Error::invalid_operation(
                "Storage volume deletion is supported only on stopped domains",
            )
            .hint(format!("end it first: vm shutdown {}", domain.name))),
        }
    }

    /// Every file that other domains have as a disk or beneath one, and which domain.
    fn users_but(&self, domain: &Domain) -> Result<BTreeMap<Identity, String>> {
        let mut users = BTreeMap::new();
        for (name, uuid) in self.store.identities()? {
            if uuid == domain.uuid {
                continue;
            }
            let Some(stored) = self.store.read(&name)? else {
                continue;
            };
            // A definition that somebody broke by hand must not cost a disk.
            let checked = self.checked(&stored).map_err(|error| {
                let what = "cannot tell whether another domain needs these images";
                error.context(what)
            })?;
            add_files(&checked.model, &name, &mut users)?;
        }
        for guest in self.guests()? {
            let live = guest.dir().live().unwrap_or_default();
            if guest.record.uuid != domain.uuid
                && let Ok(checked) = definition::check(&live, "")
            {
                add_files(&checked.model, &guest.record.name, &mut users)?;
            }
        }
        Ok(users)
    }
}

/// Targets and paths of the disks that are wanted.
fn choose(model: &model::Domain, wanted: &Wanted) -> Result<Vec<(String, PathBuf)>> {
    let source = |disk: &model::Disk| match &disk.source {
        Some(DiskSource::File(path) | DiskSource::Block(path)) => Some(path.clone()),
        _ => None,
    };
    let Wanted::Named(names) = wanted else {
        let own = |disk: &&model::Disk| {
            disk.device == DiskDevice::Disk && !disk.readonly && !disk.shareable
        };
        let disks = model.disks.iter().filter(own);
        return Ok(disks
            .filter_map(|disk| Some((disk.target.clone(), source(disk)?.into())))
            .collect());
    };
    let mut chosen = Vec::new();
    for name in names {
        let disk = model
            .disks
            .iter()
            .find(|disk| disk.target == *name || source(disk).as_deref() == Some(name));
        let found = disk.and_then(|disk| Some((disk.target.clone(), source(disk)?.into())));
        let Some(found) = found else {
            let targets: Vec<&str> = model.disks.iter().map(|d| d.target.as_str()).collect();
            return Err(Error::new(
                Kind::NotFound,
                format!("domain '{}' has no image '{name}'", model.name),
            )
            .hint(format!("its disks: {}", targets.join(", "))));
        };
        if !chosen.contains(&found) {
            chosen.push(found);
        }
    }
    Ok(chosen)
}

/// Whether nothing is there, not even a link that leads nowhere. Where its folder is not there either it
/// may be on a file system that is not mounted.
fn is_gone(path: &Path) -> bool {
    let missing = |path: &Path| {
        fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    };
    missing(path) && path.parent().is_some_and(|folder| !missing(folder))
}

fn doom(target: String, path: PathBuf, users: &BTreeMap<Identity, String>) -> Result<Doomed> {
    let found = fs::symlink_metadata(&path).map_err(|error| {
        Error::io("look at", &path, &error).hint("mount what it is on, or keep this disk's image")
    })?;
    let refuse = |why: String| {
        Error::new(
            Kind::Unsupported,
            format!(
                "image '{}' of disk '{target}' is not deleted",
                path.display()
            ),
        )
        .cause(why)
        .hint("nothing was changed; name the disks to delete with --storage, or none")
    };
    if found.is_symlink() {
        let to = fs::read_link(&path).unwrap_or_default();
        return Err(refuse(format!("it is a link to {}", to.display())));
    }
    if !found.is_file() {
        return Err(refuse("it is no plain file".into()));
    }
    if let Some(user) = users.get(&(found.dev(), found.ino())) {
        return Err(refuse(format!("the domain '{user}' needs it")));
    }
    Ok(Doomed {
        target,
        path,
        allocated: found.blocks().saturating_mul(512),
    })
}

/// Adds the files of a domain's disks, and of the images beneath them.
fn add_files(
    model: &model::Domain,
    name: &str,
    users: &mut BTreeMap<Identity, String>,
) -> Result<()> {
    for disk in &model.disks {
        let Some(DiskSource::File(path) | DiskSource::Block(path)) = &disk.source else {
            continue;
        };
        let mut next = Some(PathBuf::from(path));
        for _ in 0..MAX_DEPTH {
            let Some(path) = next.take() else { break };
            // What is not there has nothing beneath it.
            let Ok(found) = fs::metadata(&path) else {
                break;
            };
            users.insert((found.dev(), found.ino()), name.to_string());
            if found.is_file() {
                next = beneath(&path)?;
            }
        }
    }
    Ok(())
}

/// The image beneath an image, if it has one.
fn beneath(path: &Path) -> Result<Option<PathBuf>> {
    let unclear = "cannot tell whether another domain needs these images";
    let file =
        File::open(path).map_err(|error| Error::io("read", path, &error).context(unclear))?;
    if images::detect(&file) != Some(images::Format::Qcow2) {
        return Ok(None);
    }
    let name = path.display().to_string();
    let facts = images::ops::info(file, &name, images::Format::Qcow2)
        .map_err(|error| Error::new(Kind::Io, error.to_string()).context(unclear))?;
    Ok(facts.full_backing_filename.map(PathBuf::from))
}
