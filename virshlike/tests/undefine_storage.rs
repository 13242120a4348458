//! `vm undefine` with images: never by surprise, never somebody else's.

mod common;

use common::World;
use std::fs;
use std::path::PathBuf;

/// Makes an image, and a domain with these images as its disks.
fn image(world: &World, arguments: &[&str], name: &str) -> PathBuf {
    let path = world.path(name);
    let mut words = vec!["image", "create", "-q"];
    words.extend(arguments);
    let shown = path.display().to_string();
    words.push(&shown);
    words.extend(["1M"].iter().filter(|_| !arguments.contains(&"-b")));
    world.ok(&words);
    path
}

fn define(world: &World, name: &str, disks: &[(&PathBuf, &str)]) {
    let disks: String = disks
        .iter()
        .zip(["vda", "vdb", "vdc"])
        .map(|((path, more), target)| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
                 <source file='{}'/><target dev='{target}' bus='virtio'/>{more}</disk>",
                path.display()
            )
        })
        .collect();
    let xml = world
        .xml(name, "")
        .replace("<devices>", &format!("<devices>{disks}"));
    let path = world.path("x.xml");
    fs::write(&path, xml).expect("a definition");
    world.ok(&["define", path.to_str().expect("text")]);
}

#[test]
fn without_a_terminal_images_are_deleted_only_with_yes() {
    let world = World::new();
    let (own, kept) = (
        image(&world, &["-f", "qcow2"], "own.qcow2"),
        image(&world, &["-f", "qcow2"], "data.qcow2"),
    );
    define(&world, "web", &[(&own, ""), (&kept, "<readonly/>")]);
    let errors = world.fails(&["undefine", "web", "--remove-all-storage"]);
    assert!(
        errors.contains("own.qcow2") && errors.contains("--yes"),
        "{errors}"
    );
    assert!(!errors.contains("data.qcow2"), "{errors}");
    assert!(own.exists());
    assert_eq!(world.ok(&["-q", "list", "--all", "--name"]), "web\n");

    let said = world.ok(&["undefine", "web", "--remove-all-storage", "--yes"]);
    assert!(
        said.contains("Domain 'web' has been undefined") && said.contains("Volume 'vda'("),
        "{said}"
    );
    assert!(!own.exists() && kept.exists(), "a read-only disk stays");
    assert_eq!(world.ok(&["-q", "list", "--all", "--name"]), "");
}

#[test]
fn an_image_that_is_gone_already_is_told_of_and_keeps_nothing_back() {
    let world = World::new();
    let (gone, own) = (
        image(&world, &["-f", "qcow2"], "gone.qcow2"),
        image(&world, &["-f", "qcow2"], "own.qcow2"),
    );
    define(&world, "web", &[(&gone, ""), (&own, "")]);
    fs::remove_file(&gone).expect("an image");
    let output = world.vm(&["undefine", "web", "--remove-all-storage", "--yes"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(
        errors.contains("warning: disk 'vda'") && errors.contains("gone.qcow2"),
        "{errors}"
    );
    assert!(!own.exists());
    assert_eq!(world.ok(&["-q", "list", "--all", "--name"]), "");
}

#[test]
fn named_disks_go_and_others_stay() {
    let world = World::new();
    let (one, two) = (
        image(&world, &["-f", "qcow2"], "one.qcow2"),
        image(&world, &["-f", "qcow2"], "two.qcow2"),
    );
    define(&world, "web", &[(&one, ""), (&two, "")]);
    let errors = world.fails(&["undefine", "web", "--storage", "vda,vdx", "--yes"]);
    assert!(
        errors.contains("no image 'vdx'") && errors.contains("vda, vdb"),
        "{errors}"
    );
    assert!(one.exists());
    world.ok(&["undefine", "web", "--storage", "vdb", "--yes"]);
    assert!(one.exists() && !two.exists());
}

#[test]
fn what_another_domain_needs_is_not_deleted() {
    let world = World::new();
    let base = image(&world, &["-f", "qcow2"], "base.qcow2");
    let shown = base.display().to_string();
    let top = image(
        &world,
        &["-f", "qcow2", "-b", &shown, "-F", "qcow2"],
        "top.qcow2",
    );
    define(&world, "template", &[(&base, "")]);
    define(&world, "clone", &[(&top, "")]);
    let errors = world.fails(&["undefine", "template", "--remove-all-storage", "--yes"]);
    assert!(errors.contains("the domain 'clone' needs it"), "{errors}");
    assert!(base.exists());
    assert_eq!(
        world.ok(&["-q", "list", "--all", "--name"]),
        "clone\ntemplate\n"
    );
    // The clone goes with its own image, and then nobody needs the other.
    world.ok(&["undefine", "clone", "--remove-all-storage", "--yes"]);
    assert!(base.exists() && !top.exists());
    world.ok(&["undefine", "template", "--remove-all-storage", "--yes"]);
    assert!(!base.exists());
}

#[test]
fn running_domains_links_and_folders_keep_their_images() {
    let world = World::new();
    let own = image(&world, &["-f", "qcow2"], "own.qcow2");
    let link = world.path("link.qcow2");
    std::os::unix::fs::symlink(&own, &link).expect("a link");
    define(&world, "linked", &[(&link, "")]);
    let errors = world.fails(&["undefine", "linked", "--remove-all-storage", "--yes"]);
    assert!(errors.contains("it is a link to"), "{errors}");
    world.ok(&["undefine", "linked"]);
    define(&world, "web", &[(&own, "")]);
    world.ok(&["start", "web"]);
    let errors = world.fails(&["undefine", "web", "--remove-all-storage", "--yes"]);
    assert!(errors.contains("only on stopped domains"), "{errors}");
    assert!(own.exists() && link.exists());
    world.ok(&["destroy", "web"]);
}
