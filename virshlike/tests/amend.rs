//! Changes that are made in a running guest and in its definition: in both or in neither, and none is
//! lost; and files that a verb writes: never over what is no plain file.

mod common;

use common::World;
use std::fs;
use std::os::unix::fs::symlink;

/// A running domain with a disk.
fn start(world: &World, cmdline: &str) {
    let disk = world.path("a.raw");
    fs::write(&disk, vec![0; 1 << 20]).expect("an image");
    let xml = world.xml("a", cmdline).replace(
        "<devices>",
        &format!(
            "<devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>\
             <source file='{}'/><target dev='vda' bus='virtio'/></disk>",
            disk.display()
        ),
    );
    let path = world.path("a.xml");
    fs::write(&path, xml).expect("a definition");
    world.ok(&["define", path.to_str().expect("text")]);
    world.ok(&["start", "a"]);
}

const BOTH: [&str; 2] = ["--live", "--config"];

fn with<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [words, &BOTH].concat()
}

#[test]
fn what_a_guest_refuses_is_not_in_its_definition_either() {
    let world = World::new();
    start(&world, "fake.refuse");
    let both = || {
        let stored = world.ok(&["dumpxml", "a", "--inactive"]);
        (stored, world.ok(&["dumpxml", "a"]))
    };
    let before = both();
    for words in [
        &["blkdeviotune", "a", "vda", "--total-iops-sec", "500"][..],
        &["setmem", "a", "32MiB"],
        &["dommemstat", "a", "--period", "7"],
    ] {
        let errors = world.fails(&with(words));
        assert!(errors.contains("asked to refuse"), "{words:?}: {errors}");
        assert_eq!(both(), before, "{words:?}");
    }
    // What comes after is not held up by what was refused, and leaves nothing beside the definition.
    world.ok(&with(&["desc", "a", "--title", "--new-desc", "new"]));
    let (stored, live) = both();
    assert!(stored.contains("<title>new</title>") && live.contains("<title>new</title>"));
    let domains = world.store("etc/vm/domains");
    let left = fs::read_dir(&domains)
        .expect("the store's folder")
        .flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().starts_with(".tmp-")),
        "{left:?}"
    );
}

#[test]
fn changes_at_once_are_all_made() {
    let world = World::new();
    start(&world, "");
    let changes: [(&[&str], &str); 4] = [
        (
            &["blkdeviotune", "a", "vda", "--total-bytes-sec", "1000001"],
            "<total_bytes_sec>1000001<",
        ),
        (
            &["blkdeviotune", "a", "vda", "--total-iops-sec", "1002"],
            "<total_iops_sec>1002<",
        ),
        (&["dommemstat", "a", "--period", "7"], "period='7'"),
        (
            &["desc", "a", "--title", "--new-desc", "new"],
            "<title>new<",
        ),
    ];
    let mut running: Vec<_> = changes
        .iter()
        .map(|(words, _)| world.command("vm").args(with(words)).spawn())
        .collect();
    for one in &mut running {
        let child = one.as_mut().expect("vm runs");
        assert!(child.wait().expect("its end").success());
    }
    for shown in [
        world.ok(&["dumpxml", "a", "--inactive"]),
        world.ok(&["dumpxml", "a"]),
    ] {
        for (words, made) in changes {
            assert!(shown.contains(made), "{words:?}: {shown}");
        }
    }
}

#[test]
fn nothing_but_a_plain_file_is_written_over() {
    let world = World::new();
    start(&world, "");
    let precious = world.path("precious");
    fs::write(&precious, "precious").expect("a file");
    let link = world.path("link");
    symlink(&precious, &link).expect("a link");
    for target in [link.to_str().expect("text"), "/dev/null"] {
        let errors = world.fails(&["dump", "a", target]);
        assert!(errors.contains("only a plain file is replaced"), "{errors}");
    }
    // The fake guest has no memory to dump: the file that was there is as it was.
    world.fails(&["dump", "a", precious.to_str().expect("text")]);
    assert_eq!(fs::read(&precious).expect("it"), b"precious");
    assert!(fs::symlink_metadata(&link).expect("it").is_symlink());
}
