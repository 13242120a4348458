//! References in text and attribute values: the five entities of XML and character numbers.
//!
//! No other entity exists here, so text never grows by being read.

/// A reference that means nothing, with its byte offset in the raw text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadReference {
    /// Offset of the `&`.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
}

/// Longest reference that is looked at: `&#x0010FFFF;` and some.
const MAX_REFERENCE: usize = 16;

/// Replaces references by what they stand for.
pub(super) fn unescape(raw: &str) -> Result<String, BadReference> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    let mut offset = 0;
    while let Some(at) = rest.find('&') {
        let (before, reference) = rest.split_at(at);
        out.push_str(before);
        let bad = |message: String| BadReference {
            offset: offset + at,
            message,
        };
        let Some(end) = reference
            .char_indices()
            .take(MAX_REFERENCE)
            .find_map(|(index, c)| (c == ';').then_some(index))
        else {
            return Err(bad("'&' starts no reference; write it as &amp;".into()));
        };
        let name = reference.get(1..end).unwrap_or_default();
        let character = resolve(name).ok_or_else(|| {
            bad(format!(
                "the reference &{name}; is not known; there are &lt; &gt; &amp; &quot; &apos; and character numbers"
            ))
        })?;
        out.push(character);
        offset += at + end + 1;
        rest = reference.get(end + 1..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(out)
}

fn resolve(name: &str) -> Option<char> {
    let number = match name {
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "amp" => return Some('&'),
        "quot" => return Some('"'),
        "apos" => return Some('\''),
        _ => name.strip_prefix('#')?,
    };
    let code = match number.strip_prefix('x') {
        Some(hex) => parse_digits(hex, 16)?,
        None => parse_digits(number, 10)?,
    };
    char::from_u32(code).filter(|c| is_xml_char(*c))
}

/// `from_str_radix` would take a sign.
fn parse_digits(digits: &str, radix: u32) -> Option<u32> {
    digits
        .chars()
        .all(|c| c.is_digit(radix))
        .then(|| u32::from_str_radix(digits, radix).ok())?
}

/// XML 1.0 §2.2: the characters that a document may contain.
pub(super) fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// `text` as it is written between tags.
pub fn escape_text(text: &str) -> String {
    escape(text, false)
}

/// `text` as it is written in an attribute value between single quotes, libvirt's style.
pub fn escape_attribute(text: &str) -> String {
    escape(text, true)
}

fn escape(text: &str, attribute: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' if attribute => out.push_str("&apos;"),
            '"' if attribute => out.push_str("&quot;"),
            '\t' if attribute => out.push_str("&#x9;"),
            '\n' if attribute => out.push_str("&#xA;"),
            '\r' => out.push_str("&#xD;"),
            c if is_xml_char(c) => out.push(c),
            // XML has no way to write the other control characters, not even as numbers.
            _ => out.push('\u{fffd}'),
        }
    }
    out
}
