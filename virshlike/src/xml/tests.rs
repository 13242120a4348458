use super::*;

fn parse(text: &str) -> Document {
    Document::parse(text, "t.xml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn refusal(text: &str) -> String {
    Document::parse(text, "t.xml")
        .expect_err("a refusal")
        .to_string()
}

const LAYOUT: &str = "<?xml version='1.0'?>\n<!-- ours -->\n<domain type=\"kvm\">\n    <name>a &amp; b</name>\n    <os/>\n    <devices>\n        <disk a='1'/> <!-- root -->\n        <rng/>\n    </devices>\n</domain>\n";

#[test]
fn every_byte_survives() {
    for text in [
        LAYOUT,
        "\u{feff}<a/>",
        "<a\r\n b = 'x'\r\n/>\r\n",
        "<a><![CDATA[<x>&]]></a>",
    ] {
        assert_eq!(parse(text).text(), text);
    }
}

#[test]
fn names_values_and_texts_are_read_with_their_places() {
    let document = parse(LAYOUT);
    let root = document.root();
    assert_eq!(root.name(), "domain");
    assert_eq!(root.value("type"), Some("kvm"));
    assert_eq!(root.position().to_string(), "3:1");
    let name = root.child("name").expect("a name");
    assert_eq!(name.text(), "a & b");
    assert_eq!(name.position().to_string(), "4:5");
    assert_eq!(name.text_position().to_string(), "4:11");
    let disk = root
        .child("devices")
        .and_then(|d| d.child("disk"))
        .expect("a disk");
    let a = disk.attribute("a").expect("an attribute");
    assert_eq!(a.position().to_string(), "7:15");
    assert_eq!(a.value_position().to_string(), "7:18");
    assert_eq!(disk.parent().map(Element::name), Some("devices"));
}

#[test]
fn columns_count_characters() {
    let document = parse("<a>äöü<b/></a>");
    let b = document.root().child("b").expect("b");
    assert_eq!(b.position().to_string(), "1:7");
}

#[test]
fn namespaces_are_resolved_where_they_are_declared() {
    let document = parse("<a xmlns:q='urn:q'><q:b><c/></q:b><d xmlns='urn:d'/></a>");
    let spaces: Vec<_> = document
        .root()
        .children()
        .map(|e| (e.local_name(), e.namespace()))
        .collect();
    assert_eq!(spaces, [("b", Some("urn:q")), ("d", Some("urn:d"))]);
    assert_eq!(document.root().namespace(), None);
}

#[test]
fn what_is_not_well_formed_is_refused_with_its_place() {
    for (text, place, words) in [
        (
            "<a>\n  <b>\n  </c>\n</a>",
            "3:3",
            "does not close <b>, opened in line 2",
        ),
        ("<a>\n  <b>", "2:3", "never closed"),
        ("<a x='1' x='2'/>", "1:10", "twice"),
        ("<a x=1/>", "1:4", "not in quotes"),
        ("<a x/>", "1:4", "no value"),
        ("<a x='1'y='2'/>", "1:9", "white space"),
        ("<a>&nope;</a>", "1:4", "&nope;"),
        ("<a x='&nope;'/>", "1:7", "&nope;"),
        ("<a>&#0;</a>", "1:4", "&#0;"),
        ("<a>\u{1}</a>", "1:4", "U+0001"),
        ("<a/><b/>", "1:5", "second element"),
        ("<a/>text", "1:5", "outside"),
        ("", "1:1", "no XML element"),
        (
            "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
            "1:1",
            "document type",
        ),
        (
            "<?xml version='1.0' encoding='latin1'?><a/>",
            "1:1",
            "latin1",
        ),
        ("<a><!-- -- --></a>", "1:", "'--'"),
        ("</a>", "1:1", "closes nothing"),
        ("<a x='<'/>", "1:7", "&lt;"),
        ("<a b='", "1:", "quote"),
        ("<1/>", "1:1", "element name"),
    ] {
        let message = refusal(text);
        assert!(
            message.starts_with(&format!("t.xml:{place}")),
            "{text}: {message}"
        );
        assert!(message.contains(words), "{text}: {message}");
    }
}

#[test]
fn bounds_hold() {
    let deep = "<a>".repeat(Document::MAX_DEPTH + 1);
    assert!(refusal(&deep).contains("deeper"));
    let wide = format!("<a>{}</a>", "<b/>".repeat(Document::MAX_ELEMENTS));
    assert!(refusal(&wide).contains("elements"));
    let big = format!("<a>{}</a>", "x".repeat(Document::MAX_BYTES));
    assert!(refusal(&big).contains("bytes"));
}

#[test]
fn an_attribute_is_set_in_its_place_or_behind_the_last() {
    let mut document = parse(LAYOUT);
    let mut edits = Edits::new();
    edits.set_attribute(document.root().id(), "type", "q\"&'");
    let disk = document
        .root()
        .child("devices")
        .and_then(|d| d.child("disk"))
        .expect("a disk");
    edits.set_attribute(disk.id(), "b", "2");
    document.apply(edits).expect("edits");
    let expected = LAYOUT
        .replace("type=\"kvm\"", "type=\"q&quot;&amp;&apos;\"")
        .replace("a='1'", "a='1' b='2'");
    assert_eq!(document.text(), expected);
    assert_eq!(document.root().value("type"), Some("q\"&'"));
}

#[test]
fn children_are_inserted_in_order_with_their_neighbours_indentation() {
    const ORDER: &[&str] = &["name", "uuid", "os", "devices"];
    const DEVICES: &[&str] = &["disk", "rng", "memballoon"];
    let mut document = parse(LAYOUT);
    let root = document.root();
    let devices = root.child("devices").expect("devices");
    let rng = devices.child("rng").expect("an rng");
    let mut edits = Edits::new();
    edits.insert(root.id(), NewElement::new("uuid").text("1<2"), ORDER);
    edits.insert(
        devices.id(),
        NewElement::new("disk").attribute("a", "2"),
        DEVICES,
    );
    edits.insert(
        rng.id(),
        NewElement::new("x").child(NewElement::new("y")),
        &[],
    );
    document.apply(edits).expect("edits");
    let expected = LAYOUT
        .replace("</name>\n", "</name>\n    <uuid>1&lt;2</uuid>\n")
        .replace("<!-- root -->\n", "<!-- root -->\n        <disk a='2'/>\n")
        .replace(
            "        <rng/>\n",
            "        <rng>\n            <x>\n                <y/>\n            </x>\n        </rng>\n",
        );
    assert_eq!(document.text(), expected);
}

#[test]
fn an_element_goes_with_its_line() {
    let mut document = parse(LAYOUT);
    let devices = document.root().child("devices").expect("devices");
    let mut edits = Edits::new();
    edits.remove(devices.child("rng").expect("an rng").id());
    edits.remove_attribute(devices.child("disk").expect("a disk").id(), "a");
    document.apply(edits).expect("edits");
    let expected = LAYOUT
        .replace("        <rng/>\n", "")
        .replace("<disk a='1'/>", "<disk/>");
    assert_eq!(document.text(), expected);
}

#[test]
fn one_line_stays_one_line_and_crlf_stays_crlf() {
    let mut document = parse("<a><b/></a>");
    let mut edits = Edits::new();
    edits.insert(document.root().id(), NewElement::new("c"), &["b", "c"]);
    document.apply(edits).expect("edits");
    assert_eq!(document.text(), "<a><b/><c/></a>");

    let mut document = parse("<a>\r\n  <b/>\r\n</a>\r\n");
    let mut edits = Edits::new();
    edits.insert(document.root().id(), NewElement::new("c"), &["b", "c"]);
    edits.insert(document.root().id(), NewElement::new("d"), &["b", "c", "d"]);
    document.apply(edits).expect("edits");
    assert_eq!(
        document.text(),
        "<a>\r\n  <b/>\r\n  <c/>\r\n  <d/>\r\n</a>\r\n"
    );
}

#[test]
fn text_is_replaced_between_the_tags() {
    let mut document = parse("<a><b>x</b><c/></a>");
    let root = document.root();
    let mut edits = Edits::new();
    edits.set_text(root.child("b").expect("b").id(), "y&z");
    edits.set_text(root.child("c").expect("c").id(), "w");
    document.apply(edits).expect("edits");
    assert_eq!(document.text(), "<a><b>y&amp;z</b><c>w</c></a>");
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused_with_a_place(text in "[<>/ab'\"=&;!\\- \n\\[\\]?#x0]{0,60}") {
            match Document::parse(&text, "t") {
                Ok(document) => prop_assert_eq!(document.text(), text),
                Err(errors) => {
                    for error in errors.iter() {
                        prop_assert!(error.line >= 1 && error.column >= 1);
                    }
                }
            }
        }

        #[test]
        fn what_is_escaped_reads_back(value in "[\\PC\n\t]{0,20}") {
            let text = format!("<a b='{}'>{}</a>", escape_attribute(&value), escape_text(&value));
            let document = Document::parse(&text, "t").expect("escaped text");
            prop_assert_eq!(document.root().value("b"), Some(value.as_str()));
            prop_assert_eq!(document.root().text(), value);
        }
    }
}
