//! What every verb gets: where to print, and the manager of the store that was asked for.

use super::ui::Ui;
use crate::error::Result;
use crate::manager::{Domain, Manager};
use crate::store::{Connection, Environment};
use std::cell::OnceCell;

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
        let environment = Environment::of_process();
        let connection = Connection::parse(self.uri.as_deref(), environment.uid)?;
        let manager = Manager::open(connection, &environment)?;
        Ok(self.manager.get_or_init(|| manager))
    }

    /// The domain that a person means.
    ///
    /// # Errors
    /// As [`Manager::find`].
    pub fn domain(&self, word: &str) -> Result<Domain> {
        self.manager()?.find(word)
    }
}
