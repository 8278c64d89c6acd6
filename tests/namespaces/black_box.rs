//! `natgate conformance` as a command: natgate misses no row, the kernel's NAT those that it is known to miss, and nothing stays behind.

use std::process::{Command, Output};
use std::sync::Mutex;

use crate::common;
use serde_json::Value;

/// One measurement at a time, so that what the other has made is not taken for left behind.
static ALONE: Mutex<()> = Mutex::new(());

fn conformance(arguments: &[&str]) -> Output {
    Command::new("timeout")
        .args(["--kill-after=10", "400", env!("CARGO_BIN_EXE_natgate"), "conformance"])
        .args(arguments)
        .output()
        .expect("timeout")
}

/// Each row's identifier and whether it passed, with the evidence.
fn rows(output: &Output) -> Vec<(String, bool, String)> {
    let text = String::from_utf8_lossy(&output.stdout);
    let text_of = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .map(|row: Value| {
            (text_of(&row, "id"), row["passed"].as_bool().expect("yes or no"), text_of(&row, "evidence"))
        })
        .collect()
}

fn listed() -> Vec<String> {
    let list = conformance(&["--list"]);
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn namespaces() -> String {
    let list = Command::new("ip").args(["netns", "list"]).output().expect("ip");
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    text.lines().filter(|line| line.starts_with("ngc")).collect()
}

#[test]
fn natgate_meets_every_row_that_can_be_measured_from_without() {
    common::need_root!();
    let _turn = (common::turn(), ALONE.lock());
    let output = conformance(&["--json"]);
    let rows = rows(&output);
    let missed: Vec<_> = rows.iter().filter(|(_, passed, _)| !passed).collect();
    assert!(missed.is_empty(), "{missed:#?}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rows.into_iter().map(|(id, ..)| id).collect::<Vec<_>>(), listed());
    assert_eq!(namespaces(), "");
}

/// The measurement can tell a gateway that misses a row from one that meets it.
#[test]
fn the_kernels_nat_overloads_ports_and_else_translates() {
    common::need_root!();
    let _turn = (common::turn(), ALONE.lock());
    let output =
        conformance(&["--gateway", "nftables", "--row", "udp-01,udp-04,udp-08,dnat-05,hair-02", "--json"]);
    let error = String::from_utf8_lossy(&output.stderr);
    if error.contains("nftables installed?") {
        println!("skipped: {error}");
        return;
    }
    assert!(output.status.success(), "{error}");
    let passed: Vec<_> = rows(&output).into_iter().map(|(id, passed, _)| (id, passed)).collect();
    let expected =
        [("UDP-01", true), ("UDP-04", false), ("UDP-08", false), ("DNAT-05", true), ("HAIR-02", true)];
    assert_eq!(passed, expected.map(|(id, passed)| (id.to_owned(), passed)));
}

#[test]
fn without_root_it_is_said_what_is_missing() {
    common::need_root!();
    let copy = std::env::temp_dir().join(format!("natgate-black-box-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_natgate"), &copy).expect("a copy that everybody may run");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .arg("conformance")
        .output();
    let _ = std::fs::remove_file(&copy);
    let output = output.expect("setpriv");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("only root may"), "{error}");
}

/// The README's table is of these rows, natgate misses none in it, and its last line counts right.
#[test]
fn the_readme_shows_what_was_measured() {
    let readme = common::read("README.md");
    let table = common::between("README.md", &readme, "conformance");
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    let lines: Vec<Vec<String>> =
        table.lines().filter(|line| line.starts_with('|')).skip(2).map(cells).collect();
    let (sum, rows) = lines.split_last().expect("a table");
    assert_eq!(rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>(), listed());
    for (at, name) in [(2, "natgate"), (3, "nftables")] {
        let passed = rows.iter().filter(|row| row[at] == "pass").count();
        assert!(sum.contains(&format!("{passed} of {}", rows.len())), "{name}: {sum:?}");
        assert!(name != "natgate" || passed == rows.len());
    }
}
