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
