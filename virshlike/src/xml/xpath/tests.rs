use super::*;
use proptest::prelude::*;

const TEXT: &str = "<domain type='kvm' id='3'>
  <name>web01</name>
  <metadata><l:os xmlns:l='urn:l' l:id='x'>debian</l:os></metadata>
  <memory unit='MiB'>512</memory>
  <vcpu>2</vcpu>
  <devices>
    <disk type='file' device='disk'><source file='/a.img'/><target dev='vda' bus='virtio'/></disk>
    <disk type='block' device='cdrom'><source dev='/dev/sr0'/><target dev='sda' bus='sata'/></disk>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <target dev='vnet0'/>
    </interface>
    <!-- nothing -->
  </devices>
</domain>
";

fn ask(expression: &str) -> Result<(Document, Answer), Mistake> {
    let document = Document::parse(TEXT, "t").expect("a document");
    let answer = Query::parse(expression)?.evaluate(&document)?;
    Ok((document, answer))
}

/// What every node says, or the one answer.
fn says(expression: &str) -> Vec<String> {
    let (document, answer) = ask(expression).unwrap_or_else(|why| panic!("{expression}: {why}"));
    match answer {
        Answer::Nodes(nodes) => nodes.iter().map(|node| node.text(&document)).collect(),
        other => vec![other.to_text(&document)],
    }
}

fn names(expression: &str) -> Vec<String> {
    let (document, answer) = ask(expression).unwrap_or_else(|why| panic!("{expression}: {why}"));
    let Answer::Nodes(nodes) = answer else {
        panic!("{expression} finds no nodes");
    };
    let name = |node: &Node| node.name(&document).to_string();
    nodes.iter().map(name).collect()
}

#[test]
fn paths_find_what_administrators_ask_for() {
    for (expression, found) in [
        ("/domain/name", vec!["web01"]),
        ("string(/domain/name)", vec!["web01"]),
        ("//disk/source/@file", vec!["/a.img"]),
        ("//disk[@device='cdrom']/target/@dev", vec!["sda"]),
        ("//disk[target/@bus = 'virtio']/source/@*", vec!["/a.img"]),
        ("//interface[1]/mac/@address", vec!["52:54:00:00:00:01"]),
        ("//target/@dev", vec!["vda", "sda", "vnet0"]),
        (
            "//disk[2]/target/@dev | //disk[1]/target/@dev",
            vec!["vda", "sda"],
        ),
        ("(//target)[last()]/@dev", vec!["vnet0"]),
        ("//target[last()]/@dev", vec!["vda", "sda", "vnet0"]),
        ("/domain/@id", vec!["3"]),
        ("//name/text()", vec!["web01"]),
        ("//l:os", vec!["debian"]),
        ("//*[local-name()='os']/@l:id", vec!["x"]),
        ("//*[namespace-uri()='urn:l']", vec!["debian"]),
        ("//no", vec![]),
        ("name", vec![]),
        ("domain/name", vec!["web01"]),
        ("/domain/devices/disk[position() < 2]/@type", vec!["file"]),
        ("//mac/../@type", vec!["network"]),
        ("//mac/ancestor::devices/disk[1]/@type", vec!["file"]),
        (
            "//target[@dev='vnet0']/preceding-sibling::mac/@address",
            vec!["52:54:00:00:00:01"],
        ),
        (
            "//disk[@device='cdrom']/following-sibling::*/@type",
            vec!["network"],
        ),
        ("//disk[not(@device='disk')]/@device", vec!["cdrom"]),
    ] {
        assert_eq!(says(expression), found, "{expression}");
    }
}

#[test]
fn every_axis_leads_where_it_should() {
    for (expression, found) in [
        ("//devices/child::*", vec!["disk", "disk", "interface"]),
        ("//interface/descendant::*", vec!["mac", "target"]),
        ("//mac/ancestor::*", vec!["domain", "devices", "interface"]),
        ("//mac/ancestor::*[1]", vec!["interface"]),
        ("//mac/ancestor-or-self::*[1]", vec!["mac"]),
        ("//vcpu/following::*[1]", vec!["devices"]),
        ("//vcpu/preceding::*[1]", vec!["memory"]),
        ("//mac/preceding::target", vec!["target", "target"]),
        ("//memory/@unit/following::*[1]", vec!["vcpu"]),
        ("//memory/@unit/..", vec!["memory"]),
        ("//memory/self::memory", vec!["memory"]),
        ("//memory/@unit/self::unit", vec![]),
        ("//metadata/l:*", vec!["l:os"]),
        ("//metadata/*/@*", vec!["l:id"]),
    ] {
        assert_eq!(names(expression), found, "{expression}");
    }
}

