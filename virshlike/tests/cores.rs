//! Files for the cores of guests that crash, with guests without KVM: there at the start, kept with a
//! core in them, gone without.

mod common;

use common::World;
use std::fs;
use std::path::PathBuf;

fn define(world: &World, name: &str, action: &str, cmdline: &str) {
    let end = format!("  <on_crash>{action}</on_crash>\n  <devices>");
    let xml = world.xml(name, cmdline).replace("  <devices>", &end);
    let path = world.path(&format!("{name}.xml"));
    fs::write(&path, xml).expect("a file");
    world.ok(&["define", &path.display().to_string()]);
}

fn files(world: &World) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.store("var/lib/vm/dump"));
    let entries = entries.into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn a_core_stays_and_an_empty_file_goes() {
    let world = World::new();
    define(&world, "web", "coredump-destroy", "fake.crash");
    world.ok(&["start", "--paused", "web"]);
    let [file] = &files(&world)[..] else {
        panic!("{:?}", files(&world));
    };
    let name = file.file_name().expect("a name").to_string_lossy();
    assert!(
        name.starts_with("web-") && name.ends_with("-1.core"),
        "{name}"
    );
    assert_eq!(fs::metadata(file).expect("a file").len(), 0);
    world.ok(&["resume", "web"]);
    while !world
        .ok(&["domstate", "web", "--reason"])
        .contains("shut off (crashed)")
    {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // The next start tidies up after the last run.
    world.ok(&["start", "--paused", "web"]);
    assert_eq!(files(&world).len(), 2);
    world.ok(&["destroy", "web"]);
    assert_eq!(
        &files(&world),
        std::slice::from_ref(file),
        "one had no crash"
    );
}

#[test]
fn a_guest_that_restarts_gets_several_and_a_failed_start_leaves_none() {
    let world = World::new();
    define(&world, "db", "coredump-restart", "");
    world.ok(&["start", "db"]);
    assert_eq!(files(&world).len(), 4);
    world.ok(&["destroy", "db"]);
    assert!(files(&world).is_empty());
    define(&world, "bad", "coredump-destroy", "fake.fail");
    world.fails(&["start", "bad"]);
    assert!(files(&world).is_empty());
    // Who is asked for a core that nobody writes is told so.
    define(&world, "odd", "coredump-destroy", "");
    let path = world.path("odd.xml");
    let xml = fs::read_to_string(&path)
        .expect("a file")
        .replace("on_crash", "on_reboot");
    fs::write(&path, xml).expect("a file");
    world.ok(&["define", &path.display().to_string()]);
    let errors = world.fails(&["start", "odd"]);
    assert!(
        errors.contains("on_reboot") && errors.contains("on_crash"),
        "{errors}"
    );
}
