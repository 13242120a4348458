//! What `vm` says of host and hypervisor, against libvirt's own schemas.

mod common;

use common::World;
use std::fs;
use std::process::Command;

#[test]
fn capabilities_pass_libvirts_schemas() {
    if Command::new("virt-xml-validate")
        .arg("--help")
        .output()
        .is_err()
    {
        println!("skipped: virt-xml-validate is not installed");
        return;
    }
    let world = World::new();
    for (verb, schema) in [
        ("capabilities", "capability"),
        ("domcapabilities", "domaincaps"),
    ] {
        let mut text = world.ok(&[verb]);
        // The schema of libvirt 9 does not know what later ones say of interfaces.
        let rules = format!("/usr/share/libvirt/schemas/{schema}.rng");
        let rules = fs::read_to_string(rules).unwrap_or_default();
        let known = rules.contains("backendType");
        if let (false, Some(from), Some(to)) =
            (known, text.find("<interface "), text.find("</interface>"))
        {
            text.replace_range(from..to + "</interface>".len(), "");
        }
        let path = world.path(&format!("{verb}.xml"));
        fs::write(&path, &text).expect("a file");
        let output = Command::new("virt-xml-validate")
            .arg(&path)
            .arg(schema)
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "{}{}\n{text}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn a_host_without_kvm_is_described_as_far_as_it_goes() {
    let world = World::new();
    let mut command = world.command("vm");
    let output = command
        .env("VM_KVM_DEVICE", "/nonexistent/kvm")
        .arg("capabilities")
        .output()
        .expect("vm runs");
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("<cells num="), "{text}");
    assert!(!text.contains("<model>"), "{text}");
}
