//! Domains without a `<kernel>`: which firmware their machine gets, and in which order it tries disks.

mod common;

use common::World;
use serde_json::Value;
use std::fs;

/// A world whose host has a BIOS.
fn world() -> World {
    let world = World::new();
    fs::write(world.path("bios.bin"), vec![0u8; 256 << 10]).expect("a BIOS");
    for name in ["a.raw", "b.raw", "cd.iso"] {
        fs::write(world.path(name), vec![0u8; 1 << 20]).expect("an image");
    }
    world
}

fn disk(world: &World, image: &str, target: &str, more: &str) -> String {
    let device = if image.ends_with(".iso") {
        "cdrom"
    } else {
        "disk"
    };
    format!(
        "    <disk type='file' device='{device}'>\n      <driver type='raw'/>\n      \
         <source file='{}'/>\n      <target dev='{target}' bus='{}'/>\n      {more}\n    </disk>\n",
        world.path(image).display(),
        if target.starts_with("vd") {
            "virtio"
        } else {
            "sata"
        },
    )
}

fn xml(name: &str, os: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm'>\n  <name>{name}</name>\n  <memory unit='MiB'>64</memory>\n  <os>\n    \
         <type arch='x86_64' machine='q35'>hvm</type>\n    {os}\n  </os>\n  <devices>\n{devices}  \
         </devices>\n</domain>\n"
    )
}

