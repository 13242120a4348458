//! What an expression finds (XPath 1.0 §2.4, §3). Work is counted, and ends with a refusal.

use super::Mistake;
use super::functions::{self, Function};
use super::parse::{Axis, Expression, From, Operator, Path, Step, Test};
use super::value::{Answer, Node, Part, text_number};
use crate::xml::tree::{Document, Element};
use std::cell::Cell;

/// Nodes looked at and characters read, at most: some seconds.
const WORK: u64 = 50_000_000;

/// The node that something is asked for, its place among others, and their number.
#[derive(Clone, Copy)]
struct Context {
    node: Node,
    position: usize,
    size: usize,
}

/// Answers an expression.
pub(super) fn evaluate(expression: &Expression, document: &Document) -> Result<Answer, Mistake> {
    let evaluator = Evaluator {
        document,
        left: Cell::new(WORK),
    };
    evaluator.answer(
        expression,
        Context {
            node: Node::Root,
            position: 1,
            size: 1,
        },
    )
}

struct Evaluator<'a> {
    document: &'a Document,
    left: Cell<u64>,
}

impl<'a> Evaluator<'a> {
    fn work(&self, amount: u64) -> Result<(), Mistake> {
        let left = self.left.get().checked_sub(amount);
        let left = left.ok_or_else(|| Mistake::at(1, "it would take too long on this document"))?;
        self.left.set(left);
        Ok(())
    }

    fn answer(&self, expression: &Expression, context: Context) -> Result<Answer, Mistake> {
        self.work(1)?;
        match expression {
            Expression::Literal(text) => Ok(Answer::Text(text.clone())),
            Expression::Number(number) => Ok(Answer::Number(*number)),
            Expression::Negative(inner) => Ok(Answer::Number(-self.number(inner, context)?)),
            Expression::Call(function, arguments) => self.call(*function, arguments, context),
            Expression::Path(path) => self.path(path, context).map(Answer::Nodes),
            Expression::Binary(operator, left, right) => {
                self.binary(*operator, left, right, context)
            }
        }
    }

    fn number(&self, expression: &Expression, context: Context) -> Result<f64, Mistake> {
        let answer = self.answer(expression, context)?;
        self.weigh(&answer)?;
        Ok(answer.to_number(self.document))
    }

    fn text(&self, expression: &Expression, context: Context) -> Result<String, Mistake> {
        let answer = self.answer(expression, context)?;
        self.weigh(&answer)?;
        Ok(answer.to_text(self.document))
    }

    /// Counts the work of reading an answer as a text.
    fn weigh(&self, answer: &Answer) -> Result<(), Mistake> {
        match answer {
            Answer::Nodes(nodes) => match nodes.first() {
                Some(node) => self.work(node.weight(self.document)),
                None => Ok(()),
            },
            Answer::Text(text) => self.work(u64::try_from(text.len()).unwrap_or(u64::MAX)),
            _ => Ok(()),
        }
    }

    fn binary(
        &self,
        operator: Operator,
        left: &Expression,
        right: &Expression,
        context: Context,
    ) -> Result<Answer, Mistake> {
        let truth = |expression: &Expression| -> Result<bool, Mistake> {
            Ok(self.answer(expression, context)?.to_truth())
        };
        let numbers = || -> Result<(f64, f64), Mistake> {
            Ok((self.number(left, context)?, self.number(right, context)?))
        };
        Ok(match operator {
            Operator::Or => Answer::Truth(truth(left)? || truth(right)?),
            Operator::And => Answer::Truth(truth(left)? && truth(right)?),
            Operator::Plus => numbers().map(|(a, b)| Answer::Number(a + b))?,
            Operator::Minus => numbers().map(|(a, b)| Answer::Number(a - b))?,
            Operator::Times => numbers().map(|(a, b)| Answer::Number(a * b))?,
            Operator::Div => numbers().map(|(a, b)| Answer::Number(a / b))?,
            Operator::Mod => numbers().map(|(a, b)| Answer::Number(a % b))?,
            Operator::Union { at } => {
                let mut nodes = self.nodes(left, context, at)?;
                nodes.extend(self.nodes(right, context, at)?);
                Answer::Nodes(self.in_order(nodes)?)
            }
            _ => {
                let (left, right) = (self.answer(left, context)?, self.answer(right, context)?);
                Answer::Truth(self.compare(operator, &left, &right)?)
            }
        })
    }

