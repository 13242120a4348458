//! What a domain may be called: a name becomes a file's name, a word on command lines and a line
//! in tables.

use crate::error::{Error, Kind, Result};

/// Longest name in bytes: `NAME.xml` must fit a file name.
pub const MAX_NAME: usize = 240;

/// Checks a name.
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "it is empty".to_string()
    } else if name.len() > MAX_NAME {
        format!("it has {} bytes; at most {MAX_NAME} are taken", name.len())
    } else if let Some(bad) = name.chars().find(|c| c.is_control()) {
        format!("it contains the control character {}", bad.escape_default())
    } else if name.contains('/') {
        "it contains '/'".to_string()
    } else if name.starts_with('.') {
        "it begins with '.'".to_string()
    } else if name.starts_with('-') {
        "it begins with '-', which commands take for an option".to_string()
    } else if name.trim() != name {
        "it begins or ends with a space".to_string()
    } else {
        return Ok(());
    };
    let shown: String = name
        .chars()
        .take(60)
        .flat_map(char::escape_default)
        .collect();
    Err(Error::new(Kind::Definition, format!("invalid domain name '{shown}'")).cause(why))
}

/// The nearest of `names` to `wanted`, when it is near enough to be meant.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wanted.chars().count() / 3).clamp(1, 3);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|(distance, name)| *distance <= limit || prefix(wanted, name))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

fn prefix(wanted: &str, name: &str) -> bool {
    wanted.len() >= 3 && name.starts_with(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_files_are_refused() {
        let long = "x".repeat(10_000);
        for name in ["", "a/b", "a\nb", "\u{7f}", ".hidden", "-x", " a", &long] {
            let error = check(name).unwrap_err();
            assert!(error.to_string().len() < 400, "{error}");
        }
        for name in ["centos7", "web 01", "büro", "a.b-c_d+e"] {
            check(name).unwrap();
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_near() {
        let names = ["centos7", "web01", "database"];
        assert_eq!(nearest("cetnos7", names), Some("centos7"));
        assert_eq!(nearest("data", names), Some("database"));
        assert_eq!(nearest("zebra", names), None);
    }
}
