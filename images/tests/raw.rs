//! Raw images through the public interface, on both engines, with every cache mode.
use std::fs::File;
use std::path::Path;
use std::process::Command;

use images::exec::{Engine, Executor};
use images::{Cache, DenyAll, DiscardMode, ErrorKind, Format, Image, IoBuf, OpenOptions};

fn executors() -> Vec<Executor> {
    let mut all = vec![Executor::new(Engine::Threads).unwrap()];
    match Executor::new(Engine::IoUring) {
        Ok(ex) => all.push(ex),
        Err(e) => println!("skipped: io_uring is not available here: {e}"),
    }
    all
}

fn image_file(dir: &Path, len: u64) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(dir.join("disk.raw"))
        .unwrap();
    file.set_len(len).unwrap();
    file
}

fn open(dir: &Path, options: &OpenOptions) -> Image {
    let file = File::options()
        .read(true)
        .write(!options.read_only)
        .open(dir.join("disk.raw"));
    Image::open(file.unwrap(), "disk.raw", options, &DenyAll).unwrap()
}

#[test]
fn what_is_written_is_read_in_every_cache_mode_at_any_alignment() {
    let modes = [
        Cache::None,
        Cache::Writeback,
        Cache::Writethrough,
        Cache::Unsafe,
        Cache::DirectSync,
    ];
    for ex in executors() {
        for cache in modes {
            // In the tree, because tmpfs has no direct I/O.
            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            image_file(dir.path(), 1 << 20);
            let image = open(dir.path(), &OpenOptions::new(Format::Raw).cache(cache));
            ex.block_on(async {
                image.activate().await.unwrap();
                let mut model = vec![0u8; 1 << 20];
                for (i, (at, len)) in [
                    (0, 512),
                    (1, 1),
                    (511, 2),
                    (4095, 8194),
                    (65536, 65536),
                    (1048575, 1),
                ]
                .into_iter()
                .enumerate()
                {
                    let data = vec![i as u8 + 1; len];
                    model[at..at + len].copy_from_slice(&data);
                    image
                        .write_bytes(at as u64, IoBuf::from(&data[..]))
                        .await
                        .unwrap();
                }
                image.write_zeroes(70000, 1000, true).await.unwrap();
                model[70000..71000].fill(0);
                image.flush().await.unwrap();
                let all = image.read_bytes(0, 1 << 20).await.unwrap();
                assert!(all[..] == model[..], "{cache:?}");
                assert_eq!(
                    &image.read_bytes(4000, 200).await.unwrap()[..],
                    &model[4000..4200]
                );
                image.inactivate().await.unwrap();
            });
            let len = std::fs::metadata(dir.path().join("disk.raw"))
                .unwrap()
                .len();
            assert_eq!(len, 1 << 20, "{cache:?} changed the length of the file");
        }
    }
}

#[test]
fn the_unaligned_end_of_a_file_is_a_whole_sector() {
    for ex in executors() {
        for cache in [Cache::None, Cache::Writeback] {
            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            image_file(dir.path(), 1000);
            let image = open(dir.path(), &OpenOptions::new(Format::Raw).cache(cache));
            assert_eq!(image.virtual_size(), 1024);
            ex.block_on(async {
                image.activate().await.unwrap();
                assert!(
                    image
                        .read_bytes(0, 1024)
                        .await
                        .unwrap()
                        .iter()
                        .all(|&b| b == 0)
                );
                image
                    .write_bytes(1000, IoBuf::from(&[5; 24][..]))
                    .await
                    .unwrap();
                assert_eq!(image.read_bytes(1000, 24).await.unwrap()[..], [5; 24]);
                let e = image.read_bytes(1000, 25).await.unwrap_err();
                assert_eq!(e.kind(), &ErrorKind::OutOfRange);
            });
        }
    }
}

