//! natgate as a process between two devices that lead nowhere: for what is asked of it, not for what it carries.

use std::fs;
use std::path::{Path, PathBuf};
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

/// A VPC with a vSwitch and the gateway `gw1`.
pub const NETWORK: &str = r#"
[[vpc]]
name = "prod"
cidr = "10.0.0.0/16"
[[vpc.vswitch]]
name = "web"
cidr = "10.0.1.0/24"
port = "lan"
address = "10.0.1.1"
[[gateway]]
name = "gw1"
vpc = "prod"
vswitch = "web"
"#;

/// A place for a natgate: a namespace, a folder with its configuration, and the natgate once it is started. All are gone at the end; the
/// log is shown if a test has failed.
pub struct Site {
    pub namespace: Namespace,
    pub directory: PathBuf,
    gateway: Option<Gateway>,
}

impl Site {
    /// One of a name that no other test has. `settings` go on where `[system]` has begun; `DIRECTORY` stands for the folder.
    pub fn new(name: &str, settings: &str) -> Self {
        let namespace = Namespace::new(name);
        let directory =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a directory");
        let site = Self { namespace, directory, gateway: None };
        site.configure(settings);
        site
    }

    /// Writes another configuration.
    pub fn configure(&self, settings: &str) {
        let text =
            ["[system]\nworkers = 1\ncontrol = \"DIRECTORY/natgate.sock\"\n", settings, PORTS].concat();
        let text = text.replace("DIRECTORY", self.directory.to_str().expect("UTF-8"));
        fs::write(self.path("natgate.toml"), text).expect("a configuration");
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a file of the folder.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        path
    }

    /// Starts natgate, and waits until it answers.
    pub fn start(&mut self) {
        self.gateway = Some(Gateway::start(&self.namespace, &self.directory));
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        self.gateway.take().expect("a gateway").stop();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.gateway.take().expect("a gateway").kill();
    }

    /// natgate as somebody who asks the gateway.
    pub fn natgate(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_natgate"));
        command.args(arguments).env("NATGATE_SOCKET", self.path("natgate.sock")).stdin(Stdio::null());
        command
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.gateway.take());
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            eprintln!("the gateway's log:\n{log}");
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A network namespace with two devices, gone at the end.
pub struct Namespace(String);

impl Namespace {
    /// One of a name that no other process uses.
    pub fn new(name: &str) -> Self {
        let name = format!("ng-{name}-{}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self(name);
        ip(&["-n", &namespace.0, "link", "set", "lo", "up"]);
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
