//! Transcripts replayed: every `$ ` line of the files in `tests/transcripts` is typed, and what
//! comes back must be what follows it. Standard error comes after standard output with `! ` before
//! each line, an exit code other than 0 as `[CODE]`. UUIDs, ptys and the test's own directory are
//! made the same (`UUID`, `/dev/pts/N`, `/W`).
//!
//! `UPDATE_TRANSCRIPTS=1` writes what came back into the files instead, for a look at the diff.

mod common;

use common::World;
use std::fs;
use std::path::{Path, PathBuf};

fn transcripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

fn replay(name: &str) {
    let path = transcripts().join(name);
    let expected = fs::read_to_string(&path).unwrap();
    let world = World::new();
    let mut seen = String::new();
    for line in expected.lines() {
        let Some(typed) = line.strip_prefix("$ ") else {
            if line.starts_with('#') {
                seen.push_str(line);
                seen.push('\n');
            }
            continue;
        };
        let output = world.command("sh").arg("-c").arg(typed).output().unwrap();
        seen.push_str(line);
        seen.push('\n');
        seen.push_str(&world.normalise(&String::from_utf8_lossy(&output.stdout)));
        let errors = world.normalise(&String::from_utf8_lossy(&output.stderr));
        for error in errors.lines() {
            seen.push_str(&format!("! {error}\n"));
        }
        match output.status.code() {
            Some(0) => {}
            Some(code) => seen.push_str(&format!("[{code}]\n")),
            None => seen.push_str("[killed]\n"),
        }
    }
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        fs::write(&path, seen).unwrap();
        return;
    }
    if seen != expected {
        let at = seen
            .lines()
            .zip(expected.lines())
            .take_while(|(a, b)| a == b)
            .count();
        panic!(
            "{name} differs from line {} on.\nexpected: {:?}\nseen:     {:?}\n--- all that was seen:\n{seen}",
            at + 1,
            expected.lines().nth(at),
            seen.lines().nth(at),
        );
    }
}

#[test]
fn definitions_as_people_keep_them() {
    replay("definitions.txt");
}

#[test]
fn a_life_cycle() {
    replay("life.txt");
}

#[test]
fn mistakes_are_answered_with_a_next_step() {
    replay("mistakes.txt");
}

#[test]
fn facts_for_programs() {
    replay("json.txt");
}

#[test]
fn looking_at_domains() {
    replay("watching.txt");
}

#[test]
fn the_memory_of_guests() {
    replay("memory.txt");
}

#[test]
fn definitions_of_networks() {
    replay("networks.txt");
}

#[test]
fn the_cpu_of_guests_and_host() {
    replay("cpu.txt");
}

#[test]
fn the_limits_of_disks() {
    replay("limits.txt");
}
