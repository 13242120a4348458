//! The handshake: one option in, its replies out. A pure state machine.
//!
//! ```text
//! greeting --> client flags --> option --> ... --> EXPORT_NAME or GO --> transmission
//!                                 |
//!                                 +--> ABORT, or an export name that is not ours --> closed
//! ```
//!
//! Must never keep anything that a client says beyond a few bits.
use super::Export;
use super::proto::{
    self, BASE_ALLOCATION, CONTEXT_ID, FIXED_NEWSTYLE, NO_ZEROES, Terms, be16, be32, info, option,
    option_reply, reply, transmission,
};

/// Most bytes of an option; longer ones are skipped and refused. The longest that makes sense is a
/// name of 4096 bytes with a few queries.
pub(super) const MAX_OPTION: u32 = 32 << 10;
/// Most bytes of a name.
const MAX_NAME: u32 = 4096;

/// How it goes on after an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Option,
    Transmission,
    Close,
}

/// The handshake of one connection.
pub(super) struct Handshake<'a> {
    export: &'a Export,
    pad: bool,
    structured: bool,
    context: bool,
}

/// Options that cannot be: a reason for the person at the other end.
type Wrong = (u32, &'static str);

impl<'a> Handshake<'a> {
    pub(super) fn new(export: &'a Export) -> Handshake<'a> {
        Handshake {
            export,
            pad: true,
            structured: false,
            context: false,
        }
    }

    /// The client's flags. False if it wants what the server did not offer.
    pub(super) fn client_flags(&mut self, flags: u32) -> bool {
        let offered = u32::from(FIXED_NEWSTYLE | NO_ZEROES);
        self.pad = flags & u32::from(NO_ZEROES) == 0;
        flags & !offered == 0
    }

    /// What was agreed on.
    pub(super) fn terms(&self) -> Terms {
        Terms {
            size: self.export.size,
            read_only: self.export.read_only,
            structured: self.structured,
            context: self.context,
        }
    }

    /// The answer to an option whose data was not read because there is too much of it.
    pub(super) fn too_big(&self, option: u32) -> (Vec<u8>, Next) {
        if option == option::EXPORT_NAME {
            // It has no way to be refused.
            return (Vec::new(), Next::Close);
        }
        let text = b"the option is too long";
        (option_reply(option, reply::ERR_TOO_BIG, text), Next::Option)
    }

    /// The answer to an option.
    pub(super) fn option(&mut self, option: u32, data: &[u8]) -> (Vec<u8>, Next) {
        let done = match option {
            option::EXPORT_NAME => return self.export_name(data),
            option::ABORT => {
                return (option_reply(option, reply::ACK, &[]), Next::Close);
            }
            option::LIST => self.list(data),
            option::INFO | option::GO => self.go(option, data),
            option::STRUCTURED_REPLY => self.structured_reply(data),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, data),
            option::STARTTLS => Err((reply::ERR_UNSUP, "this server has no TLS")),
            _ => Err((reply::ERR_UNSUP, "this option is not known")),
        };
        match done {
            Ok(out) if option == option::GO => (out, Next::Transmission),
            Ok(out) => (out, Next::Option),
            Err((kind, text)) => (option_reply(option, kind, text.as_bytes()), Next::Option),
        }
    }

    fn export_name(&self, data: &[u8]) -> (Vec<u8>, Next) {
        if data != self.export.name.as_bytes() {
            return (Vec::new(), Next::Close);
        }
        let mut out = self.export.size.to_be_bytes().to_vec();
        out.extend(self.flags().to_be_bytes());
        if self.pad {
            out.extend([0; 124]);
        }
        (out, Next::Transmission)
    }

    fn list(&self, data: &[u8]) -> Result<Vec<u8>, Wrong> {
        if !data.is_empty() {
            return Err((reply::ERR_INVALID, "LIST has no data"));
        }
        let name = self.export.name.as_bytes();
        let mut entry = (name.len() as u32).to_be_bytes().to_vec();
        entry.extend(name);
        entry.extend(self.export.description.as_bytes());
        let mut out = option_reply(option::LIST, reply::SERVER, &entry);
        out.extend(option_reply(option::LIST, reply::ACK, &[]));
        Ok(out)
    }

    fn structured_reply(&mut self, data: &[u8]) -> Result<Vec<u8>, Wrong> {
        if !data.is_empty() {
            return Err((reply::ERR_INVALID, "STRUCTURED_REPLY has no data"));
        }
        self.structured = true;
        Ok(option_reply(option::STRUCTURED_REPLY, reply::ACK, &[]))
    }

    fn go(&mut self, option: u32, data: &[u8]) -> Result<Vec<u8>, Wrong> {
        let bad = (reply::ERR_INVALID, "the data of the option is malformed");
        let (name, rest) = take_name(data).ok_or(bad)?;
        let wanted = usize::from(be16(rest, 0));
        if rest.len() != 2 + 2 * wanted {
            return Err(bad);
        }
        self.known(name)?;
        let asked = |kind: u16| (0..wanted).any(|i| be16(rest, 2 + 2 * i) == kind);
        let mut out = Vec::new();
        let mut tell = |kind: u16, value: &[u8]| {
            let mut data = kind.to_be_bytes().to_vec();
            data.extend(value);
            out.extend(option_reply(option, reply::INFO, &data));
        };
        if asked(info::NAME) {
            tell(info::NAME, self.export.name.as_bytes());
        }
        if asked(info::DESCRIPTION) && !self.export.description.is_empty() {
            tell(info::DESCRIPTION, self.export.description.as_bytes());
        }
        if asked(info::BLOCK_SIZE) {
            // Any byte can be addressed; the second is what needs no copying.
            let sizes = [1, self.export.preferred, proto::MAX_PAYLOAD];
            tell(info::BLOCK_SIZE, &sizes.map(u32::to_be_bytes).concat());
        }
        let mut export = self.export.size.to_be_bytes().to_vec();
        export.extend(self.flags().to_be_bytes());
        tell(info::EXPORT, &export);
        out.extend(option_reply(option, reply::ACK, &[]));
        Ok(out)
    }

    fn contexts(&mut self, option: u32, data: &[u8]) -> Result<Vec<u8>, Wrong> {
        let bad = (reply::ERR_INVALID, "the data of the option is malformed");
        let set = option == option::SET_META_CONTEXT;
        if set {
            // Whatever was set before is no longer, also when this one is refused.
            self.context = false;
        }
        if !self.structured {
            return Err((
                reply::ERR_INVALID,
                "metadata contexts need structured replies",
            ));
        }
        let (name, rest) = take_name(data).ok_or(bad)?;
        self.known(name)?;
        if rest.len() < 4 {
            return Err(bad);
        }
        let count = be32(rest, 0);
        let mut rest = rest.get(4..).unwrap_or_default();
        let mut wanted = count == 0 && !set;
        for _ in 0..count {
            let (query, more) = take_name(rest).ok_or(bad)?;
            let listed = !set && query == b"base:";
            wanted |= listed || query == BASE_ALLOCATION.as_bytes();
            rest = more;
        }
        if !rest.is_empty() {
            return Err(bad);
        }
        let mut out = Vec::new();
        if wanted {
            let mut data = CONTEXT_ID.to_be_bytes().to_vec();
            data.extend(BASE_ALLOCATION.as_bytes());
            out = option_reply(option, reply::META_CONTEXT, &data);
        }
        self.context |= wanted && set;
        out.extend(option_reply(option, reply::ACK, &[]));
        Ok(out)
    }

    fn known(&self, name: &[u8]) -> Result<(), Wrong> {
        if name == self.export.name.as_bytes() {
            return Ok(());
        }
        Err((reply::ERR_UNKNOWN, "no export has this name"))
    }

    fn flags(&self) -> u16 {
        let mut flags = transmission::HAS_FLAGS
            | transmission::SEND_FLUSH
            | transmission::SEND_FUA
            | transmission::SEND_CACHE;
        if self.export.read_only {
            flags |= transmission::READ_ONLY;
        } else {
            flags |= transmission::SEND_TRIM
                | transmission::SEND_WRITE_ZEROES
                | transmission::SEND_FAST_ZERO;
        }
        if self.structured {
            flags |= transmission::SEND_DF;
        }
        if self.export.multi_conn {
            flags |= transmission::CAN_MULTI_CONN;
        }
        flags
    }
}

/// A length, so many bytes, and the rest. None if there are not so many.
fn take_name(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = be32(data, 0);
    if data.len() < 4 || len > MAX_NAME {
        return None;
    }
    data.get(4..)?.split_at_checked(len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(name: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend(name);
        data.extend(rest);
        data
    }

    /// The kinds of the replies in what the server says.
    fn kinds(mut bytes: &[u8]) -> Vec<u32> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            out.push(be32(bytes, 12));
            bytes = bytes.get(20 + be32(bytes, 16) as usize..).unwrap();
        }
        out
    }

    #[test]
    fn options_are_answered_as_the_protocol_says() {
        let export = Export::for_test("disk", 4096);
        let mut h = Handshake::new(&export);
        assert!(!h.client_flags(1 << 7));
        assert!(h.client_flags(3));
        let (out, next) = h.option(option::STARTTLS, &[]);
        assert_eq!((kinds(&out), next), (vec![reply::ERR_UNSUP], Next::Option));
        let (out, _) = h.option(option::LIST, &[]);
        assert_eq!(kinds(&out), [reply::SERVER, reply::ACK]);
        let query = named(b"disk", &[0, 0, 0, 0]);
        let (out, _) = h.option(option::LIST_META_CONTEXT, &query);
        assert_eq!(
            kinds(&out),
            [reply::ERR_INVALID],
            "needs structured replies"
        );
        h.option(option::STRUCTURED_REPLY, &[]);
        let (out, _) = h.option(option::LIST_META_CONTEXT, &query);
        assert_eq!(kinds(&out), [reply::META_CONTEXT, reply::ACK]);
        let queries = [&[0, 0, 0, 1], &*named(b"base:allocation", &[])].concat();
        let one = named(b"disk", &queries);
        let (out, _) = h.option(option::SET_META_CONTEXT, &one);
        assert_eq!(kinds(&out), [reply::META_CONTEXT, reply::ACK]);
        assert!(h.terms().context);
        let (out, next) = h.option(option::GO, &named(b"other", &[0, 0]));
        assert_eq!(
            (kinds(&out), next),
            (vec![reply::ERR_UNKNOWN], Next::Option)
        );
        let (out, next) = h.option(option::GO, &named(b"disk", &[0, 1, 0, 3]));
        assert_eq!(
            (kinds(&out), next),
            (
                vec![reply::INFO, reply::INFO, reply::ACK],
                Next::Transmission
            )
        );
    }

    #[test]
    fn an_export_name_is_taken_or_the_connection_ends() {
        let export = Export::for_test("", 4096);
        let mut h = Handshake::new(&export);
        assert_eq!(h.option(option::EXPORT_NAME, b"x").1, Next::Close);
        let (out, next) = h.option(option::EXPORT_NAME, b"");
        assert_eq!((out.len(), next), (134, Next::Transmission));
        h.client_flags(2);
        assert_eq!(h.option(option::EXPORT_NAME, b"").0.len(), 10);
    }

    proptest! {
        #[test]
        fn no_option_panics_or_says_much(
            option in 0u32..12, data in proptest::collection::vec(any::<u8>(), 0..64),
            structured: bool
        ) {
            let export = Export::for_test("", 4096);
            let mut h = Handshake::new(&export);
            h.structured = structured;
            let (out, _) = h.option(option, &data);
            prop_assert!(out.len() < 512);
        }
    }
}
