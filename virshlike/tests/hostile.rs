//! Stores that cannot be written, processes that hang, files that vanish: every verb says so, in
//! time, and changes nothing.

mod common;

use common::World;
use std::process::Output;

/// Runs a script with mounts of its own; `None` where this process may not mount.
fn with_mounts(world: &World, script: &str) -> Option<Output> {
    let possible = world.command("unshare").args(["-m", "true"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("skipped: no right to make mounts");
        return None;
    }
    let output = world
        .command("unshare")
        .args(["-m", "sh", "-ec", script])
        .output()
        .unwrap();
    Some(output)
}

fn texts(output: &Output) -> (String, String) {
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn a_read_only_store_is_read_and_never_written() {
    let world = World::new();
    let a = world.write_xml("a", "");
    world.write_xml("b", "");
    world.ok(&["define", a.to_str().unwrap()]);
    let script = "mount --bind store store; mount -o remount,ro,bind store
        vm -q list --all --name; vm -q dumpxml a > /dev/null; vm -q dominfo a > /dev/null
        for words in 'define b.xml' 'undefine a' 'domrename a b' 'autostart a' 'start a'; do
            if vm $words; then echo \"$words: succeeded\"; fi
        done";
    let Some(output) = with_mounts(&world, script) else {
        return;
    };
    let (out, errors) = texts(&output);
    assert!(output.status.success(), "{out}{errors}");
    assert!(
        out.starts_with("a\n") && !out.contains("succeeded"),
        "{out}"
    );
    assert!(errors.contains("Read-only file system"), "{errors}");
    assert_eq!(world.ok(&["-q", "list", "--all", "--name"]), "a\n");
}

#[test]
fn a_full_store_refuses_and_keeps_what_it_has() {
    let world = World::new();
    world.write_xml("a", "");
    world.write_xml("b", "");
    let script = "mkdir -p store/etc; mount -t tmpfs -o size=64k none store/etc
        vm -q define a.xml; before=$(vm -q dumpxml a)
        dd if=/dev/zero of=store/etc/filler bs=1k count=200 2>/dev/null || true
        if vm define b.xml; then echo 'defined on a full disk'; fi
        if EDITOR=\"sed -i 's+64<+128<+'\" vm edit a; then echo 'edited on a full disk'; fi
        test \"$before\" = \"$(vm -q dumpxml a)\"; vm -q list --all --name; ls -A store/etc/vm/domains
        rm store/etc/filler; vm -q define b.xml; vm -q list --all --name";
    let Some(output) = with_mounts(&world, script) else {
        return;
    };
    let (out, errors) = texts(&output);
    assert!(output.status.success(), "{out}{errors}");
    assert_eq!(
        out.replace('\n', " ").trim(),
        "a a.xml a b",
        "{out}{errors}"
    );
    assert!(errors.contains("No space left"), "{errors}");
    assert!(errors.contains("nothing was changed"), "{errors}");
}

#[test]
fn a_hung_process_delays_nobody_for_long_and_can_be_destroyed() {
    let world = World::new();
    for name in ["a", "b"] {
        let path = world.write_xml(name, "");
        world.ok(&["define", path.to_str().unwrap()]);
        world.ok(&["start", name]);
    }
    let uuid = world.ok(&["-q", "domuuid", "a"]);
    let record = world.store(&format!("run/vm/{}/run.json", uuid.trim()));
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    let pid = record["process"]["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let output = world.vm(&["list"]);
    let (out, errors) = texts(&output);
    assert!(
        out.contains("a      no state") && out.contains("b      running"),
        "{out}"
    );
    assert!(errors.contains("does not answer"), "{errors}");
    let errors = world.fails(&["suspend", "a"]);
    assert!(errors.contains("waited"), "{errors}");
    world.ok(&["destroy", "a"]);
    assert!(!std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists());
    assert_eq!(
        world.ok(&["-q", "domstate", "--reason", "a"]),
        "shut off (destroyed)\n"
    );
    world.ok(&["start", "a"]);
}

/// Runs `vm` to its end, which has to come by itself; `None` when it does not.
fn ended(world: &World, arguments: &[&str]) -> Option<Output> {
    use std::process::Stdio;
    let mut command = world.command("timeout");
    // Far more than any deadline of a verb: other commands on this machine take their time too.
    command.args(["--signal=KILL", "300", "vm"]).args(arguments);
    let output = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    output
        .status
        .code()
        .is_some_and(|code| code != 137)
        .then_some(output)
}

#[test]
fn every_verb_has_a_deadline_for_a_process_that_hangs() {
    let world = World::new();
    let path = world.write_xml("a", "");
    world.ok(&["define", path.to_str().unwrap()]);
    world.ok(&["start", "a"]);
    let uuid = world.ok(&["-q", "domuuid", "a"]);
    let record = world.store(&format!("run/vm/{}/run.json", uuid.trim()));
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    let pid = record["process"]["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    // Those that need its answer say what they waited for; the others tell what they know.
    let refused: &[&[&str]] = &[
        &["dominfo", "a"],
        &["domstats", "a"],
        &["domcontrol", "a"],
        &["domjobinfo", "a"],
        &["domblkerror", "a"],
        &["domblkstat", "a"],
        &["dommemstat", "a"],
        &["suspend", "a"],
        &["resume", "a"],
        &["shutdown", "a", "--wait", "1"],
        &["reset", "a"],
    ];
    let told: &[&[&str]] = &[
        &["list", "--all"],
        &["domstate", "a", "--reason"],
        &["dumpxml", "a"],
        &["domblklist", "a"],
        &["ttyconsole", "a"],
        &["domid", "a"],
        &["top", "--once", "--interval", "0.1"],
        &["metrics"],
        &["event", "a", "--timeout", "1"],
        &["logs", "a"],
    ];
    std::thread::scope(|scope| {
        for arguments in refused {
            let world = &world;
            scope.spawn(move || {
                let output =
                    ended(world, arguments).unwrap_or_else(|| panic!("{arguments:?} hangs"));
                let (out, errors) = texts(&output);
                assert_eq!(output.status.code(), Some(1), "{arguments:?}: {out}");
                assert!(errors.contains("waited"), "{arguments:?}: {errors}");
                assert!(errors.contains("'a'"), "{arguments:?}: {errors}");
            });
        }
        for arguments in told {
            let world = &world;
            scope.spawn(move || {
                let output =
                    ended(world, arguments).unwrap_or_else(|| panic!("{arguments:?} hangs"));
                let (_, errors) = texts(&output);
                // No event is what that one was told to wait for.
                let wanted = i32::from(arguments[0] == "event");
                assert_eq!(
                    output.status.code(),
                    Some(wanted),
                    "{arguments:?}: {errors}"
                );
            });
        }
    });
    let list = world.ok(&["-q", "list", "--all"]);
    assert!(list.contains("no state"), "{list}");
    world.ok(&["destroy", "a"]);
}

#[test]
fn files_that_come_and_go_are_missing_or_there() {
    let world = World::new();
    let image = world.path("disk.img");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let disk = format!(
        "<disk type='file'><driver type='raw'/><source file='{}'/><target dev='vda'/></disk>",
        image.display()
    );
    let xml = world
        .xml("a", "")
        .replace("<devices>", &format!("<devices>{disk}"));
    let file = world.path("a.xml");
    std::fs::write(&file, xml).unwrap();
    world.ok(&["define", file.to_str().unwrap()]);
    let over = std::sync::atomic::AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            let away = world.path("away");
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::rename(&image, &away).unwrap();
                std::fs::rename(&away, &image).unwrap();
            }
        });
        let mut seen = Vec::new();
        for _ in 0..30 {
            let output = world.vm(&["start", "a"]);
            let (_, errors) = texts(&output);
            match output.status.code() {
                Some(0) => {
                    world.ok(&["destroy", "a"]);
                }
                Some(1) => assert!(errors.contains("disk.img"), "{errors}"),
                code => panic!("{code:?}: {errors}"),
            }
            seen.push(output.status.code());
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        seen
    });
    println!("{seen:?}");
    world.ok(&["start", "a"]);
}

