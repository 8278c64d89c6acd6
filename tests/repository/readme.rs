//! The README against the code. `NATGATE_UPDATE=1 cargo test --test repository` writes what is generated.

use std::fmt::Write as _;
use std::fs;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::common;
use natgate::base::DropReason;
use natgate::cli::Cli;
use natgate::config;

fn drop_reasons() -> String {
    let mut text = String::from("| reason | what it means |\n| --- | --- |\n");
    for reason in DropReason::ALL {
        let _ = writeln!(text, "| `{}` | {} |", reason.name(), reason.description());
    }
    text
}

#[test]
fn drop_reasons_are_listed() {
    common::assert_generated("README.md", "drop-reasons", &drop_reasons());
}

#[test]
fn the_configuration_reference_is_the_parsers() {
    common::assert_generated("README.md", "config-reference", &natgate::config::reference::markdown());
}

#[test]
fn the_quickstart_is_a_valid_configuration() {
    let readme = common::read("README.md");
    let text = common::between("README.md", &readme, "quickstart")
        .trim()
        .trim_start_matches("```toml")
        .trim_end_matches("```");
    let model = config::parse(text, "README.md").unwrap_or_else(|errors| panic!("{errors}"));
    assert!(!model.dnat().is_empty() && !model.snat().is_empty());
}

/// What the shell would make of a line: words up to a comment or a pipe; nothing where it takes quotes to tell.
fn words(line: &str) -> Option<Vec<&str>> {
    let words = line.split_whitespace().take_while(|word| !["#", "|"].contains(word));
    (!line.contains(['\'', '"'])).then(|| words.collect())
}

#[test]
fn every_command_is_one_that_there_is() {
    let readme = common::read("README.md");
    let mut seen = 0;
    for line in readme.lines() {
        let line = line.trim_start_matches("sudo ").trim_start_matches("target/release/");
        if let Some(words) = words(line).filter(|words| words.first() == Some(&"natgate")) {
            seen += 1;
            let error =
                Cli::try_parse_from(words).err().filter(|error| error.kind() != ErrorKind::DisplayHelp);
            assert!(error.is_none(), "README.md: {line}: {}", error.expect("an error"));
        }
        for mention in line.split("`natgate ").skip(1) {
            seen += 1;
            let name = mention.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
            // COMMAND stands for any of them.
            let is_one =
                name.is_empty() || name == "COMMAND" || Cli::command().find_subcommand(name).is_some();
            assert!(is_one, "README.md: there is no natgate {name}: {line}");
        }
    }
    assert!(seen > 50, "{seen} commands were found");
}

#[test]
fn a_file_is_read_whole_while_another_test_writes_it() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated.md");
    fs::write(&path, "<!-- part -->\n\nnone\n\n<!-- /part -->\n").expect("a file");
    let path = path.to_str().expect("a readable name");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..300 {
                common::generated(path, "part", &format!("{n}\n").repeat(20_000), true);
            }
        });
        for _ in 0..1000 {
            common::between(path, &common::read(path), "part");
        }
    });
    fs::remove_file(path).expect("the file");
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
