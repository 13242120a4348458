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
        match commands_in_one_word(&arguments) {
            Some((global, line)) => run_line(global, line),
            None => run(&arguments),
        }
    })
}

/// virsh's way to give several commands: all of them in the one word behind the global options.
fn commands_in_one_word(arguments: &[OsString]) -> Option<(&[OsString], &str)> {
    let (line, global) = arguments.split_last()?;
    let line = line.to_str().filter(|line| line.contains([' ', ';']))?;
    let mut words = global.iter().skip(1);
    while let Some(word) = words.next() {
        match word.to_str()? {
            "-c" | "--connect" | "--format" => {
                words.next()?;
            }
            word if word.starts_with('-') => {}
            _ => return None,
        }
    }
    // The last word may be the value of an option before it.
    let last = global.last().filter(|_| global.len() > 1);
    let value = last.is_some_and(|word| word == "-c" || word == "--connect" || word == "--format");
    (!value && !line.starts_with('-')).then_some((global, line))
}

/// The commands of a line, as the shell runs them; the exit code is the last one's.
fn run_line(global: &[OsString], line: &str) -> ExitCode {
    let format = format_of(global);
    let quiet = global.iter().any(|word| word == "-q" || word == "--quiet");
    let context = Context::new(None, Ui::new(format, quiet));
    shell::run_line(&context, global, line)
}

/// One command line, from parsing to its last word.
fn run(arguments: &[OsString]) -> ExitCode {
    let matches = match parse(arguments) {
        Ok(matches) => matches,
        Err(Outcome::Printed) => return ExitCode::SUCCESS,
        Err(Outcome::Failed(error)) => {
            Ui::new(format_of(arguments), false).error(&error);
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

/// The format that a command line asks for which cannot be parsed.
fn format_of(arguments: &[OsString]) -> Format {
    let words = arguments.iter().take_while(|word| *word != "--");
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let inline = words.iter().any(|word| word == "--format=json");
    match inline || words.windows(2).any(|pair| pair == ["--format", "json"]) {
        true => Format::Json,
        false => Format::Text,
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
    let verb = line.verb.map_or("vm", |entry| entry.name);
    command.try_get_matches_from(line.words).map_err(|error| {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            // clap prints help to standard output; a closed pipe is nobody's business.
            let _ = error.print();
            return Outcome::Printed;
        }
        Outcome::Failed(usage(&error, verb))
    })
}

/// A clap error in the house's form; `verb` is the command that was typed.
fn usage(error: &clap::Error, verb: &str) -> Error {
    use clap::error::{ContextKind, ContextValue};
    if error.kind() == ErrorKind::InvalidSubcommand
        && let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand)
    {
        return unknown_command(name);
    }
    let text = error.render().to_string();
    let text = plain_numbers(&text);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("the command line is wrong");
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let mut result = Error::new(Kind::Usage, first);
    if error.kind() == ErrorKind::MissingRequiredArgument
        && let Some(ContextValue::Strings(names)) = error.get(ContextKind::InvalidArg)
    {
        // Arguments as virsh writes them, options as they are typed.
        let shown: Vec<String> = names
            .iter()
            .map(|name| match name.starts_with('<') {
                true => name.to_lowercase(),
                false => name.clone(),
            })
            .collect();
        result.message = format!("command '{verb}' requires {} option", shown.join(" and "));
        lines.by_ref().take(names.len()).for_each(drop);
    }
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

/// What the standard library says of words that are no numbers, in words that say what is wanted.
fn plain_numbers(text: &str) -> String {
    [
        ("invalid digit found in string", "a whole number is wanted"),
        (
            "cannot parse integer from empty string",
            "a whole number is wanted",
        ),
        (
            "number too large to fit in target type",
            "the number is too big",
        ),
        (
            "number too small to fit in target type",
            "the number is too small",
        ),
        ("invalid float literal", "a number is wanted"),
    ]
    .iter()
    .fold(text.to_string(), |text, (theirs, ours)| {
        text.replace(theirs, ours)
    })
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

    #[test]
    fn what_is_missing_or_no_number_is_said_in_one_sentence() {
        let message = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            match parse(&words) {
                Err(Outcome::Failed(error)) => error,
                _ => panic!("{words:?} was taken"),
            }
        };
        let error = message(&["vm", "domblkinfo", "x"]);
        assert!(
            error.message.starts_with("command 'domblkinfo' requires <"),
            "{error}"
        );
        assert!(error.message.ends_with(" option"), "{error}");
        assert!(error.causes.is_empty(), "{error}");
        let error = message(&["vm", "shutdown", "x", "--wait", "y"]);
        assert!(
            error.message.ends_with("a whole number is wanted"),
            "{error}"
        );
    }

    #[test]
    fn programs_are_told_of_usage_errors_in_their_format() {
        let format =
            |words: &[&str]| format_of(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(format(&["vm", "lst", "--format", "json"]), Format::Json);
        assert_eq!(format(&["vm", "--format=json", "lst"]), Format::Json);
        assert_eq!(format(&["vm", "lst", "json"]), Format::Text);
        assert_eq!(format(&["vm", "lst", "--", "--format=json"]), Format::Text);
    }
}
