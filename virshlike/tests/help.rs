//! The reference of all help texts, `tests/golden/help/VERB.txt`: what people and scripts read changes
//! on purpose only. `UPDATE_GOLDEN=1` writes what is printed now, for a look at the diff.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use virshlike::cli::registry::ENTRIES;

#[test]
fn help_texts_are_those_of_the_reference() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut names = BTreeSet::new();
    let mut differ = Vec::new();
    for entry in ENTRIES {
        let mut command = (entry.command)().bin_name(format!("vm {}", entry.name));
        let mut text = command.render_long_help().to_string();
        for inner in command.get_subcommands() {
            let name = format!("vm {} {}", entry.name, inner.get_name());
            let mut inner = inner.clone().bin_name(name);
            let help = inner.render_long_help();
            text.push_str(&format!("\n==== {}\n{help}", inner.get_name()));
        }
        let file = format!("{}.txt", entry.name);
        let path = folder.join(&file);
        if update {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let known = fs::read_to_string(&path).unwrap_or_default();
        if known != text {
            differ.push(format!("{}: {text}", entry.name));
        }
        names.insert(file);
    }
    assert!(
        differ.is_empty(),
        "these differ from the reference (UPDATE_GOLDEN=1 writes it):\n{}",
        differ.join("\n")
    );
    for entry in fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&file), "{file} is the help of no verb");
    }
}
