//! Name and UUID of a definition without building its tree: what a listing of a thousand domains
//! needs. A document that is not well-formed answers with what stood before the mistake; judging
//! documents is `xml` and `model`'s work, never this module's.

use quick_xml::Reader;
use quick_xml::events::Event;
use uuid::Uuid;

/// Name and UUID as the document's own top-level elements give them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// `<name>`, trimmed.
    pub name: Option<String>,
    /// `<uuid>`.
    pub uuid: Option<Uuid>,
}

/// Reads the identity of a `<domain>`; stops at the first mistake, or when it has both.
pub fn identity(text: &str) -> Identity {
    let mut reader = Reader::from_str(text);
    let mut found = Identity::default();
    let mut depth = 0usize;
    let mut element: Option<&'static str> = None;
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) => {
                depth = depth.saturating_add(1);
                element = match (depth, start.name().as_ref()) {
                    (2, "name") => Some("name"),
                    (2, "uuid") => Some("uuid"),
                    _ => None,
                };
            }
            Ok(Event::End(_)) => {
                depth = depth.saturating_sub(1);
                element = None;
            }
            Ok(Event::Text(value)) => {
                let text: &str = value.as_ref();
                match element {
                    Some("name") if found.name.is_none() => {
                        found.name = Some(text.trim().to_string());
                    }
                    Some("uuid") if found.uuid.is_none() => {
                        found.uuid = Uuid::parse_str(text.trim()).ok();
                    }
                    _ => {}
                }
            }
            Ok(Event::Eof) | Err(_) => return found,
            Ok(_) => {}
        }
        if found.name.is_some() && found.uuid.is_some() {
            return found;
        }
    }
}

/// The UUID of a definition that has none (somebody removed it with an editor): the same for every
/// reader, until the next command that may write puts it into the file.
pub fn fallback_uuid(name: &str) -> Uuid {
    const NAMESPACE: Uuid = Uuid::from_u128(0x6a5d_3b0c_64d1_4f0e_9b62_2f1c_5e0d_7a11);
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn comments_and_deeper_elements_do_not_count() {
        let text = "<!-- <uuid>00000000-0000-0000-0000-000000000001</uuid> -->\
            <domain><metadata><name>no</name></metadata><name> a </name>\
            <uuid>00000000-0000-0000-0000-000000000002</uuid></domain>";
        let found = identity(text);
        assert_eq!(found.name.as_deref(), Some("a"));
        assert_eq!(found.uuid, Some(Uuid::from_u128(2)));
    }

    #[test]
    fn a_broken_document_gives_what_it_has() {
        let found = identity("<domain><name>a</name><uuid>nonsense</uuid><os></domain>");
        assert_eq!(found.name.as_deref(), Some("a"));
        assert_eq!(found.uuid, None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,400}") {
            identity(&text);
        }
    }
}
