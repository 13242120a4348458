//! `kill -9` at every named point of every change of the store: what is left is the store before
//! the change or after it, every verb agrees, and the next writer tidies up.

mod common;

use common::World;
use std::collections::BTreeSet;
use virshlike::store::fault::POINTS;

/// What every reader sees: name, definition, autostart.
fn view(world: &World) -> Vec<(String, String, bool)> {
    let autostarted = world.ok(&["-q", "list", "--all", "--name", "--autostart"]);
    let autostarted: BTreeSet<&str> = autostarted.lines().collect();
    world
        .ok(&["-q", "list", "--all", "--name"])
        .lines()
        .map(|name| {
            let text = world.ok(&["-q", "dumpxml", name]);
            (name.to_string(), text, autostarted.contains(name))
        })
        .collect()
}

/// The same in every store: MACs and UUIDs are each store's own.
fn normal(world: &World, view: Vec<(String, String, bool)>) -> Vec<(String, String, bool)> {
    view.into_iter()
        .map(|(name, text, autostart)| (name, world.normalise(&text), autostart))
        .collect()
}

/// The store that every case starts from: `a` is autostarted, `b` is not.
fn start_world() -> World {
    let world = World::new();
    for name in ["a", "b"] {
        let path = world.write_xml(name, "");
        world.ok(&["define", path.to_str().unwrap()]);
    }
    world.ok(&["autostart", "a"]);
    std::fs::write(
        world.path("a2.xml"),
        world.ok(&["-q", "dumpxml", "a"]).replace(">64<", ">128<"),
    )
    .unwrap();
    let new = world.xml("new", "").replace(
        "</name>",
        "</name>\n  <uuid>00000000-0000-0000-0000-000000000077</uuid>",
    );
    std::fs::write(world.path("new.xml"), new).unwrap();
    world
}

fn walk(change: &[&str], least: usize) {
    let world = start_world();
    let old = view(&world);
    world.ok(change);
    let new = normal(&world, view(&world));
    assert_ne!(normal(&world, old), new, "{change:?} changes nothing");
    let mut hit = 0;
    let mut seen = BTreeSet::new();
    for point in POINTS {
        let world = start_world();
        let before = view(&world);
        let status = world
            .command("vm")
            .env("VM_FAULT", point)
            .args(change)
            .output()
            .unwrap()
            .status;
        if status.success() {
            continue;
        }
        assert_eq!(
            status.code(),
            None,
            "{change:?} at {point} failed instead of dying"
        );
        hit += 1;
        let after = normal(&world, view(&world));
        let (is_old, is_new) = (after == normal(&world, before), after == new);
        assert!(
            is_old || is_new,
            "{change:?} killed at {point} leaves {after:#?}"
        );
        seen.insert(is_old);
        // The next writer tidies up and finds the same domains.
        let path = world.write_xml("later", "");
        world.ok(&["define", path.to_str().unwrap()]);
        world.ok(&["undefine", "later"]);
        assert_eq!(
            normal(&world, view(&world)),
            after,
            "{change:?} at {point}, after the next writer"
        );
        for entry in std::fs::read_dir(world.store("etc/vm/domains")).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            assert!(
                !name.starts_with('.'),
                "{change:?} at {point} leaves {name}"
            );
        }
    }
    assert!(hit >= least, "{change:?} met only {hit} fault points");
    assert_eq!(
        seen.len(),
        2,
        "{change:?}: both the old and the new store were expected"
    );
}

#[test]
fn define_is_old_or_new() {
    walk(&["define", "new.xml"], 5);
}

#[test]
fn redefine_is_old_or_new() {
    walk(&["define", "a2.xml"], 5);
}

#[test]
fn undefine_is_old_or_new() {
    let world = start_world();
    let mut hit = 0;
    for point in POINTS.iter().filter(|point| point.starts_with("undefine.")) {
        let world = start_world();
        let status = world
            .command("vm")
            .env("VM_FAULT", point)
            .args(["undefine", "a"])
            .output()
            .unwrap()
            .status;
        assert_eq!(status.code(), None, "{point}");
        hit += 1;
        assert_eq!(
            world.ok(&["-q", "list", "--all", "--name"]),
            "b\n",
            "{point}"
        );
        assert_eq!(
            world.ok(&["-q", "list", "--all", "--name", "--autostart"]),
            "",
            "{point}"
        );
        // A new domain of that name does not inherit the old one's autostart.
        world.ok(&["define", "a.xml"]);
        assert_eq!(
            world.ok(&["-q", "list", "--all", "--name", "--autostart"]),
            "",
            "{point}"
        );
    }
    assert_eq!(hit, 3);
    world.ok(&["undefine", "a"]);
}

#[test]
fn rename_is_old_or_new() {
    walk(&["domrename", "a", "c"], 10);
}

#[test]
fn edit_is_old_or_new() {
    let world = start_world();
    let mut seen = BTreeSet::new();
    for point in POINTS.iter().filter(|point| point.starts_with("atomic.")) {
        let old = world.ok(&["-q", "dumpxml", "a"]);
        let status = world
            .command("vm")
            .env("VM_FAULT", point)
            .env("EDITOR", "sed -i 's+<vcpu>.*+<vcpu>3</vcpu>+'")
            .args(["edit", "a"])
            .output()
            .unwrap()
            .status;
        assert_eq!(status.code(), None, "{point}");
        let now = world.ok(&["-q", "dumpxml", "a"]);
        let edited = old.replace("<vcpu>1</vcpu>", "<vcpu>3</vcpu>");
        assert_ne!(edited, old);
        assert!(now == old || now == edited, "{point}: {now}");
        seen.insert(now == old);
        world.ok(&["define", "a2.xml"]);
    }
    assert_eq!(seen.len(), 2, "both the old and the new one were expected");
}
