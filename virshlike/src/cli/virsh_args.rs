//! virsh takes every argument by name as well: `--domain web01` for the first word, `--count 2` for
//! the second. This turns such a command line into the plain one, so that verbs declare positional
//! arguments only. It knows nothing of particular verbs: it reads their declarations.

use super::registry;
use crate::error::{Error, Kind, Result};
use clap::{Arg, Command};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;

/// A command line that clap understands.
#[derive(Debug)]
pub struct Line {
    /// The verb, if one was typed.
    pub verb: Option<&'static registry::Entry>,
    /// The words, the program's name first.
    pub words: Vec<OsString>,
}

/// The command line with named positional arguments put into their places.
///
/// # Errors
/// A verb that there is not; a named argument without its value; a later argument given by name
/// while an earlier one is missing.
pub fn normalise(arguments: &[OsString]) -> Result<Line> {
    let mut verb = None;
    let words = arrange(arguments, &mut verb)?;
    Ok(Line { verb, words })
}

fn arrange(
    arguments: &[OsString],
    found: &mut Option<&'static registry::Entry>,
) -> Result<Vec<OsString>> {
    let mut words = arguments.iter().cloned();
    let mut result: Vec<OsString> = words.by_ref().take(1).collect();
    // Global options before the verb.
    let mut rest: VecDeque<OsString> = words.collect();
    while let Some(word) = rest.pop_front() {
        let text = word.to_string_lossy().into_owned();
        result.push(word);
        if matches!(text.as_str(), "-c" | "--connect" | "--format") {
            result.extend(rest.pop_front());
        } else if !text.starts_with('-') {
            let entry = super::registry::find(&text);
            let entry = entry.ok_or_else(|| super::unknown_command(&text))?;
            *found = Some(entry);
            let command = (entry.command)();
            if command.has_subcommands() {
                break;
            }
            result.extend(verb(&command, rest)?);
            return Ok(result);
        }
    }
    result.extend(rest);
    Ok(result)
}

fn verb(command: &Command, mut words: VecDeque<OsString>) -> Result<Vec<OsString>> {
    let positionals: Vec<&Arg> = command.get_positionals().collect();
    let mut named: BTreeMap<usize, OsString> = BTreeMap::new();
    let mut options: Vec<OsString> = Vec::new();
    let mut plain: VecDeque<OsString> = VecDeque::new();
    while let Some(word) = words.pop_front() {
        let text = word.to_string_lossy().into_owned();
        if text == "--" {
            plain.extend(words);
            break;
        }
        if !text.starts_with('-') || text == "-" {
            plain.push_back(word);
            continue;
        }
        let (flag, inline) = match text.split_once('=') {
            Some((flag, value)) => (flag, Some(OsString::from(value))),
            None => (text.as_str(), None),
        };
        let long = flag.strip_prefix("--").unwrap_or_default();
        let place = positionals.iter().position(|arg| arg.get_id() == long);
        if let Some(place) = place.filter(|_| !is_option(command, flag)) {
            let value = inline.or_else(|| words.pop_front());
            let value = value.ok_or_else(|| missing_value(command, long))?;
            // The later ones of several, as of --keycode, come behind the first.
            match named.entry(place) {
                Entry::Vacant(free) => drop(free.insert(value)),
                Entry::Occupied(_) if takes_several(positionals.get(place).copied()) => {
                    plain.push_back(value);
                }
                Entry::Occupied(mut taken) => drop(taken.insert(value)),
            }
            continue;
        }
        let takes_value = inline.is_none() && option_takes_value(command, flag);
        options.push(word);
        if takes_value {
            options.extend(words.pop_front());
        }
    }
    let help = options.iter().any(|word| word == "--help" || word == "-h");
    let mut left = plain.len();
    for (place, arg) in positionals.iter().enumerate().filter(|_| !help) {
        let given = named.contains_key(&place) || left > 0;
        if !given && arg.is_required_set() {
            return Err(missing(command, arg.get_id().as_str()));
        }
        left = left.saturating_sub(usize::from(!named.contains_key(&place)));
    }
    if named.is_empty() {
        if !plain.is_empty() {
            options.push("--".into());
        }
        options.extend(plain);
        return Ok(options);
    }
    options.push("--".into());
    let last = named.keys().max().copied().unwrap_or(0);
    for (place, arg) in positionals.iter().enumerate().take(last + 1) {
        let value = named.remove(&place).or_else(|| plain.pop_front());
        let id = arg.get_id().as_str();
        options.push(value.ok_or_else(|| missing(command, id))?);
    }
    options.extend(plain);
    Ok(options)
}

