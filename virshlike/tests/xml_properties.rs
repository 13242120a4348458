//! Mutated definitions: whatever is done to a valid one, reading it never panics, every refusal
//! has a place inside the document, and what is accepted stays what it is.

use proptest::prelude::*;
use virshlike::model::{Domain, Network};
use virshlike::xml::Document;

/// A network with one of everything.
const NETWORK: &str = include_str!("../../tests/fuzz/src/network.xml");

const VALID: &str = "<?xml version='1.0' encoding='UTF-8'?>
<!-- by hand -->
<domain type='kvm' xmlns:x='urn:x'>
  <name>web01</name>
  <uuid>91b72d56-7f74-4bd8-85d0-29f821a332e4</uuid>
  <metadata><x:any a='1'>kept &amp; &#x41;<![CDATA[<raw>]]></x:any></metadata>
  <memory unit='MiB'>512</memory>
  <currentMemory unit='KiB'>524288</currentMemory>
  <vcpu placement='static' current='1'>4</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <kernel>/boot/vmlinuz</kernel>
    <cmdline>root=/dev/vda1 quiet</cmdline>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='host-passthrough' check='none' migratable='on'>
    <topology sockets='1' dies='1' cores='2' threads='2'/>
  </cpu>
  <clock offset='utc'>
    <timer name='rtc' tickpolicy='catchup'/>
    <timer name='hpet' present='no'/>
  </clock>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/data/web01.qcow2'/>
      <backingStore type='file'>
        <format type='raw'/>
        <source file='/data/base.raw'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <serial>ABC123</serial>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </disk>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'>
      <target chassis='1' port='0x8'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
    </controller>
    <controller type='pci' model='pcie-root-port'/>
    <interface type='bridge'>
      <mac address='52:54:00:12:34:56'/>
      <source bridge='br0'/>
      <model type='virtio'/>
    </interface>
    <serial type='pty'>
      <target type='isa-serial' port='0'/>
    </serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <graphics type='vnc' port='-1' autoport='yes' passwd='geheim'/>
    <memballoon model='virtio'/>
    <rng model='virtio'>
      <rate bytes='1024' period='1000'/>
      <backend model='random'>/dev/urandom</backend>
    </rng>
  </devices>
</domain>
";

/// Words that are right somewhere, or nowhere.
const WORDS: &[&str] = &[
    "yes",
    "no",
    "on",
    "off",
    "0",
    "1",
    "-1",
    "99999999999999999999",
    "0x",
    "0x1f",
    "virtio",
    "virtoi",
    "file",
    "raw",
    "qcow2",
    "kvm",
    "qemu",
    "<disk/>",
    "<",
    ">",
    "&",
    "&lt;",
    "'",
    "\"",
    "/>",
    "</domain>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?x",
    "\u{0}",
    "\u{fffe}",
    "ä",
    "\t",
    "\r\n",
    "xmlns='urn:x'",
    "a='1' a='2'",
    "<address type='pci'/>",
    "<alias name='a'/>",
];

/// One change: where (as a share of the length), how much is taken out, what is put in.
fn change() -> impl Strategy<Value = (f64, usize, String)> {
    let word = prop_oneof![
        4 => proptest::sample::select(WORDS).prop_map(str::to_string),
        1 => "[ -~]{0,8}",
        1 => Just(String::new()),
    ];
    (0.0..1.0f64, 0..24usize, word)
}

