//! The only place that prints.

use super::pager;
use crate::error::{Error, Kind, Result, plain_io};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};

/// What listings and facts are printed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Standard output and standard error, with what was asked of them.
#[derive(Debug)]
pub struct Ui {
    /// What listings and facts are printed as.
    pub format: Format,
    /// No sentences, no headers.
    pub quiet: bool,
    colour: bool,
    ended: Cell<bool>,
    /// What is collected for the pager.
    held: RefCell<Option<String>>,
}

impl Ui {
    /// The process's own.
    pub fn new(format: Format, quiet: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            format,
            quiet,
            colour: !plain && io::stderr().is_terminal(),
            ended: Cell::new(false),
            held: RefCell::new(None),
        }
    }

    /// Whether programs read the output.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Data as it is.
    ///
    /// # Errors
    /// Standard output cannot be written; a closed pipe is none.
    pub fn data(&self, text: &str) -> Result<()> {
        if let Some(held) = self.held.borrow_mut().as_mut() {
            held.push_str(text);
            return Ok(());
        }
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::new(Kind::Io, "cannot write to standard output").cause(plain_io(&error)))
            }
            _ => Ok(()),
        }
    }

    /// A line of data.
    ///
    /// # Errors
    /// As [`Ui::data`].
    pub fn line(&self, text: impl std::fmt::Display) -> Result<()> {
        self.data(&format!("{text}\n"))
    }

    /// What was done, in a sentence; not for programs and not when quiet.
    ///
    /// # Errors
    /// As [`Ui::data`].
    pub fn sentence(&self, text: impl std::fmt::Display) -> Result<()> {
        if self.quiet || self.is_json() {
            return Ok(());
        }
        self.line(text)
    }

    /// A value for programs.
    ///
    /// # Errors
    /// As [`Ui::data`].
    pub fn json<T: Serialize>(&self, value: &T) -> Result<()> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Error::new(Kind::Io, error.to_string()))?;
        self.line(text)
    }

    /// One of many values for programs, on a line of its own.
    ///
    /// # Errors
    /// As [`Ui::data`].
    pub fn json_line<T: Serialize>(&self, value: &T) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|error| Error::new(Kind::Io, error.to_string()))?;
        self.line(text)
    }

    /// The blank line that ends a command, as virsh prints it.
    pub fn end(&self) {
        if !self.quiet && !self.is_json() && !self.ended.replace(true) {
            // Nothing depends on it.
            let _ = self.data("\n");
        }
    }

    /// Collects what is printed from here on, for the pager.
    pub fn hold(&self) {
        *self.held.borrow_mut() = Some(String::new());
    }

    /// Shows what was collected.
    pub fn release(&self) {
        if let Some(text) = self.held.borrow_mut().take() {
            // A terminal that is gone has nobody before it.
            let _ = pager::show(&text);
        }
    }

    /// No blank line at the end: what was printed is for a file or another program.
    pub fn no_end(&self) {
        self.ended.set(true);
    }

    /// A warning.
    pub fn warn(&self, text: impl std::fmt::Display) {
        self.note("warning", "33", &text.to_string());
    }

    /// A next step.
    pub fn hint(&self, text: impl std::fmt::Display) {
        self.note("hint", "36", &text.to_string());
    }

    /// An error with its causes and hints.
    pub fn error(&self, error: &Error) {
        if self.is_json() {
            let text = serde_json::to_string(&serde_json::json!({ "error": error }));
            // Where standard error is gone there is nobody to tell.
            let _ = writeln!(io::stderr(), "{}", text.unwrap_or_default());
            return;
        }
        self.note("error", "1;31", &error.message);
        for cause in &error.causes {
            self.note("error", "1;31", cause);
        }
        for hint in &error.hints {
            self.hint(hint);
        }
    }

    fn note(&self, label: &str, colour: &str, text: &str) {
        if self.is_json() {
            let line = serde_json::json!({ label: text });
            // Where standard error is gone there is nobody to tell.
            let _ = writeln!(io::stderr(), "{line}");
            return;
        }
        let label = if self.colour {
            format!("\x1b[{colour}m{label}:\x1b[0m")
        } else {
            format!("{label}:")
        };
        // Where standard error is gone there is nobody to tell.
        let _ = writeln!(io::stderr(), "{label} {text}");
    }
}
