//! Real domain definitions, from the directory that VM_XML_CORPUS names.
//!
//! The corpus is not part of the project; without it these tests say so and pass.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use virshlike::model::{
    Domain, DumpOptions, Live, Network, complete, complete_network, inactive_xml, live_xml,
    map_to_virtio, network_xml,
};
use virshlike::xml::{Diagnostics, Document};

fn corpus() -> Option<PathBuf> {
    let corpus = std::env::var_os("VM_XML_CORPUS").map(PathBuf::from);
    if corpus.is_none() {
        println!("skipped: VM_XML_CORPUS names no corpus");
    }
    corpus
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "xml"));
    files.sort();
    files
}

fn name(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn define(file: &Path) -> Result<(Document, Domain, Diagnostics), Diagnostics> {
    let text = std::fs::read_to_string(file).expect("a readable file");
    let document = Document::parse(&text, &name(file))?;
    let (domain, warnings) = Domain::parse(&document)?;
    Ok((document, domain, warnings))
}

/// The message without what differs from file to file.
fn reason(message: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    for c in message.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                out.push(c);
            }
            _ if quoted => {}
            c if c.is_ascii_digit() => {
                if !out.ends_with('N') {
                    out.push('N');
                }
            }
            c => out.push(c),
        }
    }
    out
}

fn count(reasons: &mut BTreeMap<String, Vec<String>>, diagnostics: &Diagnostics) {
    for diagnostic in diagnostics {
        assert!(
            diagnostic.line >= 1 && diagnostic.column >= 1,
            "{diagnostic}"
        );
        reasons
            .entry(reason(&diagnostic.message))
            .or_default()
            .push(diagnostic.to_string());
    }
}

fn print(title: &str, reasons: &BTreeMap<String, Vec<String>>) {
    let mut sorted: Vec<_> = reasons.iter().collect();
    sorted.sort_by_key(|(_, messages)| std::cmp::Reverse(messages.len()));
    println!("{title}:");
    for (reason, messages) in sorted {
        println!("{:5}  {reason}\n           {}", messages.len(), messages[0]);
    }
}

#[test]
fn most_real_domains_are_defined() {
    let Some(corpus) = corpus() else { return };
    let files = files(&corpus.join("domain"));
    let mut reasons = BTreeMap::new();
    let mut defined = 0;
    for file in &files {
        match define(file) {
            Ok(_) => defined += 1,
            Err(errors) => count(&mut reasons, &errors),
        }
    }
    print("refusals", &reasons);
    println!("{defined} of {} defined", files.len());
    assert!(
        defined * 100 >= files.len() * 70,
        "{defined} of {}",
        files.len()
    );
}

/// define, dumpxml, define gives the same domain; completion is idempotent and finds room.
#[test]
fn a_dump_defines_the_same_domain() {
    let Some(corpus) = corpus() else { return };
    let mut reasons = BTreeMap::new();
    let mut defined = 0;
    for directory in ["domain", "samples", "samples/virt-install"] {
        for file in files(&corpus.join(directory)) {
            let Ok((mut document, mut domain, _)) = define(&file) else {
                continue;
            };
            if let Err(errors) = complete(&mut document, &mut domain) {
                count(&mut reasons, &errors);
                continue;
            }
            defined += 1;
            let options = DumpOptions {
                security_info: true,
                migratable: false,
            };
            let dump = inactive_xml(&document, options).expect("a dump");
            let mut again = Document::parse(&dump, &name(&file)).expect("well-formed");
            let (mut same, _) = Domain::parse(&again).expect("valid");
            assert_eq!(same, domain, "{}", file.display());
            complete(&mut again, &mut same).expect("complete");
            assert_eq!(
                (again.text(), same),
                (dump, domain.clone()),
                "{}",
                file.display()
            );
            let options = DumpOptions::default();
            let live = live_xml(&document, &domain, &Live::default(), options).expect("a dump");
            let live = Document::parse(&live, &name(&file)).expect("well-formed");
            Domain::parse(&live).unwrap_or_else(|errors| panic!("{}: {errors}", file.display()));
        }
    }
    print("not completed", &reasons);
    println!("{defined} defined");
}

