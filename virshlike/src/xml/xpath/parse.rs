//! From words to an expression (XPath 1.0 §2 and §3).

use super::Mistake;
use super::functions::Function;
use super::words::{Token, Word};

/// How deep parentheses, predicates and arguments may be nested.
const DEEPEST: usize = 40;

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Binary(Operator, Box<Expression>, Box<Expression>),
    Negative(Box<Expression>),
    Literal(String),
    Number(f64),
    Call(Function, Vec<Expression>),
    Path(Path),
}

/// What stands between two operands. The later bind closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Or,
    And,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Plus,
    Minus,
    Times,
    Div,
    Mod,
    /// The union of two sets of nodes; `at` names it in messages.
    Union {
        at: usize,
    },
}

/// A way through the tree.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Path {
    pub from: From,
    pub steps: Vec<Step>,
}

/// Where a way begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum From {
    /// What is around the outermost element.
    Root,
    /// The node that it is asked for.
    Here,
    /// The nodes of an expression that fit all predicates.
    Set {
        at: usize,
        set: Box<Expression>,
        predicates: Vec<Expression>,
    },
}

/// A step of a way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub axis: Axis,
    pub test: Test,
    pub predicates: Vec<Expression>,
}

/// Where a step leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    Ancestor,
    AncestorOrSelf,
    Attribute,
    Child,
    Descendant,
    DescendantOrSelf,
    Following,
    FollowingSibling,
    Parent,
    Preceding,
    PrecedingSibling,
    Itself,
}

const AXES: &[(&str, Axis)] = &[
    ("ancestor", Axis::Ancestor),
    ("ancestor-or-self", Axis::AncestorOrSelf),
    ("attribute", Axis::Attribute),
    ("child", Axis::Child),
    ("descendant", Axis::Descendant),
    ("descendant-or-self", Axis::DescendantOrSelf),
    ("following", Axis::Following),
    ("following-sibling", Axis::FollowingSibling),
    ("parent", Axis::Parent),
    ("preceding", Axis::Preceding),
    ("preceding-sibling", Axis::PrecedingSibling),
    ("self", Axis::Itself),
];

/// Which nodes of an axis are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    /// Elements, or attributes on their axis; `*` for all, `prefix:*` for all with that prefix.
    Name(String),
    /// `text()`
    Text,
    /// `node()`
    Any,
}

/// Operators by their sign, the loosest group first.
const LEVELS: &[&[(&str, Operator)]] = &[
    &[("or", Operator::Or)],
    &[("and", Operator::And)],
    &[("=", Operator::Equal), ("!=", Operator::Unequal)],
    &[
        ("<", Operator::Less),
        ("<=", Operator::LessOrEqual),
        (">", Operator::Greater),
        (">=", Operator::GreaterOrEqual),
    ],
    &[("+", Operator::Plus), ("-", Operator::Minus)],
    &[
        ("*", Operator::Times),
        ("div", Operator::Div),
        ("mod", Operator::Mod),
    ],
];

/// Reads a whole expression.
pub(super) fn parse(words: &[Word]) -> Result<Expression, Mistake> {
    let mut parser = Parser {
        words,
        next: 0,
        depth: 0,
    };
    let expression = parser.expression()?;
    match parser.words.get(parser.next) {
        None => Ok(expression),
        Some(word) => Err(Mistake::at(word.at, "the expression should end here")),
    }
}

