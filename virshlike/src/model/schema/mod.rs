//! Which elements and attributes there are and what happens to each: the tables, an index of them,
//! the check of a document against it, and the documentation made from it.

mod check;
mod docs;
mod row;
mod tables;

pub(super) use check::check;
pub use docs::domain_xml_reference;

use row::{Fate, Row, Value};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// An element or attribute in the index.
#[derive(Debug, Clone, Copy)]
struct Rule {
    fate: Fate,
    value: Value,
    doc: &'static str,
    many: bool,
}

impl Rule {
    fn of(row: &Row) -> Self {
        Self {
            fate: row.fate,
            value: row.value,
            doc: row.doc,
            many: row.many,
        }
    }
}

/// What one kind of element may have.
#[derive(Debug, Default)]
struct Place {
    attributes: BTreeMap<&'static str, Rule>,
    children: BTreeMap<&'static str, (Rule, usize)>,
    /// Names of the children as the tables order them.
    order: Vec<&'static str>,
}

/// The index: places by number, the domain first.
#[derive(Debug)]
struct Schema {
    places: Vec<Place>,
}

static DOMAIN: LazyLock<Schema> = LazyLock::new(Schema::build);

impl Schema {
    fn build() -> Self {
        let mut schema = Self {
            places: vec![Place::default()],
        };
        for group in tables::GROUPS.iter().copied().flatten() {
            for base in group.bases {
                let base = schema.find(base);
                for row in group.rows {
                    schema.add(base, row);
                }
            }
        }
        for (place, model) in tables::LINKS {
            schema.link(place, model);
        }
        schema
    }

    /// The place with this path below the domain; the domain for the empty one. A path that the
    /// tables do not make yields the domain too, which a test of the tables would show.
    fn find(&self, path: &str) -> usize {
        self.descend(0, path.split('/').filter(|name| !name.is_empty()))
            .unwrap_or(0)
    }

    fn descend<'a>(&self, from: usize, path: impl Iterator<Item = &'a str>) -> Option<usize> {
        let mut place = from;
        for name in path {
            place = self.places.get(place)?.children.get(name)?.1;
        }
        Some(place)
    }

    /// Adds a row, several names at its end included: `a/b,c` or `a@b,c`.
    fn add(&mut self, base: usize, row: &Row) {
        let rule = Rule::of(row);
        let (path, attributes) = match row.path.split_once('@') {
            Some((path, attributes)) => (path, Some(attributes)),
            None => (row.path, None),
        };
        let (parent, names) = match (path.rsplit_once('/'), attributes) {
            (_, Some(names)) => (path, names),
            (Some((parent, names)), None) => (parent, names),
            (None, None) => ("", path),
        };
        let parents = parent.split('/').filter(|name| !name.is_empty());
        let Some(place) = self.descend(base, parents) else {
            return;
        };
        for name in names.split(',') {
            if attributes.is_some() {
                self.places[place].attributes.insert(name, rule);
            } else if let Some(known) = self.places[place].children.get_mut(name) {
                known.0 = rule;
            } else {
                let new = self.places.len();
                self.places.push(Place::default());
                self.places[place].children.insert(name, (rule, new));
                self.places[place].order.push(name);
            }
        }
    }

    fn link(&mut self, path: &'static str, model: &str) {
        let target = self.find(model);
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let rule = Rule {
            fate: Fate::Part,
            value: Value::Empty,
            doc: "",
            many: false,
        };
        let parent = self.find(parent);
        self.places[parent].children.insert(name, (rule, target));
        self.places[parent].order.push(name);
    }

    /// The paths of all elements with this name, `<parent>` first, for hints.
    fn parents_of(&self, name: &str) -> Option<&'static str> {
        if self.places[0].children.contains_key(name) {
            return Some("domain");
        }
        self.places.iter().find_map(|place| {
            place
                .children
                .iter()
                .find(|(_, (_, child))| {
                    self.places
                        .get(*child)
                        .is_some_and(|child| child.children.contains_key(name))
                })
                .map(|(parent, _)| *parent)
        })
    }
}

/// libvirt's order of the elements in the element at this path below the domain.
pub(super) fn order(path: &str) -> &'static [&'static str] {
    let schema: &'static Schema = &DOMAIN;
    schema
        .places
        .get(schema.find(path))
        .map_or(&[], |place| place.order.as_slice())
}

#[cfg(test)]
mod tests;
