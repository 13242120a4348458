//! `--xpath` and `--wrap`: the part of a definition that somebody asks for.

use super::Context;
use crate::error::{Error, Kind, Result};
use crate::xml::xpath::{Answer, Mistake, Node, Query};
use crate::xml::{Document, escape_text};
use std::fmt::Write as _;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Part {
    /// Only what this XPath 1.0 expression finds, such as //target/@dev or 'count(//disk)'
    #[arg(long, value_name = "EXPRESSION")]
    xpath: Option<String>,
    /// Put the elements that --xpath finds into one element, <nodes>
    #[arg(long, requires = "xpath")]
    wrap: bool,
}

impl Part {
    /// Prints a definition, or the part of it that is asked for.
    ///
    /// # Errors
    /// An expression that is not understood, or `--wrap` of what is no element.
    pub fn print(&self, context: &Context, text: &str) -> Result<()> {
        let Some(expression) = &self.xpath else {
            return context.ui.data(text);
        };
        let wrong = |mistake: Mistake| {
            let shown: String = expression.chars().flat_map(char::escape_debug).collect();
            Error::new(Kind::Usage, format!("Incorrect xpath '{shown}'")).cause(mistake.to_string())
        };
        let query = Query::parse(expression).map_err(wrong)?;
        let document = Document::parse(text, "the definition")
            .map_err(|found| Error::new(Kind::Definition, found.to_string()))?;
        let answer = query.evaluate(&document).map_err(wrong)?;
        if self.wrap {
            return context.ui.data(&wrapped(&document, &answer)?);
        }
        match answer {
            Answer::Nodes(nodes) if context.ui.is_json() => {
                let found: Vec<String> = nodes.iter().map(|node| value(&document, *node)).collect();
                context.ui.json(&found)
            }
            Answer::Nodes(nodes) => {
                let mut lines = nodes.iter().map(|node| line(&document, *node));
                lines.try_for_each(|line| context.ui.line(line))
            }
            Answer::Number(number) if context.ui.is_json() => context.ui.json(&number),
            Answer::Truth(truth) if context.ui.is_json() => context.ui.json(&truth),
            Answer::Text(text) if context.ui.is_json() => context.ui.json(&text),
            other => context.ui.line(other.to_text(&document)),
        }
    }
}

/// The elements in one element.
fn wrapped(document: &Document, answer: &Answer) -> Result<String> {
    let refused = || {
        let message = "--wrap puts elements into one: the expression finds something else";
        Error::new(Kind::Usage, message).hint("leave out --wrap")
    };
    let Answer::Nodes(nodes) = answer else {
        return Err(refused());
    };
    if nodes.is_empty() {
        return Ok("<nodes/>\n".to_string());
    }
    let mut text = "<nodes>\n".to_string();
    for node in nodes {
        let element = node.element(document).ok_or_else(refused)?;
        for line in outdented(element.source()).lines() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {line}");
        }
    }
    text.push_str("</nodes>\n");
    Ok(text)
}

/// A node as virsh prints it.
fn line(document: &Document, node: Node) -> String {
    if let Some(attribute) = node.attribute(document) {
        let value = escape_text(attribute.value()).replace('"', "&quot;");
        return format!(" {}=\"{value}\"", attribute.name());
    }
    match node.element(document) {
        Some(element) => outdented(element.source()),
        None if node == Node::Root => outdented(document.root().source()),
        None => escape_text(&node.text(document)).to_string(),
    }
}

/// A node for programs: elements as XML, others as what they say.
fn value(document: &Document, node: Node) -> String {
    match node.element(document) {
        Some(_) => line(document, node),
        None if node == Node::Root => line(document, node),
        None => node.text(document),
    }
}

/// An element without the indentation that it has in its document: what its last line has is taken
/// from every line but the first.
fn outdented(source: &str) -> String {
    let last = source.rsplit('\n').next().unwrap_or_default();
    let width = last.len() - last.trim_start_matches([' ', '\t']).len();
    let mut text = String::with_capacity(source.len());
    for (number, line) in source.lines().enumerate() {
        let blank = line.len() - line.trim_start_matches([' ', '\t']).len();
        let cut = if number == 0 { 0 } else { width.min(blank) };
        if number > 0 {
            text.push('\n');
        }
        text.push_str(line.get(cut..).unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "<a>\n  <b x='1&amp;2'>\n    <c>t</c>\n  </b>\n  <b x='3'/>\n</a>\n";

    fn found(expression: &str) -> (Document, Answer) {
        let document = Document::parse(TEXT, "t").unwrap();
        let answer = Query::parse(expression).unwrap().evaluate(&document);
        (document, answer.unwrap())
    }

    fn lines(expression: &str) -> Vec<String> {
        let (document, Answer::Nodes(nodes)) = found(expression) else {
            panic!("no nodes");
        };
        nodes.iter().map(|node| line(&document, *node)).collect()
    }

    #[test]
    fn nodes_are_printed_as_virsh_does() {
        assert_eq!(lines("//b[1]"), ["<b x='1&amp;2'>\n  <c>t</c>\n</b>"]);
        assert_eq!(lines("//@x"), [" x=\"1&amp;2\"", " x=\"3\""]);
        assert_eq!(lines("//c/text()"), ["t"]);
        assert_eq!(lines("/"), [TEXT.trim_end()]);
    }

    #[test]
    fn elements_are_wrapped_and_nothing_else_is() {
        let (document, answer) = found("//b");
        let text = "<nodes>\n  <b x='1&amp;2'>\n    <c>t</c>\n  </b>\n  <b x='3'/>\n</nodes>\n";
        assert_eq!(wrapped(&document, &answer).unwrap(), text);
        let (document, answer) = found("//none");
        assert_eq!(wrapped(&document, &answer).unwrap(), "<nodes/>\n");
        for expression in ["//@x", "count(//b)", "//text()"] {
            let (document, answer) = found(expression);
            assert!(wrapped(&document, &answer).is_err(), "{expression}");
        }
    }
}
