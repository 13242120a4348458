//! What is saved of the firmware configuration device: its items too, so that a guest which goes on
//! reading finds the same bytes, whatever a newer program would say.

use super::Inner;
use super::items::{Item, Items, Key, Reader};
use crate::state::{StateError, hex, unhex};
use serde::{Deserialize, Serialize};

/// Section kind, and the device's alias.
pub const KIND: &str = "fw-cfg";
/// Version of [`FwCfgState`].
pub const VERSION: u32 = 1;

/// Registers and items.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FwCfgState {
    /// Key of the selected item.
    pub selected: u16,
    /// Bytes of it that were read.
    pub position: u32,
    /// The high half of the address of the next access.
    pub dma_high: u32,
    /// What can be read.
    pub items: Vec<ItemState>,
}

/// One item; it has a name or a number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemState {
    /// The name of a file.
    pub name: Option<String>,
    /// The key of an item without a name.
    pub number: Option<u16>,
    /// Its bytes in hexadecimal.
    pub content: String,
}

impl FwCfgState {
    pub(super) fn of(items: &Items, inner: &Inner) -> Self {
        let item = |item: &Item| {
            let (name, number) = match &item.key {
                Key::File(name) => (Some(name.clone()), None),
                Key::Number(number) => (None, Some(*number)),
            };
            ItemState {
                name,
                number,
                content: hex(&item.content),
            }
        };
        Self {
            selected: inner.reader.key,
            position: inner.reader.position,
            dma_high: inner.dma_high,
            items: items.items().iter().map(item).collect(),
        }
    }

    /// Items and registers as they were.
    pub(super) fn take(self) -> Result<(Items, Inner), StateError> {
        let invalid = |reason: String| StateError::Invalid {
            device: KIND.into(),
            kind: KIND.into(),
            reason,
        };
        let mut items = Vec::new();
        for item in self.items {
            let key = match (item.name, item.number) {
                (Some(name), None) => Key::File(name),
                (None, Some(number)) => Key::Number(number),
                _ => {
                    return Err(invalid(
                        "an item has neither name nor number, or both".into(),
                    ));
                }
            };
            let content = unhex(&item.content)
                .ok_or_else(|| invalid(format!("{key:?} is not hexadecimal")))?;
            items.push(Item { key, content });
        }
        let items = Items::new(items).map_err(|error| invalid(error.to_string()))?;
        let mut reader = Reader::default();
        reader.select(self.selected);
        reader.skip(self.position);
        let inner = Inner {
            reader,
            dma_high: self.dma_high,
        };
        Ok((items, inner))
    }
}
