//! `vm image` beside qemu-img: the same commands on the same files, the same words.

use std::path::Path;
use std::process::{Command, Output};

fn have_qemu() -> bool {
    let have = Command::new("qemu-img").arg("--version").output().is_ok();
    if !have {
        println!("skipped: qemu-img is not installed");
    }
    have
}

fn vm(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vm"))
        .arg("image")
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("vm runs")
}

fn qemu(dir: &Path, arguments: &[&str]) -> Output {
    Command::new("qemu-img")
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("qemu-img runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether the host's qemu-img is of a release whose words ours are: they changed in 8 and 9.
fn speaks_as_ours(dir: &Path) -> bool {
    let version = text(&qemu(dir, &["--version"]));
    let number = version
        .split([' ', '.'])
        .nth(2)
        .and_then(|n| n.parse().ok());
    number.is_none_or(|major: u32| major >= 10)
}

/// What releases before ours say too: no protocol layer, and snapshots in other columns.
fn without_later_words(text: &str) -> Vec<String> {
    let mut in_child = false;
    let mut kept = Vec::new();
    for line in text.lines() {
        in_child = line.starts_with("Child node") || in_child && line.starts_with(' ');
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            _ if in_child => {}
            ["ID", "TAG", ..] => kept.push("a table of snapshots".to_string()),
            [id, _, _, _, _, _, ..] if id.parse::<u32>().is_ok() => kept.push(words[..6].join(" ")),
            _ => kept.push(line.to_string()),
        }
    }
    kept
}

/// Both tools say the same and end the same.
fn assert_same(dir: &Path, arguments: &[&str]) {
    let (ours, theirs) = (vm(dir, arguments), qemu(dir, arguments));
    if speaks_as_ours(dir) {
        assert_eq!(text(&ours), text(&theirs), "{arguments:?}: {ours:?}");
    } else {
        let (left, right) = (text(&ours), text(&theirs));
        assert_eq!(without_later_words(&left), without_later_words(&right));
    }
    assert_eq!(ours.status.code(), theirs.status.code(), "{arguments:?}");
}

fn done(dir: &Path, arguments: &[&str]) -> String {
    let output = vm(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text(&output)
}

#[test]
fn facts_are_printed_as_qemu_img_prints_them() {
    if !have_qemu() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    for arguments in [
        &["create", "-f", "qcow2", "a.qcow2", "2G"][..],
        &["create", "-f", "raw", "a.raw", "1M"],
        &[
            "create",
            "-f",
            "qcow2",
            "-o",
            "compat=0.10",
            "old.qcow2",
            "1000000",
        ],
        &[
            "create",
            "-f",
            "qcow2",
            "-b",
            "a.raw",
            "-F",
            "raw",
            "top.qcow2",
        ],
        &[
            "create",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=4k,preallocation=metadata",
            "p.qcow2",
            "9M",
        ],
    ] {
        assert_same(dir, arguments);
    }
    for arguments in [
        &["snapshot", "-c", "one", "a.qcow2"][..],
        &["snapshot", "-l", "a.qcow2"],
        &["info", "a.qcow2"],
        &["info", "-f", "raw", "a.raw"],
        &["info", "old.qcow2"],
        &["info", "--backing-chain", "top.qcow2"],
        &["check", "a.qcow2"],
        &["check", "p.qcow2"],
        &["map", "p.qcow2"],
        &["map", "--output=json", "top.qcow2"],
        &["measure", "-O", "qcow2", "a.raw"],
        &["measure", "-O", "qcow2", "--size", "10G"],
        &["compare", "a.raw", "top.qcow2"],
        &["compare", "-s", "a.raw", "a.qcow2"],
        &["resize", "a.qcow2", "+1G"],
        &["snapshot", "-d", "1", "a.qcow2"],
    ] {
        if arguments.contains(&"--output=json") {
            let value = |o: &Output| -> serde_json::Value {
                let mut value: serde_json::Value = serde_json::from_slice(&o.stdout).expect("JSON");
                if !speaks_as_ours(dir) {
                    // The field came with release 8.2.
                    for extent in value.as_array_mut().expect("extents") {
                        let _ = extent.as_object_mut().expect("one").remove("compressed");
                    }
                }
                value
            };
            assert_eq!(value(&vm(dir, arguments)), value(&qemu(dir, arguments)));
        } else if arguments[0] == "snapshot" && arguments[1] != "-l" {
            done(dir, arguments);
        } else {
            assert_same(dir, arguments);
        }
    }
}

#[test]
fn an_image_goes_through_a_working_day() {
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    let bytes: Vec<u8> = (0..3_000_320u32).map(|i| (i / 700) as u8).collect();
    std::fs::write(dir.join("a.raw"), &bytes).expect("written");
    done(
        dir,
        &[
            "convert", "-f", "raw", "-O", "qcow2", "-c", "a.raw", "a.qcow2",
        ],
    );
    assert_eq!(
        done(dir, &["compare", "a.raw", "a.qcow2"]),
        "Images are identical.\n"
    );
    done(
        dir,
        &[
            "create",
            "-f",
            "qcow2",
            "-b",
            "a.qcow2",
            "-F",
            "qcow2",
            "top.qcow2",
            "4M",
        ],
    );
    assert_eq!(
        done(dir, &["resize", "top.qcow2", "+1M"]),
        "Image resized.\n"
    );
    assert_eq!(done(dir, &["commit", "top.qcow2"]), "Image committed.\n");
    done(dir, &["rebase", "-b", "", "top.qcow2"]);
    std::fs::remove_file(dir.join("a.qcow2")).expect("removed");
    done(dir, &["convert", "-O", "raw", "top.qcow2", "back.raw"]);
    let back = std::fs::read(dir.join("back.raw")).expect("read");
    assert_eq!(back.len(), 5 << 20);
    assert!(back[..bytes.len()] == bytes && back[bytes.len()..].iter().all(|&b| b == 0));
    assert!(done(dir, &["check", "top.qcow2"]).starts_with("No errors were found on the image.\n"));
    assert!(done(dir, &["bench", "-c", "100", "top.qcow2"]).contains("Run completed in "));
}

#[test]
fn mistakes_say_what_is_wrong_and_change_nothing() {
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    done(dir, &["create", "-f", "qcow2", "a.qcow2", "1M"]);
    std::fs::write(dir.join("text"), "no image").expect("written");
    let before = std::fs::read(dir.join("a.qcow2")).expect("read");
    for (arguments, words) in [
        (&["info", "nosuch"][..], "cannot open nosuch"),
        (&["info", "-f", "qcow2", "text"], "magic"),
        (&["info", "-f", "vhd", "a.qcow2"], "Unknown driver 'vhd'"),
        (&["resize", "a.qcow2", "-512k"], "--shrink"),
        (&["resize", "a.qcow2", "12X"], "Invalid image size"),
        (
            &["create", "-f", "qcow2", "-o", "clustersize=1", "b", "1M"],
            "Invalid parameter",
        ),
        (
            &["create", "-f", "qcow2", "-b", "a.qcow2", "b"],
            "without backing format",
        ),
        (&["create", "-f", "qcow2", "b"], "needs a size"),
        (&["snapshot", "-a", "nosuch", "a.qcow2"], "no snapshot"),
        (&["commit", "a.qcow2"], "does not have a backing file"),
        (
            &["info", "/dev/zero"],
            "neither a regular file nor a block device",
        ),
        (
            &["convert", "-O", "qcow2", "a.qcow2", "/nosuch/b"],
            "/nosuch/b",
        ),
    ] {
        let output = vm(dir, arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(message.contains(words), "{arguments:?}: {message}");
        assert!(message.starts_with("error: "), "{arguments:?}: {message}");
    }
    assert!(std::fs::read(dir.join("a.qcow2")).expect("read") == before);
    assert!(!dir.join("b").exists());
}

#[test]
fn an_image_in_use_is_refused_with_who_holds_it() {
    if !have_qemu() || Command::new("qemu-io").arg("--version").output().is_err() {
        return;
    }
    use std::io::{BufRead, BufReader, Write};
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    done(dir, &["create", "-f", "qcow2", "a.qcow2", "1M"]);
    let mut holder = Command::new("qemu-io")
        .arg(dir.join("a.qcow2"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("qemu-io runs");
    let mut input = holder.stdin.take().expect("its input");
    input.write_all(b"write 0 512\n").expect("written");
    let mut line = String::new();
    let output = holder.stdout.take().expect("its output");
    BufReader::new(output)
        .read_line(&mut line)
        .expect("it answers");
    for arguments in [&["resize", "a.qcow2", "2M"][..], &["check", "a.qcow2"]] {
        let output = vm(dir, arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            message.contains("lock") && message.contains("qemu-io"),
            "{message}"
        );
    }
    done(dir, &["info", "a.qcow2"]);
    drop(input);
    holder.wait().expect("it ends");
    done(dir, &["resize", "a.qcow2", "2M"]);
}

#[test]
fn bitmaps_and_options_are_changed_with_qemu_imgs_words() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    done(dir, &["create", "-q", "-f", "qcow2", "a.qcow2", "8M"]);
    done(dir, &["bitmap", "--add", "-g", "128k", "a.qcow2", "b0"]);
    done(dir, &["bitmap", "--add", "--disable", "a.qcow2", "b1"]);
    done(dir, &["bitmap", "--merge", "b0", "a.qcow2", "b1"]);
    assert_same(dir, &["info", "a.qcow2"]);
    done(dir, &["bitmap", "--remove", "--add", "a.qcow2", "b0"]);
    let info = done(dir, &["info", "--output=json", "a.qcow2"]);
    assert!(info.contains("\"granularity\": 65536"), "{info}");
    for bad in [
        &["bitmap", "--add", "a.qcow2", "b0"][..],
        &["bitmap", "--clear", "a.qcow2", "b9"],
        &["bitmap", "--clear", "-g", "64k", "a.qcow2", "b0"],
        &["bitmap", "a.qcow2", "b0"],
        &["amend", "-o", "compat=0.10", "a.qcow2"],
        &["amend", "-o", "cluster_size=4k", "a.qcow2"],
    ] {
        assert!(!vm(dir, bad).status.success(), "{bad:?}");
    }
    for name in ["b0", "b1"] {
        done(dir, &["bitmap", "--remove", "a.qcow2", name]);
    }
    for (options, shown) in [
        ("lazy_refcounts=on", "lazy refcounts: true"),
        ("lazy_refcounts=off,size=9M", "virtual size: 9 MiB"),
        ("compat=0.10", "compat: 0.10"),
        ("compat=1.1", "compat: 1.1"),
    ] {
        done(dir, &["amend", "-o", options, "a.qcow2"]);
        let info = done(dir, &["info", "a.qcow2"]);
        assert!(info.contains(shown), "{options}: {info}");
        assert!(qemu(dir, &["check", "a.qcow2"]).status.success());
    }
    done(
        dir,
        &["resize", "--preallocation", "metadata", "a.qcow2", "12M"],
    );
    assert!(qemu(dir, &["check", "a.qcow2"]).status.success());
}

#[test]
fn a_snapshot_is_read_instead_of_the_disk() {
    if !have_qemu() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    let io = |command: &str| {
        let output = Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", command, "d.qcow2"])
            .current_dir(dir)
            .output()
            .expect("qemu-io runs");
        assert!(output.status.success(), "{command}: {output:?}");
    };
    done(dir, &["create", "-f", "qcow2", "d.qcow2", "8M"]);
    io("write -P 1 1M 1M");
    done(dir, &["convert", "-O", "raw", "d.qcow2", "before.raw"]);
    done(dir, &["snapshot", "-c", "first", "d.qcow2"]);
    io("write -P 2 0 4M");
    done(dir, &["resize", "d.qcow2", "9M"]);
    for name in ["first", "1", "snapshot.name=first"] {
        done(
            dir,
            &["convert", "-l", name, "-O", "raw", "d.qcow2", "out.raw"],
        );
        let ours = std::fs::read(dir.join("out.raw")).expect("a copy");
        assert!(ours == std::fs::read(dir.join("before.raw")).expect("a copy"));
    }
    let sizes = done(dir, &["measure", "-O", "qcow2", "-l", "first", "d.qcow2"]);
    assert!(sizes.starts_with("required size: 1376256\n"), "{sizes}");
    let none = vm(dir, &["convert", "-l", "second", "d.qcow2", "none.raw"]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(!none.status.success() && said.contains("second"), "{said}");
    assert!(!dir.join("none.raw").exists());
}

#[test]
fn parts_of_images_are_copied_and_mapped_as_qemu_img_does() {
    if !have_qemu() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path();
    let bytes: Vec<u8> = (0..3_000_000u32)
        .map(|i| {
            if i / 65536 % 3 == 0 {
                0
            } else {
                (i % 251) as u8
            }
        })
        .collect();
    std::fs::write(dir.join("s.raw"), &bytes).expect("a source");
    done(
        dir,
        &["convert", "-f", "raw", "-O", "qcow2", "s.raw", "s.qcow2"],
    );
    for words in [
        &["bs=64k", "count=5"][..],
        &["bs=1M", "skip=1"],
        &["skip=3", "count=1000", "bs=1k"],
        &["bs=512"],
    ] {
        let mut ours = vec![
            "dd",
            "-f",
            "qcow2",
            "-O",
            "raw",
            "if=s.qcow2",
            "of=ours.raw",
        ];
        let mut theirs = vec![
            "dd",
            "-f",
            "qcow2",
            "-O",
            "raw",
            "if=s.qcow2",
            "of=theirs.raw",
        ];
        ours.extend(words);
        theirs.extend(words);
        done(dir, &ours);
        let output = qemu(dir, &theirs);
        assert!(output.status.success(), "{output:?}");
        let read = |name: &str| std::fs::read(dir.join(name)).expect("a copy");
        assert!(read("ours.raw") == read("theirs.raw"), "{words:?}");
    }
    if speaks_as_ours(dir) {
        for range in [
            &["--start-offset", "128k", "--max-length", "1M"][..],
            &["--start-offset", "1M"],
            &["--max-length", "64k"],
        ] {
            let mut arguments = vec!["map", "--output", "json", "-f", "qcow2"];
            arguments.extend(range);
            arguments.push("s.qcow2");
            let parsed = |output: &Output| -> serde_json::Value {
                serde_json::from_slice(&output.stdout).expect("JSON")
            };
            let (ours, theirs) = (vm(dir, &arguments), qemu(dir, &arguments));
            assert_eq!(parsed(&ours), parsed(&theirs), "{range:?}");
        }
    }
    // Slowly, past the page cache, and with what is read one sector at a time.
    done(
        dir,
        &[
            "convert", "-r", "100M", "-T", "none", "-t", "none", "-f", "raw", "s.raw", "r.raw",
        ],
    );
    done(
        dir,
        &["convert", "--salvage", "-f", "raw", "s.raw", "v.raw"],
    );
    for copy in ["r.raw", "v.raw"] {
        done(dir, &["compare", "-p", "-T", "none", "-s", "s.raw", copy]);
    }
}

#[test]
fn a_verb_that_fails_leaves_bitmaps_valid() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let small = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=512"];
    done(dir, &[&small[..], &["a.qcow2", "8M"]].concat());
    done(dir, &["bitmap", "--add", "a.qcow2", "b"]);
    done(dir, &["create", "-q", "-f", "raw", "small.raw", "1M"]);
    let before = std::fs::read(dir.join("a.qcow2")).unwrap();
    let verbs: [&[&str]; 6] = [
        &["snapshot", "-d", "nosuch", "a.qcow2"],
        &["snapshot", "-a", "nosuch", "a.qcow2"],
        // More than clusters of 512 bytes allow.
        &["resize", "a.qcow2", "1P"],
        &["bitmap", "--clear", "a.qcow2", "nosuch"],
        &["bench", "-w", "-c", "1", "-s", "nosuch", "a.qcow2"],
        &["convert", "-n", "-O", "qcow2", "a.qcow2", "small.raw"],
    ];
    for verb in verbs {
        let output = vm(dir, verb);
        assert!(!output.status.success(), "{verb:?}: {output:?}");
        let info = text(&qemu(dir, &["info", "a.qcow2"]));
        assert!(info.contains("auto") && !info.contains("in-use"), "{info}");
        let after = std::fs::read(dir.join("a.qcow2")).unwrap();
        assert!(before == after, "{verb:?} has changed the image");
    }
    // It still takes what is recorded, and QEMU trusts it.
    done(dir, &["bench", "-w", "-c", "4", "a.qcow2"]);
    let info = text(&qemu(dir, &["info", "a.qcow2"]));
    assert!(!info.contains("in-use"), "{info}");
    assert!(qemu(dir, &["check", "a.qcow2"]).status.success());
    assert!(
        qemu(dir, &["bitmap", "--clear", "a.qcow2", "b"])
            .status
            .success()
    );
}

#[test]
fn incremental_backups_add_up() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let write = |pattern: &str| {
        let done = Command::new("qemu-io")
            .args(["-c", pattern, "a.qcow2"])
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    done(dir, &["create", "-q", "-f", "qcow2", "a.qcow2", "8M"]);
    done(dir, &["bitmap", "--add", "a.qcow2", "b"]);
    write("write -P 1 0 3M");
    done(dir, &["backup", "--bitmap", "b", "a.qcow2", "full.qcow2"]);
    write("write -P 2 1M 100k");
    let args = ["backup", "--bitmap", "b", "--incremental", "a.qcow2"];
    assert!(
        !vm(dir, &[&args[..], &["none.qcow2"]].concat())
            .status
            .success()
    );
    assert!(!dir.join("none.qcow2").exists());
    let onto = ["-B", "full.qcow2", "-F", "qcow2", "inc.qcow2"];
    done(dir, &[&args[..], &onto].concat());
    let same = vm(dir, &["compare", "a.qcow2", "inc.qcow2"]);
    assert!(same.status.success(), "{same:?}");
    // The increment has what changed, not the disk.
    let map = done(dir, &["map", "--output=json", "inc.qcow2"]);
    let map: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
    let own: u64 = map
        .iter()
        .filter(|e| e["depth"] == 0 && e["data"] == true)
        .map(|e| e["length"].as_u64().unwrap())
        .sum();
    assert_eq!(own, 128 << 10);
    // A backup that fails changes neither bitmap nor target.
    let before = std::fs::read(dir.join("a.qcow2")).unwrap();
    done(dir, &["create", "-q", "-f", "raw", "small.raw", "1M"]);
    let small = ["backup", "-n", "-O", "raw", "--bitmap", "b", "a.qcow2"];
    for (args, target) in [
        (&small[..], "small.raw"),
        (&["backup", "--bitmap", "nosuch", "a.qcow2"], "none.qcow2"),
        (&["backup", "-r", "much", "a.qcow2"], "none.qcow2"),
        (&["backup", "-O", "nosuch", "a.qcow2"], "none.qcow2"),
        (&["backup", "a.qcow2"], "a.qcow2"),
    ] {
        let output = vm(dir, &[args, &[target]].concat());
        assert!(!output.status.success(), "{args:?}: {output:?}");
        assert!(!dir.join("none.qcow2").exists(), "{args:?}");
        let after = std::fs::read(dir.join("a.qcow2")).unwrap();
        assert!(before == after, "{args:?} has changed the source");
    }
}