#[test]
fn an_inactive_or_read_only_image_refuses_by_kind() {
    let dir = tempfile::tempdir().unwrap();
    image_file(dir.path(), 4096);
    let ex = Executor::new(Engine::Auto).unwrap();
    let image = open(dir.path(), &OpenOptions::new(Format::Raw));
    ex.block_on(async {
        let e = image.write_bytes(0, IoBuf::zeroed(512)).await.unwrap_err();
        assert_eq!(e.kind(), &ErrorKind::Inactive);
        image.activate().await.unwrap();
        image.write_bytes(0, IoBuf::zeroed(512)).await.unwrap();
        image.inactivate().await.unwrap();
        let e = image.write_bytes(0, IoBuf::zeroed(512)).await.unwrap_err();
        assert_eq!(e.kind(), &ErrorKind::Inactive);
        let read_only = open(dir.path(), &OpenOptions::new(Format::Raw).read_only(true));
        read_only.activate().await.unwrap();
        let e = read_only
            .write_bytes(0, IoBuf::zeroed(512))
            .await
            .unwrap_err();
        assert_eq!(e.kind(), &ErrorKind::ReadOnly);
        read_only.read_bytes(0, 512).await.unwrap();
    });
}

#[test]
fn discard_frees_space_and_can_be_ignored() {
    use std::os::unix::fs::MetadataExt;
    for (mode, expect_free) in [(DiscardMode::Unmap, true), (DiscardMode::Ignore, false)] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        image_file(dir.path(), 1 << 20);
        let image = open(dir.path(), &OpenOptions::new(Format::Raw).discard(mode));
        let ex = Executor::new(Engine::Auto).unwrap();
        ex.block_on(async {
            image.activate().await.unwrap();
            image
                .write_bytes(0, IoBuf::from(&[1; 1 << 20][..]))
                .await
                .unwrap();
            image.flush().await.unwrap();
            image.discard(0, 1 << 20).await.unwrap();
            image.flush().await.unwrap();
        });
        let blocks = std::fs::metadata(dir.path().join("disk.raw"))
            .unwrap()
            .blocks();
        assert_eq!(blocks == 0, expect_free, "{blocks} blocks are left");
    }
}

#[test]
fn locks_agree_with_qemu_in_both_directions() {
    if Command::new("qemu-io").arg("--version").output().is_err() {
        println!("skipped: qemu-io is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    image_file(dir.path(), 1 << 20);
    let path = dir.path().join("disk.raw");
    let qemu_io = |args: &[&str]| {
        let out = Command::new("qemu-io")
            .args(["-f", "raw"])
            .args(args)
            .arg(&path)
            .output()
            .unwrap();
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    let ex = Executor::new(Engine::Auto).unwrap();
    let writer = open(dir.path(), &OpenOptions::new(Format::Raw));
    ex.block_on(async {
        assert!(
            qemu_io(&["-c", "write 0 512"]).0,
            "an inactive image must hold no lock"
        );
        writer.activate().await.unwrap();
        let (ok, message) = qemu_io(&["-c", "write 0 512"]);
        assert!(!ok && message.contains("lock"), "{message}");
        let second = open(dir.path(), &OpenOptions::new(Format::Raw));
        let e = second.activate().await.unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Locked { .. }), "{e}");
        writer.inactivate().await.unwrap();
        assert!(
            qemu_io(&["-c", "write 0 512"]).0,
            "inactivate must give the locks up"
        );
        second.activate().await.unwrap();
        second.inactivate().await.unwrap();

        let reader = open(dir.path(), &OpenOptions::new(Format::Raw).read_only(true));
        reader.activate().await.unwrap();
        assert!(qemu_io(&["-r", "-c", "read 0 512"]).0, "readers share");
        assert!(
            !qemu_io(&["-c", "write 0 512"]).0,
            "a reader keeps writers out"
        );
        reader.inactivate().await.unwrap();
    });
    // A writer of QEMU's: it holds its locks until its input ends.
    use std::io::{BufRead, BufReader, Write};
    let mut held = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = held.stdin.take().unwrap();
    input.write_all(b"write 0 512\n").unwrap();
    let mut line = String::new();
    BufReader::new(held.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("wrote"), "{line}");
    ex.block_on(async {
        for read_only in [false, true] {
            let image = open(
                dir.path(),
                &OpenOptions::new(Format::Raw).read_only(read_only),
            );
            let e = image.activate().await.unwrap_err();
            assert!(matches!(e.kind(), ErrorKind::Locked { .. }), "{e}");
        }
    });
    drop(input);
    held.wait().unwrap();
    ex.block_on(async { writer.activate().await.unwrap() });
}