/// Runs `vm` on a host with the BIOS of [`world`]; what it says, and whether it was content.
fn vm(world: &World, arguments: &[&str]) -> (bool, String) {
    let output = world
        .command("vm")
        .env("VM_BIOS", world.path("bios.bin"))
        .args(arguments)
        .output()
        .expect("vm runs");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

fn define(world: &World, text: &str) {
    fs::write(world.path("x.xml"), text).expect("a definition");
    world.ok(&["define", "x.xml"]);
}

/// Defines and starts a domain with these words, and returns the spec of its machine.
fn spec(world: &World, name: &str, text: &str, start: &[&str]) -> Value {
    define(world, text);
    let (well, said) = vm(world, &[&["start", name], start].concat());
    assert!(well, "{said}");
    let uuid = world.ok(&["-q", "domuuid", name]);
    let path = world.store(&format!("run/vm/{}/spec.json", uuid.trim()));
    let spec = serde_json::from_slice(&fs::read(path).expect("a spec")).expect("JSON");
    world.ok(&["destroy", name]);
    spec
}

/// Targets' aliases with their boot indices, in the order of the indices.
fn order(spec: &Value) -> Vec<(String, u64)> {
    let devices = spec["devices"].as_array().expect("devices");
    let mut order: Vec<_> = devices
        .iter()
        .filter_map(|device| {
            let index = device["boot_index"].as_u64()?;
            Some((device["id"].as_str().expect("an id").to_string(), index))
        })
        .collect();
    order.sort_by_key(|(_, index)| *index);
    order
}

fn named(list: &[(&str, u64)]) -> Vec<(String, u64)> {
    let owned = list
        .iter()
        .map(|(name, index)| ((*name).to_string(), *index));
    owned.collect()
}

#[test]
fn a_domain_without_a_kernel_gets_the_hosts_bios() {
    let world = world();
    let disks = disk(&world, "a.raw", "vda", "");
    let serial = "    <serial type='pty'/>\n";
    let spec = spec(&world, "plain", &xml("plain", "", &(disks + serial)), &[]);
    let boot = &spec["boot"];
    assert_eq!(boot["type"], "firmware");
    assert_eq!(
        boot["rom"]["name"],
        world.path("bios.bin").display().to_string()
    );
    // Nothing else could show it.
    assert_eq!(boot["serial"], true);
    assert!(
        boot["menu"].is_null() && boot["reboot_timeout"].is_null(),
        "{boot}"
    );
    assert_eq!(order(&spec), named(&[("virtio-disk0", 1)]));
}

#[test]
fn what_a_definition_says_of_its_bios_reaches_the_machine() {
    let world = world();
    fs::write(world.path("own.bin"), vec![0u8; 64 << 10]).expect("a BIOS");
    let os = format!(
        "<loader readonly='yes' type='rom'>{}</loader>\n<bootmenu enable='yes' timeout='3000'/>\n\
         <bios useserial='no' rebootTimeout='500'/>",
        world.path("own.bin").display()
    );
    let devices = disk(&world, "a.raw", "vda", "<boot order='2'/>")
        + &disk(&world, "b.raw", "vdb", "<boot order='1'/>")
        + &disk(&world, "cd.iso", "vdc", "")
        + "    <serial type='pty'/>\n";
    let spec = spec(&world, "own", &xml("own", &os, &devices), &[]);
    let boot = &spec["boot"];
    assert_eq!(
        boot["rom"]["name"],
        world.path("own.bin").display().to_string()
    );
    assert_eq!(
        (&boot["menu"], &boot["reboot_timeout"]),
        (&3000.into(), &500.into())
    );
    assert_eq!(boot["serial"], false);
    assert_eq!(
        order(&spec),
        named(&[("virtio-disk1", 1), ("virtio-disk0", 2)])
    );
}

#[test]
fn a_cdrom_becomes_a_virtio_disk_at_its_place_and_an_empty_one_goes() {
    let world = world();
    let devices = disk(&world, "cd.iso", "sda", "")
        + "    <disk type='file' device='cdrom'><target dev='sdb' bus='sata'/></disk>\n"
        + &disk(&world, "a.raw", "vda", "")
        + "    <serial type='pty'/>\n";
    let os = "<boot dev='cdrom'/>\n<boot dev='hd'/>";
    let text = xml("installer", os, &devices);
    define(&world, &text);
    let (well, said) = vm(&world, &["start", "installer"]);
    assert!(!well && said.contains("--map-to-virtio"), "{said}");
    let spec = spec(&world, "installer", &text, &["--map-to-virtio"]);
    assert_eq!(
        order(&spec),
        named(&[("virtio-disk1", 1), ("virtio-disk0", 2)])
    );
    let devices = spec["devices"].as_array().expect("devices");
    let kind = |id: &str| devices.iter().find(|device| device["id"] == id).expect(id);
    assert_eq!(kind("virtio-disk1")["read_only"], true);
    assert_eq!(kind("virtio-disk0")["read_only"], false);
    let (_, said) = vm(&world, &["start", "installer", "--map-to-virtio"]);
    assert!(said.contains("the empty drive 'sdb' is left out"), "{said}");
    world.ok(&["destroy", "installer"]);
    // The definition stays as it was.
    assert!(world.ok(&["dumpxml", "installer"]).contains("bus='sata'"));
}

#[test]
fn what_cannot_be_booted_is_refused_before_anything_starts() {
    let world = world();
    let disks = disk(&world, "a.raw", "vda", "");
    let missing = "<loader type='rom'>/nosuch/bios.bin</loader>";
    fs::write(world.path("odd.bin"), vec![0u8; 1000]).expect("a file");
    let odd = format!("<loader>{}</loader>", world.path("odd.bin").display());
    for (os, devices, right) in [
        (
            missing,
            disks.as_str(),
            "cannot open the firmware /nosuch/bios.bin",
        ),
        (odd.as_str(), &disks, "a whole number of 64 KiB"),
        ("", "", "neither a <kernel> nor a disk"),
        (
            "<boot dev='network'/>",
            &disks,
            "the boot order has no disk",
        ),
        (
            "<loader type='pflash'>/f</loader>",
            &disks,
            "firmware in flash",
        ),
    ] {
        define(&world, &xml("never", os, devices));
        let (well, said) = vm(&world, &["start", "never"]);
        assert!(!well && said.contains(right), "{right}: {said}");
        assert!(world.ok(&["-q", "domstate", "never"]).contains("shut off"));
    }
    define(&world, &xml("never", "", &disks));
    fs::remove_file(world.path("bios.bin")).expect("it is there");
    let (well, said) = vm(&world, &["start", "never"]);
    assert!(!well && said.contains("apt install seabios"), "{said}");
    assert!(said.contains("never.xml:"), "{said}");
    let (_, checks) = vm(&world, &["host-check"]);
    assert!(checks.contains("no SeaBIOS"), "{checks}");
}

#[test]
fn capabilities_name_the_bios_that_there_is() {
    let world = world();
    let (_, said) = vm(&world, &["domcapabilities"]);
    let bios = format!("<value>{}</value>", world.path("bios.bin").display());
    for part in [bios.as_str(), "<value>bios</value>", "<value>rom</value>"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    fs::remove_file(world.path("bios.bin")).expect("it is there");
    let (_, said) = vm(&world, &["domcapabilities"]);
    assert!(!said.contains("<value>bios</value>"), "{said}");
}
