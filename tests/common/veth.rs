//! veth pairs between namespaces that a test makes and removes itself. The test runs itself again inside.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// Set for the process that runs inside, to what it is to do there.
const ROLE: &str = "NATGATE_TEST_ROLE";
/// The namespaces of the far ends.
const FAR: &str = "NATGATE_TEST_FAR";
/// Steps of a millisecond after which a wait has failed.
const PATIENCE: u32 = 10_000;
/// The same for a whole test.
const LONGEST: u32 = 60_000;

/// A network namespace that goes with the value.
pub struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Self {
        run(&format!("ip netns add {name}"));
        let namespace = Self(name);
        namespace.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        namespace
    }

    fn run(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.0));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn words(command: &str) -> Command {
    let mut words = command.split_whitespace();
    let mut process = Command::new(words.next().unwrap());
    process.args(words);
    process
}

/// Runs a command, which must succeed, and returns what it says.
pub fn run(command: &str) -> String {
    let output = words(command).output().unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// How many pairs this process has made.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Runs `body` with the near ends `a0` and `b0` of two veth pairs; `a1` (10.0.0.1/24) and `b1` (10.0.0.2/24) are each in a
/// namespace of their own. The body is told what it is to do: nothing, or what [`again`] says.
pub fn inside(prefix: &str, test: &str, body: fn(&str)) {
    if let Ok(role) = std::env::var(ROLE) {
        return body(&role);
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let id = format!("{prefix}-{}-{number}", std::process::id());
    let near = Namespace::new(format!("{id}-n"));
    let far = ["a", "b"].map(|pair| Namespace::new(format!("{id}-{pair}")));
    for ((pair, namespace), host) in ["a", "b"].into_iter().zip(&far).zip(1..) {
        near.run(&format!("ip link add {pair}0 type veth peer name {pair}1 netns {}", namespace.0));
        near.run(&format!("ip link set {pair}0 up"));
        namespace.run(&format!("ip addr add 10.0.0.{host}/24 dev {pair}1"));
        namespace.run(&format!("ip link set {pair}1 up"));
    }
    let transcript = super::Transcript::new(test);
    let mut again = command(&near.0, &[], test, "", &format!("{} {}", far[0].0, far[1].0));
    let mut child = transcript.of(&mut again).spawn().unwrap();
    let mut steps = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if steps == LONGEST {
            child.kill().unwrap();
        }
        steps += 1;
        sleep(Duration::from_millis(1));
    };
    assert!(status.success(), "{test} failed inside its namespace");
}

fn command(namespace: &str, wrapper: &[&str], test: &str, role: &str, far: &str) -> Command {
    let exe = std::env::current_exe().unwrap();
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace])
        .args(wrapper)
        .args([exe.to_str().unwrap(), "--exact", test, "--nocapture"])
        .env(ROLE, role)
        .env(FAR, far);
    command
}

/// The namespace of a far end, `a` or `b`.
pub fn far_namespace(pair: &str) -> String {
    let both = std::env::var(FAR).unwrap();
    let (a, b) = both.split_once(' ').unwrap();
    if pair == "a" { a.to_owned() } else { b.to_owned() }
}

/// Starts a command at a far end; what it says can be read from it.
pub fn far(pair: &str, command: &[&str]) -> Child {
    let namespace = far_namespace(pair);
    Command::new("ip")
        .args(["netns", "exec", &namespace])
        .args(command)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Starts the same test at a far end with another role.
pub fn again(pair: &str, test: &str, role: &str) -> Child {
    command(&far_namespace(pair), &[], test, role, &std::env::var(FAR).unwrap()).spawn().unwrap()
}

/// Runs the same test in this namespace with another role, started by `wrapper`; it must succeed.
pub fn wrapped(wrapper: &[&str], test: &str, role: &str) {
    let near = run("ip netns identify");
    let status = command(near.trim(), wrapper, test, role, &std::env::var(FAR).unwrap()).status().unwrap();
    assert!(status.success(), "{test} as {role} failed");
}

/// Brings a far end into this namespace.
pub fn fetch(pair: &str) {
    run(&format!("ip -n {} link set {pair}1 netns {}", far_namespace(pair), std::process::id()));
    run(&format!("ip link set {pair}1 up"));
}

/// Steps until `done` says so.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..PATIENCE {
        if done() {
            return;
        }
        sleep(Duration::from_millis(1));
    }
    panic!("{what}: not within {PATIENCE} ms");
}
