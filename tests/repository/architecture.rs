//! The shape of the source, checked: which module may know which, where `unsafe` may stand, what may not stand on the
//! packet path, how long a file may be, and that every dependency has its reason.

use std::fs;
use std::path::Path;

use crate::common;

/// Which modules a module may name, besides itself. A path such as `control::protocol` opens that part alone.
///
/// `base <- wire <- policy <- nat <- worker <- control <- api <- daemon <- main`; `base <- nic <- worker`;
/// `policy <- config <- control`; `cli` knows what it sends and shows.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("wire", &["base"]),
    ("nic", &["base"]),
    ("policy", &["base", "wire"]),
    ("nat", &["base", "wire", "policy"]),
    ("worker", &["base", "wire", "policy", "nat", "nic"]),
    ("speed", &["base", "wire", "policy", "nat", "nic", "worker"]),
    ("pktgen", &["base", "wire", "nic"]),
    ("conformance", &["base", "nic"]),
    ("config", &["base", "wire", "policy"]),
    ("doctor", &["config", "nic::device", "nic::pool", "worker::setup"]),
    ("control", &["base", "wire", "policy", "nat", "worker", "config"]),
    ("api", &["base", "policy", "config", "control"]),
    (
        "cli",
        &[
            "base",
            "config",
            "doctor",
            "nat::stage",
            "nic::open",
            "conformance",
            "pktgen",
            "speed",
            "control::address",
            "control::client",
            "control::describe",
            "control::metrics",
            "control::protocol",
        ],
    ),
    ("daemon", &["base", "wire", "nic", "policy", "nat", "worker", "config", "control", "api"]),
    ("main", &["base", "config", "cli", "daemon"]),
];

/// Where `unsafe` may stand: system calls and mapped memory of the back ends, huge pages, the prefetch instruction.
fn may_be_unsafe(path: &str) -> bool {
    matches!(path, "base/hugepage.rs" | "base/prefetch.rs")
        || path.starts_with("nic/") && path.ends_with("/sys.rs")
}

/// Modules on the packet path: nothing in them may panic on a packet.
const PACKET_PATH: &[&str] = &["wire", "policy", "nat", "worker", "nic"];

/// Words that end a thread.
const PANICS: &[&str] = &[".unwrap()", ".expect(", "panic!(", "unreachable!(", "todo!(", "unimplemented!("];

/// Lines after which a file is named as too long, and after which the test fails.
const LONG: usize = 600;
const TOO_LONG: usize = 1000;

struct Source {
    /// Relative to `src`.
    path: String,
    /// Without comments, string contents and test modules.
    code: String,
    lines: usize,
}

impl Source {
    /// The module at the top that it belongs to.
    fn module(&self) -> &str {
        let name = self.path.split('/').next().unwrap_or_default();
        name.strip_suffix(".rs").unwrap_or(name)
    }
}

fn sources() -> Vec<Source> {
    let root = common::repository().join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    assert!(found.len() > 10, "the source was not found");
    found
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(directory).expect("src") {
        let path = entry.expect("src").path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root).expect("below src").to_string_lossy().into_owned();
            if relative.ends_with("tests.rs") || relative.contains("/tests/") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file");
            let code = without_tests(&without_comments(&text));
            found.push(Source { lines: code.lines().count(), path: relative, code });
        }
    }
}

/// The code with comments removed and strings emptied; line breaks stay.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let previous = code.chars().next_back().unwrap_or(' ');
        let raw = ["r\"", "r#\"", "r##\""].iter().find(|start| rest.starts_with(**start));
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(start) = raw.filter(|_| !(previous.is_alphanumeric() || previous == '_')) {
            let end = format!("\"{}", &start[1..start.len() - 1]);
            rest[start.len()..].find(&end).map_or(rest.len(), |at| start.len() + at + end.len())
        } else if character == '"' {
            string_length(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") || rest.starts_with("'\\''") {
            rest[1..].find('\'').map_or(rest.len(), |at| at + 2 + usize::from(rest.starts_with("'\\''")))
        } else {
            code.push(character);
            rest = &rest[character.len_utf8()..];
            continue;
        };
        code.extend(rest[..skipped].chars().filter(|character| *character == '\n'));
        rest = &rest[skipped..];
    }
    code
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The code up to its test module, which stands last by custom.
fn without_tests(code: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = code.lines().peekable();
    while let Some(line) = lines.next() {
        let test = line.trim_end() == "#[cfg(test)]";
        if test && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.trim_end().ends_with('{'))
        {
            // A module at the margin ends with a brace at the margin.
            for inner in lines.by_ref() {
                if inner.starts_with('}') {
                    break;
                }
            }
        } else {
            kept.push(line);
        }
    }
    kept.join("\n")
}

