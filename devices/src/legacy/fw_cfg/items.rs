//! What can be read, by key: known numbers, and files with names and a directory.

use std::collections::BTreeMap;

/// Most items of a machine.
pub const MAX_ITEMS: usize = 256;
/// Bytes of the longest item.
pub const MAX_ITEM: usize = 4 << 20;
/// Bytes of a file's name, with the zero behind it.
const NAME: usize = 56;
/// Bits of a key that say which item; bit 14 once meant writing.
const ITEM_BITS: u16 = 0xbfff;

/// Keys that have a number instead of a name.
mod key {
    /// "QEMU".
    pub(super) const SIGNATURE: u16 = 0x00;
    /// What the interface can do.
    pub(super) const ID: u16 = 0x01;
    /// The files.
    pub(super) const DIRECTORY: u16 = 0x19;
    /// The first file.
    pub(super) const FIRST_FILE: u16 = 0x20;
}

/// The traditional interface and DMA.
const FEATURES: u32 = 0b11;

/// What an item is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A number that firmware knows, below 0x20 or from 0x8000 on.
    Number(u16),
    /// A name in the directory.
    File(String),
}

/// Something that firmware can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is found by.
    pub key: Key,
    /// Its bytes.
    pub content: Vec<u8>,
}

impl Item {
    /// A file.
    pub fn file(name: &str, content: Vec<u8>) -> Self {
        Self {
            key: Key::File(name.into()),
            content,
        }
    }

    /// An item with a number.
    pub fn number(number: u16, content: &[u8]) -> Self {
        Self {
            key: Key::Number(number),
            content: content.to_vec(),
        }
    }
}

/// Items that cannot be offered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemsError {
    /// Too many.
    #[error("{0} items; at most {MAX_ITEMS} can be offered")]
    Count(usize),
    /// Too long.
    #[error("item {0:?} is longer than {MAX_ITEM} bytes")]
    Length(Key),
    /// A name that the directory cannot hold, or a number that is not free.
    #[error(
        "item {0:?} has a name of more than 55 bytes or with a zero, or a number that is taken"
    )]
    Key(Key),
}

/// All items of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Items {
    items: Vec<Item>,
    by_key: BTreeMap<u16, Vec<u8>>,
}

impl Items {
    /// Gives the files their keys, in the order of their names.
    pub(super) fn new(mut items: Vec<Item>) -> Result<Self, ItemsError> {
        if items.len() > MAX_ITEMS {
            return Err(ItemsError::Count(items.len()));
        }
        items.sort_by(|a, b| a.key.cmp(&b.key));
        let mut by_key = BTreeMap::new();
        by_key.insert(key::SIGNATURE, b"QEMU".to_vec());
        by_key.insert(key::ID, FEATURES.to_le_bytes().to_vec());
        let count = items.iter().filter(|item| is_file(item)).count();
        let mut directory = u32::try_from(count).unwrap_or(0).to_be_bytes().to_vec();
        let mut next = key::FIRST_FILE;
        let mut last: Option<&Key> = None;
        for item in &items {
            let content = &item.content;
            let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
            if content.len() > MAX_ITEM {
                return Err(ItemsError::Length(item.key.clone()));
            }
            let wrong = || ItemsError::Key(item.key.clone());
            let number = match &item.key {
                Key::Number(number) => {
                    let reserved = (key::DIRECTORY..0x8000).contains(number);
                    if reserved || number & !ITEM_BITS != 0 {
                        return Err(wrong());
                    }
                    *number
                }
                Key::File(name) => {
                    if name.len() >= NAME || name.contains('\0') || last == Some(&item.key) {
                        return Err(wrong());
                    }
                    directory.extend(size.to_be_bytes());
                    directory.extend(next.to_be_bytes());
                    directory.extend([0; 2]);
                    let mut padded = name.as_bytes().to_vec();
                    padded.resize(NAME, 0);
                    directory.extend(padded);
                    next += 1;
                    next - 1
                }
            };
            if by_key.insert(number, content.clone()).is_some() {
                return Err(wrong());
            }
            last = Some(&item.key);
        }
        by_key.insert(key::DIRECTORY, directory);
        Ok(Self { items, by_key })
    }

    /// What they were made from, sorted.
    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }
}

fn is_file(item: &Item) -> bool {
    matches!(item.key, Key::File(_))
}

/// A selected item and how much of it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reader {
    pub(super) key: u16,
    pub(super) position: u32,
}

impl Reader {
    /// Selects the item with this key, from its beginning.
    pub(super) fn select(&mut self, key: u16) {
        *self = Self {
            key: key & ITEM_BITS,
            position: 0,
        };
    }

    /// Goes on by so many bytes.
    pub(super) fn skip(&mut self, count: u32) {
        self.position = self.position.saturating_add(count);
    }

    /// What is left of the item; nothing of one that does not exist.
    pub(super) fn rest<'a>(&self, items: &'a Items) -> &'a [u8] {
        let content = items.by_key.get(&self.key).map_or(&[][..], Vec::as_slice);
        let position = usize::try_from(self.position).unwrap_or(usize::MAX);
        content.get(position..).unwrap_or_default()
    }

    /// The next byte; 0 behind the end.
    pub(super) fn byte(&mut self, items: &Items) -> u8 {
        let byte = self.rest(items).first().copied().unwrap_or(0);
        self.skip(1);
        byte
    }
}
