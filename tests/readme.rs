//! The README against the code. `UPDATE_README=1 cargo test --test readme` writes what is generated.

mod common;

use std::fmt::Write as _;
use std::fs;

use natgate::base::DropReason;
use natgate::config;

fn drop_reasons() -> String {
    let mut text = String::from("| reason | what it means |\n| --- | --- |\n");
    for reason in DropReason::ALL {
        let _ = writeln!(text, "| `{}` | {} |", reason.name(), reason.description());
    }
    text
}

/// What stands between the markers `<!-- NAME -->` and `<!-- /NAME -->`.
fn between<'a>(readme: &'a str, name: &str) -> &'a str {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (_, rest) = readme.split_once(&start).unwrap_or_else(|| panic!("README.md lacks {start}"));
    rest.split_once(&end).unwrap_or_else(|| panic!("README.md lacks {end}")).0
}

/// Compares a generated part with the README, or writes it there.
fn assert_generated(name: &str, wanted: &str) {
    let readme = common::read("README.md");
    let found = between(&readme, name);
    if found.trim() == wanted.trim() {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_README").is_some(),
        "README.md: {name} is not what the code says; UPDATE_README=1 cargo test --test readme writes it"
    );
    let start = found.as_ptr() as usize - readme.as_ptr() as usize;
    let text = format!("{}\n{}\n\n{}", &readme[..start], wanted.trim(), &readme[start + found.len()..]);
    fs::write(common::repository().join("README.md"), text).expect("README.md");
}

#[test]
fn drop_reasons_are_listed() {
    assert_generated("drop-reasons", &drop_reasons());
}

#[test]
fn the_configuration_reference_is_the_parsers() {
    assert_generated("config-reference", &natgate::config::reference::markdown());
}

#[test]
fn the_quickstart_is_a_valid_configuration() {
    let readme = common::read("README.md");
    let text = between(&readme, "quickstart").trim().trim_start_matches("```toml").trim_end_matches("```");
    let model = config::parse(text, "README.md").unwrap_or_else(|errors| panic!("{errors}"));
    assert!(!model.dnat().is_empty() && !model.snat().is_empty());
}

#[test]
fn every_folder_is_in_the_index() {
    let readme = common::read("README.md");
    let (_, index) = readme.split_once("## What is where").expect("the directory index");
    for parent in ["src", "."] {
        for entry in fs::read_dir(common::repository().join(parent)).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a readable name");
            let skipped = name.starts_with('.') || matches!(name.as_str(), "src" | "target");
            // Folders that version control does not know are nobody's business.
            let empty = || fs::read_dir(entry.path()).is_ok_and(|mut entries| entries.next().is_none());
            if !entry.path().is_dir() || skipped || empty() {
                continue;
            }
            let path = if parent == "." { name } else { format!("{parent}/{name}") };
            assert!(index.contains(&format!("| `{path}` |")), "README.md: the directory index lacks {path}");
        }
    }
}
