//! Which elements and attributes there are and what happens to each: the tables, an index of them,
//! the check of a document against it, and the documentation made from it. There is one schema for
//! domains and one for networks.

mod check;
mod docs;
mod row;
mod tables;

pub(super) use check::{check, check_network};
pub use docs::{domain_xml_reference, network_xml_reference};

use row::{Group, Row, Value};
use std::sync::LazyLock;

/// Names of one place with what is known of each. There are few of them, and many places, and all
/// are built for every command that reads a definition: a list costs less than a tree.
#[derive(Debug)]
struct Names<T> {
    names: Vec<&'static str>,
    values: Vec<T>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl<T> Names<T> {
    fn get(&self, name: &str) -> Option<&T> {
        self.values.get(self.place(name)?)
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| *known == name)
    }

    /// Adds a name, or replaces what was known of it.
    fn insert(&mut self, name: &'static str, value: T) {
        if let Some(place) = self.place(name) {
            self.values[place] = value;
        } else {
            self.names.push(name);
            self.values.push(value);
        }
    }

    /// In the order of the tables.
    fn keys(&self) -> impl Iterator<Item = &'static str> + Clone + '_ {
        self.names.iter().copied()
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// What one kind of element may have.
#[derive(Debug, Default)]
struct Place {
    attributes: Names<&'static Row>,
    /// In libvirt's order.
    children: Names<(&'static Row, usize)>,
}

/// The row of an element whose content is that of another.
static LINKED: Row = row::part("", Value::Empty);

/// The index: places by number, the outermost element first.
#[derive(Debug)]
struct Schema {
    /// The outermost element.
    root: &'static str,
    places: Vec<Place>,
}

static DOMAIN: LazyLock<Schema> =
    LazyLock::new(|| Schema::build("domain", tables::GROUPS, tables::LINKS));
static NETWORK: LazyLock<Schema> =
    LazyLock::new(|| Schema::build("network", tables::NETWORK_GROUPS, tables::NETWORK_LINKS));

impl Schema {
    fn build(
        root: &'static str,
        groups: &'static [&'static [Group]],
        links: &[(&'static str, &'static str)],
    ) -> Self {
        let mut schema = Self {
            root,
            places: vec![Place::default()],
        };
        for group in groups.iter().copied().flatten() {
            for base in group.bases {
                let base = schema.find(base);
                for row in group.rows {
                    schema.add(base, row);
                }
            }
        }
        for (place, model) in links {
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
    fn add(&mut self, base: usize, row: &'static Row) {
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
                self.places[place].attributes.insert(name, row);
                continue;
            }
            let known = self.places[place].children.get(name);
            let child = known.map_or(self.places.len(), |(_, child)| *child);
            if child == self.places.len() {
                self.places.push(Place::default());
            }
            self.places[place].children.insert(name, (row, child));
        }
    }

    fn link(&mut self, path: &'static str, model: &str) {
        let target = self.find(model);
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.find(parent);
        self.places[parent].children.insert(name, (&LINKED, target));
    }

    /// The paths of all elements with this name, `<parent>` first, for hints.
    fn parents_of(&self, name: &str) -> Option<&'static str> {
        if self.places[0].children.get(name).is_some() {
            return Some(self.root);
        }
        let has = |child: usize| {
            let place = self.places.get(child);
            place.is_some_and(|place| place.children.get(name).is_some())
        };
        self.places.iter().find_map(|place| {
            let children = &place.children;
            let place = children.values.iter().position(|(_, child)| has(*child))?;
            children.names.get(place).copied()
        })
    }
}

/// libvirt's order of the elements in the element at this path below the domain.
pub(super) fn order(path: &str) -> &'static [&'static str] {
    order_in(&DOMAIN, path)
}

/// The same below the network.
pub(crate) fn network_order(path: &str) -> &'static [&'static str] {
    order_in(&NETWORK, path)
}

fn order_in(schema: &'static Schema, path: &str) -> &'static [&'static str] {
    let place = schema.places.get(schema.find(path));
    place.map_or(&[], |place| place.children.names.as_slice())
}

#[cfg(test)]
mod tests;
