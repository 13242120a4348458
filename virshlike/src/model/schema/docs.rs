//! The reference of domain definitions, made from the tables.

use super::row::{Fate, Group, Row, Value};
use super::tables;
use std::fmt::Write;

const INTRO: &str = "# Domain definitions

This page is generated from the tables that check definitions (`virshlike/src/model/schema`); a test
keeps it current. Definitions are libvirt's domain XML. Each element and attribute has one fate:

- **honoured**: it does what it says.
- **warned**: it is accepted and kept in the definition, and a warning with its line says why it has
  no effect.
- **kept**: it is accepted and kept in the definition, and `start` refuses it by name, because the
  guest would see a difference and it is not built yet.
- **refused**: the definition is refused.
- **part**: it goes with the element around it.

Everything that is not on this page is refused with line, column and the nearest right name, unless
it stands inside `<metadata>`; elements of other namespaces are kept with a warning. An element that
is not said to be repeatable may be there once. Amounts and numbers are exact: nothing is rounded or
clamped.
";

const NETWORK_INTRO: &str = "# Network definitions

This page is generated from the tables that check definitions (`virshlike/src/model/schema`); a test
keeps it current. Definitions are libvirt's network XML. The fates are those of
[domain definitions](domain-xml.md): **honoured**, **warned**, **kept** (refused by `net-start`),
**refused**, **part**. Everything that is not on this page is refused with line, column and the
nearest right name, unless it stands inside `<metadata>`.

A started network is a bridge of the host, a table of its own in nftables (`inet vm_BRIDGE`), and,
where it has addresses, a dnsmasq for DHCP and DNS that listens on the bridge alone. Without `<forward>`
guests reach each other and the host only.
";

const OURS: &str = "
## Our own elements in `<metadata>`

libvirt has no words for these. They are of the namespace `urn:vm:domain:1`; mistakes in them are
refused as everywhere.

```xml
<metadata>
  <vm:autostart xmlns:vm='urn:vm:domain:1' order='1' delay='10'/>
  <vm:restart xmlns:vm='urn:vm:domain:1' policy='on-failure'/>
</metadata>
```

| Element or attribute | Takes | Meaning |
|---|---|---|
| `vm:autostart` | | when a domain that is marked by `vm autostart` starts, beside the others |
| `vm:autostart@order` | a number | lower ones first; domains without one come last, by name |
| `vm:autostart@delay` | seconds | how long the next domain waits after this one runs |
| `vm:restart` | | whether `vm daemon` starts it again after it ended |
| `vm:restart@policy` | `no`, `on-failure`, `always` | after nothing; after crashes and failures, of its process too; also after the guest powered itself off. Never after an operator ended it. Without the element, `<on_crash>restart</on_crash>` restarts after the end of its process |
| `vm:restart@delay` | seconds | before the first restart, 1 when absent; each further one in a row waits twice as long |
| `vm:restart@max-delay` | seconds | the longest wait, 300 when absent |
| `vm:restart@max` | a number | restarts in a row until it is given up, 10 when absent; 0 never gives up |
";

/// The text of `docs/domain-xml.md`.
pub fn domain_xml_reference() -> String {
    let mut out = INTRO.to_string();
    for group in tables::GROUPS.iter().copied().flatten() {
        group_section(group, &mut out);
    }
    links(tables::LINKS, &mut out);
    out.push_str(OURS);
    out
}

/// The text of `docs/network-xml.md`.
pub fn network_xml_reference() -> String {
    let mut out = NETWORK_INTRO.to_string();
    for group in tables::NETWORK_GROUPS.iter().copied().flatten() {
        group_section(group, &mut out);
    }
    links(tables::NETWORK_LINKS, &mut out);
    out
}

fn links(links: &[(&str, &str)], out: &mut String) {
    out.push_str(
        "\n## Elements with the content of another\n\n| Element | Content of |\n|---|---|\n",
    );
    for (place, model) in links {
        line(out, format_args!("| `{place}` | `{model}` |"));
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{text}");
}

fn group_section(group: &Group, out: &mut String) {
    line(out, format_args!("\n## {}\n", group.title));
    let base = match group.bases {
        [""] => String::new(),
        [one] => format!("{one}/"),
        several => {
            let names: Vec<String> = several.iter().map(|base| format!("`{base}`")).collect();
            line(out, format_args!("In {}.\n", names.join(", ")));
            String::new()
        }
    };
    out.push_str("| Element or attribute | Fate | Takes | Meaning |\n|---|---|---|---|\n");
    for row in group.rows {
        row_line(&base, row, out);
    }
}

fn row_line(base: &str, row: &Row, out: &mut String) {
    let path = if row.path.starts_with('@') {
        format!("{}{}", base.trim_end_matches('/'), row.path)
    } else {
        format!("{base}{}", row.path)
    };
    let path = path.replace(',', ", ");
    let repeat = if row.many { " (repeatable)" } else { "" };
    line(
        out,
        format_args!(
            "| `{path}`{repeat} | {} | {} | {} |",
            fate_name(row.fate),
            takes(row.value),
            row.doc
        ),
    );
    if let Value::Words(words) = row.value {
        for word in words.iter().filter(|word| word.fate != Fate::Honoured) {
            line(
                out,
                format_args!(
                    "| | {} | `{}` | {} |",
                    fate_name(word.fate),
                    word.word,
                    word.doc
                ),
            );
        }
    }
}

fn fate_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Honoured => "honoured",
        Fate::Warned => "warned",
        Fate::Kept => "kept",
        Fate::Refused => "refused",
        Fate::Part => "part",
    }
}

fn takes(value: Value) -> String {
    let quoted = |words: &mut dyn Iterator<Item = &str>| {
        words
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match value {
        Value::Empty => String::new(),
        Value::Text => "text".into(),
        Value::OneOf(words) => quoted(&mut words.iter().copied()),
        Value::Words(words) => quoted(
            &mut words
                .iter()
                .filter(|word| word.fate == Fate::Honoured)
                .map(|word| word.word),
        ),
        Value::YesNo => "`yes`, `no`".into(),
        Value::OnOff => "`on`, `off`".into(),
        Value::Number => "a number".into(),
        Value::Set => "a set such as `0-3,^2,7`".into(),
        Value::AnyBase => "a number, also hexadecimal".into(),
    }
}
