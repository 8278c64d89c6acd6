//! A gateway as a service, in a network namespace of its own: start, reload, signals, the management socket, the end.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::common::daemon::{NETWORK, Namespace};
use crate::common::{self, need_root};
use rustix::process::{Pid, Signal, kill_process};

const DNAT: &str = r#"
[[dnat]]
name = "web"
gateway = "gw1"
eip = "203.0.113.16"
public_port = 80
private_ip = "10.0.1.10"
private_port = 8080
protocol = "TCP"
"#;

/// A namespace with two ports, and a directory. Both are gone at its end.
struct Service {
    namespace: Namespace,
    directory: PathBuf,
    notified: UnixDatagram,
}

impl Service {
    fn new(name: &str) -> Self {
        // Where others than root may come to.
        let directory = std::env::temp_dir().join(format!("natgate-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let notified = UnixDatagram::bind(directory.join("notify")).unwrap();
        notified.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let site = Self { namespace: Namespace::new(name), directory, notified };
        site.configure("");
        site
    }

    fn configure(&self, entries: &str) {
        let text = format!(
            r#"
[system]
workers = 1
sessions = 4096
control = "{}"
[[port]]
name = "wan"
device = "wan"
[[port]]
name = "lan"
device = "lan"
[[outside]]
port = "wan"
address = "198.51.100.1/24"
public = ["203.0.113.16/28"]
{NETWORK}[[eip]]
address = "203.0.113.16"
gateway = "gw1"
{entries}"#,
            self.socket().display()
        );
        fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.directory.join("natgate.toml")
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("natgate.sock")
    }

    fn natgate(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command(env!("CARGO_BIN_EXE_natgate"));
        command
            .args(arguments)
            .env("NATGATE_SOCKET", self.socket())
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        command
    }

    fn run(&self) -> Command {
        let config = self.config();
        self.natgate(&["run", "--config", config.to_str().unwrap()])
    }

    /// Starts the gateway and waits until it says that it is ready.
    fn start(&self) -> Gateway {
        let mut command = self.run();
        command.env("NOTIFY_SOCKET", self.directory.join("notify")).stderr(Stdio::piped());
        let gateway = Gateway(Some(command.spawn().unwrap()));
        assert!(self.next_state().starts_with("READY=1"));
        gateway
    }

    fn next_state(&self) -> String {
        let mut buffer = [0; 300];
        let read = self.notified.recv(&mut buffer).expect("a state is notified");
        String::from_utf8(buffer[..read].to_vec()).unwrap()
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        self.natgate(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn generation(&self) -> u64 {
        self.json(&["status", "--json"])["generation"].as_u64().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A running gateway; killed if the test fails before its end.
struct Gateway(Option<Child>);

impl Gateway {
    fn signal(&self, signal: Signal) {
        let child = self.0.as_ref().unwrap();
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Its exit code and its log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut child = self.0.take().unwrap();
        for _ in 0..2000 {
            if let Some(status) = child.try_wait().unwrap() {
                let mut log = String::new();
                child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
                return (status.code(), log);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        panic!("the gateway does not end");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Nobody, with the capabilities of the service's unit, opens the kernel's devices by both back ends.
#[test]
fn it_needs_no_more_than_the_unit_gives_it() {
    const NOBODY: u32 = 65534;
    need_root!();
    let unit = common::read("scripts/natgate.service");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
    assert_eq!((value("User"), value("Group")), ("natgate", "natgate"));
    assert_eq!(value("AmbientCapabilities"), value("CapabilityBoundingSet"));
    let names =
        value("AmbientCapabilities").split(' ').map(|name| name.trim_start_matches("CAP_").to_lowercase());
    let capabilities = names.map(|name| format!("+{name}")).collect::<Vec<_>>().join(",");
    for backend in ["af_packet", "af_xdp"] {
        let site = Service::new(&format!("user-{backend}"));
        let port = |name: &str| format!("device = \"{name}\"\n");
        let mut text = fs::read_to_string(site.config()).unwrap();
        for name in ["wan", "lan"] {
            text = text.replace(&port(name), &format!("{}backend = \"{backend}\"\n", port(name)));
        }
        fs::write(site.config(), text).unwrap();
        // Where anybody may run it.
        let binary = site.directory.join("natgate");
        fs::copy(env!("CARGO_BIN_EXE_natgate"), &binary).unwrap();
        for path in [site.directory.clone(), site.directory.join("notify")] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut command = site.namespace.command("setpriv");
        command
            .args(["--clear-groups", "--no-new-privs"])
            .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
            .args([format!("--inh-caps={capabilities}"), format!("--ambient-caps={capabilities}")])
            .arg(format!("--bounding-set=-all,{capabilities}"))
            .arg(&binary)
            .args(["run", "--config"])
            .arg(site.config())
            .env("NOTIFY_SOCKET", site.directory.join("notify"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let gateway = Gateway(Some(command.spawn().unwrap()));
        assert!(site.next_state().starts_with("READY=1"));
        let status = site.json(&["status", "--json"]);
        let modes = [0, 1].map(|port: usize| status["ports"][port]["mode"].as_str().unwrap().to_owned());
        assert!(modes.iter().all(|mode| mode.starts_with(backend)), "{modes:?}");
        gateway.signal(Signal::TERM);
        let (code, log) = gateway.end();
        assert_eq!(code, Some(0), "{log}");
    }
}

#[test]
fn the_watchdog_is_fed_while_workers_turn() {
    need_root!();
    let site = Service::new("watchdog");
    let mut command = site.run();
    command.env("NOTIFY_SOCKET", site.directory.join("notify")).env("WATCHDOG_USEC", "400000");
    let gateway = Gateway(Some(command.stderr(Stdio::piped()).spawn().unwrap()));
    assert!(site.next_state().starts_with("READY=1"));
    for _ in 0..5 {
        assert_eq!(site.next_state(), "WATCHDOG=1");
    }
    gateway.signal(Signal::TERM);
    assert!((0..5).any(|_| site.next_state() == "STOPPING=1"));
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_service_from_start_to_end() {
    need_root!();
    let site = Service::new("life");
    let gateway = site.start();

    let status = site.json(&["status", "--json"]);
    assert_eq!((&status["ports"][0]["name"], &status["workers"][0]["alive"]), (&"wan".into(), &true.into()));
    assert!(status["ports"][0]["mode"].as_str().unwrap().starts_with("af_"), "{status}");
    let stats = site.json(&["stats", "--json"]);
    assert_eq!(stats["total"]["balance"], 0);
    assert_eq!(text(&site.ask(&["sessions", "--count"]).stdout), "0\n");
    let entry = &site.json(&["explain", "tcp 198.51.100.7:9 > 203.0.113.16:80", "--json"])["entry"];
    assert!(entry.is_null(), "{entry}");

    // A reload by command: in force when it returns.
    let before = site.generation();
    site.configure(DNAT);
    let preview = site.json(&["reload", "--dry-run", "--json"]);
    assert_eq!((&preview["dry_run"], site.generation()), (&true.into(), before));
    let reloaded = site.ask(&["reload"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    let printed = text(&reloaded.stdout);
    assert!(printed.starts_with("+ dnat web: 203.0.113.16:80 TCP -> 10.0.1.10:8080\n1 change"), "{printed}");
    let explained = text(&site.ask(&["explain", "tcp 198.51.100.7:9 > 203.0.113.16:80"]).stdout);
    assert!(explained.contains("by dnat web"), "{explained}");
    assert!(site.next_state().starts_with("RELOADING=1"));
    assert!(site.next_state().starts_with("READY=1"));

    // Errors change nothing.
    site.configure(&DNAT.replace("10.0.1.10", "10.9.1.10"));
    let refused = site.ask(&["reload"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("[DnatPrivateOutsideVpc]"), "{refused:?}");
    assert_eq!(site.generation(), before + 1);
    for state in ["RELOADING=1", "READY=1"] {
        assert!(site.next_state().starts_with(state));
    }

    // By signal, with errors and without.
    gateway.signal(Signal::HUP);
    for state in ["RELOADING=1", "READY=1"] {
        assert!(site.next_state().starts_with(state));
    }
    assert_eq!(site.generation(), before + 1);
    site.configure("");
    gateway.signal(Signal::HUP);
    for state in ["RELOADING=1", "READY=1"] {
        assert!(site.next_state().starts_with(state));
    }
    assert_eq!(site.generation(), before + 2);

    gateway.signal(Signal::TERM);
    assert_eq!(site.next_state(), "STOPPING=1");
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("[DnatPrivateOutsideVpc]") && log.contains("every packet is accounted for"),
        "{log}"
    );
    assert!(!site.socket().exists());
    assert_eq!(site.ask(&["status"]).status.code(), Some(3));
}

#[test]
fn a_second_gateway_is_refused_and_a_killed_one_is_replaced() {
    need_root!();
    let site = Service::new("second");
    let mut first = site.start();
    let second = site.run().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let errors = text(&second.stderr);
    assert!(errors.contains("another natgate (process"), "{errors}");
    assert!(site.ask(&["status"]).status.success());

    let mut child = first.0.take().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(site.socket().exists());
    assert_eq!(site.ask(&["status"]).status.code(), Some(3));
    let third = site.start();
    assert!(site.ask(&["status"]).status.success());
    third.signal(Signal::INT);
    assert_eq!(third.end().0, Some(0));
}

#[test]
fn only_root_may_manage_it() {
    need_root!();
    let site = Service::new("peer");
    let gateway = site.start();
    assert_eq!(fs::metadata(site.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let as_nobody = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_natgate"));
        let socket = site.socket();
        command.args(["status", "--socket", socket.to_str().unwrap()]).uid(65534).gid(65534);
        command.output()
    };
    match as_nobody() {
        Err(error) => println!("skipped: nobody may not run the binary where it is built: {error}"),
        Ok(output) => {
            assert_eq!(output.status.code(), Some(3), "{output:?}");
            // Whoever opens the socket to all does not open the gateway to all.
            fs::set_permissions(site.socket(), fs::Permissions::from_mode(0o666)).unwrap();
            let output = as_nobody().unwrap();
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(text(&output.stderr).contains("user 65534 may not manage this gateway"), "{output:?}");
        }
    }
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.end().0, Some(0));
}

#[test]
fn clients_that_leave_or_misbehave_harm_nobody() {
    need_root!();
    let site = Service::new("clients");
    let gateway = site.start();
    // A trace whose client is killed makes way for the next. No packet of this protocol will come to end it.
    let endless = ["trace", "--protocol", "253"];
    let busy = || site.ask(&["trace", "--timeout", "0.05"]).status.code();
    // Whoever asks whether it is busy traces for a moment, too, and may have come first.
    let start_tracing = || {
        let start = || site.natgate(&endless).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut trace = start();
        eventually(|| {
            if trace.try_wait().unwrap().is_some() {
                trace = start();
            }
            busy() == Some(1)
        });
        trace
    };
    let mut trace = start_tracing();
    trace.kill().unwrap();
    trace.wait().unwrap();
    eventually(|| busy() == Some(0));
    // Many that say nothing: when all places are taken others are refused, and served again when they leave.
    let mut idle = vec![];
    eventually(|| {
        idle.extend((0..8).filter_map(|_| UnixStream::connect(site.socket()).ok()));
        site.ask(&["status"]).status.code() == Some(1)
    });
    drop(idle);
    eventually(|| site.ask(&["status"]).status.success());
    let mut garbage = UnixStream::connect(site.socket()).unwrap();
    garbage.write_all(&[0xff; 10_000]).unwrap();
    drop(garbage);
    assert!(site.ask(&["status"]).status.success());
    // One that waits does not hold up the end.
    let mut waiting = start_tracing();
    gateway.signal(Signal::TERM);
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

#[track_caller]
fn eventually(mut so: impl FnMut() -> bool) {
    for _ in 0..500 {
        if so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("it never came to pass");
}
