//! The words that people type and read.
//!
//! - [`registry`]: every verb, in groups, one file each under [`commands`];
//! - [`virsh_args`]: `--domain X` for a positional argument, as virsh takes it;
//! - [`report`](self): what became of each of several domains;
//! - [`ui`]: the only place that prints; [`table`]: virsh's table;
//! - [`not_built`]: virsh's verbs that this build lacks, and what to do instead;
//! - [`completion`]: what a shell offers on Tab;
//! - [`pager`]: long output on a terminal;
//! - [`image`]: `vm image` and its own verbs;
//! - [`shell`]: many commands in one process;
//! - [`console`]: the terminal side of a guest's console; [`mode`]: `--mode` of shutdown and reboot.
//!
//! Sentences, tables and data go to standard output, with the blank line that ends each command as
//! virsh prints it; warnings, errors and hints go to standard error. Nothing here decides what a
//! verb does: that is `manager`.

pub mod commands;
pub mod completion;
pub mod console;
mod context;
pub mod image;
pub mod keycodes;
pub mod mode;
pub mod not_built;
pub mod openmetrics;
pub mod pager;
pub mod registry;
mod report;
pub mod shell;
pub mod table;
pub mod ui;
pub mod virsh_args;
mod xpath;

pub use context::Context;
pub use registry::{Entry, Group, Verb};

use crate::error::{Error, Kind, Result};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::OsString;
use std::process::ExitCode;
use ui::{Format, Ui};

/// The process: parses, runs, prints what went wrong.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    completion::answer(&arguments).unwrap_or_else(|| {
        log_to_stderr();
        run(&arguments)
    })
}

/// One command line, from parsing to its last word.
fn run(arguments: &[OsString]) -> ExitCode {
    let matches = match parse(arguments) {
        Ok(matches) => matches,
        Err(Outcome::Printed) => return ExitCode::SUCCESS,
        Err(Outcome::Failed(error)) => {
            Ui::new(Format::Text, false).error(&error);
            return ExitCode::FAILURE;
        }
    };
    let format = match matches.get_one::<String>("format").map(String::as_str) {
        Some("json") => Format::Json,
        _ => Format::Text,
    };
    let ui = Ui::new(format, matches.get_flag("quiet"));
    let context = Context::new(matches.get_one::<String>("connect").cloned(), ui);
    if matches.subcommand_name().is_some_and(pager::wanted) {
        context.ui.hold();
    }
    let result = dispatch(&matches, &context);
    let code = result.unwrap_or_else(|error| {
        context.ui.error(&error);
        ExitCode::FAILURE
    });
    context.ui.end();
    context.ui.release();
    code
}

fn dispatch(matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
    if matches.get_flag("version") {
        context.ui.line(env!("CARGO_PKG_VERSION"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some((name, matches)) = matches.subcommand() else {
        if matches.get_flag("interactive") {
            return shell::run(context);
        }
        return commands::help::overview(context).map(|()| ExitCode::SUCCESS);
    };
    match registry::find(name) {
        Some(entry) => (entry.run)(matches, context),
        None => Err(unknown_command(name)),
    }
}

/// How parsing ended when there is nothing to run.
enum Outcome {
    Printed,
    Failed(Error),
}

fn parse(arguments: &[OsString]) -> Result<ArgMatches, Outcome> {
    let line = virsh_args::normalise(arguments).map_err(Outcome::Failed)?;
    // Only the verb that was typed is declared: the others cost time.
    let command = match line.verb {
        Some(entry) => global().subcommand((entry.command)()),
        // Only its help lists the verbs.
        None if line
            .words
            .iter()
            .any(|word| word == "--help" || word == "-h") =>
        {
            command()
        }
        None => global(),
    };
    command.try_get_matches_from(line.words).map_err(|error| {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            // clap prints help to standard output; a closed pipe is nobody's business.
            let _ = error.print();
            return Outcome::Printed;
        }
        Outcome::Failed(usage(&error))
    })
}

/// A clap error in the house's form.
fn usage(error: &clap::Error) -> Error {
    use clap::error::{ContextKind, ContextValue};
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand)
    {
        return unknown_command(name);
    }
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("the command line is wrong");
    let mut result = Error::new(Kind::Usage, first.strip_prefix("error: ").unwrap_or(first));
    for line in lines {
        if let Some(tip) = line.strip_prefix("tip: ") {
            result = result.hint(tip);
        } else if line.starts_with("For more information") {
            break;
        } else if let Some(usage) = line.strip_prefix("Usage: ") {
            result = result.hint(format!("usage: {usage}"));
        } else {
            result = result.cause(line);
        }
    }
    result
}

fn unknown_command(name: &str) -> Error {
    if let Some(error) = not_built::find(name) {
        return error;
    }
    let shown: String = name.chars().take(60).flat_map(char::escape_debug).collect();
    let error = Error::new(Kind::Usage, format!("unknown command: '{shown}'"));
    let names = registry::ENTRIES.iter().map(|entry| entry.name);
    match crate::store::name::nearest(name, names) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint("'vm help' lists the commands"),
    }
}

/// The whole command line.
pub fn command() -> Command {
    let verbs = registry::ENTRIES.iter().map(|entry| (entry.command)());
    global().subcommands(verbs)
}

/// The command line without verbs.
fn global() -> Command {
    Command::new("vm")
        .about("Defines, runs and watches virtual machines on KVM")
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .arg(
            Arg::new("connect")
                .short('c')
                .long("connect")
                .value_name("URI")
                .env("VM_DEFAULT_URI")
                .hide_env_values(true)
                .help("The store: qemu:///system, qemu:///session, vm:///system?root=/path"),
        )
        .arg(
            Arg::new("quiet")
                .short('q')
                .long("quiet")
                .action(ArgAction::SetTrue)
                .global(true)
                .help("Leave out sentences and table headers"),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(["text", "json"])
                .default_value("text")
                .hide_default_value(true)
                .global(true)
                .help("What listings and facts are printed as: text or json"),
        )
        .arg(
            Arg::new("interactive")
                .short('i')
                .long("interactive")
                .action(ArgAction::SetTrue)
                .help("Read commands from the terminal: vm shell"),
        )
        .arg(
            Arg::new("version")
                .short('v')
                .long("version")
                .short_alias('V')
                .action(ArgAction::SetTrue)
                .help("Print the version"),
        )
}

/// Warnings of the library go to standard error; `VM_LOG=debug` shows more.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false);
    // It fails only when a test has set one already. The filter's own language costs time, and is
    // rarely used.
    let _ = match std::env::var_os("VM_LOG") {
        None => log.with_max_level(tracing::Level::WARN).try_init(),
        Some(_) => {
            let filter = EnvFilter::try_from_env("VM_LOG");
            log.with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("warn")))
                .try_init()
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn mistakes_on_the_command_line_have_the_houses_form() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        for arguments in [
            vec!["vm", "list", "--nonsense"],
            vec!["vm", "strat", "x"],
            vec!["vm", "start"],
            vec!["vm", "domstate", "a", "b"],
        ] {
            let Err(Outcome::Failed(error)) = parse(&words(&arguments)) else {
                panic!("{arguments:?} was taken");
            };
            assert_eq!(error.kind, Kind::Usage);
            assert!(!error.message.starts_with("error"), "{error}");
        }
    }
}
