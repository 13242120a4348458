//! The text that describes a vmdk disk, as a pure function from bytes.
//!
//! Source: VMware, "Virtual Disk Format 5.0", the descriptor.
use crate::error::{Error, Result};

/// A disk has at most so many parts.
const MAX_EXTENTS: usize = 1024;
/// A disk without a parent says this.
const NO_PARENT: u32 = u32::MAX;

/// What a part of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bytes as they are, in a file.
    Flat,
    /// Grains, in a file with a header of its own.
    Sparse,
    /// Reads as zeroes.
    Zero,
}

/// A part of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Length in sectors.
    pub(crate) sectors: u64,
    pub(crate) kind: Kind,
    /// The name of its file; empty for zeroes.
    pub(crate) file: String,
    /// Where in the file it begins, in sectors.
    pub(crate) offset: u64,
}

/// All that is said of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Descriptor {
    pub(crate) cid: u32,
    pub(crate) create_type: String,
    pub(crate) lines: Vec<Line>,
}

impl Descriptor {
    /// Reads a descriptor; zeroes may follow it.
    ///
    /// # Errors
    /// What is wrong, or not supported, with the line.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Descriptor> {
        let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let mut found = Descriptor::default();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            let at = |e: Error| e.context(format_args!("line {} of the descriptor", n + 1));
            let first = line.split_whitespace().next().unwrap_or_default();
            if matches!(first, "RW" | "RDONLY" | "NOACCESS") {
                found.lines.push(extent(line).map_err(at)?);
                if found.lines.len() > MAX_EXTENTS {
                    return Err(Error::corrupt(format!(
                        "a disk of more than {MAX_EXTENTS} parts"
                    )));
                }
            } else if let Some((key, value)) = line.split_once('=') {
                found.set(key.trim(), value.trim()).map_err(at)?;
            }
        }
        Ok(found)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "CID" => self.cid = hex(value)?,
            "parentCID" if hex(value)? != NO_PARENT => {
                return Err(Error::unsupported(
                    "vmdk with a parent",
                    "the disk is a difference to a parent: merge its snapshots first",
                ));
            }
            "createType" => value.trim_matches('"').clone_into(&mut self.create_type),
            _ => {}
        }
        Ok(())
    }
}

fn hex(value: &str) -> Result<u32> {
    u32::from_str_radix(value, 16)
        .map_err(|_| Error::corrupt(format!("{value:?} is not an id of eight hex digits")))
}

fn extent(line: &str) -> Result<Line> {
    let bad = || Error::corrupt(format!("{line:?} does not describe a part of the disk"));
    let (head, rest) = line.split_once('"').unwrap_or((line, ""));
    let (file, behind) = rest.split_once('"').unwrap_or(("", ""));
    let words: Vec<&str> = head.split_whitespace().collect();
    let [access, sectors, kind] = *words.as_slice() else {
        return Err(bad());
    };
    let kind = match kind {
        "FLAT" | "VMFS" => Kind::Flat,
        "SPARSE" => Kind::Sparse,
        "ZERO" => Kind::Zero,
        other => {
            return Err(Error::unsupported(
                &format!("vmdk extent {other}"),
                format!("parts of the kind {other} are not supported (FLAT, SPARSE and ZERO are)"),
            ));
        }
    };
    if access == "NOACCESS" || (kind != Kind::Zero && file.is_empty()) {
        return Err(bad());
    }
    let offset = match behind.split_whitespace().next() {
        None => 0,
        Some(number) => number.parse().map_err(|_| bad())?,
    };
    Ok(Line {
        sectors: sectors.parse().map_err(|_| bad())?,
        kind,
        file: file.to_owned(),
        offset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_read_with_its_parts() {
        let text = b"# Disk DescriptorFile\nversion=1\nCID=1a2b3c4d\nparentCID=ffffffff\n\
            createType=\"twoGbMaxExtentFlat\"\n\n# Extent description\n\
            RW 4194304 FLAT \"a b-f001.vmdk\" 0\nRDONLY 63 ZERO\nRW 100 SPARSE \"s.vmdk\"\n\
            ddb.adapterType = \"ide\"\n\0\0garbage RW";
        let found = Descriptor::parse(text).unwrap();
        assert_eq!((found.cid, found.lines.len()), (0x1a2b_3c4d, 3));
        assert_eq!(found.create_type, "twoGbMaxExtentFlat");
        let first = &found.lines[0];
        assert_eq!((first.sectors, first.kind), (4_194_304, Kind::Flat));
        assert_eq!(first.file, "a b-f001.vmdk");
        assert_eq!(found.lines[1].kind, Kind::Zero);
        assert_eq!(found.lines[2].kind, Kind::Sparse);
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_line() {
        for (text, part) in [
            ("parentCID=12345678", "parent"),
            ("CID=xyz", "hex digits"),
            ("RW 5 VMFSSPARSE \"a\"", "VMFSSPARSE"),
            ("RW x FLAT \"a\" 0", "does not describe"),
            ("RW 5 FLAT", "does not describe"),
            ("NOACCESS 5 FLAT \"a\" 0", "does not describe"),
            ("RW 5 FLAT \"a\" -1", "does not describe"),
        ] {
            let said = Descriptor::parse(format!("a=b\n{text}").as_bytes()).unwrap_err();
            let said = said.to_string();
            assert!(said.contains(part) && said.contains("line 2"), "{said}");
        }
    }
}
