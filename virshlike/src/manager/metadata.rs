//! Other programs' elements in `<metadata>`, one per namespace, as libvirt's `virsh metadata` keeps
//! them: stored with a prefix, given and shown without.

use super::definition;
use super::pins::Affects;
use super::{Domain, Manager};
use crate::error::{Error, Kind, Result};
use crate::xml::{Document, Edits, Element, NewElement};
use quick_xml::events::{BytesEnd, BytesStart, Event};
use quick_xml::{Reader, Writer};

/// Where `<metadata>` stands in a domain.
const ORDER: &[&str] = &["name", "uuid", "genid", "title", "description", "metadata"];

impl Manager {
    /// The element of a namespace, without its prefix; `None` when there is none. The running
    /// definition's while the domain runs, unless `config`.
    ///
    /// # Errors
    /// A definition that is wrong.
    pub fn metadata(&self, domain: &Domain, uri: &str, config: bool) -> Result<Option<String>> {
        let guest = match config {
            true => None,
            false => self.guest(domain)?,
        };
        let (document, _) = self.current_definition(domain, guest.as_ref())?;
        let Some(element) = of_namespace(document.root(), uri) else {
            return Ok(None);
        };
        let Some(prefix) = element.prefix() else {
            return Ok(Some(element.source().to_string()));
        };
        let renamed = rename(element.source(), |name| {
            name.strip_prefix(&format!("{prefix}:"))
                .unwrap_or(name)
                .to_string()
        })?;
        let declaration = format!(" xmlns:{prefix}=");
        Ok(Some(without_attribute(&renamed, &declaration)))
    }

    /// Puts an element into a definition's metadata, over the one of the same namespace; `None`
    /// removes it.
    ///
    /// # Errors
    /// XML that is wrong, a key that is no name, a definition that is asked for and not there.
    pub fn set_metadata(
        &self,
        domain: &Domain,
        uri: &str,
        element: Option<(&str, &str)>,
        affects: Affects,
    ) -> Result<()> {
        self.retouch(domain, affects, |document| put(document, uri, element))
    }
}

fn put(document: &mut Document, uri: &str, element: Option<(&str, &str)>) -> Result<()> {
    let old = of_namespace(document.root(), uri).map(Element::id);
    if old.is_none() && element.is_none() {
        return Err(absent());
    }
    if let Some(old) = old {
        let mut edits = Edits::new();
        edits.remove(old);
        apply(document, edits)?;
    }
    if let Some((key, xml)) = element {
        let element = prefixed(key, uri, xml)?;
        let mut edits = Edits::new();
        let root = document.root();
        match root.child("metadata") {
            Some(metadata) => edits.insert(metadata.id(), element, &[]),
            None => {
                let metadata = NewElement::new("metadata").child(element);
                edits.insert(root.id(), metadata, ORDER);
            }
        }
        apply(document, edits)?;
    }
    Ok(())
}

/// libvirt's answer where there is nothing.
pub fn absent() -> Error {
    Error::new(
        Kind::NotFound,
        "metadata not found: Requested metadata element is not present",
    )
}

fn apply(document: &mut Document, edits: Edits) -> Result<()> {
    document
        .apply(edits)
        .map_err(|found| definition::mistakes(&found))
}

fn of_namespace<'a>(root: Element<'a>, uri: &str) -> Option<Element<'a>> {
    root.child("metadata")?
        .children()
        .find(|element| element.namespace() == Some(uri))
}

/// The element that is stored: names without a prefix get the key's, which stands for the URI.
fn prefixed(key: &str, uri: &str, xml: &str) -> Result<NewElement> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let begins = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins || !key.chars().all(good) || key.to_ascii_lowercase().starts_with("xml") {
        return Err(Error::new(
            Kind::Usage,
            format!("'{}' is no key for metadata", key.escape_debug()),
        )
        .hint("it takes letters, digits and underscores, such as --key app"));
    }
    if uri.is_empty() {
        return Err(Error::new(Kind::Usage, "a namespace has a URI"));
    }
    let document = Document::parse(xml.trim(), "metadata")
        .map_err(|found| definition::mistakes(&found).context("invalid metadata"))?;
    let element = document.root();
    let name = match element.prefix() {
        Some(_) => element.name().to_string(),
        None => format!("{key}:{}", element.name()),
    };
    let text = rename(element.source(), |name| match name.contains(':') {
        true => name.to_string(),
        false => format!("{key}:{name}"),
    })?;
    let at = 1 + name.len();
    let (head, tail) = (text.get(..at), text.get(at..));
    let declared = format!(" xmlns:{key}='{}'", crate::xml::escape_attribute(uri));
    let text = format!(
        "{}{declared}{}",
        head.unwrap_or_default(),
        tail.unwrap_or_default()
    );
    Ok(NewElement::verbatim(name, text))
}

/// The same XML with other element names.
fn rename(xml: &str, change: impl Fn(&str) -> String) -> Result<String> {
    let mut reader = Reader::from_str(xml);
    let mut writer = Writer::new(Vec::new());
    let failed = |why: String| Error::new(Kind::Definition, "invalid metadata").cause(why);
    loop {
        let event = reader
            .read_event()
            .map_err(|error| failed(error.to_string()))?;
        let renamed = |start: &BytesStart<'_>| {
            let mut copy = start.to_owned();
            copy.set_name(&change(start.name().as_ref()));
            copy
        };
        let written = match &event {
            Event::Eof => break,
            Event::Start(start) => writer.write_event(Event::Start(renamed(start))),
            Event::Empty(start) => writer.write_event(Event::Empty(renamed(start))),
            Event::End(end) => {
                let name = change(end.name().as_ref());
                writer.write_event(Event::End(BytesEnd::new(name)))
            }
            _ => writer.write_event(event.borrow()),
        };
        written.map_err(|error| failed(error.to_string()))?;
    }
    String::from_utf8(writer.into_inner()).map_err(|error| failed(error.to_string()))
}

/// The text of an element without the attribute that begins so.
fn without_attribute(xml: &str, begins: &str) -> String {
    let cut = || {
        let start = xml.find(begins)?;
        let value = xml.get(start + begins.len()..)?;
        let quote = value.chars().next()?;
        let end = value.get(1..)?.find(quote)? + 2;
        Some(format!("{}{}", xml.get(..start)?, value.get(end..)?))
    };
    cut().unwrap_or_else(|| xml.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_the_key_and_lose_it_again() {
        let element = prefixed(
            "x",
            "urn:x",
            "<a q='1'>t &amp; <b/><y:c xmlns:y='urn:y'/></a>",
        );
        let text = format!("{:?}", element.unwrap());
        assert!(
            text.contains("<x:a xmlns:x='urn:x' q='1'>t &amp; <x:b/><y:c xmlns:y='urn:y'/></x:a>"),
            "{text}"
        );
        assert_eq!(
            without_attribute("<a xmlns:x='urn:x' q='1'/>", " xmlns:x="),
            "<a q='1'/>"
        );
    }

    #[test]
    fn what_is_no_key_or_no_element_is_refused() {
        for key in ["", "1a", "a b", "a:b", "xmlns"] {
            assert!(prefixed(key, "urn:x", "<a/>").is_err(), "{key}");
        }
        for xml in ["", "text", "<a>", "<a/><b/>"] {
            assert!(prefixed("x", "urn:x", xml).is_err(), "{xml}");
        }
    }
}