/// What virt-install writes boots: whatever else is not built of it, the firmware of a BIOS domain and
/// its boot order are never the reason of a refusal.
#[test]
fn what_virt_install_writes_has_something_to_boot() {
    let Some(corpus) = corpus() else { return };
    let mut starts = 0;
    for file in files(&corpus.join("samples/virt-install")) {
        let text = std::fs::read_to_string(&file).expect("a readable file");
        // An installation prints two domains: the installer's, and the one that stays.
        for part in text.split_inclusive("</domain>") {
            if part.trim().is_empty() {
                continue;
            }
            let mut document = Document::parse(part.trim(), &name(&file)).expect("well-formed");
            let mapped = map_to_virtio(&mut document).expect("disks have places");
            let (domain, _) = Domain::parse(&document).expect("a definition");
            let refusals = domain.refusals_at_start();
            println!("{}: {mapped:?}\n{refusals}", name(&file));
            starts += u32::from(refusals.is_empty());
            // There is nothing to boot from where the network is all there is.
            let only_network = !part.contains("<disk");
            let uefi = part.contains("firmware=\"efi\"");
            for refusal in &refusals {
                let boot = ["boot", "firmware", "loader"]
                    .iter()
                    .any(|word| refusal.message.contains(word));
                assert!(!boot || uefi || only_network, "{refusal}");
            }
        }
    }
    println!("{starts} start with --map-to-virtio");
}

/// What a person wrote is all there after completion, in the same order.
#[test]
fn completion_only_adds() {
    let Some(corpus) = corpus() else { return };
    for file in files(&corpus.join("samples/virt-install")) {
        let Ok((mut document, mut domain, _)) = define(&file) else {
            continue;
        };
        let before = document.text();
        complete(&mut document, &mut domain).expect("room");
        let after = document.text();
        let mut lines = after.lines();
        for line in before.lines() {
            // The machine's version and indices of controllers are written into their lines.
            let start = line.split(" machine=").next().unwrap_or(line);
            let start = start.trim_end_matches(['/', '>']);
            assert!(
                lines.any(|new| new.starts_with(start)),
                "{}: {line}",
                file.display()
            );
        }
    }
}

/// The fourteen typical mistakes, each with its place and the word that would be right.
#[test]
fn typical_mistakes_name_place_and_right_word() {
    let Some(corpus) = corpus() else { return };
    for (file, place, word) in [
        ("1-unknown-element", "11:3", "<vcpus>"),
        ("2-misspelt-attribute", "37:38", "'cache'"),
        ("3-bad-nic-model", "60:20", "'virtio'"),
        ("4-bad-bus", "39:30", "'virtio'"),
        ("5-mismatched-tag", "62:5", "</interface>"),
        ("6-bad-number", "8:22", "whole number"),
        ("7-bad-unit", "8:17", "'GiB'"),
        ("8-address-collision", "61:7", "0000:00:06.0"),
        ("9-bad-disk-type", "36:17", "'file'"),
        ("10-missing-target", "36:5", "<target dev='vda'"),
        ("11-typo-feature", "16:5", "<acpi>"),
        ("12-typo-source-attr", "38:15", "'file'"),
        ("13-missing-name", "1:1", "<name>"),
        ("14-bad-cpu-mode", "19:14", "'custom'"),
    ] {
        let path = corpus.join(format!("samples/bad-xml/{file}.xml"));
        let errors = define(&path).expect_err(file).to_string();
        println!("{errors}");
        assert!(
            errors.contains(&format!("{file}.xml:{place}: error: ")),
            "{place}: {errors}"
        );
        assert!(errors.contains(word), "{word}: {errors}");
        // The misspelt attribute is there twice.
        let mistakes = if word == "'cache'" { 2 } else { 1 };
        assert_eq!(errors.matches(": error: ").count(), mistakes, "{errors}");
    }
    define(&corpus.join("samples/bad-xml/ok.xml")).expect("the one without a mistake");
}

/// What libvirt refuses and this manager takes, and why that is right here.
const TAKEN: [(&str, &str); 8] = [
    (
        "440fx-ide-address-conflict",
        "our machine has no IDE controller of its own, so its place is free",
    ),
    (
        "440fx-wrong-root",
        "the domain gets our machine, whose root is pcie-root",
    ),
    (
        "cpu-qemu-host-passthrough",
        "type='qemu' runs under KVM, with a warning",
    ),
    ("machine-i8042-on", "valid with a newer QEMU"),
    ("machine-i8042-off", "valid with a newer QEMU"),
    (
        "numatune-memnode-unavailable-strict",
        "which nodes the host has is seen at start, as in libvirt",
    ),
    (
        "numatune-memnode-unavailable-restrictive",
        "which nodes the host has is seen at start, as in libvirt",
    ),
    (
        "usb-controller-default-unavailable-q35",
        "about what a QEMU lacks",
    ),
];

