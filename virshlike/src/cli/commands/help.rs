//! `vm help`, and what `vm` alone prints

use crate::cli::registry::{self, Entry};
use crate::cli::{Context, Group, Verb, not_built};
use crate::error::{Error, Kind, Result};
use std::fmt::Write as _;

/// Print all commands, those of a group, or the help of one command
#[derive(Debug, clap::Args)]
pub struct Help {
    /// A command, a group's keyword, or a word to look for
    #[arg(id = "command", value_name = "KEYWORD")]
    keyword: Option<String>,
}

impl Verb for Help {
    const NAME: &'static str = "help";
    const GROUP: Group = Group::Shell;

    fn run(self, context: &Context) -> Result<()> {
        let Some(keyword) = self.keyword else {
            let mut text = String::from("Grouped commands:\n");
            for group in Group::ALL {
                text.push('\n');
                text.push_str(&group_text(group));
            }
            text.push_str("\n What virsh has and vm has not (help keyword 'not-built')\n");
            return context.ui.data(&text);
        };
        if let Some(entry) = registry::find(&keyword) {
            let mut command = (entry.command)().bin_name(format!("vm {}", entry.name));
            return context.ui.data(&command.render_long_help().to_string());
        }
        if keyword == "not-built" {
            return context.ui.data(&absent());
        }
        if let Some(group) = Group::ALL
            .into_iter()
            .find(|group| group.title().1 == keyword)
        {
            return context.ui.data(&group_text(group));
        }
        let word = keyword.to_lowercase();
        let found: Vec<&Entry> = registry::ENTRIES
            .iter()
            .filter(|entry| {
                entry.name.contains(&word) || about(entry).to_lowercase().contains(&word)
            })
            .collect();
        if found.is_empty() {
            if let Some(error) = not_built::find(&keyword) {
                return Err(error);
            }
            return Err(Error::new(
                Kind::Usage,
                format!("command or command group '{keyword}' doesn't exist"),
            )
            .hint("'vm help' lists the commands"));
        }
        context.ui.data(&lines(found.into_iter()))
    }
}

fn about(entry: &Entry) -> String {
    (entry.command)()
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn group_text(group: Group) -> String {
    let (title, keyword) = group.title();
    let entries = registry::ENTRIES
        .iter()
        .filter(|entry| entry.group == group);
    let mut entries: Vec<&Entry> = entries.collect();
    entries.sort_by_key(|entry| entry.name);
    let text = lines(entries.into_iter());
    format!(" {title} (help keyword '{keyword}'):\n{text}")
}

fn lines<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    let mut text = String::new();
    for entry in entries {
        // Writing to a string does not fail.
        let _ = writeln!(text, "    {:<30} {}", entry.name, about(entry));
    }
    text
}

/// What is not built, in the table's order.
fn absent() -> String {
    let mut text = String::from(" What virsh has and vm has not (help keyword 'not-built'):\n");
    for (words, what) in not_built::TABLE.iter().map(not_built::Absent::line) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "    {words}\n        {what}");
    }
    text
}

/// What `vm` alone prints: the day's commands.
///
/// # Errors
/// Standard output cannot be written.
pub fn overview(context: &Context) -> Result<()> {
    const DAY: &[(&str, &str)] = &[
        (
            "vm define FILE.xml",
            "define a domain from a libvirt XML file",
        ),
        ("vm list --all", "list all domains"),
        ("vm start NAME", "start one; --console to see it boot"),
        (
            "vm console NAME",
            "attach to its serial console; leave with Ctrl+]",
        ),
        (
            "vm shutdown NAME",
            "press its power button; vm destroy NAME pulls the plug",
        ),
        ("vm edit NAME", "change its definition"),
        ("vm dominfo NAME", "its facts"),
        ("vm host-check", "whether this host is ready for guests"),
        ("vm help [WORD]", "every command, or those about WORD"),
    ];
    let mut text = String::from("The day's commands:\n\n");
    for (command, what) in DAY {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {command:<22} {what}");
    }
    context.ui.data(&text)
}
