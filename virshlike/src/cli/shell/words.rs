//! Splitting a typed line into commands and their words, as a shell does: blanks part words, `;`
//! parts commands, quotes and `\` keep what is in or behind them, `#` at the start of a word begins
//! a comment.

/// The commands of a line, each with its words.
///
/// # Errors
/// The quote that is not closed, or a `\` with nothing behind it.
pub fn split(line: &str) -> Result<Vec<Vec<String>>, &'static str> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' | '"' => quoted(c, &mut rest, word.get_or_insert_default())?,
            '\\' => {
                let next = rest.next().ok_or("the line ends with \\")?;
                word.get_or_insert_default().push(next);
            }
            '#' if word.is_none() => break,
            c if c == ';' || c.is_whitespace() => {
                if let Some(command) = commands.last_mut() {
                    command.extend(word.take());
                }
                if c == ';' {
                    commands.push(Vec::new());
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    if let Some(command) = commands.last_mut() {
        command.extend(word);
    }
    commands.retain(|command| !command.is_empty());
    Ok(commands)
}

fn quoted(
    quote: char,
    rest: &mut std::str::Chars<'_>,
    word: &mut String,
) -> Result<(), &'static str> {
    while let Some(c) = rest.next() {
        match c {
            c if c == quote => return Ok(()),
            '\\' if quote == '"' => word.push(rest.next().ok_or("the line ends with \\")?),
            c => word.push(c),
        }
    }
    Err("a quote is not closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_a_shell_does() {
        for (line, expected) in [
            ("", vec![]),
            ("  # only words", vec![]),
            ("list --all", vec![vec!["list", "--all"]]),
            (
                "start a;; dominfo 'b c' ;",
                vec![vec!["start", "a"], vec!["dominfo", "b c"]],
            ),
            (
                r#"desc a "x \"y\"" ''"#,
                vec![vec!["desc", "a", "x \"y\"", ""]],
            ),
            (
                r"define a\ b.xml x#y",
                vec![vec!["define", "a b.xml", "x#y"]],
            ),
        ] {
            assert_eq!(split(line).unwrap(), expected, "{line}");
        }
        for line in ["desc 'a", "desc \"a", "desc \"a\\", "x\\"] {
            assert!(split(line).is_err(), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_too_odd(line in ".{0,60}") {
            let _ = split(&line);
        }
    }
}
