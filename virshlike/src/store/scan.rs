//! Name and UUID of a definition, and what it takes for itself, without building its tree: what a
//! listing of a thousand domains needs. A document that is not well-formed answers with what stood before the mistake; judging
//! documents is `xml` and `model`'s work, never this module's.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
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

/// What a definition takes for itself that another one may want too, as it is written: MAC addresses,
/// in small letters, and paths of images that are neither read-only nor shared. Stops at the first
/// mistake.
pub fn claims(text: &str) -> Vec<String> {
    let mut reader = Reader::from_str(text);
    let mut walk = Walk::default();
    loop {
        match reader.read_event() {
            Ok(Event::Start(start)) => walk.open(&start),
            Ok(Event::Empty(start)) => {
                walk.open(&start);
                walk.close();
            }
            Ok(Event::End(_)) => walk.close(),
            Ok(Event::Eof) | Err(_) => return walk.found,
            Ok(_) => {}
        }
    }
}

/// Where [`claims`] is in a document, and what it has found.
#[derive(Debug, Default)]
struct Walk {
    depth: usize,
    in_devices: bool,
    /// Of the device that is open.
    device: Option<Device>,
    found: Vec<String>,
}

#[derive(Debug)]
struct Device {
    is_disk: bool,
    claim: Option<String>,
    is_shared: bool,
}

impl Walk {
    fn open(&mut self, start: &BytesStart<'_>) {
        self.depth = self.depth.saturating_add(1);
        let value = |name: &str| {
            let attribute = start.try_get_attribute(name).ok()??;
            Some(
                attribute
                    .normalized_value(XmlVersion::Implicit1_0)
                    .ok()?
                    .into_owned(),
            )
        };
        let name = start.name();
        match (self.depth, name.as_ref()) {
            (2, name) => self.in_devices = name == "devices",
            (3, "disk") if self.in_devices => {
                let kind = value("device");
                self.device = Some(Device {
                    is_disk: true,
                    claim: None,
                    is_shared: kind.is_some_and(|kind| kind != "disk" && kind != "lun"),
                });
            }
            (3, "interface") if self.in_devices => {
                self.device = Some(Device {
                    is_disk: false,
                    claim: None,
                    is_shared: false,
                });
            }
            (4, child) => {
                let Some(device) = &mut self.device else {
                    return;
                };
                match child {
                    "source" if device.is_disk => {
                        device.claim = value("file").or_else(|| value("dev"));
                    }
                    "readonly" | "shareable" => device.is_shared = true,
                    "mac" if !device.is_disk => {
                        device.claim = value("address").map(|mac| mac.to_ascii_lowercase());
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn close(&mut self) {
        if self.depth == 3
            && let Some(device) = self.device.take()
            && !device.is_shared
        {
            let sound = |claim: &String| !claim.chars().any(char::is_control);
            self.found.extend(device.claim.filter(sound));
        }
        self.depth = self.depth.saturating_sub(1);
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
    fn macs_and_images_that_are_written_are_claimed() {
        let text = "<domain><name>a</name><devices>\
            <disk type='file'><source file='/a&amp;b.img'/><target dev='vda'/></disk>\
            <disk type='block' device='disk'><source dev='/dev/sdx'/><readonly/></disk>\
            <disk type='file' device='cdrom'><source file='/cd.iso'/></disk>\
            <interface type='bridge'><mac address='52:54:00:AB:00:01'/><source bridge='br0'/></interface>\
            <emulator/></devices><metadata><disk><source file='/no'/></disk></metadata></domain>";
        assert_eq!(claims(text), ["/a&b.img", "52:54:00:ab:00:01"]);
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
            claims(&text);
        }
    }
}