/// What libvirt refuses: refused here too, at define or, where only the start can tell, kept.
#[test]
fn what_libvirt_refuses_does_not_start() {
    let Some(corpus) = corpus() else { return };
    let manifest = std::fs::read_to_string(corpus.join("MANIFEST.tsv")).expect("a manifest");
    let reason_of = |file: &str| {
        manifest
            .lines()
            .find(|line| line.starts_with(&format!("domain-invalid/{file}\t")))
            .and_then(|line| line.split('\t').nth(4))
            .unwrap_or_default()
            .to_string()
    };
    let (mut refused, mut at_start, mut accepted) = (0, 0, Vec::new());
    for file in files(&corpus.join("domain-invalid")) {
        let name = name(&file);
        match define(&file) {
            Err(errors) => {
                refused += 1;
                println!("REFUSED {name}: {}\n  ours: {errors}", reason_of(&name));
            }
            Ok((_, domain, _)) => {
                let ours = domain.refusals_at_start();
                // That nothing is there to boot is not what is wrong with it.
                let taken = TAKEN
                    .iter()
                    .find(|(file, _)| name.ends_with(&format!("--{file}.xml")));
                if ours
                    .iter()
                    .any(|refusal| !refusal.message.contains("nothing to boot"))
                {
                    at_start += 1;
                    println!("KEPT {name}: {}\n  ours: {ours}", reason_of(&name));
                } else if let Some((_, why)) = taken {
                    println!("TAKEN {name}: {}\n  ours: {why}", reason_of(&name));
                } else {
                    accepted.push(format!("{name}: {}", reason_of(&name)));
                }
            }
        }
    }
    println!("{refused} refused, {at_start} refused at start, accepted: {accepted:#?}");
    assert!(accepted.is_empty(), "{accepted:#?}");
}

/// Asks libvirt's own validator about a document; `None` when it is not installed.
fn libvirt_schema(text: &str) -> Option<Result<(), String>> {
    let mut file = tempfile::NamedTempFile::with_suffix(".xml").expect("a file");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("room");
    let output = std::process::Command::new("virt-xml-validate")
        .arg(file.path())
        .arg("domain")
        .output()
        .ok()?;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(output.status.success().then_some(()).ok_or(message))
}

/// The forms of a dump: what is stored, or all of them.
fn dumps(document: &Document, domain: &Domain, all: bool) -> Vec<String> {
    let options = DumpOptions::default();
    let mut dumps = vec![inactive_xml(document, options)];
    if all {
        let live = Live {
            id: 7,
            ttys: [("serial0".to_string(), "/dev/pts/1".to_string())].into(),
            taps: [("net0".to_string(), "vnet3".to_string())].into(),
            sockets: [("channel0".to_string(), "/run/vm/x/channel.y".to_string())].into(),
            connected: [("channel0".to_string(), true)].into(),
            ..Live::default()
        };
        dumps.push(live_xml(document, domain, &live, options));
        let migratable = DumpOptions {
            migratable: true,
            ..options
        };
        dumps.push(inactive_xml(document, migratable));
    }
    dumps
        .into_iter()
        .map(|dump| dump.expect("a dump"))
        .collect()
}