#[test]
fn functions_and_operators_are_those_of_the_recommendation() {
    for (expression, found) in [
        ("count(//disk)", "2"),
        ("sum(//vcpu) + 1", "3"),
        ("1 + 2 * 3 - 4 div 2", "5"),
        ("-(7 mod 4)", "-3"),
        ("5 div 0", "Infinity"),
        ("0 div 0", "NaN"),
        ("1 div 4", "0.25"),
        ("number('x') = number('x')", "false"),
        ("//vcpu = 2 and //memory >= 512", "true"),
        ("//target/@dev = 'sda'", "true"),
        ("//target/@dev != 'sda'", "true"),
        ("//no = //no", "false"),
        ("//disk = true()", "true"),
        ("2 > 1 > 1", "false"),
        ("concat('a', 1, true())", "a1true"),
        ("starts-with(//name, 'web')", "true"),
        ("contains(//name, 'x')", "false"),
        ("substring-before('1999/04/01', '/')", "1999"),
        ("substring-after('1999/04/01', '/')", "04/01"),
        ("substring('12345', 1.5, 2.6)", "234"),
        ("substring('12345', 0 div 0, 3)", ""),
        ("substring('12345', 2)", "2345"),
        ("string-length('äb')", "2"),
        ("normalize-space('  a  b ')", "a b"),
        ("translate('bar','abc','AB')", "BAr"),
        ("floor(2.6)", "2"),
        ("ceiling(2.2)", "3"),
        ("round(2.5)", "3"),
        ("round(-2.5)", "-2"),
        ("boolean(//no)", "false"),
        ("not(false())", "true"),
        ("string(//no)", ""),
        ("name(//*[@l:id])", "l:os"),
        ("local-name(//*[@l:id])", "os"),
        ("string(.5)", "0.5"),
        ("--1", "1"),
        ("'a' or 0", "true"),
    ] {
        assert_eq!(says(expression), [found], "{expression}");
    }
}

#[test]
fn what_is_not_understood_is_refused_with_its_place() {
    for (expression, column, words) in [
        ("", 1, "not complete"),
        ("//disk[", 8, "not complete"),
        ("//disk]", 7, "should end here"),
        ("//disk[@dev='x]", 13, "closing '"),
        ("//$x", 3, "variables"),
        ("comment()", 1, "comment()"),
        ("//namespace::*", 3, "namespace"),
        ("childs::a", 1, "did you mean 'child'"),
        ("cuont(//a)", 1, "did you mean count()"),
        ("id('a')", 1, "id()"),
        ("count()", 1, "at least 1"),
        ("true(1)", 1, "no argument"),
        ("a b", 3, "operator"),
        ("a # b", 3, "'#'"),
        ("1.2.3", 1, "no number"),
        ("count(1)", 1, "paths find"),
        ("1 | 2", 3, "paths find"),
        ("a/count(b)", 3, "cannot be a function"),
    ] {
        let mistake = ask(expression).expect_err(expression);
        assert!(mistake.message.contains(words), "{expression}: {mistake}");
        assert_eq!(mistake.column, column, "{expression}: {mistake}");
    }
}

#[test]
fn work_and_depth_are_bounded() {
    let deep = format!("{}1{}", "(".repeat(200), ")".repeat(200));
    let long = vec!["1"; 400].join("+");
    for expression in [deep.as_str(), long.as_str()] {
        assert!(ask(expression).is_err(), "{expression}");
    }
    let fine = vec!["1"; 200].join("+");
    assert_eq!(says(&fine), ["200"]);
    let many = format!("<a>{}</a>", "<b/>".repeat(3000));
    let document = Document::parse(&many, "t").expect("a document");
    let query = Query::parse("//*[count(//*[count(//*) > 1]) > 1]").expect("an expression");
    let mistake = query.evaluate(&document).expect_err("too much");
    assert!(mistake.message.contains("too long"), "{mistake}");
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "([a-z@/*:.()\\[\\]|=<>!'\" $,0-9+-]|and|or|div|text\\(\\)|//|::){0,40}") {
        let _ = ask(&text);
    }
}
