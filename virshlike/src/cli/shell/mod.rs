//! The interactive shell: virsh's, with history and completion. Each line is one or more commands,
//! run as `vm` runs them, one after the other; nothing is kept between them but the connection.
//!
//! Lines that do not come from a terminal are read as they are, without prompt or history, and the
//! shell's exit code is then the last command's.

mod words;

use super::{Context, completion};
use crate::error::{Error, Kind, Result};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Editor, Helper};
use std::ffi::OsString;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

/// What stands before each line.
const PROMPT: &str = "vm # ";
/// Lines of history that are kept.
const HISTORY: usize = 1000;

/// Reads and runs commands until the input ends or somebody quits.
///
/// # Errors
/// A terminal that cannot be read.
pub fn run(context: &Context) -> Result<ExitCode> {
    context.ui.no_end();
    let global = context.global_words();
    let mut code = ExitCode::SUCCESS;
    if !std::io::stdin().is_terminal() {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| unreadable(&error))?;
            match obey(context, &global, &line) {
                Next::Quit => break,
                Next::Done(done) => code = done.unwrap_or(code),
            }
        }
        return Ok(code);
    }
    context.ui.sentence(
        "Welcome to vm, the virtual machine manager.\n\nType:  'help' for help with commands\n       \
         'quit' to quit\n",
    )?;
    let mut editor = editor(global.clone()).map_err(|error| unreadable(&error))?;
    let history = history();
    if let Some(path) = &history {
        // The first time there is none.
        let _ = editor.load_history(path);
    }
    loop {
        match editor.readline(PROMPT) {
            Ok(line) => {
                // A line that is not remembered is no reason to stop.
                let _ = editor.add_history_entry(&line);
                if matches!(obey(context, &global, &line), Next::Quit) {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => {
                context.ui.line("")?;
                break;
            }
            Err(error) => return Err(unreadable(&error)),
        }
    }
    if let Some(path) = &history {
        let folder = path.parent().map(std::fs::create_dir_all);
        if !matches!(folder, Some(Ok(()))) || editor.save_history(path).is_err() {
            context
                .ui
                .warn(format!("the history cannot be kept in {}", path.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the commands of one line; the exit code is the last one's.
pub fn run_line(context: &Context, global: &[OsString], line: &str) -> ExitCode {
    match obey(context, global, line) {
        Next::Done(Some(code)) => code,
        Next::Quit | Next::Done(None) => ExitCode::SUCCESS,
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Io, "cannot read commands").cause(error.to_string())
}

/// `$XDG_STATE_HOME/vm/history`.
fn history() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let state = variable("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = state.or_else(|| variable("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("vm/history"))
}

enum Next {
    Quit,
    /// The last command's exit code, if the line had one.
    Done(Option<ExitCode>),
}

fn obey(context: &Context, global: &[OsString], line: &str) -> Next {
    let commands = match words::split(line) {
        Ok(commands) => commands,
        Err(why) => {
            context.ui.error(&Error::new(Kind::Usage, why));
            return Next::Done(Some(ExitCode::FAILURE));
        }
    };
    let mut code = None;
    for command in commands {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let done = match words.as_slice() {
            ["quit" | "exit", ..] => return Next::Quit,
            ["cd"] => enter(context, &std::env::var("HOME").unwrap_or_default()),
            ["cd", folder] => enter(context, folder),
            ["pwd"] => here(context),
            ["shell", ..] => {
                let error = Error::new(Kind::Usage, "this is the shell already");
                context.ui.error(&error);
                ExitCode::FAILURE
            }
            _ => {
                let words = command.iter().map(OsString::from);
                let line: Vec<OsString> = global.iter().cloned().chain(words).collect();
                super::run(&line)
            }
        };
        code = Some(done);
    }
    Next::Done(code)
}

fn enter(context: &Context, folder: &str) -> ExitCode {
    match std::env::set_current_dir(folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = Error::io("enter", std::path::Path::new(folder), &error);
            context.ui.error(&error);
            ExitCode::FAILURE
        }
    }
}

fn here(context: &Context) -> ExitCode {
    let folder = std::env::current_dir().unwrap_or_default();
    match context.ui.line(folder.display()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn editor(global: Vec<OsString>) -> rustyline::Result<Editor<Tab, DefaultHistory>> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .history_ignore_space(true)
        .max_history_size(HISTORY)?
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Tab { global }));
    Ok(editor)
}

/// What the Tab key offers: the same as in other shells.
struct Tab {
    global: Vec<OsString>,
}

impl Completer for Tab {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _context: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = line.get(..at).unwrap_or_default();
        let command = typed.rsplit(';').next().unwrap_or_default();
        let word = command
            .rsplit(char::is_whitespace)
            .next()
            .unwrap_or_default();
        let mut words = self.global.clone();
        words.extend(command.split_whitespace().map(OsString::from));
        if word.is_empty() {
            words.push(OsString::new());
        }
        let found = completion::candidates_for(&words);
        let alone = found.len() == 1;
        let pairs = found.into_iter().map(|candidate| Pair {
            replacement: finished(&candidate, alone),
            display: candidate,
        });
        Ok((at - word.len(), pairs.collect()))
    }
}

/// What is put into the line: the only candidate is a whole word, with the blank before the next one,
/// unless it is a folder or waits for a value.
fn finished(candidate: &str, alone: bool) -> String {
    match alone && !candidate.ends_with(['/', '=']) {
        true => format!("{candidate} "),
        false => candidate.to_string(),
    }
}

impl Hinter for Tab {
    type Hint = String;
}

impl Highlighter for Tab {}
impl Validator for Tab {}
impl Helper for Tab {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_word_gets_its_blank() {
        assert_eq!(finished("start", true), "start ");
        assert_eq!(finished("start", false), "start");
        assert_eq!(finished("images/", true), "images/");
        assert_eq!(finished("--wait=", true), "--wait=");
        let tab = Tab {
            global: vec!["vm".into()],
        };
        let history = DefaultHistory::new();
        let context = rustyline::Context::new(&history);
        let (at, found) = tab.complete("list; autostart-a", 17, &context).unwrap();
        let words: Vec<_> = found.iter().map(|pair| pair.replacement.as_str()).collect();
        assert_eq!((at, words), (6, vec!["autostart-all "]));
    }
}
