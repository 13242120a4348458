//! `vm undefine`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::storage::{Doomed, Wanted};
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

/// Remove the definition of a domain; logs stay, and images unless they are asked for
///
/// A running domain goes on running and is gone when it ends.
#[derive(Debug, clap::Args)]
pub struct Undefine {
    /// The domain: name, id or UUID
    domain: String,
    /// Also delete the images of these disks: targets or paths, separated by commas
    #[arg(long, value_name = "DISKS", conflicts_with = "remove_all_storage")]
    storage: Option<String>,
    /// Also delete the images of all disks; none that is read-only or shared, and no CD-ROM
    #[arg(long)]
    remove_all_storage: bool,
    /// Delete images without asking
    #[arg(long)]
    yes: bool,
    /// Also a managed save; a domain has none here yet
    #[arg(long, hide = true)]
    managed_save: bool,
    /// Also what is known of snapshots; a domain has none here yet
    #[arg(long, hide = true)]
    snapshots_metadata: bool,
    /// Also what is known of checkpoints; a domain has none here yet
    #[arg(long, hide = true)]
    checkpoints_metadata: bool,
    /// Also firmware variables; a domain has none here yet
    #[arg(long, hide = true)]
    nvram: bool,
    /// Without firmware variables; a domain has none here yet
    #[arg(long, hide = true, conflicts_with = "nvram")]
    keep_nvram: bool,
    /// Also the state of a TPM; a domain has none here yet
    #[arg(long, hide = true)]
    tpm: bool,
    /// Without the state of a TPM; a domain has none here yet
    #[arg(long, hide = true, conflicts_with = "tpm")]
    keep_tpm: bool,
}

impl Verb for Undefine {
    const NAME: &'static str = "undefine";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let manager = context.manager()?;
        let failed =
            |error: Error| error.context(format!("Failed to undefine domain '{}'", domain.name));
        let doomed = match self.wanted() {
            Some(wanted) => {
                let doomed = manager
                    .storage_to_delete(&domain, &wanted)
                    .map_err(failed)?;
                for (target, path) in manager.storage_gone(&domain, &wanted).map_err(failed)? {
                    let path = path.display();
                    context.ui.warn(format!(
                        "disk '{target}': {path} is not there to be deleted"
                    ));
                }
                doomed
            }
            None => Vec::new(),
        };
        if !doomed.is_empty() && !self.yes {
            consent(context, &doomed)?;
        }
        let mut removed = Vec::new();
        let outcome = if doomed.is_empty() {
            manager.undefine(&domain)
        } else {
            manager.undefine_with_storage(&domain, &doomed, |image| {
                let path = image.path.display();
                removed.push(format!("Volume '{}'({path}) removed.", image.target));
            })
        };
        outcome.map_err(failed)?;
        context
            .ui
            .sentence(format!("Domain '{}' has been undefined", domain.name))?;
        removed
            .into_iter()
            .try_for_each(|line| context.ui.line(line))
    }
}

impl Undefine {
    fn wanted(&self) -> Option<Wanted> {
        if self.remove_all_storage {
            return Some(Wanted::All);
        }
        let names = self.storage.as_ref()?.split(',').map(str::trim);
        let names = names.filter(|name| !name.is_empty());
        Some(Wanted::Named(names.map(str::to_string).collect()))
    }
}

/// Shows what would be deleted and asks; without a terminal there is nobody to ask.
fn consent(context: &Context, doomed: &[Doomed]) -> Result<()> {
    let lines: Vec<String> = doomed
        .iter()
        .map(|image| {
            let mib = image.allocated.div_ceil(1 << 20);
            format!("{} {} ({mib} MiB)", image.target, image.path.display())
        })
        .collect();
    if !io::stdin().is_terminal() {
        let mut error = Error::new(Kind::Usage, "this deletes images, and nobody was asked");
        error.causes = lines;
        return Err(error.hint("nothing was changed; to delete them: add --yes"));
    }
    context.ui.line("These images are deleted for good:")?;
    for line in &lines {
        context.ui.line(format!("  {line}"))?;
    }
    let mut out = io::stdout().lock();
    // A terminal that cannot be written to gives no answer either.
    let _ = out
        .write_all(b"Delete them? [y,N]: ")
        .and_then(|()| out.flush());
    drop(out);
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Error::io("read", Path::new("/dev/stdin"), &error))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Error::new(Kind::Usage, "nothing was changed")),
    }
}
