//! A full file system under an image: the guest stands still, the disk is named, and when there is room
//! again it goes on without a lost write.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests::serial::Serial;
use tests::world::World;

/// A file system of 2 MiB, gone with this.
struct Small(PathBuf);

impl Small {
    fn new(at: PathBuf) -> Option<Self> {
        fs::create_dir(&at).expect("a folder");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=2m", "vm-test"])
            .arg(&at);
        let output = mount.output().ok()?;
        output.status.success().then_some(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

/// Fills the file system but for `left` bytes.
fn fill(folder: &Path, left: u64) -> PathBuf {
    let path = folder.join("filler");
    let mut file = File::create(&path).expect("a filler");
    while file.write_all(&[1; 4096]).is_ok() {}
    let length = file.metadata().expect("its length").len();
    file.set_len(length - left).expect("made shorter");
    path
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A guest whose second disk, an image of `kind`, is on a file system that is nearly full.
fn goes_on_after_a_full_file_system(kind: &str, left: u64) {
    if !tests::have_kvm() {
        return eprintln!("skipped: no /dev/kvm");
    }
    let world = World::new();
    let Some(small) = Small::new(world.path("small")) else {
        return eprintln!("skipped: no right to mount a file system");
    };
    let image = small.0.join("image");
    let name = image.display().to_string();
    world.ok(&["image", "create", "-q", "-f", kind, &name, "16M"]);
    world.define_with(
        "full",
        "test=ioloop disk=1 depth=16",
        &format!(
            "<disk type='file' device='disk'><driver name='qemu' type='{kind}'/>\
             <source file='{name}'/><target dev='vdb' bus='virtio'/></disk>"
        ),
    );
    let filler = fill(&small.0, left);
    world.ok(&["start", "full"]);
    eventually("the guest to stand still", || {
        world.ok(&["-q", "domstate", "full", "--reason"]) == "paused (I/O error)\n"
    });
    let log = world.ok(&["logs", "full"]);
    assert!(log.contains("virtio-disk1") && log.contains(&name), "{log}");
    let errors = world.ok(&["-q", "domblkerror", "full"]);
    assert!(
        errors.starts_with(&format!("vdb: {name}: ")) && errors.lines().count() == 1,
        "{errors}"
    );
    let errors: serde_json::Value =
        serde_json::from_str(&world.ok(&["domblkerror", "full", "--format", "json"]))
            .expect("JSON");
    assert_eq!(errors["held"], true);
    assert_eq!(errors["errors"][0]["target"], "vdb");

    // Without room a resume comes to the same end.
    world.ok(&["resume", "full"]);
    eventually("the guest to stand still again", || {
        world.ok(&["-q", "domstate", "full", "--reason"]) == "paused (I/O error)\n"
    });
    fs::remove_file(filler).expect("room");
    world.ok(&["resume", "full"]);
    let mut console = world
        .command(&["console", "full"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("vm console");
    let mut screen = Serial::collect(console.stdout.take().expect("a pipe"));
    screen.expect("io 4096").expect("it goes on");
    let errors = world.ok(&["domblkerror", "full"]);
    assert!(errors.contains("No errors found"), "{errors}");
    let mut keys = console.stdin.take().expect("a pipe");
    keys.write_all(b"q").expect("typed");
    // It has verified every sector that it wrote.
    screen.expect("PASS").expect("no write is lost");
    world.ok(&["destroy", "full"]);
    drop(console.kill());
    drop(console.wait());
    if kind == "qcow2" {
        world.ok(&["image", "check", "-q", &name]);
    }
}

#[test]
fn a_raw_disk_goes_on_after_a_full_file_system() {
    // It may stand still before its start is through, which succeeds all the same.
    goes_on_after_a_full_file_system("raw", 0);
}

#[test]
fn a_qcow2_disk_goes_on_after_a_full_file_system() {
    goes_on_after_a_full_file_system("qcow2", 32 << 10);
}
