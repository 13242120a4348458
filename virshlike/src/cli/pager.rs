//! Long output on a terminal goes through a pager, as manual pages do.
//!
//! Only for verbs that print once and end, and only for what does not fit on the screen: a listing
//! of three lines looks as it always did. `VM_PAGER`, `PAGER`, or less, in this order; empty or
//! `cat` means none.

use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};

/// Verbs whose output may be long and is complete when they end.
const PAGED: &[&str] = &[
    "capabilities",
    "diff",
    "domcapabilities",
    "domstats",
    "dumpxml",
    "help",
    "history",
    "list",
];

/// Whether what this verb prints is collected for a pager.
pub fn wanted(verb: &str) -> bool {
    PAGED.contains(&verb) && io::stdout().is_terminal() && program().is_some()
}

fn program() -> Option<String> {
    let named = |name: &str| std::env::var(name).ok();
    let program = named("VM_PAGER").or_else(|| named("PAGER"));
    let program = program.unwrap_or_else(|| "less".into());
    (!program.trim().is_empty() && program.trim() != "cat").then_some(program)
}

/// Shows a text: as it is where it fits on the screen or no pager can be had.
///
/// # Errors
/// Standard output cannot be written; a closed pipe too.
pub fn show(text: &str) -> io::Result<()> {
    let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_row);
    let long = rows > 0 && text.lines().count() >= usize::from(rows);
    if long && program().is_some_and(|program| page(&program, text).is_ok()) {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Starts the pager, gives it the text and waits for it.
fn page(program: &str, text: &str) -> io::Result<()> {
    let mut command = Command::new("sh");
    // As every program that has a pager: it is a line for a shell.
    command.args(["-c", &format!("exec {program}")]);
    if std::env::var_os("LESS").is_none() {
        // Colours, and no screen that is gone afterwards.
        command.env("LESS", "FRX");
    }
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // Whoever quits in the middle has read enough.
        let _ = input.write_all(text.as_bytes());
    }
    let status = child.wait()?;
    // What a shell says of a program that it does not find, before it read anything.
    if status.code() == Some(127) {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    Ok(())
}