fn takes_several(arg: Option<&Arg>) -> bool {
    arg.and_then(Arg::get_num_args)
        .is_some_and(|count| count.max_values() > 1)
}

fn missing(command: &Command, id: &str) -> Error {
    let name = command.get_name();
    Error::new(
        Kind::Usage,
        format!("command '{name}' requires <{id}> option"),
    )
}

fn missing_value(command: &Command, id: &str) -> Error {
    let name = command.get_name();
    Error::new(
        Kind::Usage,
        format!("command '{name}': option --{id} needs a value"),
    )
}

fn option<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    command
        .get_opts()
        .chain(command.get_arguments())
        .find(|arg| {
            let long = flag.strip_prefix("--").is_some_and(|name| {
                arg.get_long() == Some(name)
                    || arg
                        .get_all_aliases()
                        .is_some_and(|aliases| aliases.contains(&name))
            });
            let short = flag.strip_prefix('-').is_some_and(|name| {
                let mut letters = name.chars();
                arg.get_short() == letters.next()
                    && arg.get_short().is_some()
                    && letters.next().is_none()
            });
            long || short
        })
}

fn is_option(command: &Command, flag: &str) -> bool {
    option(command, flag).is_some()
}

fn option_takes_value(command: &Command, flag: &str) -> bool {
    if matches!(flag, "--format") {
        return true;
    }
    option(command, flag).is_some_and(|arg| {
        arg.get_action().takes_values() && arg.get_num_args().is_none_or(|n| n.min_values() > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(words: &[&str]) -> Vec<String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        normalise(&words)
            .unwrap()
            .words
            .into_iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn named_arguments_find_their_places() {
        assert_eq!(
            normal(&["vm", "domrename", "--new-name", "b", "--domain", "a"]),
            ["vm", "domrename", "--", "a", "b"]
        );
        assert_eq!(
            normal(&[
                "vm",
                "-c",
                "qemu:///system",
                "domrename",
                "a",
                "--new-name=b"
            ]),
            ["vm", "-c", "qemu:///system", "domrename", "--", "a", "b"]
        );
        assert_eq!(
            normal(&[
                "vm",
                "send-key",
                "a",
                "--keycode",
                "1",
                "--keycode",
                "2",
                "3"
            ]),
            ["vm", "send-key", "--", "a", "1", "2", "3"]
        );
        assert_eq!(
            normal(&["vm", "start", "--paused", "a"]),
            ["vm", "start", "--paused", "--", "a"]
        );
    }

    #[test]
    fn option_values_stay_with_their_options() {
        assert_eq!(
            normal(&["vm", "shutdown", "--wait", "60", "--domain", "a"]),
            ["vm", "shutdown", "--wait", "60", "--", "a"]
        );
        assert_eq!(
            normal(&["vm", "list", "--all", "--format", "json"]),
            ["vm", "list", "--all", "--format", "json"]
        );
    }

    #[test]
    fn a_missing_earlier_argument_is_named_as_virsh_does() {
        let words: Vec<OsString> = ["vm", "domrename", "--new-name", "b"]
            .iter()
            .map(OsString::from)
            .collect();
        let error = normalise(&words).unwrap_err();
        assert_eq!(
            error.message,
            "command 'domrename' requires <domain> option"
        );
    }
}