/// The paths behind `crate::` (or `natgate::` in the binary), with groups taken apart.
fn known(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for root in ["crate::", "natgate::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            // `$crate::` in a macro is this crate as well; `pub(in crate::x)` gives, it does not take.
            if !before.is_alphanumeric() && before != '_' && !code[..at].ends_with("pub(in ") {
                expand("", &code[at + root.len()..], &mut paths);
            }
        }
    }
    paths
}

/// Reads one path or group of a use tree; returns what follows it.
fn expand<'a>(prefix: &str, text: &'a str, paths: &mut Vec<String>) -> &'a str {
    let mut text = text.trim_start();
    if let Some(mut inner) = text.strip_prefix('{') {
        loop {
            inner = inner.trim_start().trim_start_matches(',').trim_start();
            if inner.is_empty() {
                return inner;
            }
            if let Some(after) = inner.strip_prefix('}') {
                return after;
            }
            let after = expand(prefix, inner, paths);
            if after.len() == inner.len() {
                // Not a use tree: give up on this group instead of turning in circles.
                return after;
            }
            inner = after;
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let path = if prefix.is_empty() { text[..end].to_owned() } else { format!("{prefix}::{}", &text[..end]) };
    text = &text[end..];
    if let Some(deeper) = text.strip_prefix("::")
        && deeper.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '{')
    {
        return expand(&path, deeper, paths);
    }
    paths.push(path);
    // A rename says nothing more; neither does a star.
    let text = text.trim_start_matches("::*");
    match text.trim_start().strip_prefix("as ") {
        Some(name) => name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_' || c == ' '),
        None => text,
    }
}

fn lies_within(path: &str, part: &str) -> bool {
    path == part || path.strip_prefix(part).is_some_and(|rest| rest.starts_with("::"))
}

/// Paths that a module names and may not know.
fn forbidden(module: &str, code: &str) -> Vec<String> {
    let (_, allowed) = MAY_KNOW
        .iter()
        .find(|(name, _)| *name == module)
        .unwrap_or_else(|| panic!("module {module} is not in MAY_KNOW"));
    let modules = || MAY_KNOW.iter().map(|(name, _)| *name);
    known(code)
        .into_iter()
        // Macros and items at the root of the crate belong to nobody.
        .filter(|path| modules().any(|name| lies_within(path, name)))
        .filter(|path| !lies_within(path, module) && !allowed.iter().any(|part| lies_within(path, part)))
        .collect()
}

#[test]
fn modules_know_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.module() != "lib") {
        for path in forbidden(source.module(), &source.code) {
            wrong.push(format!("src/{}: {} may not know crate::{path}", source.path, source.module()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_only_where_it_must() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !may_be_unsafe(&source.path)) {
        let words = source.code.split(|c: char| !c.is_alphanumeric() && c != '_');
        if words.into_iter().any(|word| matches!(word, "unsafe" | "unsafe_code")) {
            wrong.push(format!("src/{}: unsafe code may not stand here", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_panics_on_the_packet_path() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| PACKET_PATH.contains(&source.module())) {
        for word in PANICS.iter().filter(|word| source.code.contains(**word)) {
            wrong.push(format!("src/{}: {word}", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_hold_one_idea() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.lines > LONG) {
        println!("warning: src/{} has {} lines of code: is it two ideas?", source.path, source.lines);
        if source.lines > TOO_LONG {
            wrong.push(format!("src/{}: {} lines of code", source.path, source.lines));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = common::read("Cargo.toml");
    let mut wrong = Vec::new();
    let mut found = 0;
    let mut in_dependencies = false;
    let mut previous = "";
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            in_dependencies = section.trim_end_matches(']').ends_with("dependencies");
        } else if in_dependencies && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            found += 1;
            if !previous.starts_with('#') {
                wrong.push(format!("Cargo.toml: why is this needed? {line}"));
            }
        }
        previous = line;
    }
    assert!(found > 5, "the dependencies were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_sources_is_right() {
    let text = r##"
use crate::{base::{Moment, time as t}, wire::*}; // use crate::nic::Port;
/* crate::api */ let s = "crate::cli \" crate::cli"; let r = r#"crate::daemon"#; let c = '"';
pub(in crate::nat) fn f() -> crate::policy::Snapshot { natgate::config::load::<u8>() }
#[cfg(test)]
mod tests {
    use crate::control::Manager;
    fn g() { panic!("") }
}
fn last() { crate::worker::run(); }
"##;
    let code = without_tests(&without_comments(text));
    assert_eq!(code.lines().count(), text.lines().count() - 5);
    assert_eq!(
        known(&code),
        ["base::Moment", "base::time", "wire", "policy::Snapshot", "worker::run", "config::load"]
            .map(String::from)
    );
    assert!(!code.contains("panic!"));
    assert_eq!(forbidden("nat", &code), ["worker::run", "config::load"]);
    assert_eq!(forbidden("cli", "use crate::control::{protocol::Stats, manager};"), ["control::manager"]);
}
