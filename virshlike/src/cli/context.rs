//! What every verb gets: where to print, and the manager of the store that was asked for.

use super::ui::Ui;
use crate::error::Result;
use crate::manager::{Domain, Manager};
use crate::store::{Connection, Environment};
use std::cell::OnceCell;
use std::ffi::OsString;

/// What every verb gets.
pub struct Context {
    /// Where to print.
    pub ui: Ui,
    uri: Option<String>,
    manager: OnceCell<Manager>,
}

impl Context {
    /// A context for one command.
    pub fn new(uri: Option<String>, ui: Ui) -> Self {
        Self {
            ui,
            uri,
            manager: OnceCell::new(),
        }
    }

    /// The manager; opened by the first who asks.
    ///
    /// # Errors
    /// A URI that is not understood, or a store whose place cannot be told.
    pub fn manager(&self) -> Result<&Manager> {
        if let Some(manager) = self.manager.get() {
            return Ok(manager);
        }
        let manager = self.open_manager()?;
        Ok(self.manager.get_or_init(|| manager))
    }

    /// The words that start a command line of the same connection, output and mood.
    pub fn global_words(&self) -> Vec<OsString> {
        let mut words = vec![OsString::from("vm")];
        if let Some(uri) = &self.uri {
            words.extend(["-c".into(), uri.into()]);
        }
        if self.ui.quiet {
            words.push("-q".into());
        }
        if self.ui.is_json() {
            words.extend(["--format".into(), "json".into()]);
        }
        words
    }

    /// A manager of one's own.
    ///
    /// # Errors
    /// As [`Context::manager`].
    pub fn open_manager(&self) -> Result<Manager> {
        let environment = Environment::of_process();
        let connection = Connection::parse(self.uri.as_deref(), environment.uid)?;
        Manager::open(connection, &environment)
    }

    /// The domain that a person means.
    ///
    /// # Errors
    /// As [`Manager::find`].
    pub fn domain(&self, word: &str) -> Result<Domain> {
        self.manager()?.find(word)
    }
}
