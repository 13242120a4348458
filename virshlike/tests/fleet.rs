//! What starts with the host and what must end with it, on guests without KVM.

mod common;

use common::World;
use std::fs;

/// A definition whose metadata asks for a place in the order.
fn define(world: &World, name: &str, words: &str, metadata: &str) {
    let text = world.xml(name, words).replace(
        "  <memory",
        &format!("  <metadata xmlns:vm='urn:vm:domain:1'>{metadata}</metadata>\n  <memory"),
    );
    let path = world.path(&format!("{name}.xml"));
    fs::write(&path, text).expect("a definition");
    world.ok(&["define", &path.display().to_string()]);
}

#[test]
fn domains_start_in_their_order_and_one_that_fails_stops_nobody() {
    let world = World::new();
    define(&world, "app", "", "");
    define(&world, "backup", "fake.fail", "");
    define(&world, "database", "", "<vm:autostart order='2'/>");
    define(&world, "router", "", "<vm:autostart order='1' delay='1'/>");
    define(&world, "unmarked", "", "");
    define(&world, "zoo", "", "");
    for name in ["app", "backup", "database", "router", "zoo"] {
        world.ok(&["autostart", name]);
    }
    let order = "router\ndatabase\napp\nbackup\nzoo\n";
    assert_eq!(world.ok(&["-q", "autostart-all", "--dry-run"]), order);
    assert_eq!(world.ok(&["-q", "list", "--name"]), "");
    world.ok(&["start", "app"]);

    let output = world.vm(&["autostart-all"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said,
        "Domain 'router' started\nDomain 'database' started\nDomain 'app' is running already\n\
         Domain 'zoo' started\n\n"
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    for words in [
        "Failed to start domain 'backup'",
        "asked to fail",
        "1 of 5 domains could not be started",
    ] {
        assert!(errors.contains(words), "{words}: {errors}");
    }
    // In the order of their starts: ids are given one after the other.
    let running = "app\nrouter\ndatabase\nzoo\n";
    assert_eq!(world.ok(&["-q", "list", "--name"]), running);
    let again = world.vm(&["-q", "--format", "json", "autostart-all"]);
    let lines: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(lines[0]["outcome"], "running");
    assert_eq!(lines[3]["outcome"], "failed");
}

#[test]
fn a_definition_with_a_mistake_is_told_at_its_start() {
    let world = World::new();
    define(&world, "broken", "", "");
    world.ok(&["autostart", "broken"]);
    let path = world.store("etc/vm/domains/broken.xml");
    let text = fs::read_to_string(&path).expect("the definition");
    fs::write(&path, text.replace("<vcpu>", "<vcpus>")).expect("a mistake");
    let errors = world.fails(&["autostart-all"]);
    assert!(errors.contains("broken.xml:"), "{errors}");
}

#[test]
fn all_power_buttons_are_pressed_and_who_does_not_listen_is_destroyed() {
    let world = World::new();
    define(&world, "ready", "", "");
    define(&world, "held", "", "");
    for name in ["ready", "held"] {
        world.ok(&["start", name]);
    }
    world.ok(&["suspend", "held"]);
    let said = world.ok(&["shutdown-all", "--timeout", "60"]);
    for words in ["'ready' is shut off", "'held' is shut off"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(
        world.ok(&["-q", "domstate", "held", "--reason"]),
        "shut off (shutdown)\n"
    );

    define(&world, "deaf", "fake.stubborn", "");
    world.ok(&["start", "deaf"]);
    world.ok(&["start", "ready"]);
    let output = world.vm(&["shutdown-all", "--timeout", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("'ready' is shut off"), "{said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    for words in ["'deaf' did not power down within 1 s", "1 of 2 domains"] {
        assert!(errors.contains(words), "{words}: {errors}");
    }
    assert_eq!(
        world.ok(&["-q", "domstate", "deaf", "--reason"]),
        "shut off (destroyed)\n"
    );
    let none = world.ok(&["shutdown-all"]);
    assert_eq!(none, "No domain is running\n\n");
}

#[test]
fn the_hosts_journal_is_told() {
    let world = World::new();
    define(&world, "told", "", "");
    let path = world.path("journal");
    let journal = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    let start = world
        .command("vm")
        .args(["start", "told"])
        .env("VM_JOURNAL_SOCKET", &path)
        .output();
    assert!(start.expect("vm runs").status.success());
    let mut bytes = [0; 4096];
    let count = journal.recv(&mut bytes).expect("an entry");
    let text = String::from_utf8_lossy(&bytes[..count]);
    for field in ["VM_NAME=told\n", "VM_ACTION=start\n", "VM_UID=", "VM_UUID="] {
        assert!(text.contains(field), "{field}: {text}");
    }
}