#[test]
fn a_killed_process_is_a_crash_and_starts_again() {
    let world = World::new();
    let path = world.write_xml("a", "");
    world.ok(&["define", path.to_str().unwrap()]);
    for _ in 0..20 {
        world.ok(&["start", "a"]);
        let uuid = world.ok(&["-q", "domuuid", "a"]);
        let record = world.store(&format!("run/vm/{}/run.json", uuid.trim()));
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
        let pid = record["process"]["pid"].as_i64().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let process =
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let mut fds = [rustix::event::PollFd::new(
            &process,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
        assert_eq!(
            world.ok(&["-q", "domstate", "--reason", "a"]),
            "shut off (crashed)\n"
        );
    }
    assert_eq!(world.ok(&["-q", "list"]), "");
}

#[test]
fn a_definition_of_any_bytes_is_answered() {
    let world = World::new();
    let deep = "<a>".repeat(100_000);
    let name = "x".repeat(10_000);
    let bomb = "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;'>]><domain>&b;</domain>";
    for text in [
        "",
        "<",
        "\0",
        &deep,
        bomb,
        &world.xml(&name, ""),
        &world.xml("a\u{7}b", ""),
    ] {
        std::fs::write(world.path("x.xml"), text).unwrap();
        let errors = world.fails(&["define", "x.xml"]);
        assert!(
            errors.starts_with("error: ") && errors.len() < 2000,
            "{errors}"
        );
    }
    assert_eq!(world.ok(&["-q", "list", "--all"]), "");
}
