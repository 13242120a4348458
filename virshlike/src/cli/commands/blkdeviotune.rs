//! `vm blkdeviotune`

use super::vcpupin::Scope;
use crate::cli::image::tool;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use clap::{Arg, ArgMatches, Command};
use vmm_api::spec::LIMIT_NAMES;

/// Print or change how much a domain may ask of a disk
///
/// Bytes and requests a second, 0 for no limit. Of total, read and write of one kind, those that are not given
/// end when another one is. A burst (max) may last for its length in seconds. Without any number the limits
/// are printed.
#[derive(Debug, clap::Args)]
pub struct Blkdeviotune {
    /// The domain: name, id or UUID
    domain: String,
    /// The disk's target, such as vda, or its source
    device: String,
    /// Let several disks share limits: not built
    #[arg(long, alias = "group_name", value_name = "NAME")]
    group_name: Option<String>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    scope: Scope,
}

/// Limits that are given, by name.
#[derive(Debug, Default)]
struct Limits(Vec<(&'static str, u64)>);

/// What is said of a limit.
fn help(name: &str) -> String {
    if name == "size_iops_sec" {
        return "Bytes that count as one request; a larger one counts as several".into();
    }
    let way = match name.split('_').next() {
        Some("read") => "read",
        Some("write") => "written",
        _ => "read and written",
    };
    let what = match name.contains("_bytes_") {
        true => format!("Bytes that may be {way} a second"),
        false => format!("Requests a second, of what is {way}"),
    };
    match (name.ends_with("_length"), name.ends_with("_max")) {
        (true, _) => "How many seconds such a burst may last".into(),
        (false, true) => format!("{what}, in a burst"),
        (false, false) => what,
    }
}

impl clap::Args for Limits {
    fn augment_args(command: Command) -> Command {
        LIMIT_NAMES.into_iter().fold(command, |command, name| {
            let arg = Arg::new(name)
                .long(name.replace('_', "-"))
                .alias(name)
                .value_name("NUMBER")
                .help(help(name));
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Limits {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let mut limits = Self::default();
        limits.update_from_arg_matches(matches)?;
        Ok(limits)
    }

    fn update_from_arg_matches(
        &mut self,
        matches: &ArgMatches,
    ) -> std::result::Result<(), clap::Error> {
        for name in LIMIT_NAMES {
            let Some(text) = matches.get_one::<String>(name) else {
                continue;
            };
            let value = tool::size(text).map_err(|_| {
                let message = format!("'{text}' is no number for --{}\n", name.replace('_', "-"));
                clap::Error::raw(clap::error::ErrorKind::InvalidValue, message)
            })?;
            self.0.push((name, value));
        }
        Ok(())
    }
}

impl Verb for Blkdeviotune {
    const NAME: &'static str = "blkdeviotune";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        if let Some(group) = &self.group_name {
            let message = format!("limits that disks share (the group '{group}') are not built");
            return Err(Error::new(Kind::Unsupported, message)
                .hint("without --group-name each disk has limits of its own"));
        }
        let domain = context.domain(&self.domain)?;
        let manager = context.manager()?;
        let affects = self.scope.affects();
        if !self.limits.0.is_empty() {
            let changed = manager.set_disk_limits(&domain, &self.device, &self.limits.0, affects);
            return changed.map_err(|error| error.context("Unable to change block I/O throttle"));
        }
        if affects.live && affects.config {
            let message = "--config and --live are two questions: ask one at a time";
            return Err(Error::new(Kind::Usage, message));
        }
        let limits = manager.disk_limits(&domain, &self.device, affects)?;
        if context.ui.is_json() {
            let pairs = limits
                .iter()
                .map(|(name, value)| ((*name).to_string(), (*value).into()));
            return context.ui.json(&pairs.collect::<serde_json::Map<_, _>>());
        }
        limits
            .iter()
            .try_for_each(|(name, value)| context.ui.line(format!("{name:<15}: {value}")))
    }
}