/// libvirt's own schema takes what we store, wherever it took what the person wrote.
#[test]
fn dumps_pass_libvirts_schema() {
    let Some(corpus) = corpus() else { return };
    let (mut passed, mut failed) = (0, Vec::new());
    let domains = files(&corpus.join("domain"));
    let installed = files(&corpus.join("samples/virt-install"));
    for (index, file) in installed.iter().chain(&domains).enumerate() {
        let Ok((mut document, mut domain, _)) = define(file) else {
            continue;
        };
        let written = document.text();
        complete(&mut document, &mut domain).expect("room");
        for dump in dumps(&document, &domain, index % 10 == 0) {
            match libvirt_schema(&dump) {
                None => {
                    println!("skipped: there is no virt-xml-validate");
                    return;
                }
                Some(Ok(())) => passed += 1,
                // Some of libvirt's own tests are newer than its installed schema.
                Some(Err(_)) if libvirt_schema(&written) != Some(Ok(())) => {}
                Some(Err(message)) => failed.push(format!("{}: {message}", name(file))),
            }
        }
    }
    println!("{passed} dumps pass");
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Which of these definitions libvirt defines, asked in one process of its test driver, which needs
/// no daemon; `None` when it is not installed.
fn libvirt_defines(definitions: &[(String, String)]) -> Option<Vec<bool>> {
    use std::io::Write;
    let dir = tempfile::tempdir().expect("a directory");
    let path = |index: usize| dir.path().join(format!("{index}.xml"));
    let mut script = String::new();
    for (index, (name, text)) in definitions.iter().enumerate() {
        std::fs::write(path(index), text).expect("room");
        // Each goes again, so that equal names and UUIDs do not collide.
        script.push_str(&format!("define {}\n", path(index).display()));
        script.push_str(&format!("undefine '{name}' --nvram\n"));
    }
    let mut virsh = std::process::Command::new("virsh")
        .args(["-c", "test:///default"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .ok()?;
    let mut stdin = virsh.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
    let output = virsh.wait_with_output().expect("virsh ends");
    writer.join().expect("a writer").expect("virsh reads");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let defined =
        |index: usize| said.contains(&format!("' defined from {}\n", path(index).display()));
    Some((0..definitions.len()).map(defined).collect())
}

/// libvirt itself defines what we dump for it, wherever it defined what the person wrote.
#[test]
fn libvirt_defines_migratable_dumps() {
    let Some(corpus) = corpus() else { return };
    let (mut written, mut dumped, mut names) = (Vec::new(), Vec::new(), Vec::new());
    let domains = files(&corpus.join("domain"));
    let installed = files(&corpus.join("samples/virt-install"));
    for file in installed.iter().chain(&domains) {
        let Ok((mut document, mut domain, _)) = define(file) else {
            continue;
        };
        let before = document.text();
        complete(&mut document, &mut domain).expect("room");
        let options = DumpOptions {
            migratable: true,
            security_info: true,
        };
        let dump = inactive_xml(&document, options).expect("a dump");
        names.push(name(file));
        written.push((domain.name.clone(), before));
        dumped.push((domain.name, dump));
    }
    let (Some(written), Some(dumped)) = (libvirt_defines(&written), libvirt_defines(&dumped))
    else {
        println!("skipped: there is no virsh");
        return;
    };
    let counts = |list: &[bool]| list.iter().filter(|defined| **defined).count();
    println!(
        "of {} definitions libvirt defines {} as written and {} as dumped",
        names.len(),
        counts(&written),
        counts(&dumped)
    );
    let lost: Vec<&String> = names
        .iter()
        .zip(written.iter().zip(&dumped))
        .filter(|(_, (before, after))| **before && !**after)
        .map(|(name, _)| name)
        .collect();
    assert!(
        counts(&written) > names.len() / 2,
        "virsh answers beside the question"
    );
    assert!(lost.is_empty(), "{lost:#?}");
}

/// Real networks are defined, but those with options that only dnsmasq knows; a dump defines the same
/// network, and what is wrong is refused with its place.
#[test]
fn real_networks_are_defined() {
    let Some(corpus) = corpus() else { return };
    let read = |file: &Path| {
        let text = std::fs::read_to_string(file).expect("a readable file");
        Document::parse(&text, &name(file))
    };
    for file in files(&corpus.join("network")) {
        let mut document = read(&file).expect("well-formed");
        let parsed = Network::parse(&document);
        let raw_options = document.as_str().contains("xmlns:dnsmasq");
        assert_eq!(
            parsed.is_err(),
            raw_options,
            "{}: {parsed:?}",
            file.display()
        );
        let Ok((mut network, _)) = parsed else {
            continue;
        };
        complete_network(&mut document, &mut network, |_| false).expect("complete");
        let dump = network_xml(&document, None).expect("a dump");
        let again = Document::parse(&dump, &name(&file)).expect("well-formed");
        let (same, _) = Network::parse(&again).expect("a dump is a definition");
        assert_eq!(same, network, "{}", file.display());
    }
    for file in files(&corpus.join("network-invalid")) {
        let document = read(&file).expect("well-formed");
        let errors = Network::parse(&document).expect_err("refused");
        assert!(
            errors
                .iter()
                .all(|error| error.line >= 1 && error.column >= 1)
        );
    }
}