fn boundary(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn mutate(text: &str, changes: &[(f64, usize, String)]) -> String {
    let mut text = text.to_string();
    for (share, taken, word) in changes {
        let at = boundary(&text, (text.len() as f64 * share) as usize);
        let end = boundary(&text, at + taken).max(at);
        text.replace_range(at..end, word);
    }
    text
}

/// Swaps whole lines about, which keeps more documents well-formed than changes of letters.
fn shuffle(text: &str, lines: &[(usize, usize)]) -> String {
    let mut all: Vec<&str> = text.lines().collect();
    for (from, to) in lines {
        let line = all[from % all.len()];
        all.insert(to % all.len(), line);
    }
    all.join("\n")
}

/// Reads it, and says in a panic what is wrong with the answer.
fn check(text: &str) {
    virshlike::fuzz::domain_xml(text.as_bytes());
}

/// The same of a network.
fn check_network(text: &str) {
    virshlike::fuzz::network_xml_text(text.as_bytes());
}

/// A valid document, and what reads such.
fn valid() -> impl Strategy<Value = (&'static str, fn(&str))> {
    prop_oneof![
        Just((VALID, check as fn(&str))),
        Just((NETWORK, check_network as fn(&str))),
    ]
}

/// Another word in one pair of quotes.
fn revalued(text: &str, index: usize, word: &str) -> String {
    let quoted: Vec<_> = text.match_indices('\'').collect();
    let pair = index * 2 % (quoted.len() - 1);
    format!(
        "{}{word}{}",
        &text[..=quoted[pair].0],
        &text[quoted[pair + 1].0..]
    )
}

/// Documents as big as they may be, made to be slow: this ends, and soon enough for a person to
/// wait for it.
#[test]
fn big_documents_are_read_in_linear_time() {
    let head = "<domain type='kvm'><name>a</name><memory unit='GiB'>1</memory><os><type>hvm</type></os><devices>";
    let fill = |part: &dyn Fn(usize) -> String, count: usize| {
        let mut text = head.to_string();
        text.extend((0..count).map(part));
        text + "</devices></domain>"
    };
    let name = |mut index: usize| {
        let mut letters = String::new();
        for _ in 0..4 {
            letters.push(char::from(b'a' + (index % 26) as u8));
            index /= 26;
        }
        letters
    };
    for text in [
        fill(&|index| format!("<unknown{index}/>"), 12_000),
        fill(&|_| "<sound ü='1'/>".to_string(), 12_000),
        fill(
            &|_| "<rng model='virtio'><backend model='random'/></rng>".to_string(),
            5_000,
        ),
        fill(
            &|index| {
                format!(
                    "<disk><source file='/ä'/><target dev='vd{}'/></disk>",
                    name(index)
                )
            },
            5_000,
        ),
        fill(
            &|_| "<controller type='pci' model='pcie-root-port'/>".to_string(),
            12_000,
        ),
        fill(&|_| format!("<{}/>", "ö".repeat(2000)), 300),
        format!(
            "<domain type='kvm'><vcpu cpuset='{}0'>1</vcpu></domain>",
            "0-16383,".repeat(400_000)
        ),
        format!("<{}/>", "a".repeat(4_000_000)),
    ] {
        check(&text);
    }
}

#[test]
fn the_valid_ones_are() {
    let document = Document::parse(VALID, "t").unwrap_or_else(|errors| panic!("{errors}"));
    Domain::parse(&document).unwrap_or_else(|errors| panic!("{errors}"));
    check(VALID);
    let document = Document::parse(NETWORK, "t").unwrap_or_else(|errors| panic!("{errors}"));
    let (_, warnings) = Network::parse(&document).unwrap_or_else(|errors| panic!("{errors}"));
    // Of all that it has only port groups have no effect.
    assert_eq!(warnings.into_iter().count(), 1);
    check_network(NETWORK);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(768))]

    #[test]
    fn changed_letters_never_panic(
        (text, check) in valid(),
        changes in proptest::collection::vec(change(), 1..4),
    ) {
        check(&mutate(text, &changes));
    }

    #[test]
    fn moved_lines_never_panic(
        (text, check) in valid(),
        lines in proptest::collection::vec((0..200usize, 0..200usize), 1..4),
    ) {
        check(&shuffle(text, &lines));
    }

    #[test]
    fn changed_values_never_panic(
        (text, check) in valid(),
        index in 0..80usize,
        word in proptest::sample::select(WORDS),
    ) {
        check(&revalued(text, index, word));
    }
}
