//! What became of each of several domains: told as it happens, listed for programs, and one failure
//! at the end for all that went wrong.

use super::Context;
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Serialize)]
struct Line {
    domain: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
}

/// A report under construction.
pub struct Report<'a> {
    context: &'a Context,
    lines: Vec<Line>,
    wrong: usize,
}

impl<'a> Report<'a> {
    /// An empty one.
    pub fn new(context: &'a Context) -> Self {
        Self {
            context,
            lines: Vec::new(),
            wrong: 0,
        }
    }

    fn add(&mut self, domain: &str, outcome: &'static str, took: Option<Duration>) -> &mut Line {
        self.lines.push(Line {
            domain: domain.to_string(),
            outcome,
            seconds: took.map(|took| took.as_secs_f64()),
            error: None,
        });
        let last = self.lines.len() - 1;
        &mut self.lines[last]
    }

    /// It went as it was asked.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn well(
        &mut self,
        domain: &str,
        outcome: &'static str,
        took: Option<Duration>,
        sentence: String,
    ) -> Result<()> {
        self.add(domain, outcome, took);
        self.context.ui.sentence(sentence)
    }

    /// It was done, and not as it should be.
    pub fn badly(
        &mut self,
        domain: &str,
        outcome: &'static str,
        took: Option<Duration>,
        warning: String,
    ) {
        self.add(domain, outcome, took);
        self.wrong += 1;
        self.context.ui.warn(warning);
    }

    /// It was not done.
    pub fn failed(&mut self, domain: &str, took: Option<Duration>, error: Error) {
        if !self.context.ui.is_json() {
            self.context.ui.error(&error);
        }
        self.wrong += 1;
        self.add(domain, "failed", took).error = Some(error);
    }

    /// The list for programs, or what is said where there was nothing to do; then the failure, such
    /// as `2 of 3 domains WHAT`.
    ///
    /// # Errors
    /// That failure.
    pub fn end(self, nothing: &str, kind: Kind, what: &str) -> Result<()> {
        let ui = &self.context.ui;
        if ui.is_json() {
            ui.json(&self.lines)?;
        } else if self.lines.is_empty() {
            ui.sentence(nothing)?;
        }
        if self.wrong == 0 {
            return Ok(());
        }
        let count = self.lines.len();
        Err(Error::new(
            kind,
            format!("{} of {count} domains {what}", self.wrong),
        ))
    }
}
