//! The dependency policy of `deny.toml`, checked without further tools: licences, banned crates, crates in several
//! versions, sources. (Advisories need a database from the network: `cargo deny check advisories` does that.)

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::common;
use serde::Deserialize;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    dependencies: Vec<Requirement>,
}

#[derive(Deserialize)]
struct Requirement {
    name: String,
    req: String,
}

#[derive(Deserialize)]
struct Policy {
    graph: Graph,
    licenses: Licences,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Rule>,
    skip: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(rename = "crate")]
    package: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: BTreeSet<String>,
}

impl Rule {
    /// `name` or `name@version`, where the version may be cut short.
    fn matches(&self, name: &str, version: &str) -> bool {
        match self.package.split_once('@') {
            None => self.package == name,
            Some((package, cut)) => {
                package == name && (version == cut || version.starts_with(&format!("{cut}.")))
            }
        }
    }
}

/// Whether a licence expression can be met by the allowed licences. `/` is the old way to write `OR`.
fn admitted(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let met = alternatives(&mut words, allowed);
    assert!(words.is_empty(), "licence expression \"{expression}\" is not understood");
    met
}

fn alternatives(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut met = conjunction(words, allowed);
    while words.pop_if(|word| *word == "OR").is_some() {
        met |= conjunction(words, allowed);
    }
    met
}

fn conjunction(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut met = licence(words, allowed);
    while words.pop_if(|word| *word == "AND").is_some() {
        met &= licence(words, allowed);
    }
    met
}

fn licence(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let name = words.pop().unwrap_or_default();
    if name == "(" {
        let met = alternatives(words, allowed);
        assert_eq!(words.pop(), Some(")"), "unbalanced licence expression");
        return met;
    }
    if words.pop_if(|word| *word == "WITH").is_some() {
        let exception = words.pop().unwrap_or_default();
        return allowed.contains(&format!("{name} WITH {exception}"));
    }
    allowed.contains(name)
}

fn policy() -> Policy {
    toml::from_str(&common::read("deny.toml")).expect("deny.toml")
}

fn packages(policy: &Policy) -> Vec<Package> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["metadata", "--format-version=1", "--locked", "--all-features"])
        .current_dir(common::repository());
    for target in &policy.graph.targets {
        cargo.args(["--filter-platform", target]);
    }
    let output = cargo.output().expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).expect("cargo metadata");
    assert!(metadata.packages.len() > 1, "no dependency was found");
    metadata.packages
}

/// What breaks the policy, one sentence each.
fn findings(policy: &Policy, packages: &[Package]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        let Package { name, version, .. } = package;
        match &package.license {
            Some(expression) if admitted(expression, &policy.licenses.allow) => {}
            Some(expression) => {
                findings.push(format!("{name} {version}: licence {expression} is not allowed"));
            }
            None => findings.push(format!("{name} {version}: no licence is given")),
        }
        if let Some(source) = &package.source {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            if !policy.sources.allow_registry.contains(registry) {
                findings.push(format!("{name} {version}: source {source} is not allowed"));
            }
        } else {
            for dependency in package.dependencies.iter().filter(|dependency| dependency.req == "*") {
                findings.push(format!("{name}: any version of {} is taken", dependency.name));
            }
        }
        for rule in policy.bans.deny.iter().filter(|rule| rule.matches(name, version)) {
            findings.push(format!("{name} {version}: banned, {}", rule.reason));
        }
        if !policy.bans.skip.iter().any(|rule| rule.matches(name, version)) {
            versions.entry(name).or_default().push(version);
        }
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        findings.push(format!("{name}: in several versions, {}", versions.join(" and ")));
    }
    for rule in &policy.bans.skip {
        if !packages.iter().any(|package| rule.matches(&package.name, &package.version)) {
            findings.push(format!("deny.toml: the exception for {} is no longer needed", rule.package));
        }
    }
    findings
}

#[test]
fn dependencies_keep_the_policy() {
    let policy = policy();
    let findings = findings(&policy, &packages(&policy));
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn a_broken_policy_is_found() {
    let policy = policy();
    let package = |name: &str, version: &str, license: Option<&str>, source: Option<&str>| Package {
        name: name.into(),
        version: version.into(),
        license: license.map(Into::into),
        source: source.map(Into::into),
        dependencies: vec![Requirement { name: "anything".into(), req: "*".into() }],
    };
    let registry = policy.sources.allow_registry.first().map(|registry| format!("registry+{registry}"));
    let registry = registry.as_deref();
    let broken = [
        package("copyleft", "1.0.0", Some("GPL-3.0-only"), registry),
        package("unlicensed", "1.0.0", None, registry),
        package("elsewhere", "1.0.0", Some("MIT"), Some("git+https://example.com/elsewhere")),
        package("openssl-sys", "0.9.0", Some("MIT"), registry),
        package("twice", "1.0.0", Some("MIT"), registry),
        package("twice", "2.0.0", Some("MIT"), registry),
        package("own", "1.0.0", Some("MIT"), None),
    ];
    let findings = findings(&policy, &broken).join("\n");
    for sentence in [
        "copyleft 1.0.0: licence GPL-3.0-only is not allowed",
        "unlicensed 1.0.0: no licence",
        "elsewhere 1.0.0: source",
        "openssl-sys 0.9.0: banned",
        "twice: in several versions, 1.0.0 and 2.0.0",
        "own: any version of anything",
        "no longer needed",
    ] {
        assert!(findings.contains(sentence), "\"{sentence}\" is missing in\n{findings}");
    }
}

#[test]
fn licence_expressions_are_read() {
    let allowed: BTreeSet<String> =
        ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(Into::into).into();
    for (expression, met) in [
        ("MIT", true),
        ("GPL-2.0", false),
        ("MIT/GPL-2.0", true),
        ("GPL-2.0 OR MIT", true),
        ("GPL-2.0 AND MIT", false),
        ("(MIT OR GPL-2.0) AND Unicode-3.0", true),
        ("(GPL-2.0 OR LGPL-2.1) AND MIT", false),
        ("Apache-2.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
    ] {
        assert_eq!(admitted(expression, &allowed), met, "{expression}");
    }
}
