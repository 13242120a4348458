//! `docs/json.md`: what every listing and fact looks like with `--format json`, as this build prints
//! it. The shapes are taken from the real command in a store of the test's own, so the page cannot
//! tell what is not so. `UPDATE_DOCS=1` writes it.

mod common;

use common::World;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use virshlike::cli::registry::ENTRIES;

const HEAD: &str = "# JSON output

<!-- Written by virshlike/tests/json.rs (UPDATE_DOCS=1); do not edit by hand. -->

With `--format json` every listing and every fact is printed as JSON on standard output, without
sentences; errors go to standard error as `{\"error\": {\"kind\", \"message\", \"causes\", \"hints\"}}` on one
line, mistakes on the command line too, and warnings and hints as `{\"warning\": text}` and
`{\"hint\": text}`. `vm event` and `vm net-event` print one object per line; `--xpath` of `vm dumpxml` and
`vm net-dumpxml` prints a list of what it finds, elements as XML and others as what they say.

This is version 1. Within a version fields are only added: a program ignores those that it does not
know. A field that may be absent is `null` or left out. Numbers of bytes, nanoseconds and KiB are whole
numbers; a name ends in its unit where it is not plain (`_ns`, `_kib`, `_bytes_per_second`).

Types below: `text`, `number`, `yes/no`, `null`; `[...]` is a list of such. What is shown is what a
running domain `web01` with a disk and a network card has.
";

/// The commands whose answers are facts, in the page's order.
const COMMANDS: &[&[&str]] = &[
    &["list", "--all", "--title"],
    &["dominfo", "web01"],
    &["domstate", "web01"],
    &["domid", "web01"],
    &["domuuid", "web01"],
    &["domname", "web01"],
    &["domblklist", "web01"],
    &["domblkinfo", "web01", "vda"],
    &["domiflist", "web01", "--inactive"],
    &["domif-getlink", "web01", "52:54:00:00:00:01"],
    &["domstats", "web01", "--state", "--balloon", "--cpu-total"],
    &["dommemstat", "web01"],
    &["domcontrol", "web01"],
    &["domjobinfo", "web01"],
    &["domblkerror", "web01"],
    &["vcpucount", "web01"],
    &["ttyconsole", "web01"],
    &["desc", "web01"],
    &["metadata", "web01", "urn:x"],
    &["diff", "web01"],
    &["history", "web01"],
    &["vcpuinfo", "web01"],
    &["vcpupin", "web01"],
    &["emulatorpin", "web01"],
    &["cpu-stats", "web01"],
    &["iothreadinfo", "web01", "--config"],
    &["blkdeviotune", "web01", "vda"],
    &["schedinfo", "web01", "--config"],
    &["memtune", "web01", "--config"],
    &["blkiotune", "web01", "--config"],
    &["domtime", "web01"],
    &["domhostname", "web01"],
    &["domifaddr", "web01", "--source", "agent"],
    &["domfsinfo", "web01"],
    &["guestinfo", "web01"],
    &["guestvcpus", "web01"],
    &["domblkinfo", "web01", "--all"],
    &["top"],
    &["metrics"],
    &["event", "--list"],
    &["net-event", "--list"],
    &["net-list", "--all"],
    &["net-info", "default"],
    &["net-name", "default"],
    &["net-uuid", "default"],
    &["version"],
    &["uri"],
    &["hostname"],
    &["nodeinfo"],
    &["nodecpustats"],
    &["nodememstats"],
    &["freecell"],
    &["freepages", "--all"],
    &["maxvcpus"],
    &["nodecpumap"],
    &["cpu-models", "x86_64"],
    &["cpu-compare", "cpu.xml"],
    &["hypervisor-cpu-compare", "cpu.xml"],
    &["host-check"],
    &["autostart-all", "--dry-run"],
    &["autostart-all"],
    &["shutdown-all"],
];

/// Verbs that print XML, with and without `--format json`.
const XML: &[&str] = &[
    "capabilities",
    "cpu-baseline",
    "domcapabilities",
    "dumpxml",
    "hypervisor-cpu-baseline",
    "net-dumpxml",
];

/// Verbs that do something and say so in a sentence: nothing with `--format json`.
const DEEDS: &[&str] = &[
    "autostart",
    "create",
    "define",
    "destroy",
    "domfsfreeze",
    "domfsthaw",
    "domfstrim",
    "domif-reconnect",
    "domjobabort",
    "domrename",
    "dump",
    "edit",
    "iothreadpin",
    "net-autostart",
    "net-create",
    "net-define",
    "net-destroy",
    "net-edit",
    "net-start",
    "net-undefine",
    "net-update",
    "reboot",
    "reset",
    "resume",
    "screenshot",
    "send-key",
    "set-user-password",
    "setmaxmem",
    "setmem",
    "shutdown",
    "start",
    "suspend",
    "undefine",
];

/// What is neither: text of a guest or for people, and what has a form of its own.
const OTHERS: &[(&str, &str)] = &[
    ("completion", "a script for a shell"),
    ("console", "what a guest writes"),
    (
        "domblkstat",
        "figures of a running disk, as `domstats --block` tells them",
    ),
    (
        "domdisplay",
        "the address of a display, as viewers take it; with `--all` a list of them",
    ),
    (
        "domifstat",
        "figures of a running card, as `domstats --interface` tells them",
    ),
    ("help", "text for people"),
    (
        "image",
        "with qemu-img's field names: `vm image info --output json`",
    ),
    ("logs", "what a guest or its process wrote"),
    (
        "net-dhcp-leases",
        "an active network's leases: expiry, mac, protocol, address, prefix, hostname, client_id",
    ),
    ("qemu-agent-command", "the agent's own JSON"),
    ("shell", "what the commands in it print"),
    (
        "vncdisplay",
        "address, port, websocket (its port for WebSockets), display and socket of a display",
    ),
];

