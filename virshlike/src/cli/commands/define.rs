//! `vm define`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::runtime::files::{self, Access};
use crate::store::MAX_DEFINITION;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Define a domain from a libvirt XML file, or change its definition
///
/// Unknown elements and attributes are refused with line and column. What the file says is kept
/// as it was written, comments and layout included; a missing UUID, MAC address or device address
/// is filled in once.
#[derive(Debug, clap::Args)]
pub struct Define {
    /// The definition; '-' reads standard input
    file: PathBuf,
    /// Only check it, and change nothing
    #[arg(long)]
    validate: bool,
}

impl Verb for Define {
    const NAME: &'static str = "define";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let (text, file) = read_definition(&self.file)?;
        let result = if self.validate {
            manager.validate(&text, &file)
        } else {
            manager.define(&text, &file)
        };
        let defined = result
            .map_err(|error| error.context(format!("Failed to define domain from {file}")))?;
        for warning in &defined.warnings {
            context.ui.warn(format!(
                "{}:{}:{}: {}",
                warning.file, warning.line, warning.column, warning.message
            ));
            if let Some(hint) = &warning.hint {
                context.ui.hint(hint);
            }
        }
        if self.validate {
            return context
                .ui
                .sentence(format!("{file} is a valid domain definition"));
        }
        context
            .ui
            .sentence(format!("Domain '{}' defined from {file}", defined.name))
    }
}

/// The text of a definition file, and what messages call it.
///
/// # Errors
/// It cannot be read, is too big, or is no text.
pub fn read_definition(path: &Path) -> Result<(String, String)> {
    let mut bytes = Vec::new();
    let file = path.display().to_string();
    let read = if path == Path::new("-") {
        io::stdin().take(MAX_DEFINITION + 1).read_to_end(&mut bytes)
    } else {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let source = File::open(path)
            .map_err(|error| files::diagnose(&absolute, Access::Read, "the definition", &error))?;
        source.take(MAX_DEFINITION + 1).read_to_end(&mut bytes)
    };
    read.map_err(|error| {
        let failed = Error::io("read", path, &error);
        if error.kind() == io::ErrorKind::IsADirectory {
            return failed.hint("name a file with a <domain> element in it");
        }
        failed
    })?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_DEFINITION {
        return Err(
            Error::new(Kind::Definition, format!("{file} is no definition"))
                .cause(format!("it has more than {MAX_DEFINITION} bytes")),
        );
    }
    let text = text_of(bytes, &file)?;
    Ok((text, file))
}

/// The text of a definition; `file` is what messages call it.
///
/// # Errors
/// It is not UTF-8: where the first wrong byte stands, and how to convert it.
pub fn text_of(bytes: Vec<u8>, file: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let before = String::from_utf8_lossy(bytes.get(..at).unwrap_or_default());
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let wrong = bytes.get(at).copied().unwrap_or_default();
        let encoding = encoding_of(bytes, &before);
        Error::new(Kind::Definition, format!("{file} is no definition"))
            .cause(format!(
                "{file}:{line}:{column}: the byte 0x{wrong:02x} is not UTF-8, which definitions are written in"
            ))
            .hint(format!(
                "convert it: iconv -f {encoding} -t UTF-8 {file} > new.xml, and take encoding= out of its first line"
            ))
    })
}

/// What a text that is not UTF-8 is most likely written in; `start` is what of it can be read.
fn encoding_of(bytes: &[u8], start: &str) -> String {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return "UTF-16".into();
    }
    let declaration = start.split_once("?>").map_or("", |(head, _)| head);
    let said = declaration.split_once("encoding=").map(|(_, rest)| rest);
    let said = said.map(|rest| rest.trim_start_matches(['"', '\'']));
    let name: String = said
        .unwrap_or_default()
        .chars()
        .take(40)
        .take_while(|c| c.is_ascii_alphanumeric() || "-_.:".contains(*c))
        .collect();
    match name.is_empty() || name.eq_ignore_ascii_case("utf-8") {
        true => "ISO-8859-1".into(),
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_in_another_encoding_is_told_where_and_how_to_convert_it() {
        let latin = b"<?xml version='1.0' encoding='ISO-8859-15'?>\n<domain>\n <!-- b\xfcro -->\n";
        let utf16 = [0xff, 0xfe, b'<', 0];
        for (bytes, place, encoding) in [
            (
                latin.to_vec(),
                "a.xml:3:8: the byte 0xfc",
                "-f ISO-8859-15 ",
            ),
            (utf16.to_vec(), "a.xml:1:1: the byte 0xff", "-f UTF-16 "),
            (
                b"<a>\n\xc3\xa4 \xe4".to_vec(),
                "a.xml:2:3: the byte 0xe4",
                "-f ISO-8859-1 ",
            ),
        ] {
            let error = text_of(bytes, "a.xml").unwrap_err();
            assert!(error.causes[0].starts_with(place), "{error}");
            assert!(error.hints[0].contains(encoding), "{:?}", error.hints);
        }
        assert_eq!(text_of("b\u{fc}ro".into(), "a.xml").unwrap(), "b\u{fc}ro");
    }
}
