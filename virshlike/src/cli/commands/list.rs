//! `vm list`

use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::{Domain, State, Summary};
use serde::Serialize;
use uuid::Uuid;

/// List domains: the running ones, or with --all every one
#[derive(Debug, Default, clap::Args)]
pub struct List {
    /// Every domain
    #[arg(long, conflicts_with = "inactive")]
    all: bool,
    /// Only those that are not running
    #[arg(long)]
    inactive: bool,
    /// Print names only
    #[arg(long)]
    name: bool,
    /// Print UUIDs
    #[arg(long)]
    uuid: bool,
    /// Print ids only
    #[arg(long, conflicts_with_all = ["name", "uuid"])]
    id: bool,
    /// Print a table, also with --name and --uuid
    #[arg(long, conflicts_with_all = ["name", "uuid", "id"])]
    table: bool,
    /// Add the title
    #[arg(long)]
    title: bool,
    /// Only those with a definition
    #[arg(long)]
    persistent: bool,
    /// Only those without a definition
    #[arg(long)]
    transient: bool,
    /// Only those that start with the host
    #[arg(long)]
    autostart: bool,
    /// Only those that do not start with the host
    #[arg(long)]
    no_autostart: bool,
    /// Only running ones
    #[arg(long)]
    state_running: bool,
    /// Only paused ones
    #[arg(long)]
    state_paused: bool,
    /// Only shut off ones
    #[arg(long)]
    state_shutoff: bool,
    /// Only crashed ones and those that do not answer
    #[arg(long)]
    state_other: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    id: Option<u32>,
    name: String,
    uuid: Uuid,
    state: State,
    persistent: bool,
    autostart: bool,
}

impl Verb for List {
    const NAME: &'static str = "list";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let store = manager.store();
        let list: Vec<Summary> = manager
            .list()?
            .into_iter()
            .filter(|summary| self.wants(summary, store))
            .collect();
        if list.is_empty() && manager.system_has_guests() {
            context.ui.hint(
                "this is your own store; the system's has guests: vm -c qemu:///system list --all",
            );
        }
        for silent in list
            .iter()
            .filter(|summary| summary.state == State::NoAnswer)
        {
            context.ui.warn(format!(
                "domain '{}': its process does not answer",
                silent.name
            ));
        }
        let uuid = |summary: &Summary| match summary.uuid {
            Some(uuid) => Ok(uuid),
            None => manager
                .find(&summary.name)
                .map(|domain: Domain| domain.uuid),
        };
        if context.ui.is_json() {
            let mut lines = Vec::new();
            for summary in &list {
                lines.push(Line {
                    id: summary.id,
                    uuid: uuid(summary)?,
                    state: summary.state,
                    persistent: summary.persistent,
                    autostart: store.is_autostarted(&summary.name),
                    name: summary.name.clone(),
                });
            }
            return context.ui.json(&lines);
        }
        if self.name || self.uuid || self.id {
            for summary in &list {
                let mut words = Vec::new();
                if self.id {
                    words.push(summary.id.map_or("-".into(), |id| id.to_string()));
                }
                if self.uuid {
                    words.push(uuid(summary)?.to_string());
                }
                if self.name {
                    words.push(summary.name.clone());
                }
                context.ui.line(words.join(" "))?;
            }
            return Ok(());
        }
        let mut header = vec!["Id", "Name", "State"];
        if self.title {
            header.push("Title");
        }
        let mut table = Table::new(&header);
        for summary in list {
            let title = if self.title {
                let domain = manager.find(&summary.name)?;
                manager.title(&domain)
            } else {
                None
            };
            let mut cells = vec![
                summary.id.map_or("-".into(), |id| id.to_string()),
                summary.name,
                summary.state.as_str().to_string(),
            ];
            if self.title {
                cells.push(title.unwrap_or_default());
            }
            table.row(cells);
        }
        context.ui.data(&table.render(context.ui.quiet))
    }
}

impl List {
    fn wants(&self, summary: &Summary, store: &crate::store::Store) -> bool {
        let active = summary.id.is_some();
        let by_state =
            self.state_running || self.state_paused || self.state_shutoff || self.state_other;
        let activity = if by_state {
            match summary.state {
                State::Running => self.state_running,
                State::Paused => self.state_paused,
                State::ShutOff => self.state_shutoff,
                State::Crashed | State::NoAnswer => self.state_other,
            }
        } else {
            self.all || active != self.inactive
        };
        let persistence =
            self.persistent == self.transient || summary.persistent == self.persistent;
        let autostart = self.autostart == self.no_autostart
            || store.is_autostarted(&summary.name) == self.autostart;
        activity && persistence && autostart
    }
}
