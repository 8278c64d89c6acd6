//! natgate as a process between two devices that lead nowhere: for what is asked of it, not for what it carries.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use natgate::base::time::Clock;
use natgate::control::client::Client;

/// The devices of a [`Namespace`] as the ports of a configuration, and the Internet side.
pub const PORTS: &str = r#"
[[port]]
name = "wan"
device = "wan"
backend = "af_packet"
[[port]]
name = "lan"
device = "lan"
backend = "af_packet"
[[outside]]
port = "wan"
address = "203.0.113.2/24"
gateway = "203.0.113.1"
public = ["203.0.113.16/28"]
"#;

/// A network namespace with two devices, gone at the end.
pub struct Namespace(String);

impl Namespace {
    /// One of a name that no other process uses.
    pub fn new(name: &str) -> Self {
        let name = format!("ng-{name}-{}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self(name);
        for (device, peer) in [("wan", "wan-far"), ("lan", "lan-far")] {
            ip(&["-n", &namespace.0, "link", "add", device, "type", "veth", "peer", "name", peer]);
            ip(&["-n", &namespace.0, "link", "set", device, "up"]);
            ip(&["-n", &namespace.0, "link", "set", peer, "up"]);
        }
        namespace
    }
}

impl Namespace {
    /// The words before a command in it.
    pub fn within(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.0]
    }

    /// A command in it.
    pub fn command(&self, program: &str) -> Command {
        let [ip, words @ ..] = self.within();
        let mut command = Command::new(ip);
        command.args(words).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip");
    assert!(status.success(), "ip {}", arguments.join(" "));
}

/// A natgate that is killed when it goes out of scope.
pub struct Gateway(Child);

impl Gateway {
    /// Starts natgate, and waits until it answers.
    pub fn start(namespace: &Namespace, directory: &Path) -> Self {
        let mut command = namespace.command(env!("CARGO_BIN_EXE_natgate"));
        command
            .args(["run", "--config"])
            .arg(directory.join("natgate.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("log")).expect("a log"));
        let mut gateway = Self(command.spawn().expect("natgate"));
        let clock = Clock::start();
        let start = clock.now();
        while Client::connect(&directory.join("natgate.sock")).is_err() {
            let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
            assert!(gateway.0.try_wait().expect("a child").is_none(), "it ended:\n{}", log());
            assert!(clock.now().since(start) < Duration::from_secs(20), "it does not answer:\n{}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
        gateway
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) {
        let signal = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(signal.expect("kill").success());
        assert!(self.0.wait().expect("a child").success());
    }

    /// SIGKILL. `ip netns exec` has become natgate, so it is natgate that dies.
    pub fn kill(mut self) {
        self.0.kill().expect("to kill it");
        let _ = self.0.wait();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
