use super::row::{Fate, Value};
use super::*;

fn rows() -> impl Iterator<Item = (&'static str, &'static Row)> {
    rows_of(tables::GROUPS).chain(rows_of(tables::NETWORK_GROUPS))
}

fn rows_of(
    groups: &'static [&'static [Group]],
) -> impl Iterator<Item = (&'static str, &'static Row)> {
    groups
        .iter()
        .copied()
        .flatten()
        .flat_map(|group| group.bases.iter().map(move |base| (*base, group.rows)))
        .flat_map(|(base, rows)| rows.iter().map(move |row| (base, row)))
}

#[test]
fn every_row_finds_its_place() {
    every_row_is_in(&DOMAIN, tables::GROUPS);
    every_row_is_in(&NETWORK, tables::NETWORK_GROUPS);
}

fn every_row_is_in(schema: &Schema, groups: &'static [&'static [Group]]) {
    for (base, row) in rows_of(groups) {
        let whole = format!("{base}/{}", row.path);
        let (path, attributes) = whole.split_once('@').unwrap_or((&whole, ""));
        let (parent, names) = path.rsplit_once('/').unwrap_or(("", path));
        for name in names.split(',') {
            let path = format!("{parent}/{name}");
            let parts = path.split('/').filter(|part| !part.is_empty());
            let place = schema.descend(0, parts);
            let place = place.unwrap_or_else(|| panic!("{whole}: no such place"));
            for attribute in attributes.split(',').filter(|name| !name.is_empty()) {
                assert!(
                    schema.places[place].attributes.get(attribute).is_some(),
                    "{whole}"
                );
            }
        }
    }
}

#[test]
fn every_row_says_what_it_is() {
    for (base, row) in rows() {
        let name = format!("{base} {}", row.path);
        assert!(
            row.fate == Fate::Part || !row.doc.is_empty(),
            "{name} has no sentence"
        );
        assert!(!row.doc.ends_with('.') && !row.doc.contains('|'), "{name}");
        if row.path.contains('@') {
            assert!(!matches!(row.value, Value::Empty), "{name} takes nothing");
        }
        if let Value::Words(words) = row.value {
            for word in words {
                let told = word.fate == Fate::Honoured || !word.doc.is_empty();
                assert!(told, "{name}: {} has no sentence", word.word);
            }
        }
    }
}

#[test]
fn links_lead_to_places_of_their_own() {
    let all: [(&Schema, &[(&str, &str)]); 2] =
        [(&DOMAIN, tables::LINKS), (&NETWORK, tables::NETWORK_LINKS)];
    for (schema, links) in all {
        for (place, model) in links {
            assert_ne!(schema.find(model), 0, "{model}");
            assert_eq!(schema.find(place), schema.find(model), "{place}");
        }
    }
}

/// `UPDATE_DOCS=1 cargo test -p virshlike` rewrites the page.
#[test]
fn the_reference_is_current() {
    is_current("domain-xml.md", &domain_xml_reference());
    is_current("network-xml.md", &network_xml_reference());
}

fn is_current(page: &str, text: &str) {
    let path = format!("{}/../docs/{page}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).expect("the page can be written");
    }
    let on_disk = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        on_disk == text,
        "docs/{page} is stale; run UPDATE_DOCS=1 cargo test -p virshlike reference"
    );
}

/// Every path of real documents is known, except those that are no part of libvirt's XML.
#[test]
fn paths_of_real_documents_are_known() {
    let Some(corpus) = std::env::var_os("VM_XML_CORPUS") else {
        println!("skipped: VM_XML_CORPUS is not set");
        return;
    };
    let file = std::path::Path::new(&corpus).join("samples/paths-corpus-domain.txt");
    let Ok(text) = std::fs::read_to_string(&file) else {
        println!("skipped: no {}", file.display());
        return;
    };
    let schema: &Schema = &DOMAIN;
    let mut unknown = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let path = line.split_once(' ').map_or("", |(_, path)| path);
        if path.contains("ns:") || path.contains("/metadata/") {
            continue;
        }
        let path = path.strip_prefix("/domain").unwrap_or(path);
        let (path, attribute) = path.split_once('@').unwrap_or((path, ""));
        let place = schema.descend(0, path.split('/').filter(|part| !part.is_empty()));
        let known = place.is_some_and(|place| {
            attribute.is_empty() || schema.places[place].attributes.get(attribute).is_some()
        });
        if !known {
            unknown.push(format!("{path}@{attribute}"));
        }
    }
    println!("{} unknown: {unknown:#?}", unknown.len());
    assert!(unknown.len() <= 20, "{unknown:#?}");
}
