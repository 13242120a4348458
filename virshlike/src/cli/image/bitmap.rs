//! `vm image bitmap`

use super::tool::{self, Access};
use crate::cli::Context;
use crate::error::{Error, Kind, Result};
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use images::Format;
use images::ops::bitmap;
use std::path::PathBuf;

/// Change the persistent dirty bitmaps of a qcow2 image
#[derive(Debug, clap::Args)]
pub struct Bitmap {
    #[command(flatten)]
    actions: Actions,
    /// The image that --merge takes its bitmap from; the image itself if not said
    #[arg(short = 'b', value_name = "FILE")]
    source_file: Option<PathBuf>,
    /// Format of that image
    #[arg(short = 'F', value_name = "FMT", requires = "source_file")]
    source_format: Option<String>,
    /// Bytes of the disk for each bit (with --add): a power of two from 512 to 2G
    #[arg(short = 'g', value_name = "SIZE")]
    granularity: Option<String>,
    /// Format of the image; only qcow2 has bitmaps
    #[arg(short = 'f', value_name = "FMT")]
    fmt: Option<String>,
    /// The image
    filename: PathBuf,
    /// The bitmap
    bitmap: String,
}

#[derive(Debug, Clone)]
enum Action {
    Add,
    Remove,
    Clear,
    Enable,
    Disable,
    Merge(String),
}

/// What to do, in the order in which it was typed.
#[derive(Debug)]
struct Actions(Vec<Action>);

const SWITCHES: [(&str, Action, &str); 5] = [
    ("add", Action::Add, "Add the bitmap"),
    ("remove", Action::Remove, "Remove the bitmap"),
    ("clear", Action::Clear, "Clear all of its bits"),
    ("enable", Action::Enable, "Let it record writes"),
    ("disable", Action::Disable, "Stop it from recording"),
];

impl clap::Args for Actions {
    fn augment_args(command: Command) -> Command {
        let merge = Arg::new("merge")
            .long("merge")
            .value_name("SOURCE")
            .action(ArgAction::Append)
            .help("Add what bitmap SOURCE has (see -b)");
        let switch = |name: &'static str, help: &'static str| {
            // A switch that may be repeated: its places tell the order.
            Arg::new(name)
                .long(name)
                .num_args(0)
                .default_missing_value("on")
                .action(ArgAction::Append)
                .help(help)
        };
        let command = SWITCHES
            .iter()
            .fold(command, |c, (name, _, help)| c.arg(switch(name, help)));
        let names = SWITCHES.iter().map(|s| s.0).chain(["merge"]);
        command.arg(merge).group(
            clap::ArgGroup::new("actions")
                .args(names)
                .multiple(true)
                .required(true),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Actions {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let mut found: Vec<(usize, Action)> = Vec::new();
        for (name, action, _) in &SWITCHES {
            let places = matches.indices_of(name).into_iter().flatten();
            found.extend(places.map(|at| (at, action.clone())));
        }
        let sources = matches.get_many::<String>("merge").into_iter().flatten();
        let places = matches.indices_of("merge").into_iter().flatten();
        found.extend(
            places
                .zip(sources)
                .map(|(at, s)| (at, Action::Merge(s.clone()))),
        );
        found.sort_by_key(|(at, _)| *at);
        Ok(Self(found.into_iter().map(|(_, action)| action).collect()))
    }

    fn update_from_arg_matches(
        &mut self,
        matches: &ArgMatches,
    ) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Bitmap {
    /// Does it.
    ///
    /// # Errors
    /// An image in use or without bitmaps; a bitmap that is not there or cannot be used.
    pub fn run(self, _: &Context) -> Result<()> {
        let path = &self.filename;
        let format = tool::format_of(path, self.fmt.as_deref())?;
        if format != Format::Qcow2 {
            return Err(Error::new(
                Kind::Unsupported,
                format!("{} is a raw image: only qcow2 has bitmaps", path.display()),
            ));
        }
        let granularity = self.granularity.as_deref().map(tool::size).transpose()?;
        let adds = self.actions.0.iter().any(|a| matches!(a, Action::Add));
        if granularity.is_some() && !adds {
            return Err(Error::new(
                Kind::Usage,
                "granularity only supported with --add",
            ));
        }
        let executor = tool::executor()?;
        let other = match &self.source_file {
            Some(source) => {
                let format = tool::format_of(source, self.source_format.as_deref())?;
                let image = tool::open(source, format, Access::default())?;
                tool::activate(&executor, source, &image)?;
                Some(image)
            }
            None => None,
        };
        let access = Access {
            writable: true,
            ..Access::default()
        };
        let image = tool::open(path, format, access)?;
        tool::activate(&executor, path, &image)?;
        let name = &self.bitmap;
        let done = executor.block_on(async {
            for action in &self.actions.0 {
                match action {
                    Action::Add => bitmap::add(&image, name, granularity, true).await?,
                    Action::Remove => bitmap::remove(&image, name).await?,
                    Action::Clear => bitmap::clear(&image, name).await?,
                    Action::Enable => bitmap::enable(&image, name, true).await?,
                    Action::Disable => bitmap::enable(&image, name, false).await?,
                    Action::Merge(from) => {
                        bitmap::merge(&image, name, other.as_deref(), from).await?;
                    }
                }
            }
            Ok(())
        });
        tool::close_after(&executor, path, &image, done)
    }
}
