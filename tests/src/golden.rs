//! Expected output in files beside the tests.
//!
//! With `UPDATE_GOLDEN=1` in the environment the files are written instead of compared; what changed
//! is then reviewed as a diff.

use std::fs;
use std::path::Path;

/// Compares `found` with the file `name` below `tests/golden` of the crate at `manifest_dir`
/// (`env!("CARGO_MANIFEST_DIR")`).
///
/// # Panics
/// When they differ, with the first line that does; when the file cannot be read or written.
#[track_caller]
pub fn compare(manifest_dir: &str, name: &str, found: &str) {
    let path = Path::new(manifest_dir).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).expect("cannot make the folder of golden files");
        }
        fs::write(&path, found).expect("cannot write the golden file");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; to write it: UPDATE_GOLDEN=1 cargo test",
            path.display()
        )
    });
    if let Some(line) = difference(&expected, found) {
        panic!(
            "{}: {line}\nto accept it: UPDATE_GOLDEN=1 cargo test",
            path.display()
        );
    }
}

/// The first difference, for a person.
fn difference(expected: &str, found: &str) -> Option<String> {
    if expected == found {
        return None;
    }
    let mut pairs = expected.lines().zip(found.lines()).enumerate();
    let Some((number, (old, new))) = pairs.find(|(_, (old, new))| old != new) else {
        let lines = (expected.lines().count(), found.lines().count());
        return Some(format!("{} lines expected, {} found", lines.0, lines.1));
    };
    Some(format!(
        "line {}:\n  expected: {old}\n  found:    {new}",
        number + 1
    ))
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn the_first_difference_is_shown() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        let text = difference("a\nb\n", "a\nc\n").unwrap();
        assert!(
            text.contains("line 2") && text.contains("found:    c"),
            "{text}"
        );
        assert!(
            difference("a\n", "a\nb\n")
                .unwrap()
                .contains("1 lines expected, 2 found")
        );
    }
}
