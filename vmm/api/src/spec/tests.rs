use super::*;

fn disk(id: &str, address: &str) -> DeviceSpec {
    DeviceSpec {
        id: id.into(),
        address: Some(address.parse().expect("a PCI address")),
        kind: DeviceKind::VirtioBlk(BlkSpec::new(ImageSpec {
            file: Fd(9),
            path: "/data/a.qcow2".into(),
            format: ImageFormat::Qcow2,
            backing: None,
            data_file: None,
        })),
    }
}

fn spec(devices: Vec<DeviceSpec>) -> MachineSpec {
    MachineSpec {
        version: SPEC_VERSION,
        name: "web01".into(),
        uuid: Uuid::from_u128(7),
        machine: MACHINE_NEWEST.into(),
        cpus: CpuSpec::fixed(2),
        memory: MemorySpec::anonymous(128 << 20),
        boot: BootSpec::Kernel {
            kernel: NamedFd {
                fd: Fd(5),
                name: "vmlinuz".into(),
            },
            initrd: None,
            cmdline: "console=ttyS0".into(),
        },
        end_actions: EndActions::default(),
        rtc_offset: 3600,
        devices,
        origin: Origin::Fresh,
        host: HostSpec {
            kvm: Some(Fd(3)),
            ..HostSpec::default()
        },
    }
}

#[test]
fn a_spec_survives_json() {
    let spec = spec(vec![disk("virtio-disk0", "0000:00:03.0")]);
    assert_eq!(spec.check(), vec![]);
    let json = spec.to_json().expect("plain data");
    assert_eq!(MachineSpec::from_json(&json).expect("its own JSON"), spec);
}

#[test]
fn another_version_is_refused_by_number() {
    let mut other = spec(vec![]);
    other.version = 99;
    let json = other.to_json().expect("plain data");
    let error = MachineSpec::from_json(&json)
        .expect_err("version 99")
        .to_string();
    assert!(error.contains("99"), "{error}");
}

#[test]
fn every_conflict_is_named_at_once() {
    let mut bad = spec(vec![
        disk("a", "0000:00:03.0"),
        disk("b", "0000:00:03.0"),
        disk("c", "0000:00:1f.0"),
        disk("d", "0000:05:00.0"),
        disk("a", "0000:00:04.0"),
    ]);
    bad.memory.size = 5;
    bad.cpus.count = 300;
    bad.machine = "pc".into();
    let paths: Vec<String> = bad
        .check()
        .into_iter()
        .map(|problem| problem.path)
        .collect();
    for path in [
        "machine",
        "memory/size",
        "cpus/count",
        "devices/b",
        "devices/c",
        "devices/d",
        "devices/a",
    ] {
        assert!(
            paths.iter().any(|found| found == path),
            "{path} missing in {paths:?}"
        );
    }
}

/// The saved state of such a device would be taken for that of the machine's own part.
#[test]
fn a_device_is_not_called_as_a_part_of_the_machine() {
    for id in RESERVED_IDS.into_iter().chain(["vcpu0", "vcpu253"]) {
        let problems = spec(vec![disk(id, "0000:00:03.0")]).check();
        let [problem] = &problems[..] else {
            panic!("{id}: {problems:?}");
        };
        assert_eq!(problem.path, format!("devices/{id}"));
        assert!(problem.message.contains("every machine has"), "{problem}");
    }
    for id in ["pci.1", "vcpu", "vcpux1", "serial0", "firmware2"] {
        assert_eq!(spec(vec![disk(id, "0000:00:03.0")]).check(), vec![], "{id}");
    }
}

#[test]
fn pci_addresses_read_what_they_write() {
    for text in ["0000:00:1f.7", "0000:ff:00.0"] {
        let address: PciAddress = text.parse().expect(text);
        assert_eq!(address.to_string(), text);
    }
    for text in ["", "0000:00:20.0", "0000:00:00.8", "x:1.2", "00:03"] {
        assert!(text.parse::<PciAddress>().is_err(), "{text}");
    }
}

/// Whoever leaves the time out, in Rust or in JSON, gives the guest a minute.
#[test]
fn a_guest_gets_time_to_power_down_unless_something_else_is_said() {
    let read: HostSpec = serde_json::from_str(r#"{"kvm":null}"#).expect("defaults");
    assert_eq!(HostSpec::default().powerdown_seconds, 60);
    assert_eq!(read.powerdown_seconds, 60);
}

#[test]
fn a_display_is_checked_and_its_sockets_are_named() {
    let gpu = |width, memory| DeviceSpec {
        id: format!("video{width}"),
        address: PciAddress::new(0, u8::try_from(width % 16 + 1).expect("a slot"), 0),
        kind: DeviceKind::VirtioGpu(GpuSpec {
            width,
            memory,
            ..GpuSpec::default()
        }),
    };
    let mut spec = spec(vec![gpu(1280, 64 << 20), gpu(10, 64 << 20), gpu(4095, 5)]);
    spec.host.vnc = Some(VncSpec {
        listeners: vec![Fd(70), Fd(71)],
        websockets: vec![Fd(72)],
        password: Some("geheim".into()),
        password_until: None,
        share: SharePolicy::Ignore,
    });
    let problems: Vec<String> = spec.check().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("10x800") && problems[1].contains("5 bytes"));
    assert!([70, 71, 72].iter().all(|fd| spec.fds().contains(&Fd(*fd))));
    // What is logged of a spec tells no secrets.
    assert!(!format!("{spec:?}").contains("geheim"));
    let json = spec.to_json().expect("plain data");
    assert_eq!(MachineSpec::from_json(&json).expect("its own JSON"), spec);
}

#[test]
fn firmware_names_its_image_and_an_order() {
    let ordered = |id: &str, address: &str, index| {
        let mut disk = disk(id, address);
        if let DeviceKind::VirtioBlk(blk) = &mut disk.kind {
            blk.boot_index = Some(index);
        }
        disk
    };
    let mut spec = spec(vec![
        ordered("a", "0000:00:03.0", 2),
        ordered("b", "0000:00:04.0", 1),
    ]);
    spec.boot = BootSpec::Firmware(FirmwareSpec {
        rom: NamedFd {
            fd: Fd(40),
            name: "bios-256k.bin".into(),
        },
        menu: Some(3000),
        serial: true,
        reboot_timeout: None,
    });
    assert_eq!(spec.check(), vec![]);
    assert!(spec.fds().contains(&Fd(40)) && spec.boot.cmdline().is_empty());
    let json = spec.to_json().expect("plain data");
    assert_eq!(MachineSpec::from_json(&json).expect("its own JSON"), spec);
    let text = String::from_utf8(json).expect("JSON");
    assert!(text.contains(r#""type": "firmware""#), "{text}");

    spec.devices.push(ordered("c", "0000:00:05.0", 1));
    if let BootSpec::Firmware(firmware) = &mut spec.boot {
        firmware.menu = Some(70_000);
    }
    let problems: Vec<String> = spec.check().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("boot/menu: 70000 ms"));
    assert!(problems[1].contains("devices/c: boot index 1 is taken by b"));
}
