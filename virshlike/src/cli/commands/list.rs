//! `vm list`

use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::{Manager, State, Summary};
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
    /// Print a table, as without --name, --uuid and --id
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
    #[command(flatten)]
    kept: Kept,
}

/// Filters by what may be kept of a domain beside its definition. This build keeps nothing of that
/// kind yet: no domain has any, and every domain is without.
#[derive(Debug, Default, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
struct Kept {
    /// Only those with snapshots: none in this build
    #[arg(long)]
    with_snapshot: bool,
    /// Only those without snapshots: every one in this build
    #[arg(long)]
    without_snapshot: bool,
    /// Only those with checkpoints: none in this build
    #[arg(long)]
    with_checkpoint: bool,
    /// Only those without checkpoints: every one in this build
    #[arg(long)]
    without_checkpoint: bool,
    /// Only those with a managed save: none in this build
    #[arg(long)]
    with_managed_save: bool,
    /// Only those without a managed save: every one in this build
    #[arg(long)]
    without_managed_save: bool,
    /// Mark those with a managed save as saved: none in this build
    #[arg(long)]
    managed_save: bool,
}

impl Kept {
    /// Whether a domain that has nothing kept is among those asked for. With both halves of a pair
    /// the pair does not filter, as in virsh.
    fn takes_bare(&self) -> bool {
        let pairs = [
            (self.with_snapshot, self.without_snapshot),
            (self.with_checkpoint, self.without_checkpoint),
            (self.with_managed_save, self.without_managed_save),
        ];
        pairs.iter().all(|(with, without)| !with || *without)
    }
}

#[derive(Debug, Serialize)]
struct Line {
    id: Option<u32>,
    name: String,
    uuid: Uuid,
    state: State,
    persistent: bool,
    autostart: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
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
        if context.ui.is_json() {
            let lines: Result<Vec<Line>> = list
                .iter()
                .map(|summary| self.line(manager, summary))
                .collect();
            return context.ui.json(&lines?);
        }
        if self.name || self.uuid || self.id {
            return self.words(context, &list);
        }
        let mut header = vec!["Id", "Name", "State"];
        if self.title {
            header.push("Title");
        }
        let mut table = Table::new(&header);
        for summary in list {
            let title = match self.title {
                true => manager.title(&manager.find(&summary.name)?),
                false => None,
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

/// The UUID of a listed domain, from its definition where the listing did not need it.
fn uuid(manager: &Manager, summary: &Summary) -> Result<Uuid> {
    match summary.uuid {
        Some(uuid) => Ok(uuid),
        None => manager.find(&summary.name).map(|domain| domain.uuid),
    }
}

impl List {
    fn line(&self, manager: &Manager, summary: &Summary) -> Result<Line> {
        Ok(Line {
            id: summary.id,
            uuid: uuid(manager, summary)?,
            state: summary.state,
            persistent: summary.persistent,
            autostart: manager.store().is_autostarted(&summary.name),
            title: match self.title {
                true => manager.title(&manager.find(&summary.name)?),
                false => None,
            },
            name: summary.name.clone(),
        })
    }

    /// Ids, UUIDs and names without a table, one domain per line.
    fn words(&self, context: &Context, list: &[Summary]) -> Result<()> {
        for summary in list {
            let mut words = Vec::new();
            if self.id {
                words.push(summary.id.map_or("-".into(), |id| id.to_string()));
            }
            if self.uuid {
                words.push(uuid(context.manager()?, summary)?.to_string());
            }
            if self.name {
                words.push(summary.name.clone());
            }
            context.ui.line(words.join(" "))?;
        }
        Ok(())
    }

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
        activity && persistence && autostart && self.kept.takes_bare()
    }
}
