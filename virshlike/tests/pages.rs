//! The manual pages and completion scripts of a package: every verb has its page, and a shell that
//! asks gets verbs, options and the store's own names.

mod common;

use common::World;
use std::fs;

#[test]
fn every_verb_has_a_manual_page() {
    let world = World::new();
    let example = |name: &str| {
        let vm = std::path::Path::new(env!("CARGO_BIN_EXE_vm"));
        vm.with_file_name("examples").join(name)
    };
    let status = world
        .command(example("pages").to_str().unwrap())
        .arg("out")
        .status()
        .unwrap();
    assert!(status.success());
    let page = |name: &str| fs::read_to_string(world.path("out/man/man1").join(name)).unwrap();
    let overview = page("vm.1");
    for entry in virshlike::cli::registry::ENTRIES {
        let text = page(&format!("vm-{}.1", entry.name));
        assert!(text.contains(".SH SYNOPSIS"), "{}", entry.name);
        let name = entry.name.replace('-', "\\-");
        assert!(overview.contains(&format!("\\fB{name}\\fR")), "{name}");
    }
    assert!(page("vm-image-create.1").contains(".SH NAME"));
    for script in ["bash/vm", "zsh/_vm", "fish/vm.fish"] {
        let text = fs::read_to_string(world.path("out/completions").join(script)).unwrap();
        assert!(text.contains("VM_COMPLETE"), "{script}");
    }
}

/// What bash is offered for the last of these words.
fn offered(world: &World, words: &[&str]) -> Vec<String> {
    let output = world
        .command("vm")
        .env("VM_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
        .arg("--")
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::to_string).collect()
}

#[test]
fn a_shell_is_offered_domains_that_fit_the_verb() {
    let world = World::new();
    for name in ["web01", "web02"] {
        let path = world.write_xml(name, "");
        world.ok(&["define", path.to_str().unwrap()]);
    }
    world.ok(&["start", "web01"]);
    assert_eq!(offered(&world, &["vm", "start", "w"]), ["web02"]);
    assert_eq!(offered(&world, &["vm", "destroy", "w"]), ["web01"]);
    assert_eq!(offered(&world, &["vm", "dominfo", "w"]), ["web01", "web02"]);
    assert_eq!(
        offered(&world, &["vm", "dominfo", "--domain", "w"]),
        ["web01", "web02"]
    );
    assert_eq!(offered(&world, &["vm", "domst"]), ["domstate", "domstats"]);
    assert_eq!(
        offered(&world, &["vm", "list", "--state-r"]),
        ["--state-running"]
    );
    assert_eq!(offered(&world, &["vm", "help", "domre"]), ["domrename"]);
    // A store that is not there offers nothing and says nothing.
    let nowhere = ["vm", "-c", "vm:///system?root=/nowhere", "start", "w"];
    assert_eq!(offered(&world, &nowhere), Vec::<String>::new());
}

#[test]
fn scripts_are_taken_by_their_shells() {
    let world = World::new();
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = world.ok(&["completion", shell]);
        fs::write(world.path("script"), script).unwrap();
        match world.command(shell).args([check, "script"]).status() {
            Ok(status) => assert!(status.success(), "{shell}"),
            Err(_) => println!("skipped: {shell} is not installed"),
        }
    }
}
