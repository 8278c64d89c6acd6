//! What integration tests share.
//!
//! A test that cannot run on a machine says so instead of passing silently: it prints a line `skipped: REASON` and
//! returns. `scripts/test` counts these lines and takes them from the tests that passed. Use [`need_root!`] for tests
//! that make network namespaces.

#![allow(dead_code, unused_macros, unused_imports, reason = "every test binary uses a part of this")]

pub mod daemon;
pub mod devices;
pub mod veth;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

/// The root of the repository.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Tests of this process take turns with the files of the repository: none reads what another has written half.
static TURN: Mutex<()> = Mutex::new(());

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    let _turn = TURN.lock();
    text(path)
}

fn text(path: &str) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between the markers `<!-- NAME -->` and `<!-- /NAME -->` of a file.
pub fn between<'a>(path: &str, text: &'a str, name: &str) -> &'a str {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (_, rest) = text.split_once(&start).unwrap_or_else(|| panic!("{path} lacks {start}"));
    rest.split_once(&end).unwrap_or_else(|| panic!("{path} lacks {end}")).0
}

/// Compares a generated part of a file with what it is to be, or writes it there.
pub fn assert_generated(path: &str, name: &str, wanted: &str) {
    generated(path, name, wanted, std::env::var_os("NATGATE_UPDATE").is_some());
}

/// The same, told whether to write.
pub fn generated(path: &str, name: &str, wanted: &str, is_update: bool) {
    let _turn = TURN.lock();
    let text = text(path);
    let found = between(path, &text, name);
    if found.trim() == wanted.trim() {
        return;
    }
    assert!(
        is_update,
        "{path}: {name} is not what the code says; the same test with NATGATE_UPDATE=1 writes it"
    );
    let start = found.as_ptr() as usize - text.as_ptr() as usize;
    let text = format!("{}\n{}\n\n{}", &text[..start], wanted.trim(), &text[start + found.len()..]);
    fs::write(repository().join(path), text).expect("a file of the repository");
}

/// Why this process may not make network namespaces, if it may not: it needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`.
pub fn missing_privilege() -> Option<String> {
    const NEEDED: u64 = 1 << 21 | 1 << 12;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (effective & NEEDED != NEEDED).then(|| "network namespaces need root".to_owned())
}

/// Skips the test, visibly, where there is no right to make network namespaces.
macro_rules! need_root {
    () => {
        if let Some(reason) = $crate::common::missing_privilege() {
            println!("skipped: {reason}");
            return;
        }
    };
}
pub(crate) use need_root;

/// So many tests with real traffic run at once, in this process and in others: most of their time they wait.
const PLACES: usize = 2;

/// One of the places, or all of them, free again when it goes out of scope.
pub struct Turn(#[expect(dead_code, reason = "held, not read")] Vec<File>);

fn place(number: usize) -> File {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("place-{number}.lock"));
    File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Waits for a place among the tests with real traffic.
pub fn turn() -> Turn {
    let places: Vec<_> = (0..PLACES).map(place).collect();
    loop {
        if let Some(free) = places.iter().position(|place| place.try_lock().is_ok()) {
            return Turn(places.into_iter().skip(free).take(1).collect());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Holds off every other test that asks for this or for a [`turn`]: a test that measures speed is disturbed by others.
pub fn exclusive() -> Turn {
    // All in the same order, so that two of these do not wait for each other.
    let places = (0..PLACES).map(place);
    Turn(places.inspect(|place| place.lock().expect("the lock of tests with real traffic")).collect())
}

/// What a test says that runs itself again in another namespace. It is shown as a part of the outer test when that ends, each
/// line indented, so that its results are not counted beside the outer test's.
pub struct Transcript(PathBuf);

impl Transcript {
    /// An empty one, for the test of this name.
    pub fn new(test: &str) -> Self {
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}.log", std::process::id())))
    }

    /// Has it hold what a process prints.
    pub fn of<'a>(&self, process: &'a mut Command) -> &'a mut Command {
        let file = File::create(&self.0).unwrap_or_else(|error| panic!("{}: {error}", self.0.display()));
        let errors = file.try_clone().expect("another handle of a file");
        process.stdout(file).stderr(errors)
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        for line in fs::read_to_string(&self.0).unwrap_or_default().lines() {
            println!("    {line}");
        }
        let _ = fs::remove_file(&self.0);
    }
}
