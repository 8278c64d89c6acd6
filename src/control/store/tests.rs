//! Stores that were closed well, are damaged, or come from another version.

use serde_json::json;

use super::*;
use crate::control::socket::scratch;

fn write(key: &str, value: Option<Value>) -> Write {
    Write { key: key.to_owned(), value }
}

fn record(id: &str, after: Option<Value>) -> AuditRecord {
    AuditRecord {
        number: 0,
        time: 1,
        who: "root".into(),
        action: "create".into(),
        id: id.into(),
        before: None,
        after: after.map(|after| Json::of(&after)),
    }
}

#[test]
fn what_was_committed_is_there_after_a_reopening() {
    let directory = scratch::Directory::new();
    let path = directory.path().join("deep/store.redb");
    let store = Store::open(&path).unwrap();
    let mut transaction = Transaction {
        keys: vec![write("key", Some(json!("k")))],
        answers: vec![write("again", Some(json!("a")))],
        audit: vec![
            record("eip-a", Some(json!({"address": "203.0.113.1"}))),
            record("eip-b", Some(json!(1))),
        ],
        notes: vec![record("key", Some(json!("noted")))],
        pending: Pending::Set(json!("pending")),
    };
    store.commit(&mut transaction).unwrap();
    store.commit(&mut Transaction { audit: vec![record("eip-b", None)], ..Transaction::default() }).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::InUse { .. })));
    drop(store);
    let store = Store::open(&path).unwrap();
    let contents = store.contents().unwrap();
    let written = br#"{"address":"203.0.113.1"}"#.to_vec();
    assert_eq!(contents.resources, [("eip-a".to_owned(), written)]);
    assert_eq!((store.keys().unwrap().len(), contents.answers.len()), (1, 1));
    assert_eq!(contents.pending, Some(json!("pending")));
    store
        .commit(&mut Transaction {
            audit: vec![record("x", None)],
            pending: Pending::Cleared,
            ..Transaction::default()
        })
        .unwrap();
    let numbers: Vec<_> = store.audit(None, 2).unwrap().into_iter().map(|r| (r.number, r.id)).collect();
    assert_eq!(numbers, [(4, "x".to_owned()), (3, "eip-b".to_owned())]);
    assert_eq!(store.audit(Some(1), 9).unwrap().len(), 1);
    assert_eq!(store.contents().unwrap().pending, None);
}

#[test]
fn a_newer_store_is_refused_and_an_older_one_migrated() {
    let directory = scratch::Directory::new();
    let path = directory.path().join("store.redb");
    let set = |version: u64| {
        let database = Database::builder().open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("version", version.to_be_bytes().as_slice()).unwrap();
        transaction.commit().unwrap();
    };
    drop(Store::open(&path).unwrap());
    set(VERSION + 1);
    let before = fs::read(&path).unwrap();
    assert_eq!(peek(&path), Some(VERSION + 1));
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
    assert!(error.to_string().contains("version 3"), "{error}");
    assert!(fs::read(&path).unwrap() == before, "the file was changed");
    set(0);
    drop(Store::open(&path).unwrap());
    let database = Database::builder().open(&path).unwrap();
    assert_eq!(version(&database).unwrap(), Some(VERSION));
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let directory = scratch::Directory::new();
    let path = directory.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    let many = (0..2000).map(|i| record(&format!("eip-{i:04}"), Some(json!({ "text": "x".repeat(100) }))));
    store.commit(&mut Transaction { audit: many.collect(), ..Transaction::default() }).unwrap();
    drop(store);
    let good = fs::read(&path).unwrap();
    let mut refused = 0;
    let mut damages: Vec<Vec<u8>> =
        vec![b"no store at all".to_vec(), vec![0; 8192], good[..good.len() / 2].to_vec()];
    damages.push(Vec::new());
    for at in [0, 64, 4096, 8192, 20_000, 40_000, 80_000] {
        let mut bad = good.clone();
        bad[at..at + 64].fill(0xa5);
        damages.push(bad);
    }
    for (i, bad) in damages.iter().enumerate() {
        fs::write(&path, bad).unwrap();
        let read = Store::open(&path).and_then(|store| store.contents());
        match read {
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("left as it is"), "{i}: {error}");
                assert_eq!(fs::read(&path).unwrap(), *bad, "{i}: {error}");
            }
            // Some bytes of the file mean nothing.
            Ok(contents) => assert_eq!(contents.resources.len(), 2000, "{i}"),
        }
    }
    assert!(refused >= damages.len() - 3, "{refused} of {}", damages.len());
}
