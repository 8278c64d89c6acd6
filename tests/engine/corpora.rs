//! Replays the committed corpora of the fuzz targets: what they once found stays found.

use std::fs;
use std::path::PathBuf;

use crate::support::{entry, requests};

fn directory(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn replay(target: &str, run: impl Fn(&[u8])) {
    let files = fs::read_dir(directory(target)).expect("a corpus");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "the corpus of {target} is empty");
    for path in paths {
        let bytes = fs::read(&path).expect("a readable file");
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&bytes))) {
            eprintln!("while replaying {}", path.display());
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn parse() {
    replay("parse", entry::parse);
}

#[test]
fn frame() {
    replay("frame", entry::frame);
}

#[test]
fn sequence() {
    replay("sequence", entry::sequence);
}

#[test]
fn configuration() {
    replay("configuration", requests::configuration);
}

#[test]
fn management() {
    replay("management", requests::management);
}

/// A seed is what it should be. `UPDATE_CORPORA=1` writes them when the samples have changed.
fn check(target: &str, name: &str, bytes: &[u8]) {
    let path = directory(target).join(name);
    if std::env::var_os("UPDATE_CORPORA").is_some() {
        fs::create_dir_all(directory(target)).expect("a directory");
        fs::write(&path, bytes).expect("a file");
    }
    let is_sample = fs::read(&path).is_ok_and(|found| found == bytes);
    assert!(is_sample, "{} is not the sample; UPDATE_CORPORA=1 writes it", path.display());
}

/// The seeds are the sample packets: a file for each and each target, and one sequence of all.
#[test]
fn seeds_are_the_samples() {
    let net = entry::network(1);
    let mut all = vec![];
    for (at, (side, packet)) in entry::samples().iter().enumerate() {
        let frame = net.frame_of(*side, packet);
        let port = net.config().link(*side).port as u8;
        let name = format!("sample-{at:02}");
        check("parse", &name, &frame);
        check("frame", &name, &[&[port], &frame[..]].concat());
        let as_it_is = [&[port, 0], &(frame.len() as u16).to_be_bytes()[..], &frame].concat();
        let changed = [0x80 | at as u8, 0x30, 0, 2, 22, 1];
        check("sequence", &name, &[&as_it_is[..], &changed].concat());
        all.extend([0x80 | at as u8, 0x10, 0, 0]);
    }
    check("sequence", "all", &all);
}

/// And whole configuration files, and requests of each kind.
#[test]
fn seeds_are_the_sample_requests() {
    check("configuration", "sample-example", include_bytes!("../../src/config/tests/example.toml"));
    check("configuration", "sample-conformance", include_bytes!("../../src/conformance/natgate.toml"));
    for (at, lines) in requests::samples().iter().enumerate() {
        check("management", &format!("sample-{at:02}"), lines.as_bytes());
    }
}
