//! The manual pages and the shells' completion scripts, written into a folder for a package:
//! `cargo xtask man DIR`. They come from the same declarations that `vm` parses its words with.
//!
//! ```text
//! DIR/man/man1/vm.1, vm-VERB.1, vm-image-VERB.1
//! DIR/completions/bash/vm, zsh/_vm, fish/vm.fish
//! ```
#![deny(unsafe_code)]

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use virshlike::cli::registry::ENTRIES;
use virshlike::cli::{Group, command, completion};

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: pages DIR");
        return ExitCode::FAILURE;
    };
    match write_all(&PathBuf::from(folder)) {
        Ok(count) => {
            println!("{count} manual pages, 3 completion scripts");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pages: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_all(folder: &Path) -> io::Result<usize> {
    let pages = folder.join("man/man1");
    fs::create_dir_all(&pages)?;
    fs::write(pages.join("vm.1"), overview()?)?;
    let mut count = 1;
    for entry in ENTRIES {
        count += page(&pages, (entry.command)(), entry.name)?;
    }
    for (shell, file) in [("bash", "vm"), ("zsh", "_vm"), ("fish", "vm.fish")] {
        let folder = folder.join("completions").join(shell);
        fs::create_dir_all(&folder)?;
        let script = completion::script(shell).ok_or_else(|| io::Error::other(shell))?;
        fs::write(folder.join(file), script)?;
    }
    Ok(count)
}

/// The page of a verb, and those of its own verbs.
fn page(pages: &Path, command: Command, words: &str) -> io::Result<usize> {
    let name = format!("vm-{}", words.replace(' ', "-"));
    let mut count = 1;
    for inner in command.get_subcommands() {
        let inner_words = format!("{words} {}", inner.get_name());
        count += page(pages, inner.clone(), &inner_words)?;
    }
    let command = command.name(name.clone()).bin_name(format!("vm {words}"));
    let man = manual(command).title(name.clone());
    let mut out = Vec::new();
    man.render(&mut out)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("vm"), roman("(1)")]);
    roff.to_writer(&mut out)?;
    fs::write(pages.join(format!("{name}.1")), out)?;
    Ok(count)
}

fn manual(command: Command) -> Man {
    let version = env!("CARGO_PKG_VERSION");
    Man::new(command.disable_help_subcommand(true))
        .source(format!("vm {version}"))
        .manual("Virtual machines")
        .section("1")
}

/// The page of `vm` itself: what it is, its verbs in groups, its files and variables.
fn overview() -> io::Result<Vec<u8>> {
    let man = manual(command());
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([
        bold("vm"),
        roman(" ["),
        bold("-c"),
        roman(" "),
        italic("URI"),
        roman("] ["),
        bold("-q"),
        roman("] ["),
        bold("--format"),
        roman(" "),
        italic("FORMAT"),
        roman("] "),
        italic("command"),
        roman(" ["),
        italic("argument"),
        roman("]..."),
    ]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "Virtual machines on KVM: libvirt's XML and virsh's verbs over a VMM of its own, one small \
         process per guest, without a daemon. Every verb has a page of its own, vm-VERB(1), and \
         'vm help VERB' prints the same.",
    )]);
    for group in Group::ALL {
        roff.control("SH", [group.title().0.to_uppercase().as_str()]);
        for entry in ENTRIES.iter().filter(|entry| entry.group == group) {
            let about = (entry.command)().get_about().map(ToString::to_string);
            roff.control("TP", []);
            roff.text([bold(entry.name)]);
            roff.text([roman(about.unwrap_or_default())]);
        }
    }
    roff.to_writer(&mut out)?;
    man.render_options_section(&mut out)?;
    let mut roff = Roff::new();
    facts(&mut roff, "ENVIRONMENT", ENVIRONMENT);
    facts(&mut roff, "FILES", FILES);
    facts(&mut roff, "EXIT STATUS", STATUS);
    roff.to_writer(&mut out)?;
    Ok(out)
}

fn facts(roff: &mut Roff, title: &str, facts: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (name, what) in facts {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(*what)]);
    }
}

const ENVIRONMENT: &[(&str, &str)] = &[
    ("VM_DEFAULT_URI", "The store, when -c does not name it."),
    (
        "VM_STORE_ROOT",
        "The whole store lies below this directory.",
    ),
    (
        "VM_LOG",
        "What is told on standard error: warn, info or debug.",
    ),
    ("VISUAL, EDITOR", "The editor of 'vm edit'."),
    ("NO_COLOR", "No colours."),
];
const FILES: &[(&str, &str)] = &[
    (
        "/etc/vm/domains/NAME.xml",
        "The definitions, as they were written. They may be changed with an editor.",
    ),
    ("/var/lib/vm", "Images, and the journal of every domain."),
    (
        "/var/log/vm/NAME",
        "What a guest wrote on its console, and the log of its process.",
    ),
    (
        "/run/vm/UUID",
        "What ends with a guest: its lock, its sockets, its live definition.",
    ),
    (
        "~/.config/vm, ~/.local/share/vm, ~/.local/state/vm",
        "The same for everybody but root.",
    ),
];
const STATUS: &[(&str, &str)] = &[
    ("0", "It was done."),
    (
        "1",
        "It was not done; standard error says why and what to do next.",
    ),
];
