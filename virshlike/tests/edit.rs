//! What somebody types into an editor: nobody else may read it, and no failure loses it.

mod common;

use common::World;
use std::fs;
use std::process::Output;

fn edit(world: &World, editor: &str, arguments: &[&str]) -> Output {
    world
        .command("vm")
        .env("EDITOR", editor)
        .args(arguments)
        .output()
        .expect("vm runs")
}

/// What is kept below the folder for temporary files, with what it says.
fn kept(world: &World) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(world.path("")).expect("a folder").flatten();
    let folders =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("vm-edit-"));
    folders
        .flat_map(|folder| fs::read_dir(folder.path()).expect("a folder").flatten())
        .map(|file| fs::read(file.path()).expect("a file"))
        .collect()
}

#[test]
fn nobody_else_may_read_what_is_edited() {
    let world = World::new();
    let xml = world.write_xml("a", "");
    world.ok(&["define", &xml.display().to_string()]);
    let modes = "f() { stat -c %a \"$1\" \"${1%/*}\" >> modes; }; f";
    for arguments in [&["edit", "a"][..], &["desc", "a", "--edit"]] {
        let output = edit(&world, modes, arguments);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let modes = fs::read_to_string(world.path("modes")).expect("modes");
        assert_eq!(modes, "600\n700\n", "{arguments:?}");
        fs::remove_file(world.path("modes")).expect("modes");
    }
    assert!(kept(&world).is_empty());
}

#[test]
fn what_was_typed_outlives_an_editor_that_fails() {
    let world = World::new();
    let xml = world.write_xml("a", "");
    world.ok(&["define", &xml.display().to_string()]);
    let before = world.ok(&["-q", "dumpxml", "a"]);
    for (editor, arguments, cause) in [
        (
            "f() { printf 'b\\374ro' >> \"$1\"; }; f",
            &["edit", "a"][..],
            "0xfc",
        ),
        (
            "f() { echo typed >> \"$1\"; false; }; f",
            &["edit", "a"],
            "ended with",
        ),
        (
            "f() { printf 'b\\374ro' > \"$1\"; }; f",
            &["desc", "a", "--edit"],
            "0xfc",
        ),
    ] {
        let output = edit(&world, editor, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(
            errors.contains(cause) && errors.contains("your text is kept in"),
            "{errors}"
        );
    }
    let kept = kept(&world);
    assert_eq!(kept.len(), 3);
    assert_eq!(
        kept.iter()
            .filter(|text| text.ends_with(b"b\xfcro"))
            .count(),
        2
    );
    assert_eq!(world.ok(&["-q", "dumpxml", "a"]), before);
    // Nothing was typed: there is nothing to keep.
    let output = edit(&world, "false", &["edit", "a"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(self::kept(&world).len(), 3);
}

#[test]
fn a_description_that_stays_as_it_is_is_not_written() {
    let world = World::new();
    let xml = world.write_xml("a", "");
    world.ok(&["define", &xml.display().to_string()]);
    world.ok(&["desc", "a", "of old"]);
    let history = world.ok(&["-q", "history", "a"]);
    let output = edit(&world, "true", &["-q", "desc", "a", "--edit"]);
    assert!(output.status.success());
    assert_eq!(world.ok(&["-q", "history", "a"]), history);
    let output = edit(&world, "true", &["desc", "a", "--edit"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "Domain description not changed");
    let output = edit(&world, "sed -i s/old/new/", &["desc", "a", "--edit"]);
    assert!(output.status.success());
    assert_eq!(world.ok(&["-q", "desc", "a"]).trim(), "of new");
}

#[test]
fn several_commands_may_stand_in_one_word() {
    let world = World::new();
    let xml = world.write_xml("a", "");
    world.ok(&["define", &xml.display().to_string()]);
    assert_eq!(world.ok(&["-q", "list --all --name; domname a"]), "a\na\n");
    let errors = world.fails(&["--format", "json", "domname a; lst x"]);
    let error: serde_json::Value = serde_json::from_str(&errors).expect("JSON on one line");
    assert_eq!(error["error"]["kind"], "usage");
}
