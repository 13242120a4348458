//! Text to a checked model, and mistakes into words for an operator.

use super::{Domain, Manager};
use crate::error::{Error, Kind, Result};
use crate::model;
use crate::runtime::Guest;
use crate::store::Definition;
use crate::xml::{Diagnostics, Document, Edits, NewElement};
use uuid::Uuid;

/// A definition that passed every check, with what it has to say anyway.
#[derive(Debug)]
pub struct Checked {
    /// The document as it was written.
    pub document: Document,
    /// What it means.
    pub model: model::Domain,
    /// What was accepted without effect.
    pub warnings: Diagnostics,
}

/// Parses and checks a definition. `file` is what messages call it.
///
/// # Errors
/// Every mistake at once, each with line and column.
pub fn check(text: &str, file: &str) -> Result<Checked> {
    let document = Document::parse(text, file).map_err(|found| mistakes(&found))?;
    let (model, warnings) = model::Domain::parse(&document).map_err(|found| mistakes(&found))?;
    Ok(Checked {
        document,
        model,
        warnings,
    })
}

/// Diagnostics as an error whose causes are `file:line:column: what` lines.
pub fn mistakes(found: &Diagnostics) -> Error {
    let count = found.len();
    let message = match count {
        1 => "the definition has a mistake".to_string(),
        _ => format!("the definition has {count} mistakes"),
    };
    let mut error = Error::new(Kind::Definition, message);
    for diagnostic in found {
        let mut line = format!(
            "{}:{}:{}: {}",
            diagnostic.file, diagnostic.line, diagnostic.column, diagnostic.message
        );
        if let Some(hint) = &diagnostic.hint {
            line.push_str("\n  hint: ");
            line.push_str(hint);
        }
        error.causes.push(line);
    }
    error
}

/// Puts a UUID into a definition that has none.
///
/// # Errors
/// When the document would not parse afterwards.
pub fn set_uuid(checked: &mut Checked, uuid: Uuid) -> Result<()> {
    let mut edits = Edits::new();
    let element = NewElement::new("uuid").text(uuid.to_string());
    edits.insert(checked.document.root().id(), element, &["name", "uuid"]);
    checked
        .document
        .apply(edits)
        .map_err(|found| mistakes(&found))?;
    checked.model.uuid = Some(uuid);
    Ok(())
}

/// Turns disks and network cards of other kinds into virtio ones; says what became of what.
///
/// # Errors
/// When there is no place for them.
pub fn map_to_virtio(checked: &mut Checked) -> Result<Vec<String>> {
    let done = model::map_to_virtio(&mut checked.document).map_err(|found| mistakes(&found))?;
    let (mapped, _) = model::Domain::parse(&checked.document).map_err(|found| mistakes(&found))?;
    checked.model = mapped;
    model::complete(&mut checked.document, &mut checked.model).map_err(|found| mistakes(&found))?;
    Ok(done)
}

/// The same definition under another name.
///
/// # Errors
/// When the document would not parse afterwards.
pub fn renamed(document: &Document, new: &str) -> Result<String> {
    let mut document = document.clone();
    let mut edits = Edits::new();
    if let Some(element) = document.root().child("name") {
        edits.set_text(element.id(), new);
    }
    document.apply(edits).map_err(|found| mistakes(&found))?;
    Ok(document.text())
}

impl Manager {
    /// The definition on disk of a domain that was found.
    ///
    /// # Errors
    /// It is gone, or has none because it is transient.
    pub fn stored(&self, domain: &Domain) -> Result<Definition> {
        match self.store.read(&domain.name)? {
            Some(stored) if stored.uuid == domain.uuid => Ok(stored),
            Some(_) => Err(Error::new(
                Kind::NotFound,
                format!("failed to get domain '{}'", domain.name),
            )
            .cause("another command replaced it meanwhile")),
            None => Err(Error::new(
                Kind::NotFound,
                format!("domain '{}' has no persistent definition", domain.name),
            )),
        }
    }

    /// The checked definition on disk.
    ///
    /// # Errors
    /// As [`check`], and a file whose name is not the name that it gives.
    pub fn checked(&self, stored: &Definition) -> Result<Checked> {
        let file = stored.path.display().to_string();
        let checked = check(&stored.text, &file)
            .map_err(|error| error.hint(format!("correct it: vm edit {}", stored.name)))?;
        if checked.model.name != stored.name {
            let at = checked
                .document
                .root()
                .child("name")
                .map(|name| name.text_position());
            let at = at.map(|at| format!(":{at}")).unwrap_or_default();
            return Err(Error::new(Kind::Definition, "the definition has a mistake")
                .cause(format!(
                    "{file}{at}: it names the domain '{}', but the file is called {}.xml",
                    checked.model.name, stored.name
                ))
                .hint(format!(
                    "write the old name back, then: vm domrename {} {}",
                    stored.name, checked.model.name
                )));
        }
        Ok(checked)
    }

    /// The definition that describes the domain now: the running one's, else the one on disk.
    ///
    /// # Errors
    /// As [`Manager::checked`].
    pub fn current_definition(
        &self,
        domain: &Domain,
        guest: Option<&Guest>,
    ) -> Result<(Document, model::Domain)> {
        if let Some(live) = guest.and_then(|guest| guest.dir().live()) {
            let checked = check(
                &live,
                &format!("the running definition of '{}'", domain.name),
            )?;
            return Ok((checked.document, checked.model));
        }
        let stored = self.stored(domain)?;
        let checked = self.checked(&stored)?;
        Ok((checked.document, checked.model))
    }
}
