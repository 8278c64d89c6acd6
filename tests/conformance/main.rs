//! What each packet is owed by an IPv4 NAT gateway, clause by clause: `src/conformance/rows.txt` is the list, and each row has a test named
//! by its id. Time is an argument, so that two hours pass in microseconds.
//!
//! `cargo test --test conformance` runs them all, `cargo test --test conformance frag_` those about fragments.

#[path = "../support/mod.rs"]
mod support;

mod common;

mod arp;
mod configuration;
mod dnat;
mod fragments;
mod hairpin;
mod icmp;
mod ip;
mod limits;
mod link;
mod pains;
mod security;
mod tcp;
mod timeouts;
mod udp;
mod vlan;

use std::collections::BTreeMap;

const ROWS: &str = include_str!("../../src/conformance/rows.txt");

const SOURCES: [&str; 14] = [
    include_str!("arp.rs"),
    include_str!("configuration.rs"),
    include_str!("dnat.rs"),
    include_str!("fragments.rs"),
    include_str!("hairpin.rs"),
    include_str!("icmp.rs"),
    include_str!("ip.rs"),
    include_str!("limits.rs"),
    include_str!("link.rs"),
    include_str!("security.rs"),
    include_str!("tcp.rs"),
    include_str!("timeouts.rs"),
    include_str!("udp.rs"),
    include_str!("vlan.rs"),
];

/// Rows that the gateway does not meet yet, each with the reason. Their tests are ignored, and the README names them.
const NOT_MET: &[(&str, &str)] = &[];

/// What the source says of a test.
#[derive(Debug)]
struct Test {
    /// Its documentation as one line.
    doc: String,
    is_ignored: bool,
}

/// The tests of a source by name.
fn tests_of(source: &str) -> BTreeMap<String, Test> {
    let mut tests = BTreeMap::new();
    let (mut doc, mut is_test, mut is_ignored) = (vec![], false, false);
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            doc.push(text);
        } else if line == "#[test]" {
            is_test = true;
        } else if line.starts_with("#[ignore") {
            is_ignored = true;
        } else if let Some(name) = line.strip_prefix("fn ").and_then(|line| line.split('(').next()) {
            if is_test {
                tests.insert(name.to_owned(), Test { doc: doc.join(" "), is_ignored });
            }
            (doc, is_test, is_ignored) = (vec![], false, false);
        } else {
            doc.clear();
        }
    }
    tests
}

/// Each row has one test, named `<id>_<what it is about>`, whose documentation begins with the row's clause and requirement. It
/// is ignored exactly if it is said why the row is not met.
#[test]
fn every_row_has_a_test() {
    let mut tests: BTreeMap<_, _> = SOURCES.into_iter().flat_map(tests_of).collect();
    let mut not_met: BTreeMap<_, _> = NOT_MET.iter().copied().collect();
    for row in ROWS.lines().filter(|line| !line.starts_with('#')) {
        let [id, level, clause, requirement] = row.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("not a row: {row}")
        };
        assert!(["MUST", "SHOULD", "MAY"].contains(&level), "{row}");
        let prefix = format!("{}_", id.to_lowercase().replace('-', "_"));
        let names: Vec<_> = tests.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
        let [name] = &names[..] else { panic!("{id} has not one test but {names:?}") };
        let Test { doc, is_ignored } = tests.remove(name).expect("it is there");
        assert_eq!(not_met.remove(id).is_some_and(|reason| !reason.is_empty()), is_ignored, "{name}");
        let begins = format!("{clause}: {requirement}.");
        assert!(doc.starts_with(&begins), "{name} is documented as\n{doc}\ninstead of\n{begins}");
    }
    assert!(tests.is_empty(), "tests of no row: {tests:?}");
    assert!(not_met.is_empty(), "no rows: {not_met:?}");
}

/// The README counts the rows and names those that are not met.
#[test]
fn the_readme_says_what_is_not_met() {
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("\n## Conformance\n").expect("a section");
    let (section, _) = section.split_once("\n## ").expect("another section");
    let rows = ROWS.lines().filter(|line| !line.starts_with('#')).count();
    assert!(section.contains(&format!("{rows} numbered rows")), "there are {rows} rows");
    let named: Vec<_> =
        section.lines().filter_map(|line| line.strip_prefix("- ")?.split(": ").next()).collect();
    let not_met: Vec<_> = NOT_MET.iter().map(|(id, _)| *id).collect();
    assert_eq!(named, not_met);
}
