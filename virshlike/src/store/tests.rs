use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let connection = Connection {
        scope: Scope::System,
        root: Some(dir.path().to_path_buf()),
    };
    let store = Store::open(&connection, &Environment::default()).unwrap();
    (dir, store)
}

fn text(name: &str, uuid: u128) -> String {
    let uuid = Uuid::from_u128(uuid);
    format!("<domain type='kvm'>\n  <name>{name}</name>\n  <uuid>{uuid}</uuid>\n</domain>\n")
}

#[test]
fn an_empty_store_has_no_domains_and_is_not_created_by_reading() {
    let (dir, store) = store();
    assert_eq!(store.names().unwrap(), Vec::<String>::new());
    assert_eq!(store.read("a").unwrap(), None);
    assert_eq!(store.name_of(Uuid::from_u128(1)).unwrap(), None);
    assert!(!store.is_autostarted("a"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn definitions_are_kept_byte_for_byte() {
    let (_dir, store) = store();
    let text = format!("<!-- mine -->\n{}", text("a", 1));
    store.writer().unwrap().put("a", &text).unwrap();
    let found = store.read("a").unwrap().unwrap();
    assert_eq!(found.text, text);
    assert_eq!(found.uuid, Uuid::from_u128(1));
    assert_eq!(
        store.name_of(Uuid::from_u128(1)).unwrap().as_deref(),
        Some("a")
    );
}

#[test]
fn a_rename_takes_autostart_and_logs_along() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    writer.put("a", &text("a", 1)).unwrap();
    writer.set_autostart("a", true).unwrap();
    fs::create_dir_all(store.layout().logs("a")).unwrap();
    writer
        .rename("a", "b", Uuid::from_u128(1), &text("b", 1))
        .unwrap();
    assert_eq!(store.names().unwrap(), vec!["b"]);
    assert!(store.is_autostarted("b") && !store.is_autostarted("a"));
    assert!(store.layout().logs("b").exists());
    let link = store.layout().autostart().join("b.xml");
    assert_eq!(fs::read_link(link).unwrap(), PathBuf::from("../b.xml"));
}

#[test]
fn a_rename_onto_a_taken_name_changes_nothing() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    writer.put("a", &text("a", 1)).unwrap();
    writer.put("b", &text("b", 2)).unwrap();
    let error = writer
        .rename("a", "b", Uuid::from_u128(1), &text("b", 1))
        .unwrap_err();
    assert_eq!(error.kind, Kind::Exists);
    assert_eq!(store.names().unwrap(), vec!["a", "b"]);
    assert_eq!(store.read("b").unwrap().unwrap().uuid, Uuid::from_u128(2));
}

#[test]
fn readers_see_one_name_while_a_rename_is_interrupted() {
    let (_dir, store) = store();
    store.writer().unwrap().put("a", &text("a", 1)).unwrap();
    let intent = r#"{"old":"a","new":"b","uuid":"00000000-0000-0000-0000-000000000001"}"#;
    fs::write(store.intent_path(), intent).unwrap();
    assert_eq!(store.names().unwrap(), vec!["a"]);
    fs::write(store.layout().definition("b"), text("b", 1)).unwrap();
    assert_eq!(store.names().unwrap(), vec!["b"]);
    assert_eq!(store.read("a").unwrap(), None);
    drop(store.writer().unwrap());
    assert_eq!(store.names().unwrap(), vec!["b"]);
    assert!(!store.layout().definition("a").exists());
    assert!(!store.intent_path().exists());
}

#[test]
fn undefine_leaves_no_autostart_behind() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    writer.put("a", &text("a", 1)).unwrap();
    writer.set_autostart("a", true).unwrap();
    writer.remove("a").unwrap();
    writer.put("a", &text("a", 2)).unwrap();
    assert!(!store.is_autostarted("a"));
}

#[test]
fn the_index_is_never_believed_against_the_files() {
    let (_dir, store) = store();
    let writer = store.writer().unwrap();
    let count = index::WORTH_IT + 10;
    let uuid = |number: usize| Uuid::from_u128(number as u128 + 1);
    for number in 0..count {
        let name = format!("d{number}");
        writer.put(&name, &text(&name, number as u128 + 1)).unwrap();
    }
    assert_eq!(store.survey().unwrap().opened, count);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while store.survey().unwrap().missing < count {
        assert!(std::time::Instant::now() < deadline, "files never settle");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!store.layout().index().exists());
    store.refresh_index();
    assert_eq!(store.survey().unwrap().opened, 0);
    assert_eq!(store.name_of(uuid(7)).unwrap().as_deref(), Some("d7"));
    // Changed in place by somebody's editor, replaced, removed, added.
    fs::write(store.layout().definition("d7"), text("d7", 7007)).unwrap();
    writer.put("d8", &text("d8", 8008)).unwrap();
    writer.remove("d9").unwrap();
    fs::write(store.layout().definition("new"), text("new", 9009)).unwrap();
    for (wanted, name) in [(7007, "d7"), (8008, "d8"), (9009, "new")] {
        let found = store.name_of(Uuid::from_u128(wanted)).unwrap();
        assert_eq!(found.as_deref(), Some(name));
    }
    for gone in [7, 8, 9] {
        assert_eq!(store.name_of(uuid(gone)).unwrap(), None);
    }
    assert_eq!(store.survey().unwrap().opened, 3);
    fs::write(store.layout().index(), "nonsense").unwrap();
    assert_eq!(store.name_of(uuid(3)).unwrap().as_deref(), Some("d3"));
}
