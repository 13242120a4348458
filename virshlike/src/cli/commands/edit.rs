//! `vm edit`: the story of one edit.
//!
//! The definition is copied to a file that nobody else may read, and the editor started on it. What comes out is
//! checked as `define` checks it; a mistake is shown with its line, and on a terminal the person is
//! asked whether to try again. Nothing is written before the text is right, and a failed edit never
//! exits with 0.

use super::define::text_of;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result, plain_io};
use crate::xml::Diagnostics;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Change a domain's definition with $VISUAL or $EDITOR
///
/// A running domain takes the change up when it is started the next time.
#[derive(Debug, clap::Args)]
pub struct Edit {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Edit {
    const NAME: &'static str = "edit";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let target = Target {
            kind: "domain",
            shown: format!("Domain '{}'", domain.name),
            name: &domain.name,
        };
        let before = manager.stored(&domain)?.text;
        edit_loop(context, &target, &before, |old, new, file| {
            manager
                .replace(&domain, old, new, file)
                .map(|defined| defined.warnings)
        })
    }
}

/// What is edited.
#[derive(Debug)]
pub struct Target<'a> {
    /// `domain` or `network`.
    pub kind: &'static str,
    /// How sentences begin.
    pub shown: String,
    /// Its name.
    pub name: &'a str,
}

/// One edit: `replace` gets the text before, the text after and what messages call it.
///
/// # Errors
/// No editor, or a text that is wrong when the person gives up. The text is then kept.
pub fn edit_loop(
    context: &Context,
    target: &Target<'_>,
    before: &str,
    replace: impl Fn(&str, &str, &str) -> Result<Diagnostics>,
) -> Result<()> {
    let file = format!("{}.xml", target.name);
    let draft = Draft::new(before, &file)?;
    let shown = &target.shown;
    loop {
        if let Err(error) = edit(&draft.path) {
            return Err(draft.give_up(error));
        }
        let after = draft.text(&file);
        if after.as_ref().is_ok_and(|after| after == before) {
            return context
                .ui
                .sentence(format!("{shown} XML configuration not changed."));
        }
        let error = match after.and_then(|after| replace(before, &after, &file)) {
            Ok(warnings) => {
                for warning in &warnings {
                    context.ui.warn(warning);
                }
                return context
                    .ui
                    .sentence(format!("{shown} XML configuration edited."));
            }
            Err(error) => error,
        };
        let answer = ask(context, &error, &draft.path);
        match answer.unwrap_or(Answer::GiveUp) {
            Answer::Again => {}
            Answer::Restart => draft.write(before)?,
            Answer::GiveUp => {
                let what = format!("Failed to edit {} '{}'", target.kind, target.name);
                return Err(draft.give_up(error.context(what)));
            }
        }
    }
}

/// One edit of a short text: `take` gets what came out of the editor.
///
/// # Errors
/// No room for a private file, an editor that fails, or what `take` says; a changed text is then kept.
pub fn edit_text<T>(before: &str, name: &str, take: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    let draft = Draft::new(before, name)?;
    edit(&draft.path)
        .and_then(|()| draft.text(name))
        .and_then(|after| take(&after))
        .map_err(|error| draft.give_up(error))
}

/// A text while somebody edits it, in a folder that nobody else may enter: definitions hold
/// passwords. The folder goes with it, unless the text is worth keeping.
#[derive(Debug)]
struct Draft {
    folder: tempfile::TempDir,
    path: PathBuf,
    before: String,
}

impl Draft {
    fn new(before: &str, name: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("vm-edit-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|error| Error::io("create a file in", &std::env::temp_dir(), &error))?;
        let path = folder.path().join(name);
        let draft = Self {
            folder,
            path,
            before: before.to_string(),
        };
        draft.write(before)?;
        Ok(draft)
    }

    fn write(&self, text: &str) -> Result<()> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| Error::io("write", &self.path, &error))
    }

    /// What the editor left.
    fn text(&self, name: &str) -> Result<String> {
        let bytes = fs::read(&self.path).map_err(|error| Error::io("read", &self.path, &error))?;
        text_of(bytes, name)
    }

    /// A changed text is kept: what somebody typed is worth more than a clean temporary directory.
    fn give_up(self, error: Error) -> Error {
        // A text that cannot be read may be one that somebody typed.
        if fs::read(&self.path).is_ok_and(|now| now == self.before.as_bytes()) {
            return error;
        }
        let kept = self.folder.keep();
        error.hint(format!("your text is kept in {}", kept.display()))
    }
}

fn edit(path: &Path) -> Result<()> {
    let named = ["VISUAL", "EDITOR"].iter().find_map(|name| {
        std::env::var(name)
            .ok()
            .filter(|editor| !editor.trim().is_empty())
    });
    // An editor that was named may work without a terminal; vi would wait for ever.
    if named.is_none() && !io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "there is no terminal to edit on")
            .cause("nothing was changed")
            .hint("name a program that edits without one in EDITOR, or use 'vm define'"));
    }
    let editor = named.unwrap_or_else(|| "vi".to_string());
    let failed = |why: String| {
        Error::new(Kind::Io, format!("the editor '{editor}' failed"))
            .cause(why)
            .hint("set VISUAL or EDITOR to an editor")
    };
    // Through a shell, since people put options and quotes into EDITOR.
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(path)
        .status()
        .map_err(|error| failed(plain_io(&error)))?;
    if status.success() {
        return Ok(());
    }
    Err(failed(format!(
        "it ended with {status}; nothing was changed"
    )))
}

enum Answer {
    Again,
    Restart,
    GiveUp,
}

/// Asks what to do next. Ctrl+C is an answer too, so where the text is stands above the question.
fn ask(context: &Context, error: &Error, path: &Path) -> Result<Answer> {
    if !io::stdin().is_terminal() {
        return Ok(Answer::GiveUp);
    }
    context.ui.error(error);
    context
        .ui
        .hint(format!("your text is in {}", path.display()));
    loop {
        let mut out = io::stdout().lock();
        // A terminal that cannot be written to gives no answer either.
        let _ = out
            .write_all(b"Failed. Try again? [y,n,i,f,?]: ")
            .and_then(|()| out.flush());
        drop(out);
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        let read = read.map_err(|error| Error::io("read", Path::new("/dev/stdin"), &error))?;
        match line.trim() {
            "y" | "Y" => return Ok(Answer::Again),
            "i" => return Ok(Answer::Restart),
            "n" | "N" => return Ok(Answer::GiveUp),
            _ if read == 0 => return Ok(Answer::GiveUp),
            "f" => context.ui.hint("a definition with mistakes is never taken: correct them, or give up"),
            _ => context.ui.line(
                "y - yes, edit again\nn - no, give up; your text is kept\n\
                 i - start again from the old definition\nf - force; not possible here\n? - this help",
            )?,
        }
    }
}
