//! `vm image convert` where it does more than copy one image: several sources, bitmaps, copies by the
//! kernel, and what it refuses; beside qemu-img.

use std::path::Path;
use std::process::{Command, Output};

fn vm(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vm"));
    command.arg("image").args(arguments).current_dir(dir);
    command.output().expect("vm runs")
}

fn done(dir: &Path, arguments: &[&str]) -> String {
    let output = vm(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is said about something that is refused.
fn refused(dir: &Path, arguments: &[&str]) -> String {
    let output = vm(dir, arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// QEMU's tool as it is; None if it is not there.
fn qemu(dir: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("qemu-img");
    match command.args(arguments).current_dir(dir).output() {
        Ok(output) => {
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(_) => {
            println!("skipped: qemu-img is not installed");
            None
        }
    }
}

/// Bytes that are partly holes, partly zeroes, partly text, partly what does not compress.
fn disk(seed: u64, mib: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = vec![0; mib << 20];
    for (n, piece) in bytes.chunks_mut(96 << 10).enumerate() {
        for byte in piece {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = match n % 4 {
                0 => 0,
                1 => b'a' + (state % 3) as u8,
                _ => state as u8,
            };
        }
    }
    bytes
}

#[test]
fn several_sources_become_one_disk_as_with_qemu() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let (a, b) = (disk(1, 3), disk(2, 2));
    std::fs::write(dir.join("a"), &a).expect("a");
    std::fs::write(dir.join("b"), &b).expect("b");
    let whole = [a.as_slice(), b.as_slice()].concat();
    for how in [&[][..], &["-c"], &["-C"]] {
        for format in ["raw", "qcow2"] {
            if how == ["-c"] && format == "raw" {
                continue;
            }
            let words = [
                &["convert", "-f", "raw", "-O", format],
                how,
                &["a", "b", "out"],
            ]
            .concat();
            done(dir, &words);
            let back = ["convert", "-f", format, "-O", "raw", "out", "back"];
            done(dir, &back);
            assert!(
                std::fs::read(dir.join("back")).expect("back") == whole,
                "{words:?}"
            );
            if qemu(dir, &back).is_some() {
                assert!(
                    std::fs::read(dir.join("back")).expect("back") == whole,
                    "{words:?}"
                );
            }
        }
    }
    // A compressed cluster has the bytes of one source.
    std::fs::write(dir.join("odd"), &a[..70_144]).expect("odd");
    let said = refused(
        dir,
        &[
            "convert", "-c", "-f", "raw", "-O", "qcow2", "odd", "b", "new",
        ],
    );
    assert!(said.contains("whole cluster"), "{said}");
    assert!(!dir.join("new").exists(), "half a copy is removed");
    done(
        dir,
        &["convert", "-f", "raw", "-O", "raw", "odd", "b", "new"],
    );
    let new = std::fs::read(dir.join("new")).expect("new");
    assert!(new == [&a[..70_144], b.as_slice()].concat());
}

#[test]
fn compressed_images_of_either_kind_unpack_on_threads() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let bytes = disk(3, 6);
    std::fs::write(dir.join("a"), &bytes).expect("a");
    for kind in ["zlib", "zstd"] {
        let option = format!("compression_type={kind}");
        let pack = [
            "convert", "-c", "-o", &option, "-f", "raw", "-O", "qcow2", "a", "packed",
        ];
        for by_qemu in [false, true] {
            if by_qemu {
                if qemu(dir, &pack).is_none() {
                    continue;
                }
            } else {
                done(dir, &pack);
            }
            done(
                dir,
                &["convert", "-f", "qcow2", "-O", "raw", "packed", "back"],
            );
            assert!(
                std::fs::read(dir.join("back")).expect("back") == bytes,
                "{kind} {by_qemu}"
            );
        }
    }
    // A stream that is broken is an error, not a wait for an answer.
    let mut packed = std::fs::read(dir.join("packed")).expect("packed");
    let end = packed.len();
    packed[end / 3..end].fill(0xa5);
    std::fs::write(dir.join("broken"), &packed).expect("broken");
    let output = vm(
        dir,
        &["convert", "-f", "qcow2", "-O", "raw", "broken", "back"],
    );
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn bitmaps_are_copied_with_their_bits_and_state() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    done(dir, &["create", "-q", "-f", "qcow2", "a", "8M"]);
    done(dir, &["bitmap", "--add", "-g", "32k", "a", "on"]);
    done(dir, &["bitmap", "--add", "--disable", "a", "off"]);
    // Something for the one that records.
    done(
        dir,
        &[
            "bench",
            "-q",
            "-w",
            "--pattern",
            "7",
            "-f",
            "qcow2",
            "-c",
            "3",
            "-S",
            "1M",
            "-t",
            "writeback",
            "a",
        ],
    );
    done(
        dir,
        &[
            "convert",
            "--bitmaps",
            "-f",
            "qcow2",
            "-O",
            "qcow2",
            "a",
            "b",
        ],
    );
    let bitmaps = |file: &str| {
        let info = done(dir, &["info", "--output=json", "-f", "qcow2", file]);
        let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
        info["format-specific"]["data"]["bitmaps"].clone()
    };
    assert_eq!(bitmaps("a"), bitmaps("b"));
    assert_eq!(bitmaps("b").as_array().map(Vec::len), Some(2));
    if let Some(theirs) = qemu(dir, &["info", "--output=json", "-f", "qcow2", "b"]) {
        let theirs: serde_json::Value = serde_json::from_str(&theirs).expect("JSON");
        assert_eq!(theirs["format-specific"]["data"]["bitmaps"], bitmaps("b"));
        qemu(dir, &["check", "-q", "-f", "qcow2", "b"]);
    }
    // What is set in both is the same: merged into a copy, nothing is added.
    let backup = |file: &str| {
        let to = format!("{file}.inc");
        done(dir, &["create", "-q", "-f", "qcow2", &to, "8M"]);
        let which = ["--bitmap", "on", "--incremental", "-n", "-f", "qcow2"];
        done(dir, &[&["backup"][..], &which, &[file, &to]].concat());
        let map = done(dir, &["map", "--output=json", "-f", "qcow2", &to]);
        let map: serde_json::Value = serde_json::from_str(&map).expect("JSON");
        let list = map.as_array().expect("a list").clone();
        list.into_iter()
            .filter(|e| e["data"] == true)
            .map(|e| (e["start"].as_u64(), e["length"].as_u64()))
            .collect::<Vec<_>>()
    };
    let found = backup("a");
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found, backup("b"));
    let without = done(dir, &["convert", "-f", "qcow2", "-O", "qcow2", "a", "c"]);
    assert!(without.is_empty());
    assert!(bitmaps("c").is_null());
}

/// Changes bytes of a file: at `offset` behind where `what` is found.
fn patch(file: &Path, what: &[u8], offset: usize, bytes: &[u8]) {
    let mut all = std::fs::read(file).expect("the file");
    let found = all.windows(what.len()).position(|part| part == what);
    let at = found.expect("what is patched") + offset;
    all[at..at + bytes.len()].copy_from_slice(bytes);
    std::fs::write(file, all).expect("written");
}

#[test]
fn bitmaps_that_cannot_be_used_are_named_and_skipped() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let convert = |from: &str, skip: &[&str]| {
        let words = ["convert", "--bitmaps", "-f", "qcow2", "-O", "qcow2"];
        vm(dir, &[&words, skip, &[from, "copy"]].concat())
    };
    let skip = &["--skip-broken-bitmaps"];
    let copied = || {
        let info = done(dir, &["info", "--output=json", "-f", "qcow2", "copy"]);
        let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
        let bitmaps = &info["format-specific"]["data"]["bitmaps"];
        bitmaps.as_array().map_or(0, Vec::len)
    };
    done(dir, &["create", "-q", "-f", "qcow2", "sound", "8M"]);
    for name in ["first", "second"] {
        done(dir, &["bitmap", "--add", "sound", name]);
    }
    let (file, sound) = (dir.join("broken"), dir.join("sound"));
    let image = std::fs::read(&sound).expect("the image");
    // Of an entry of the directory the name comes last, 24 bytes behind its start.
    let place = image.windows(6).position(|part| part == b"second");
    let entry = place.expect("the entry") - 24;
    for (fault, part, left) in [
        ("inconsistent", (entry + 15, &[3_u8][..]), 1),
        ("unknown", (entry + 16, &[9]), 1),
        ("damaged", (entry, &[0xff; 8]), 1),
        // The image was written to by somebody who knows no bitmaps.
        ("stale", (95, &[0]), 0),
    ] {
        std::fs::write(&file, &image).expect("written");
        patch(&file, b"QFI\xfb", part.0, part.1);
        let refused = convert("broken", &[]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(fault), "{said}");
        assert!(!dir.join("copy").exists(), "{fault}");
        let output = convert("broken", skip);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains(&format!("Skipping {fault} bitmap 'second'")),
            "{said}"
        );
        assert_eq!(
            (said.matches("Skipping").count(), copied()),
            (2 - left, left)
        );
        std::fs::remove_file(dir.join("copy")).expect("a copy");
    }
    // A directory that says nothing of any bitmap.
    std::fs::write(&file, &image).expect("written");
    patch(&file, &[0x23, 0x85, 0x28, 0x75], 8, &[0; 4]);
    assert!(!convert("broken", &[]).status.success());
    let output = convert("broken", skip);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("Skipping all bitmaps"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    std::fs::write(dir.join("a"), disk(5, 1)).expect("a");
    for (words, part) in [
        (
            &["--image-opts", "driver=raw,file.filename=a", "b"][..],
            "--image-opts",
        ),
        (&["--object", "secret,id=s", "a", "b"], "--object"),
        (
            &["-C", "-c", "-O", "qcow2", "a", "b"],
            "cannot be used with",
        ),
        (&["-C", "-S", "4k", "a", "b"], "cannot be used with"),
        (&["--bitmaps", "-O", "raw", "a", "b"], "--bitmaps"),
        (&["--bitmaps", "-O", "qcow2", "a", "a", "b"], "--bitmaps"),
        (&["-l", "s", "a", "a", "b"], "snapshot"),
        (
            &["-B", "x", "-F", "raw", "-O", "qcow2", "a", "a", "b"],
            "backing",
        ),
        (&["a"], "2"),
    ] {
        let said = refused(dir, &[&["convert"], words].concat());
        assert!(said.contains(part), "{words:?}: {said}");
        assert!(!dir.join("b").exists(), "{words:?}");
    }
}

#[test]
fn copies_by_the_kernel_keep_holes() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let bytes = disk(6, 2);
    std::fs::write(dir.join("a"), &bytes).expect("a");
    let file = std::fs::File::options().write(true).open(dir.join("a"));
    file.and_then(|f| f.set_len(64 << 20)).expect("a hole");
    done(dir, &["convert", "-C", "-f", "raw", "-O", "raw", "a", "b"]);
    let copy = std::fs::read(dir.join("b")).expect("b");
    assert_eq!(copy.len(), 64 << 20);
    assert!(copy[..bytes.len()] == bytes && copy[bytes.len()..].iter().all(|&b| b == 0));
    let blocks = std::fs::metadata(dir.join("b")).expect("b").blocks();
    assert!(blocks * 512 < 8 << 20, "{blocks}");
}
