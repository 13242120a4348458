//! Many commands at once on a few domains: whatever happens, the store stays whole and every verb
//! agrees about it. `VM_STRESS_SECONDS` makes it longer.

mod common;

use common::World;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const DOMAINS: usize = 8;
const WORKERS: usize = 64;

/// A small generator: the order of verbs is different in each worker and the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn arguments(dice: &mut Dice) -> Vec<String> {
    let name = format!("d{}", dice.roll(DOMAINS as u64));
    let other = format!("d{}", dice.roll(DOMAINS as u64));
    let words: &[&str] = match dice.roll(18) {
        0..=2 => &["define", "FILE"],
        3 | 4 => &["start", "NAME"],
        5 | 6 => &["destroy", "NAME"],
        7 => &["undefine", "NAME"],
        8 => &["domrename", "NAME", "OTHER"],
        9 => &["suspend", "NAME"],
        10 => &["resume", "NAME"],
        11 => &["autostart", "NAME"],
        12 => &["list", "--all"],
        13 | 14 => &["create", "FILE"],
        15 => &["edit", "NAME"],
        16 => &["setmem", "NAME", "32M", "--config"],
        _ => &["dominfo", "NAME"],
    };
    words
        .iter()
        .map(|word| match *word {
            "NAME" => name.clone(),
            "OTHER" => other.clone(),
            "FILE" => format!("{name}.xml"),
            word => word.to_string(),
        })
        .collect()
}

#[test]
fn many_commands_at_once_leave_a_store_that_every_verb_agrees_on() {
    let world = World::new();
    for number in 0..DOMAINS {
        world.write_xml(&format!("d{number}"), "");
    }
    let seconds = std::env::var("VM_STRESS_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let over = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (world, over, done) = (&world, &over, &done);
            scope.spawn(move || {
                let mut dice = Dice(worker as u64);
                while !over.load(Ordering::Relaxed) {
                    let arguments = arguments(&mut dice);
                    let output = world
                        .command("vm")
                        .env("EDITOR", "sed -i 's/console=ttyS0/& x/'")
                        .args(&arguments)
                        .output()
                        .unwrap();
                    let code = output.status.code();
                    let errors = String::from_utf8_lossy(&output.stderr);
                    assert!(
                        matches!(code, Some(0 | 1)),
                        "vm {arguments:?}: {code:?} {errors}"
                    );
                    assert!(!errors.contains("panicked"), "vm {arguments:?}: {errors}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(4));
        let mut copies = 0;
        while Instant::now() < until {
            copies += 1;
            a_copy_is_readable(&world, copies);
        }
        println!("{copies} copies of the store were readable");
        over.store(true, Ordering::Relaxed);
    });
    assert!(
        done.load(Ordering::Relaxed) > WORKERS,
        "hardly anything was done"
    );
    agree(&world);
}

/// Starts two commands at once and waits for both.
fn at_once(world: &World, one: &[&str], other: &[&str]) {
    let spawn = |words: &[&str]| {
        let mut command = world.command("vm");
        command
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().expect("vm runs")
    };
    let (mut one, mut other) = (spawn(one), spawn(other));
    one.wait().expect("vm ends");
    other.wait().expect("vm ends");
}

#[test]
fn a_name_belongs_to_one_domain_whoever_comes_first() {
    let world = World::new();
    for round in 0..10 {
        let (x, y) = (format!("x{round}"), format!("y{round}"));
        let file = format!("{x}.xml");
        world.write_xml(&x, "");
        world.write_xml(&y, "");
        at_once(&world, &["define", &file], &["create", &file]);
        one_domain(&world, &x);
        let _ = world.vm(&["destroy", &x]);
        let _ = world.vm(&["undefine", &x]);
        world.ok(&["define", &format!("{y}.xml")]);
        at_once(&world, &["domrename", &y, &x], &["create", &file]);
        one_domain(&world, &x);
    }
}

/// Says that what runs under a name is what is defined under it, if both are there.
fn one_domain(world: &World, name: &str) {
    let list = world.ok(&["-q", "list", "--all"]);
    let mut lines = list.lines().map(|line| line.split_whitespace());
    let words: Vec<&str> = lines
        .find_map(|mut words| {
            (words.clone().nth(1) == Some(name)).then(|| words.by_ref().collect())
        })
        .unwrap_or_else(|| panic!("{name} is not there:\n{list}"));
    let state = world.ok(&["-q", "domstate", name]);
    assert_eq!(state.trim(), words[2..].join(" "), "{name}:\n{list}");
}

/// Copies the store as a backup program would, file by file while it changes, and reads the copy.
fn a_copy_is_readable(world: &World, number: usize) {
    let copy = world.path(&format!("copy{number}"));
    for part in ["etc", "var"] {
        copy_tree(&world.store(part), &copy.join(part));
    }
    let read = |arguments: &[&str]| {
        let output = world
            .command("vm")
            .env("VM_STORE_ROOT", &copy)
            .args(arguments)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?} of a copy: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for name in read(&["-q", "list", "--all", "--name"]).lines() {
        let text = read(&["-q", "dumpxml", name]);
        assert!(text.contains(&format!("<name>{name}</name>")), "{text}");
        read(&["-q", "history", name]);
    }
    std::fs::remove_dir_all(&copy).unwrap();
}

/// What vanishes while it is copied was there a moment before, or is there under another name.
fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy_tree(&path, &target),
            Ok(kind) if kind.is_symlink() => {
                if let Ok(link) = std::fs::read_link(&path) {
                    let _ = std::os::unix::fs::symlink(link, target);
                }
            }
            _ => {
                let _ = std::fs::copy(&path, target);
            }
        }
    }
}

fn agree(world: &World) {
    // Ended and renamed ones included, `list` and every verb on one domain say the same.
    let list = world.ok(&["-q", "list", "--all"]);
    let mut ids = Vec::new();
    let mut uuids = Vec::new();
    for line in list.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (id, name, state) = (words[0], words[1], words[2..].join(" "));
        assert_eq!(world.ok(&["-q", "domid", name]).trim(), id, "{name}");
        assert_eq!(world.ok(&["-q", "domstate", name]).trim(), state, "{name}");
        let info = world.ok(&["-q", "dominfo", name]);
        assert!(
            info.contains(&format!("State:          {state}\n")),
            "{info}"
        );
        let uuid = world.ok(&["-q", "domuuid", name]).trim().to_string();
        assert_eq!(world.ok(&["-q", "domname", &uuid]).trim(), name);
        if id != "-" {
            ids.push(id.to_string());
        }
        uuids.push(uuid);
    }
    let (all_ids, all_uuids) = (ids.len(), uuids.len());
    ids.sort();
    ids.dedup();
    uuids.sort();
    uuids.dedup();
    assert_eq!(
        (ids.len(), uuids.len()),
        (all_ids, all_uuids),
        "something is there twice:\n{list}"
    );
    for id in ids {
        world.ok(&["destroy", &id]);
    }
    assert_eq!(world.ok(&["-q", "list"]), "");
    for entry in std::fs::read_dir(world.store("etc/vm/domains")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(!name.starts_with('.'), "{name} was left behind");
    }
}