struct Parser<'a> {
    words: &'a [Word],
    next: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.words.get(self.next).map(|word| &word.token)
    }

    fn at(&self) -> usize {
        let behind = || self.words.last().map_or(1, |word| word.at + 1);
        self.words
            .get(self.next)
            .map_or_else(behind, |word| word.at)
    }

    fn mistake(&self, message: impl Into<String>) -> Mistake {
        Mistake::at(self.at(), message)
    }

    /// Takes a sign if it is next.
    fn accept(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Sign(next)) if *next == sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), Mistake> {
        match self.accept(sign) {
            true => Ok(()),
            false => Err(self.mistake(format!("'{sign}' should stand here"))),
        }
    }

    fn expression(&mut self) -> Result<Expression, Mistake> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.mistake(format!("it is nested deeper than {DEEPEST} levels")));
        }
        let found = self.binary(0);
        self.depth -= 1;
        found
    }

    fn binary(&mut self, level: usize) -> Result<Expression, Mistake> {
        let Some(operators) = LEVELS.get(level) else {
            return self.negative();
        };
        let mut left = self.binary(level + 1)?;
        loop {
            let found = operators.iter().find(|(sign, _)| self.accept(sign));
            let Some((_, operator)) = found else {
                return Ok(left);
            };
            let right = self.binary(level + 1)?;
            left = Expression::Binary(*operator, Box::new(left), Box::new(right));
        }
    }

    fn negative(&mut self) -> Result<Expression, Mistake> {
        let mut signs = 0;
        while self.accept("-") {
            signs += 1;
        }
        let mut found = self.union()?;
        for _ in 0..signs {
            found = Expression::Negative(Box::new(found));
        }
        Ok(found)
    }

    fn union(&mut self) -> Result<Expression, Mistake> {
        let mut left = self.path()?;
        loop {
            let at = self.at();
            if !self.accept("|") {
                return Ok(left);
            }
            let right = self.path()?;
            left = Expression::Binary(Operator::Union { at }, Box::new(left), Box::new(right));
        }
    }

    /// A path, or a primary expression with what may follow it.
    fn path(&mut self) -> Result<Expression, Mistake> {
        let at = self.at();
        if self.accept("/") {
            let steps = match self.starts_step() {
                true => self.steps()?,
                false => Vec::new(),
            };
            let from = From::Root;
            return Ok(Expression::Path(Path { from, steps }));
        }
        if self.accept("//") {
            let mut steps = vec![anywhere()];
            steps.extend(self.steps()?);
            let from = From::Root;
            return Ok(Expression::Path(Path { from, steps }));
        }
        if self.starts_step() {
            let from = From::Here;
            let steps = self.steps()?;
            return Ok(Expression::Path(Path { from, steps }));
        }
        let primary = self.primary()?;
        let predicates = self.predicates()?;
        let mut steps = Vec::new();
        if self.accept("//") {
            steps.push(anywhere());
            steps.extend(self.steps()?);
        } else if self.accept("/") {
            steps = self.steps()?;
        }
        if predicates.is_empty() && steps.is_empty() {
            return Ok(primary);
        }
        let set = Box::new(primary);
        let from = From::Set {
            at,
            set,
            predicates,
        };
        Ok(Expression::Path(Path { from, steps }))
    }

    fn starts_step(&self) -> bool {
        match self.peek() {
            Some(Token::Sign(sign)) => matches!(*sign, "." | ".." | "@"),
            Some(Token::Name(_) | Token::Axis(_)) => true,
            Some(Token::Function(name)) => is_node_type(name),
            _ => false,
        }
    }

    fn steps(&mut self) -> Result<Vec<Step>, Mistake> {
        let mut steps = vec![self.step()?];
        loop {
            if self.accept("//") {
                steps.push(anywhere());
            } else if !self.accept("/") {
                return Ok(steps);
            }
            steps.push(self.step()?);
        }
    }

    fn step(&mut self) -> Result<Step, Mistake> {
        for (sign, axis) in [("..", Axis::Parent), (".", Axis::Itself)] {
            if self.accept(sign) {
                return Ok(plain(axis));
            }
        }
        let mut axis = Axis::Child;
        if self.accept("@") {
            axis = Axis::Attribute;
        } else if let Some(Token::Axis(name)) = self.peek() {
            let known = AXES.iter().find(|(known, _)| known == name);
            axis = match known {
                Some((_, axis)) => *axis,
                None => return Err(self.mistake(no_axis(name))),
            };
            self.next += 1;
        }
        let test = self.test()?;
        let predicates = self.predicates()?;
        Ok(Step {
            axis,
            test,
            predicates,
        })
    }

    fn test(&mut self) -> Result<Test, Mistake> {
        let test = match self.peek() {
            Some(Token::Name(name)) => Test::Name(name.clone()),
            Some(Token::Function(name)) => match name.as_str() {
                "text" => Test::Text,
                "node" => Test::Any,
                "comment" | "processing-instruction" => {
                    let what = format!(
                        "{name}() is not known here: only elements, attributes and text are found"
                    );
                    return Err(self.mistake(what));
                }
                _ => return Err(self.mistake("a step of a path cannot be a function")),
            },
            _ => return Err(self.mistake("the name of an element should stand here")),
        };
        self.next += 1;
        if test == Test::Text || test == Test::Any {
            self.expect(")")?;
        }
        Ok(test)
    }

    fn predicates(&mut self) -> Result<Vec<Expression>, Mistake> {
        let mut predicates = Vec::new();
        while self.accept("[") {
            predicates.push(self.expression()?);
            self.expect("]")?;
        }
        Ok(predicates)
    }

    fn primary(&mut self) -> Result<Expression, Mistake> {
        if self.accept("(") {
            let inner = self.expression()?;
            self.expect(")")?;
            return Ok(inner);
        }
        let at = self.at();
        let found = match self.peek() {
            Some(Token::Literal(text)) => Expression::Literal(text.clone()),
            Some(Token::Number(number)) => Expression::Number(*number),
            Some(Token::Function(name)) => {
                let function = Function::named(name).map_err(|why| Mistake::at(at, why))?;
                self.next += 1;
                let arguments = self.arguments()?;
                function
                    .check(arguments.len())
                    .map_err(|why| Mistake::at(at, why))?;
                return Ok(Expression::Call(function, arguments));
            }
            Some(_) => return Err(self.mistake("an expression should stand here")),
            None => return Err(self.mistake("the expression is not complete")),
        };
        self.next += 1;
        Ok(found)
    }

    /// The arguments of a function, and the parenthesis behind them.
    fn arguments(&mut self) -> Result<Vec<Expression>, Mistake> {
        let mut arguments = Vec::new();
        if self.accept(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression()?);
            if self.accept(")") {
                return Ok(arguments);
            }
            self.expect(",")?;
        }
    }
}

fn plain(axis: Axis) -> Step {
    Step {
        axis,
        test: Test::Any,
        predicates: Vec::new(),
    }
}

/// What `//` stands for.
fn anywhere() -> Step {
    plain(Axis::DescendantOrSelf)
}

fn is_node_type(name: &str) -> bool {
    matches!(name, "text" | "node" | "comment" | "processing-instruction")
}

fn no_axis(name: &str) -> String {
    if name == "namespace" {
        return "the axis 'namespace' is not known here".to_string();
    }
    match crate::store::name::nearest(name, AXES.iter().map(|(known, _)| *known)) {
        Some(near) => format!("there is no axis '{name}'; did you mean '{near}'?"),
        None => format!("there is no axis '{name}'"),
    }
}
