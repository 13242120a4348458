//! `vm diff`: what the next start changes.

mod common;

use common::World;
use std::fs;

#[test]
fn a_running_domain_shows_what_its_next_start_changes() {
    let world = World::new();
    let path = world.write_xml("web", "");
    world.ok(&["define", path.to_str().expect("text")]);
    assert!(
        world
            .fails(&["diff", "web"])
            .contains("domain is not running")
    );
    world.ok(&["start", "web"]);
    assert_eq!(world.ok(&["-q", "diff", "web"]), "");
    let changed = world
        .ok(&["-q", "dumpxml", "--inactive", "web"])
        .replace(">64<", ">128<");
    fs::write(&path, changed).expect("a definition");
    world.ok(&["define", path.to_str().expect("text")]);
    let diff = world.ok(&["diff", "web"]);
    for line in [
        "--- running\n",
        "+++ next start\n",
        "\n-  <memory",
        "\n+  <memory",
    ] {
        assert!(diff.contains(line), "{line}: {diff}");
    }
    let json = world.ok(&["--format", "json", "diff", "web"]);
    assert!(
        json.contains("\"changed\": true") || json.contains("\"changed\":true"),
        "{json}"
    );
    world.ok(&["destroy", "web"]);
}

/// One that an older release wrote, or an editor: the start that needs a balloon, a UUID or a place on
/// the bus writes it down once.
#[test]
fn what_a_stored_definition_lacks_is_filled_in_by_its_start() {
    let world = World::new();
    let stored = world.store("etc/vm/domains/old.xml");
    fs::create_dir_all(stored.parent().expect("a folder")).expect("a folder");
    fs::write(&stored, world.xml("old", "")).expect("a definition");
    assert!(
        !world
            .ok(&["dumpxml", "--inactive", "old"])
            .contains("<memballoon")
    );
    world.ok(&["start", "old"]);
    for words in [&["dumpxml", "old"][..], &["dumpxml", "--inactive", "old"]] {
        let count = world.ok(&[words, &["--xpath", "count(//memballoon[address])"]].concat());
        assert_eq!(count.trim(), "1", "{words:?}");
    }
    let text = fs::read_to_string(&stored).expect("a definition");
    assert!(
        text.contains("<uuid>") && text.contains("<memballoon"),
        "{text}"
    );
    assert_eq!(world.ok(&["-q", "diff", "old"]), "");
    world.ok(&["destroy", "old"]);
    world.ok(&["start", "old"]);
    assert_eq!(fs::read_to_string(&stored).expect("a definition"), text);
    world.ok(&["destroy", "old"]);
}