    fn nodes(
        &self,
        expression: &Expression,
        context: Context,
        at: usize,
    ) -> Result<Vec<Node>, Mistake> {
        match self.answer(expression, context)? {
            Answer::Nodes(nodes) => Ok(nodes),
            _ => Err(Mistake::at(at, "only what paths find can be used here")),
        }
    }

    fn in_order(&self, mut nodes: Vec<Node>) -> Result<Vec<Node>, Mistake> {
        self.work(u64::try_from(nodes.len()).unwrap_or(u64::MAX))?;
        nodes.sort_unstable();
        nodes.dedup();
        Ok(nodes)
    }

    /// §3.4: a comparison with nodes is true when it is for one of them.
    fn compare(&self, operator: Operator, left: &Answer, right: &Answer) -> Result<bool, Mistake> {
        let texts = |nodes: &[Node]| -> Result<Vec<Answer>, Mistake> {
            let text = |node: &Node| {
                self.work(node.weight(self.document))?;
                Ok(Answer::Text(node.text(self.document)))
            };
            nodes.iter().map(text).collect()
        };
        match (left, right) {
            (Answer::Nodes(_), Answer::Truth(_)) | (Answer::Truth(_), Answer::Nodes(_)) => {
                let left = Answer::Truth(left.to_truth());
                Ok(self.compare_plain(operator, &left, &Answer::Truth(right.to_truth())))
            }
            (Answer::Nodes(one), Answer::Nodes(other)) => {
                let (one, other) = (texts(one)?, texts(other)?);
                for left in &one {
                    self.work(u64::try_from(other.len()).unwrap_or(u64::MAX))?;
                    if other.iter().any(|o| self.compare_plain(operator, left, o)) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            (Answer::Nodes(nodes), other) => {
                let one = texts(nodes)?;
                Ok(one
                    .iter()
                    .any(|one| self.compare_plain(operator, one, other)))
            }
            (other, Answer::Nodes(nodes)) => {
                let one = texts(nodes)?;
                Ok(one
                    .iter()
                    .any(|one| self.compare_plain(operator, other, one)))
            }
            _ => Ok(self.compare_plain(operator, left, right)),
        }
    }

    /// Of what are no nodes.
    #[allow(clippy::float_cmp, reason = "XPath's equality is that of IEEE 754")]
    fn compare_plain(&self, operator: Operator, left: &Answer, right: &Answer) -> bool {
        let equal = || match (left, right) {
            (Answer::Truth(_), _) | (_, Answer::Truth(_)) => left.to_truth() == right.to_truth(),
            (Answer::Number(_), _) | (_, Answer::Number(_)) => {
                left.to_number(self.document) == right.to_number(self.document)
            }
            _ => left.to_text(self.document) == right.to_text(self.document),
        };
        let numbers = || {
            (
                left.to_number(self.document),
                right.to_number(self.document),
            )
        };
        match operator {
            Operator::Equal => equal(),
            // Not the opposite for what is no number: that is unequal to itself.
            Operator::Unequal => !equal(),
            Operator::Less => numbers().0 < numbers().1,
            Operator::LessOrEqual => numbers().0 <= numbers().1,
            Operator::Greater => numbers().0 > numbers().1,
            _ => numbers().0 >= numbers().1,
        }
    }

    fn path(&self, path: &Path, context: Context) -> Result<Vec<Node>, Mistake> {
        let mut nodes = match &path.from {
            From::Root => vec![Node::Root],
            From::Here => vec![context.node],
            From::Set {
                at,
                set,
                predicates,
            } => {
                let nodes = self.nodes(set, context, *at)?;
                self.filter(nodes, predicates)?
            }
        };
        for step in &path.steps {
            let mut found = Vec::new();
            for node in nodes {
                found.extend(self.step(step, node)?);
            }
            nodes = self.in_order(found)?;
        }
        Ok(nodes)
    }

    fn step(&self, step: &Step, from: Node) -> Result<Vec<Node>, Mistake> {
        let mut found = Vec::new();
        for node in self.along(step.axis, from)? {
            if self.fits(step, node) {
                found.push(node);
            }
        }
        self.filter(found, &step.predicates)
    }

    /// Those that fit every predicate; a number stands for the place (§2.4).
    fn filter(
        &self,
        mut nodes: Vec<Node>,
        predicates: &[Expression],
    ) -> Result<Vec<Node>, Mistake> {
        for predicate in predicates {
            let size = nodes.len();
            let mut kept = Vec::new();
            for (index, node) in nodes.into_iter().enumerate() {
                let position = index + 1;
                let context = Context {
                    node,
                    position,
                    size,
                };
                let fits = match self.answer(predicate, context)? {
                    Answer::Number(number) => is_place(number, position),
                    other => other.to_truth(),
                };
                if fits {
                    kept.push(node);
                }
            }
            nodes = kept;
        }
        Ok(nodes)
    }

    fn fits(&self, step: &Step, node: Node) -> bool {
        let name = match (&step.test, node) {
            (Test::Any, _) => return true,
            (Test::Text, _) => return matches!(node, Node::Inner(_, Part::Text)),
            (Test::Name(name), Node::Inner(_, Part::Element)) => name,
            // Names are those of elements on every axis but one (§2.3).
            (Test::Name(name), Node::Inner(_, Part::Attribute(_)))
                if step.axis == Axis::Attribute =>
            {
                name
            }
            _ => return false,
        };
        let found = node.name(self.document);
        match name.strip_suffix('*') {
            Some(prefix) => found.starts_with(prefix),
            None => found == name,
        }
    }

    /// The nodes of an axis, the nearest first.
    fn along(&self, axis: Axis, from: Node) -> Result<Vec<Node>, Mistake> {
        let mut found = Vec::new();
        let element = from.element(self.document);
        match axis {
            Axis::Itself => found.push(from),
            Axis::Parent => found.extend(self.parent(from)),
            Axis::Ancestor | Axis::AncestorOrSelf => {
                found.extend((axis == Axis::AncestorOrSelf).then_some(from));
                found.extend(std::iter::successors(self.parent(from), |node| {
                    self.parent(*node)
                }));
            }
            Axis::Attribute => found.extend(element.into_iter().flat_map(Node::attributes_of)),
            Axis::Child => found = self.children(from),
            Axis::Descendant | Axis::DescendantOrSelf => {
                found.extend((axis == Axis::DescendantOrSelf).then_some(from));
                self.descendants(from, &mut found)?;
            }
            Axis::FollowingSibling | Axis::PrecedingSibling => {
                found = self.siblings(from, axis == Axis::FollowingSibling);
            }
            Axis::Following | Axis::Preceding => {
                let forward = axis == Axis::Following;
                let mut around = Some(from);
                // An attribute's element has what follows it inside as well.
                if let Node::Inner(id, Part::Attribute(_)) = from {
                    around = Some(Node::Inner(id, Part::Element));
                    if forward {
                        self.descendants(Node::Inner(id, Part::Element), &mut found)?;
                    }
                }
                while let Some(node) = around {
                    for sibling in self.siblings(node, forward) {
                        let mut inside = vec![sibling];
                        self.descendants(sibling, &mut inside)?;
                        if !forward {
                            inside.reverse();
                        }
                        found.extend(inside);
                    }
                    around = self.parent(node);
                }
            }
        }
        self.work(u64::try_from(found.len()).unwrap_or(u64::MAX))?;
        Ok(found)
    }

    fn parent(&self, node: Node) -> Option<Node> {
        match node {
            Node::Root => None,
            Node::Inner(id, Part::Element) => {
                let parent = self.document.element(id).parent();
                Some(parent.map_or(Node::Root, Node::of))
            }
            Node::Inner(id, _) => Some(Node::Inner(id, Part::Element)),
        }
    }

    fn children(&self, node: Node) -> Vec<Node> {
        let inside = |element: Element<'a>| {
            let text = element.has_text().then(|| Node::text_of(element));
            text.into_iter().chain(element.children().map(Node::of))
        };
        match node {
            Node::Root => vec![Node::of(self.document.root())],
            Node::Inner(id, Part::Element) => inside(self.document.element(id)).collect(),
            Node::Inner(..) => Vec::new(),
        }
    }

    /// As deep as documents may be.
    fn descendants(&self, node: Node, found: &mut Vec<Node>) -> Result<(), Mistake> {
        for child in self.children(node) {
            self.work(1)?;
            found.push(child);
            self.descendants(child, found)?;
        }
        Ok(())
    }

    /// The siblings on one side, the nearest first; attributes have none.
    fn siblings(&self, node: Node, forward: bool) -> Vec<Node> {
        if matches!(node, Node::Inner(_, Part::Attribute(_))) {
            return Vec::new();
        }
        let all = self.parent(node).map(|parent| self.children(parent));
        let mut all = all.unwrap_or_default();
        match forward {
            true => all.retain(|other| *other > node),
            false => {
                all.retain(|other| *other < node);
                all.reverse();
            }
        }
        all
    }

    fn call(
        &self,
        function: Function,
        arguments: &[Expression],
        context: Context,
    ) -> Result<Answer, Mistake> {
        let here = || Answer::Nodes(vec![context.node]);
        // The node itself stands for an argument that is not given.
        let given = |place: usize| match arguments.get(place) {
            Some(argument) => self.answer(argument, context),
            None => Ok(here()),
        };
        let text = |place: usize| -> Result<String, Mistake> {
            let answer = given(place)?;
            self.weigh(&answer)?;
            Ok(answer.to_text(self.document))
        };
        let number = |place: usize| -> Result<f64, Mistake> {
            let answer = given(place)?;
            self.weigh(&answer)?;
            Ok(answer.to_number(self.document))
        };
        let nodes = || -> Result<Vec<Node>, Mistake> {
            match given(0)? {
                Answer::Nodes(nodes) => Ok(nodes),
                _ => Err(Mistake::at(
                    1,
                    "count(), sum() and names are of what paths find",
                )),
            }
        };
        let first = || -> Result<Option<Node>, Mistake> { Ok(nodes()?.first().copied()) };
        let count = |number: usize| Answer::Number(to_number(number));
        Ok(match function {
            Function::True => Answer::Truth(true),
            Function::False => Answer::Truth(false),
            Function::Not => Answer::Truth(!given(0)?.to_truth()),
            Function::Boolean => Answer::Truth(given(0)?.to_truth()),
            Function::Last => count(context.size),
            Function::Position => count(context.position),
            Function::Count => count(nodes()?.len()),
            Function::Number => Answer::Number(number(0)?),
            Function::Floor => Answer::Number(number(0)?.floor()),
            Function::Ceiling => Answer::Number(number(0)?.ceil()),
            Function::Round => Answer::Number(functions::round(number(0)?)),
            Function::Sum => self.sum(&nodes()?)?,
            Function::Name | Function::LocalName | Function::NamespaceUri => {
                Answer::Text(self.name(function, first()?))
            }
            Function::String => Answer::Text(text(0)?),
            Function::StringLength => count(text(0)?.chars().count()),
            Function::NormalizeSpace => Answer::Text(functions::normalize_space(&text(0)?)),
            Function::Concat => {
                let parts = arguments
                    .iter()
                    .map(|argument| self.text(argument, context));
                Answer::Text(parts.collect::<Result<String, Mistake>>()?)
            }
            Function::Contains => Answer::Truth(text(0)?.contains(&text(1)?)),
            Function::StartsWith => Answer::Truth(text(0)?.starts_with(&text(1)?)),
            Function::SubstringBefore | Function::SubstringAfter => {
                let (whole, mark) = (text(0)?, text(1)?);
                let found = whole.split_once(mark.as_str());
                let found = found.map(|(before, after)| match function {
                    Function::SubstringBefore => before,
                    _ => after,
                });
                Answer::Text(found.unwrap_or_default().to_string())
            }
            Function::Substring => {
                let length = arguments.get(2).map(|_| number(2)).transpose()?;
                Answer::Text(functions::substring(&text(0)?, number(1)?, length))
            }
            Function::Translate => {
                let (whole, from, to) = (text(0)?, text(1)?, text(2)?);
                let pairs = whole.len().saturating_mul(from.len());
                self.work(u64::try_from(pairs).unwrap_or(u64::MAX))?;
                Answer::Text(functions::translate(&whole, &from, &to))
            }
        })
    }

    fn sum(&self, nodes: &[Node]) -> Result<Answer, Mistake> {
        for node in nodes {
            self.work(node.weight(self.document))?;
        }
        let texts = nodes.iter().map(|node| node.text(self.document));
        Ok(Answer::Number(texts.map(|text| text_number(&text)).sum()))
    }

    fn name(&self, function: Function, node: Option<Node>) -> String {
        let Some(node) = node else {
            return String::new();
        };
        let name = node.name(self.document);
        match function {
            Function::Name => name,
            Function::NamespaceUri => node.namespace(self.document),
            _ => name.rsplit(':').next().unwrap_or_default(),
        }
        .to_string()
    }
}

/// Whether a number is this place.
#[allow(clippy::float_cmp, reason = "places are whole numbers")]
fn is_place(number: f64, position: usize) -> bool {
    number == to_number(position)
}

/// Counts of nodes and characters are far below what a double holds exactly.
fn to_number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
