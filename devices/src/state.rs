//! Saved state of devices: plain, versioned, self-describing data.
//!
//! A section's payload is a type of its own in the device's `state.rs`, never the live struct. Its
//! version grows when its meaning changes; a reader takes the versions it documents and refuses
//! others by number. There is no default: a device says [`Saved::Stateless`] on purpose.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Bytes as saved: two hexadecimal digits each.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let text = String::with_capacity(bytes.len().saturating_mul(2));
    bytes.iter().fold(text, |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What [`hex`] wrote; `None` for anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

/// One piece of saved state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// The device's alias.
    pub device: String,
    /// What the payload is, such as `virtio-blk`.
    pub kind: String,
    /// Version of the payload.
    pub version: u32,
    /// The payload.
    pub payload: serde_json::Value,
}

/// What a device answers when it is asked to save itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Saved {
    /// It has no state.
    Stateless,
    /// Its state.
    Sections(Vec<Section>),
    /// It cannot be saved now, and why.
    Unsupported(String),
}

/// A section that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The section is not there.
    #[error("device '{device}': saved state has no section '{kind}'")]
    Missing {
        /// Alias.
        device: String,
        /// Section kind.
        kind: String,
    },
    /// Written by another version.
    #[error("device '{device}': section '{kind}' has version {found}, this build reads {known}")]
    Version {
        /// Alias.
        device: String,
        /// Section kind.
        kind: String,
        /// Version found.
        found: u32,
        /// Version known.
        known: u32,
    },
    /// The payload is not what it should be.
    #[error("device '{device}': section '{kind}': {reason}")]
    Invalid {
        /// Alias.
        device: String,
        /// Section kind.
        kind: String,
        /// What is wrong.
        reason: String,
    },
}

impl Section {
    /// A section from a payload type.
    ///
    /// # Errors
    /// [`StateError::Invalid`] when the payload cannot be serialised.
    pub fn new<T: Serialize>(
        device: &str,
        kind: &str,
        version: u32,
        payload: &T,
    ) -> Result<Self, StateError> {
        let payload = serde_json::to_value(payload).map_err(|error| StateError::Invalid {
            device: device.into(),
            kind: kind.into(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            device: device.into(),
            kind: kind.into(),
            version,
            payload,
        })
    }
}

/// Where a device comes from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// Power-on defaults.
    Fresh,
    /// These sections, which are all of this device's and no other's.
    Restored(&'a [Section]),
}

impl Origin<'_> {
    /// The payload of `kind` when restored; `None` when fresh.
    ///
    /// # Errors
    /// [`StateError`] when the section is missing, of another version, or not of type `T`.
    pub fn payload<T: DeserializeOwned>(
        &self,
        device: &str,
        kind: &str,
        known: u32,
    ) -> Result<Option<T>, StateError> {
        let Self::Restored(sections) = self else {
            return Ok(None);
        };
        let section = sections
            .iter()
            .find(|section| section.kind == kind)
            .ok_or_else(|| StateError::Missing {
                device: device.into(),
                kind: kind.into(),
            })?;
        if section.version != known {
            return Err(StateError::Version {
                device: device.into(),
                kind: kind.into(),
                found: section.version,
                known,
            });
        }
        serde_json::from_value(section.payload.clone())
            .map(Some)
            .map_err(|error| StateError::Invalid {
                device: device.into(),
                kind: kind.into(),
                reason: error.to_string(),
            })
    }
}
