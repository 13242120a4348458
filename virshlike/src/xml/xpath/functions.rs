//! The functions of XPath 1.0 §4 by name; what they do is in [`super::evaluate`] and here.

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Boolean,
    Ceiling,
    Concat,
    Contains,
    Count,
    False,
    Floor,
    Last,
    LocalName,
    Name,
    NamespaceUri,
    NormalizeSpace,
    Not,
    Number,
    Position,
    Round,
    StartsWith,
    String,
    StringLength,
    Substring,
    SubstringAfter,
    SubstringBefore,
    Sum,
    Translate,
    True,
}

/// Name, function, fewest and most arguments.
const TABLE: &[(&str, Function, usize, usize)] = &[
    ("boolean", Function::Boolean, 1, 1),
    ("ceiling", Function::Ceiling, 1, 1),
    ("concat", Function::Concat, 2, usize::MAX),
    ("contains", Function::Contains, 2, 2),
    ("count", Function::Count, 1, 1),
    ("false", Function::False, 0, 0),
    ("floor", Function::Floor, 1, 1),
    ("last", Function::Last, 0, 0),
    ("local-name", Function::LocalName, 0, 1),
    ("name", Function::Name, 0, 1),
    ("namespace-uri", Function::NamespaceUri, 0, 1),
    ("normalize-space", Function::NormalizeSpace, 0, 1),
    ("not", Function::Not, 1, 1),
    ("number", Function::Number, 0, 1),
    ("position", Function::Position, 0, 0),
    ("round", Function::Round, 1, 1),
    ("starts-with", Function::StartsWith, 2, 2),
    ("string", Function::String, 0, 1),
    ("string-length", Function::StringLength, 0, 1),
    ("substring", Function::Substring, 2, 3),
    ("substring-after", Function::SubstringAfter, 2, 2),
    ("substring-before", Function::SubstringBefore, 2, 2),
    ("sum", Function::Sum, 1, 1),
    ("translate", Function::Translate, 3, 3),
    ("true", Function::True, 0, 0),
];

impl Function {
    /// The function of a name.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        if let Some((_, function, _, _)) = TABLE.iter().find(|row| row.0 == name) {
            return Ok(*function);
        }
        if matches!(name, "id" | "lang") {
            return Err(format!("the function {name}() is not known here"));
        }
        let near = crate::store::name::nearest(name, TABLE.iter().map(|row| row.0));
        Err(match near {
            Some(near) => format!("there is no function {name}(); did you mean {near}()?"),
            None => format!("there is no function {name}() in XPath 1.0"),
        })
    }

    /// Whether it takes so many arguments.
    pub(super) fn check(self, count: usize) -> Result<(), String> {
        let Some((name, _, least, most)) = TABLE.iter().find(|row| row.1 == self) else {
            return Ok(());
        };
        match (count < *least, count > *most) {
            (true, _) => Err(format!("{name}() wants at least {least} arguments")),
            (_, true) if *most == 0 => Err(format!("{name}() takes no argument")),
            (_, true) => Err(format!("{name}() takes at most {most} arguments")),
            _ => Ok(()),
        }
    }
}

/// `round()`: to the nearest, halves towards positive infinity.
pub(super) fn round(number: f64) -> f64 {
    (number + 0.5).floor()
}

/// `substring()`: characters count from 1, and what lies outside is nothing.
pub(super) fn substring(text: &str, start: f64, length: Option<f64>) -> String {
    let start = round(start);
    let end = length.map_or(f64::INFINITY, |length| start + round(length));
    let mut position = 0.0;
    let inside = |_: &char| {
        position += 1.0;
        position >= start && position < end
    };
    text.chars().filter(inside).collect()
}

/// `translate()`: characters of `from` become those at the same place of `to`, or nothing.
pub(super) fn translate(text: &str, from: &str, to: &str) -> String {
    let to: Vec<char> = to.chars().collect();
    let one = |c: char| match from.chars().position(|known| known == c) {
        Some(place) => to.get(place).copied(),
        None => Some(c),
    };
    text.chars().filter_map(one).collect()
}

/// `normalize-space()`
pub(super) fn normalize_space(text: &str) -> String {
    let words: Vec<&str> = text
        .split([' ', '\t', '\r', '\n'])
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}
