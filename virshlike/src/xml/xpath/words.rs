//! The words of an expression (XPath 1.0 §3.7).

use super::Mistake;

/// More words than anybody writes; it also bounds how deep what is read may be nested.
const MOST: usize = 500;

/// A word, and the character where it starts, from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Word {
    pub at: usize,
    pub token: Token,
}

/// What a word is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Punctuation and operators, `and`, `or`, `mod`, `div` and the `*` of a product included.
    Sign(&'static str),
    /// A name, or `*`, or `prefix:*`, that stands for nodes.
    Name(String),
    /// A name in front of `(`.
    Function(String),
    /// A name in front of `::`.
    Axis(String),
    Literal(String),
    Number(f64),
}

/// The longer first.
const SIGNS: &[&str] = &[
    "::", "..", "//", "!=", "<=", ">=", "(", ")", "[", "]", ".", "@", ",", "/", "|", "+", "-", "=",
    "<", ">",
];
/// Words that are operators where an operator may stand.
const OPERATORS: &[&str] = &["and", "or", "mod", "div"];

/// Splits an expression into words.
pub(super) fn split(text: &str) -> Result<Vec<Word>, Mistake> {
    let characters: Vec<char> = text.chars().collect();
    let mut reader = Reader {
        characters: &characters,
        next: 0,
        words: Vec::new(),
    };
    while reader.word()? {
        if reader.words.len() > MOST {
            let why = format!("it has more than {MOST} words");
            return Err(Mistake::at(reader.next, why));
        }
    }
    Ok(reader.words)
}

struct Reader<'a> {
    characters: &'a [char],
    next: usize,
    words: Vec<Word>,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.next.checked_add(ahead)?).copied()
    }

    /// Takes characters as long as they fit.
    fn take(&mut self, fits: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(character) = self.peek(0).filter(|c| fits(*c)) {
            taken.push(character);
            self.next += 1;
        }
        taken
    }

    /// Reads the next word; false at the end.
    fn word(&mut self) -> Result<bool, Mistake> {
        self.take(char::is_whitespace);
        let at = self.next + 1;
        let Some(first) = self.peek(0) else {
            return Ok(false);
        };
        let token = match first {
            '"' | '\'' => self.literal(first)?,
            '*' => {
                self.next += 1;
                match self.is_operator_next() {
                    true => Token::Sign("*"),
                    false => Token::Name("*".to_string()),
                }
            }
            '$' => return Err(Mistake::at(at, "variables have no value here")),
            '0'..='9' => self.number(at)?,
            '.' if self.peek(1).is_some_and(|c| c.is_ascii_digit()) => self.number(at)?,
            c if starts_name(c) => self.name(at)?,
            _ => self.sign(at)?,
        };
        self.words.push(Word { at, token });
        Ok(true)
    }

    /// Whether an operator may stand behind the words so far (§3.7).
    fn is_operator_next(&self) -> bool {
        match self.words.last().map(|word| &word.token) {
            None | Some(Token::Axis(_) | Token::Function(_)) => false,
            Some(Token::Sign(sign)) => matches!(*sign, ")" | "]" | "." | ".."),
            Some(_) => true,
        }
    }

    fn literal(&mut self, quote: char) -> Result<Token, Mistake> {
        let at = self.next + 1;
        self.next += 1;
        let text = self.take(|c| c != quote);
        if self.peek(0) != Some(quote) {
            return Err(Mistake::at(
                at,
                format!("a text without its closing {quote}"),
            ));
        }
        self.next += 1;
        Ok(Token::Literal(text))
    }

    fn number(&mut self, at: usize) -> Result<Token, Mistake> {
        let text = self.take(|c| c.is_ascii_digit() || c == '.');
        let number = text.parse().ok().filter(|_| text.matches('.').count() < 2);
        let number = number.ok_or_else(|| Mistake::at(at, format!("'{text}' is no number")))?;
        Ok(Token::Number(number))
    }

    fn name(&mut self, at: usize) -> Result<Token, Mistake> {
        let mut name = self.take(continues_name);
        if self.is_operator_next() {
            let operator = OPERATORS.iter().find(|operator| **operator == name);
            return match operator {
                Some(operator) => Ok(Token::Sign(operator)),
                None => Err(Mistake::at(
                    at,
                    format!("'{name}' stands where an operator must"),
                )),
            };
        }
        let colon = self.peek(0) == Some(':') && self.peek(1) != Some(':');
        if colon && self.peek(1) == Some('*') {
            self.next += 2;
            return Ok(Token::Name(format!("{name}:*")));
        }
        if colon && self.peek(1).is_some_and(starts_name) {
            self.next += 1;
            name = format!("{name}:{}", self.take(continues_name));
        }
        let after = self.next;
        self.take(char::is_whitespace);
        let token = match (self.peek(0), self.peek(1)) {
            (Some('('), _) => {
                self.next += 1;
                Token::Function(name)
            }
            (Some(':'), Some(':')) => {
                self.next += 2;
                Token::Axis(name)
            }
            _ => {
                self.next = after;
                Token::Name(name)
            }
        };
        Ok(token)
    }

    fn sign(&mut self, at: usize) -> Result<Token, Mistake> {
        let here = self.characters.get(self.next..).unwrap_or_default();
        let found = SIGNS.iter().find(|sign| {
            let mut here = here.iter().copied();
            sign.chars().all(|c| here.next() == Some(c))
        });
        let Some(sign) = found else {
            let shown: String = here.iter().take(1).flat_map(|c| c.escape_debug()).collect();
            return Err(Mistake::at(
                at,
                format!("'{shown}' has no meaning in XPath"),
            ));
        };
        self.next += sign.len();
        Ok(Token::Sign(sign))
    }
}

fn starts_name(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn continues_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '\u{b7}')
}
