use super::*;
use crate::xml::Document;

const SMALL: &str = "<domain type='kvm'>
  <!-- the demo -->
  <name>demo</name>
  <memory unit='MiB'>256</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/boot/vmlinuz</kernel>
    <cmdline>console=ttyS0</cmdline>
  </os>
  <devices>
    <disk type='file'>
      <source file='/data/root.qcow2'/> <!-- made yesterday -->
      <driver type='qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <console type='pty'/>
    <rng model='virtio'>
      <backend model='random'/>
    </rng>
  </devices>
</domain>
";

fn document(text: &str) -> Document {
    Document::parse(text, "t.xml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn domain(text: &str) -> Domain {
    Domain::parse(&document(text))
        .unwrap_or_else(|errors| panic!("{errors}"))
        .0
}

fn refusal(text: &str) -> String {
    Domain::parse(&document(text))
        .expect_err("a refusal")
        .to_string()
}

fn completed(text: &str) -> (Document, Domain) {
    let mut document = document(text);
    let mut domain = domain(text);
    complete(&mut document, &mut domain).unwrap_or_else(|errors| panic!("{errors}"));
    (document, domain)
}

#[test]
fn a_small_definition_is_read() {
    let (domain, warnings) = Domain::parse(&document(SMALL)).expect("valid");
    assert!(warnings.is_empty(), "{warnings}");
    assert!(
        domain.refusals_at_start().is_empty(),
        "{}",
        domain.refusals_at_start()
    );
    assert_eq!(domain.name, "demo");
    assert_eq!(domain.memory.size_kib, 256 << 10);
    assert_eq!((domain.vcpus.current, domain.vcpus.max), (2, 2));
    assert_eq!(domain.os.kernel.as_deref(), Some("/boot/vmlinuz"));
    assert_eq!(domain.disks[0].alias, "virtio-disk0");
    assert_eq!(
        domain.disks[0].source,
        Some(DiskSource::File("/data/root.qcow2".into()))
    );
    assert_eq!(domain.serials[0].alias, "serial0");
    assert_eq!(domain.rngs[0].source, "/dev/urandom");
}

#[test]
fn memory_is_exact_or_refused_with_the_nearest_values() {
    let text = SMALL.replace("<memory unit='MiB'>256<", "<memory>1048577<");
    let message = refusal(&text);
    assert!(message.starts_with("t.xml:4:11: error:"), "{message}");
    assert!(message.contains("1048576 KiB and 1048580 KiB"), "{message}");
}

#[test]
fn a_balloon_leaves_a_guest_its_first_mib() {
    let memory = "<memory unit='MiB'>256</memory>";
    let with = |current: &str| {
        SMALL.replace(
            memory,
            &format!("{memory}<currentMemory>{current}</currentMemory>"),
        )
    };
    let message = refusal(&with("1020"));
    assert!(
        message.starts_with("t.xml:4:49: error: <currentMemory> of 1020 KiB"),
        "{message}"
    );
    assert_eq!(domain(&with("1024")).memory.current_kib, 1024);
}

#[test]
fn every_mistake_is_told_at_once_with_the_right_word() {
    let text = SMALL
        .replace(
            "<vcpu>2</vcpu>",
            "<vcpus_typo>4</vcpus_typo><vcpu current='5'>2</vcpu>",
        )
        .replace(
            "<driver type='qcow2'/>",
            "<driver type='qcow2' cahce='none'/>",
        )
        .replace("bus='virtio'", "bus='virtoi'");
    let message = refusal(&text);
    for (place, words) in [
        ("5:3", "did you mean <vcpus> or <vcpu>?"),
        ("5:44", "more than the 2"),
        ("14:28", "did you mean 'cache'"),
        ("15:30", "did you mean 'virtio'"),
    ] {
        assert!(
            message.contains(&format!("t.xml:{place}: error: ")),
            "{place}: {message}"
        );
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn who_wants_no_balloon_gets_none_and_a_full_machine_goes_without() {
    let none = SMALL.replace(
        "  </devices>",
        "    <memballoon model='none'/>\n  </devices>",
    );
    let (document, domain) = completed(&none);
    assert!(!domain.memballoon.expect("said").present);
    assert_eq!(document.text().matches("memballoon").count(), 1);
    let disks: String = (0..29)
        .map(|n| {
            let name = char::from(b'a' + n % 26);
            let more = if n < 26 { "" } else { "a" };
            format!(
                "<disk type='file'><source file='/d{n}'/><target dev='vd{more}{name}'/></disk>\n"
            )
        })
        .collect();
    for (more, there) in [
        ("", true),
        (
            "<rng model='virtio'><backend model='random'/></rng>\n",
            false,
        ),
    ] {
        let start = "<domain type='kvm'><name>a</name><memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type>\
                     <kernel>/k</kernel></os><devices>\n";
        let (_, domain) = completed(&format!("{start}{disks}{more}</devices></domain>"));
        assert_eq!(domain.memballoon.is_some(), there);
    }
}

#[test]
fn completion_adds_lines_and_touches_no_other() {
    let (document, domain) = completed(SMALL);
    let uuid = domain.uuid.expect("a UUID");
    assert_eq!(domain.os.machine.as_deref(), Some("vm-q35-1"));
    let address = |slot: u8| {
        format!(
            "      <address type='pci' domain='0x0000' bus='0x00' slot='{slot:#04x}' function='0x0'/>\n"
        )
    };
    let expected = SMALL
        .replace("</name>\n", &format!("</name>\n  <uuid>{uuid}</uuid>\n"))
        .replace("machine='q35'", "machine='vm-q35-1'")
        .replace(
            "bus='virtio'/>\n",
            &format!("bus='virtio'/>\n{}", address(1)),
        )
        .replace(
            "model='random'/>\n",
            &format!("model='random'/>\n{}", address(2)),
        )
        .replace(
            "  </devices>\n",
            &format!(
                "    <memballoon model='virtio'>\n{}    </memballoon>\n  </devices>\n",
                address(3)
            ),
        );
    assert_eq!(document.text(), expected);

    let mut again = document.clone();
    let mut same = domain.clone();
    complete(&mut again, &mut same).expect("complete");
    assert_eq!((again.text(), same), (document.text(), domain));
}

fn with_devices(devices: &str) -> String {
    let start = SMALL.find("<devices>").expect("devices");
    let uuid = "  <uuid>91b72d56-7f74-4bd8-85d0-29f821a332e4</uuid>\n";
    let head = SMALL[..start].replace("  <memory", &format!("{uuid}  <memory"));
    format!("{head}<devices>\n{devices}\n  </devices>\n</domain>\n")
}

#[test]
fn devices_go_behind_free_root_ports() {
    let text = with_devices(
        "    <controller type='pci' model='pcie-root'/>
    <controller type='pci' model='pcie-root-port'/>
    <controller type='pci' model='pcie-root-port' index='7'><target port='0x55'/></controller>
    <rng model='virtio'><backend model='random'/></rng>
    <disk type='file' device='disk'><source file='/a'/><target dev='vda'/></disk>
    <disk type='file' device='disk'><source file='/b'/><target dev='vdb'/></disk>",
    );
    let (_, domain) = completed(&text);
    let ports: Vec<_> = domain
        .controllers
        .iter()
        .map(|c| (c.index, c.chassis, c.port, c.address.map(|a| a.to_string())))
        .collect();
    assert_eq!(
        ports,
        [
            (Some(0), None, None, None),
            (Some(1), Some(1), Some(8), Some("0000:00:01.0".into())),
            (Some(7), Some(7), Some(0x55), Some("0000:00:02.0".into())),
        ]
    );
    let place = |address: Option<vmm_api::spec::PciAddress>| address.map(|a| a.to_string());
    assert_eq!(
        place(domain.rngs[0].address).as_deref(),
        Some("0000:01:00.0")
    );
    assert_eq!(
        place(domain.disks[0].address).as_deref(),
        Some("0000:07:00.0")
    );
    assert_eq!(
        place(domain.disks[1].address).as_deref(),
        Some("0000:00:03.0")
    );
}

#[test]
fn many_root_ports_share_slots() {
    let port = "<controller type='pci' model='pcie-root-port'/>\n";
    let (document, domain) = completed(&with_devices(&port.repeat(31)));
    let addresses: std::collections::BTreeSet<_> = domain
        .controllers
        .iter()
        .map(|c| c.address.expect("an address"))
        .collect();
    assert_eq!(addresses.len(), 31);
    assert_eq!(document.text().matches("multifunction='on'").count(), 4);

    let disk =
        |n: usize| format!("<rng model='virtio'><backend model='random'/><!--{n}--></rng>\n");
    let many: String = (0..31).map(disk).collect();
    let text = with_devices(&many);
    let mut document = super::tests::document(&text);
    let mut domain = super::tests::domain(&text);
    let error = complete(&mut document, &mut domain)
        .expect_err("no room")
        .to_string();
    assert!(error.contains("no free PCI slot"), "{error}");
    assert_eq!(document.text(), text);
}

#[test]
fn macs_follow_from_the_uuid_and_never_collide() {
    let text = with_devices(
        "    <interface type='bridge'>
      <source bridge='br0'/>
    </interface>
    <interface type='user'/>",
    );
    let (document, domain) = completed(&text);
    let (_, again) = completed(&text);
    let macs: Vec<_> = domain
        .interfaces
        .iter()
        .map(|i| i.mac.expect("a MAC"))
        .collect();
    assert_ne!(macs[0], macs[1]);
    assert_eq!(macs[0].0[..3], [0x52, 0x54, 0x00]);
    assert_eq!(domain.interfaces[0].mac, again.interfaces[0].mac);
    let line = format!(
        "    <interface type='bridge'>\n      <mac address='{}'/>\n",
        macs[0]
    );
    assert!(document.text().contains(&line), "{}", document.text());
}

#[test]
fn what_must_be_there_once_is() {
    for (devices, place, words) in [
        (
            "<disk><source file='/a'/><target dev='vda'/></disk>\n<disk><source file='/b'/><target dev='vda'/></disk>",
            "14:1",
            "taken by the disk in line 13",
        ),
        (
            "<rng model='virtio'><backend model='random'/><alias name='a'/></rng>\n<disk><source file='/b'/><target dev='vda'/><alias name='a'/></disk>",
            "14:58",
            "alias 'a'",
        ),
        (
            "<rng model='virtio'><backend model='random'/><address type='pci' slot='3'/></rng>\n<disk><source file='/b'/><target dev='vda'/><address type='pci' slot='3'/></disk>",
            "14:45",
            "taken by <rng> in line 13",
        ),
        (
            "<rng model='virtio'><backend model='random'/><address type='pci' slot='32'/></rng>",
            "13:72",
            "'32' is no value",
        ),
        (
            "<serial type='pty'><target port='4'/></serial>",
            "13:34",
            "COM4",
        ),
        (
            "<disk><source fiel='/a'/><target dev='vda'/></disk>",
            "13:15",
            "did you mean 'file'",
        ),
        ("<disk><source file='/a'/></disk>", "13:1", "no <target>"),
        (
            "<disk><source file='a'/><target dev='vda'/></disk>",
            "13:21",
            "absolute",
        ),
        ("<disc/>", "13:1", "did you mean <disk>"),
        ("<vcpu>1</vcpu>", "13:1", "belongs into <domain>"),
        (
            "<disk>text<source file='/a'/><target dev='vda'/></disk>",
            "13:7",
            "takes no text",
        ),
        (
            "<emulator>/a</emulator>\n<emulator>/b</emulator>",
            "14:1",
            "twice",
        ),
    ] {
        let message = refusal(&with_devices(devices));
        assert!(
            message.contains(&format!("t.xml:{place}: error: ")),
            "{place}: {message}"
        );
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn raw_qemu_arguments_are_refused_by_name_and_foreign_elements_are_kept() {
    let qemu = "xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'";
    let text = SMALL
        .replace("<domain ", &format!("<domain {qemu} "))
        .replace("</domain>", "  <q:commandline/>\n</domain>");
    let message = refusal(&text);
    assert!(
        message.contains("<q:commandline> is refused: raw QEMU arguments"),
        "{message}"
    );

    let text = SMALL.replace(
        "</domain>",
        "  <x:y xmlns:x='urn:x' a='1'><b/></x:y>\n</domain>",
    );
    let (_, warnings) = Domain::parse(&document(&text)).expect("valid");
    assert!(warnings.to_string().contains("urn:x"), "{warnings}");
    let text = SMALL.replace(
        "</domain>",
        "  <metadata><any x='1'>thing</any></metadata>\n</domain>",
    );
    let (_, warnings) = Domain::parse(&document(&text)).expect("valid");
    assert!(warnings.is_empty(), "{warnings}");
}

#[test]
fn what_is_not_built_is_kept_and_refused_at_start_by_name() {
    let text = with_devices(
        "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>
<disk><source file='/b'/><target dev='sda' bus='sata'/></disk>
<sound model='ich9'/>",
    );
    let (domain, warnings) = Domain::parse(&document(&text)).expect("valid");
    let refusals = domain.refusals_at_start().to_string();
    assert!(
        refusals.contains("t.xml:13:1: error: <hostdev>: "),
        "{refusals}"
    );
    assert!(refusals.contains("bus='sata' of <target>: "), "{refusals}");
    assert_eq!(domain.refusals_at_start().len(), 2, "{refusals}");
    assert_eq!(warnings.len(), 1, "{warnings}");
    assert!(
        warnings
            .to_string()
            .contains("t.xml:15:1: warning: <sound> has no effect")
    );
}

#[test]
fn names_that_would_break_files_are_refused() {
    let long = "x".repeat(300);
    for name in ["a/b", "", ".", ".hidden", "a\u{7}b", " a", long.as_str()] {
        let text = SMALL.replace("<name>demo<", &format!("<name>{name}<"));
        let Ok(document) = Document::parse(&text, "t.xml") else {
            continue;
        };
        let message = Domain::parse(&document).expect_err("a refusal").to_string();
        assert!(message.contains("name"), "{name}: {message}");
    }
}

#[test]
fn emulation_and_nobodys_cpu_are_warned_about() {
    let text = SMALL.replace("type='kvm'", "type='qemu'").replace(
        "  <os>",
        "  <cpu mode='custom' match='exact'><model fallback='allow'>kvm64</model></cpu>\n  <os>",
    );
    let (domain, warnings) = Domain::parse(&document(&text)).expect("valid");
    assert_eq!(domain.cpu.mode, CpuMode::Baseline);
    let warnings = warnings.to_string();
    assert!(warnings.contains("type='qemu' of <domain>"), "{warnings}");
    assert!(warnings.contains("kvm64"), "{warnings}");
}

#[test]
fn secrets_are_hidden_and_machines_translated() {
    let text = with_devices(
        "<graphics type='vnc' port='-1' passwd='geheim'/>\n<controller type='pci' model='pci-root'/>",
    );
    let (document, _) = completed(&text);
    let shown = inactive_xml(&document, DumpOptions::default()).expect("a dump");
    assert!(!shown.contains("geheim") && shown.contains("<graphics type='vnc' port='-1'/>"));
    let all = DumpOptions {
        security_info: true,
        migratable: false,
    };
    assert_eq!(
        inactive_xml(&document, all).expect("a dump"),
        document.text()
    );
    let migratable = DumpOptions {
        security_info: false,
        migratable: true,
    };
    let shown = inactive_xml(&document, migratable).expect("a dump");
    assert!(
        shown.contains("machine='q35'") && shown.contains("'pcie-root'"),
        "{shown}"
    );
}

#[test]
fn a_running_domain_shows_its_number_aliases_and_terminals() {
    let (document, domain) = completed(SMALL);
    let live = Live {
        id: 3,
        ttys: [("serial0".to_string(), "/dev/pts/4".to_string())].into(),
        ..Live::default()
    };
    let shown = live_xml(&document, &domain, &live, DumpOptions::default()).expect("a dump");
    for part in [
        "<domain type='kvm' id='3'>",
        "<console type='pty' tty='/dev/pts/4'>\n      <source path='/dev/pts/4'/>\n      <alias name='serial0'/>\n    </console>",
        "<alias name='virtio-disk0'/>\n      <address ",
        "<alias name='rng0'/>",
        "<!-- made yesterday -->",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    let shown = Document::parse(&shown, "live").expect("well-formed");
    Domain::parse(&shown).expect("a live dump is a definition");
}

#[test]
fn other_disks_and_cards_become_virtio_when_asked() {
    let text = with_devices(
        "    <disk><source file='/a'/><target dev='sda' bus='sata'/><address type='drive' unit='0'/></disk>
    <disk><source file='/b'/><target dev='vda' bus='virtio'/></disk>
    <disk device='cdrom'><target dev='hdc' bus='ide'/></disk>
    <interface type='user'><model type='e1000'/></interface>
    <interface type='user'/>",
    );
    let mut document = document(&text);
    let done = map_to_virtio(&mut document).expect("virtio");
    assert_eq!(done.len(), 3, "{done:?}");
    assert!(
        done[0].contains("'sda' becomes the virtio disk 'vdb'"),
        "{done:?}"
    );
    let (domain, _) = Domain::parse(&document).expect("valid");
    let disks: Vec<_> = domain
        .disks
        .iter()
        .map(|disk| (disk.target.as_str(), disk.bus))
        .collect();
    let virtio = DiskBus::Virtio;
    assert_eq!(disks, [("vdb", virtio), ("vda", virtio)]);
    assert!(done[1].contains("empty drive 'hdc'"), "{done:?}");
    assert!(
        domain
            .interfaces
            .iter()
            .all(|interface| interface.model == "virtio")
    );
    assert!(
        !domain
            .refusals_at_start()
            .to_string()
            .contains("map-to-virtio")
    );
    assert_eq!(
        map_to_virtio(&mut document).expect("virtio"),
        Vec::<String>::new()
    );
}
