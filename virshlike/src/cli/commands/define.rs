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
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::new(Kind::Definition, format!("{file} is no definition"))
            .cause(format!("it is not UTF-8 text: byte {at} is wrong"))
    })?;
    Ok((text, file))
}