/// The shape of a value, indented.
fn shape(value: &Value, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth + 1);
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(_) => out.push_str("yes/no"),
        Value::Number(_) => out.push_str("number"),
        Value::String(_) => out.push_str("text"),
        Value::Array(list) => {
            out.push('[');
            match list.first() {
                Some(first) => shape(first, depth, out),
                None => out.push_str("..."),
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push_str("{\n");
            for (name, value) in fields {
                let _ = write!(out, "{pad}{name}: ");
                shape(value, depth + 1, out);
                out.push('\n');
            }
            let _ = write!(out, "{}}}", "  ".repeat(depth));
        }
    }
}

fn world() -> World {
    let world = World::new();
    std::fs::write(world.path("a.img"), vec![0; 1 << 20]).unwrap();
    std::fs::write(
        world.path("cpu.xml"),
        "<cpu><model>Haswell-noTSX-IBRS</model></cpu>",
    )
    .unwrap();
    let agent = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>";
    let facts = "<title>A web server</title><description>d</description>\
                 <metadata><x:a xmlns:x='urn:x'/></metadata>";
    let devices = format!(
        "<devices><disk type='file'><driver type='raw'/><source file='{}'/><target dev='vda'/></disk>",
        world.path("a.img").display()
    );
    let xml = world
        .xml("web01", "")
        .replace("</name>", &format!("</name>{facts}"))
        .replace("<devices>", &devices)
        .replace("</devices>", agent);
    std::fs::write(world.path("web01.xml"), &xml).unwrap();
    world.ok(&["define", "web01.xml"]);
    world.ok(&["start", "web01"]);
    // The card is in the next start's definition only: making a tap takes rights.
    let card = "<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/></interface></devices>";
    let xml = world.ok(&["-q", "dumpxml", "web01", "--inactive"]);
    std::fs::write(world.path("web01.xml"), xml.replace("</devices>", card)).unwrap();
    world.ok(&["define", "web01.xml"]);
    world.ok(&["autostart", "web01"]);
    let network = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/default-network.xml");
    world.ok(&["net-define", network]);
    world
}

/// What `vm daemon` prints of a change.
fn daemon_words(world: &World) -> String {
    let path = world.write_xml("db01", "");
    world.ok(&["define", path.to_str().unwrap()]);
    let ready = UnixDatagram::bind(world.path("ready")).unwrap();
    ready
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut command = world.command("vm");
    command.args(["daemon", "--format", "json"]);
    command.env("NOTIFY_SOCKET", world.path("ready"));
    let mut daemon = command.stdout(Stdio::piped()).spawn().unwrap();
    ready.recv(&mut [0; 64]).expect("it is ready");
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let started = world.vm(&["start", "db01"]).status.success();
    let line = started.then(|| lines.next().unwrap().unwrap());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let line = line.expect("db01 starts");
    let mut shown = String::new();
    shape(&serde_json::from_str(&line).unwrap(), 0, &mut shown);
    format!("\n## vm daemon\n\nOne object per line and change.\n\n```text\n{shown}\n```\n")
}

/// What the other verbs print.
fn rest() -> String {
    let mut page = String::from("\n## The other verbs\n\n");
    let _ = writeln!(
        page,
        "- XML with or without `--format json`: {}.",
        XML.join(", ")
    );
    let _ = writeln!(page, "- Nothing, when it was done: {}.", DEEDS.join(", "));
    for (verb, what) in OTHERS {
        let _ = writeln!(page, "- {verb}: {what}.");
    }
    page
}

#[test]
fn every_verb_is_on_the_page() {
    let named: BTreeSet<&str> = COMMANDS
        .iter()
        .filter_map(|words| words.first())
        .chain(XML)
        .chain(DEEDS)
        .copied()
        .chain(OTHERS.iter().map(|(verb, _)| *verb))
        .chain(["daemon"])
        .collect();
    let built: BTreeSet<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    assert_eq!(named, built);
}

#[test]
fn the_page_shows_what_is_printed() {
    let world = world();
    let mut page = HEAD.to_string();
    for command in COMMANDS {
        let mut words = command.to_vec();
        if command.first() == Some(&"domif-getlink") {
            words.push("--config");
        }
        words.extend(["--format", "json"]);
        // What a host lacks makes that one fail, and differs from host to host.
        let checks = command.first() == Some(&"host-check");
        let text = match checks {
            true => String::from_utf8(world.vm(&words).stdout).unwrap(),
            false => world.ok(&words),
        };
        let mut value: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{command:?} prints no JSON: {error}: {text}"));
        if checks && let Some(items) = value.as_array_mut() {
            items.retain(|item| item["item"] == "store");
        }
        // Only there where the host keeps it.
        for entry in value.as_array_mut().into_iter().flatten() {
            entry.as_object_mut().map(|entry| entry.remove("login_uid"));
        }
        let mut shown = String::new();
        shape(&value, 0, &mut shown);
        let _ = write!(
            page,
            "\n## vm {}\n\n```text\n{shown}\n```\n",
            command.join(" ")
        );
    }
    page.push_str(&daemon_words(&world));
    page.push_str(&rest());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        known == page,
        "docs/json.md is not what is printed (UPDATE_DOCS=1 writes it):\n{page}"
    );
}
