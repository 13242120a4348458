//! What one row of the tables says.

/// What happens to an element, an attribute or one of its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does what libvirt says that it does.
    Honoured,
    /// It is accepted and kept, a warning says that it has no effect, or which.
    Warned,
    /// It is accepted and kept, and `start` refuses it by name: the guest would see a difference,
    /// and it is not built yet.
    Kept,
    /// The document is refused.
    Refused,
    /// It goes with the element around it and has no fate of its own.
    Part,
}

/// What the text of an element or the value of an attribute may be.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// No text; an attribute is never this.
    Empty,
    /// Anything.
    Text,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// One of these, each with its own fate.
    Words(&'static [Word]),
    /// `yes` or `no`.
    YesNo,
    /// `on` or `off`.
    OnOff,
    /// A decimal number without sign.
    Number,
    /// A set of numbers such as `0-3,^2,7`.
    Set,
    /// A number, hexadecimal with `0x` before it.
    AnyBase,
}

/// A word with a fate.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// The word.
    pub word: &'static str,
    /// What happens to it.
    pub fate: Fate,
    /// Why, when it is not honoured.
    pub doc: &'static str,
}

/// One row: an element (`driver`), elements of a kind (`a/b,c`) or attributes (`driver@a,b`).
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The path below the group's base.
    pub path: &'static str,
    /// What happens to it.
    pub fate: Fate,
    /// What it may say.
    pub value: Value,
    /// What it does, or why it does nothing: a phrase that fits behind a colon.
    pub doc: &'static str,
    /// Whether there may be several in one place.
    pub many: bool,
}

impl Row {
    /// The same for an element that may be there several times.
    pub const fn many(self) -> Self {
        Self { many: true, ..self }
    }
}

/// Rows for one or several places: a chapter of the documentation.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// Paths of the elements that the rows are about.
    pub bases: &'static [&'static str],
    /// The rows.
    pub rows: &'static [Row],
}

const fn row(path: &'static str, fate: Fate, value: Value, doc: &'static str) -> Row {
    Row {
        path,
        fate,
        value,
        doc,
        many: false,
    }
}

/// A row that is honoured.
pub(super) const fn honoured(path: &'static str, value: Value, doc: &'static str) -> Row {
    row(path, Fate::Honoured, value, doc)
}

/// A row that is accepted with a warning.
pub(super) const fn warned(path: &'static str, value: Value, doc: &'static str) -> Row {
    row(path, Fate::Warned, value, doc)
}

/// A row that is kept and refused at start.
pub(super) const fn kept(path: &'static str, value: Value, doc: &'static str) -> Row {
    row(path, Fate::Kept, value, doc)
}

/// A row that is refused.
pub(super) const fn refused(path: &'static str, doc: &'static str) -> Row {
    row(path, Fate::Refused, Value::Text, doc)
}

/// A row that goes with the element around it.
pub(super) const fn part(path: &'static str, value: Value) -> Row {
    row(path, Fate::Part, value, "")
}

/// A word that is honoured.
pub(super) const fn word(word: &'static str) -> Word {
    Word {
        word,
        fate: Fate::Honoured,
        doc: "",
    }
}

/// A word that is accepted with a warning.
pub(super) const fn warned_word(word: &'static str, doc: &'static str) -> Word {
    Word {
        word,
        fate: Fate::Warned,
        doc,
    }
}

/// A word that is kept and refused at start.
pub(super) const fn kept_word(word: &'static str, doc: &'static str) -> Word {
    Word {
        word,
        fate: Fate::Kept,
        doc,
    }
}

/// A word that is refused.
pub(super) const fn refused_word(word: &'static str, doc: &'static str) -> Word {
    Word {
        word,
        fate: Fate::Refused,
        doc,
    }
}
