//! A network of namespaces that lives as long as its value.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use crate::common;

/// How the names of test namespaces begin; the number of the process follows.
const NAME: &str = "natgate-test-";

/// Namespaces, the processes in them, and a directory for their files.
pub struct Lab {
    prefix: String,
    directory: PathBuf,
    servers: RefCell<Vec<Background>>,
    // Last: the next test begins when everything is gone.
    _turn: common::Turn,
}

/// A process that ends with its value.
pub struct Background {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Lab {
    /// The network of `lab_up`.
    pub fn new() -> Self {
        Self::made_by("lab_up", common::turn())
    }

    /// The same, and no other test with real traffic runs meanwhile: for those that measure speed.
    pub fn alone() -> Self {
        Self::made_by("lab_up", common::exclusive())
    }

    /// With a second VPC whose hosts have the same addresses, on the gateway's device lan2.
    pub fn with_two_vpcs() -> Self {
        Self::made_by("lab_up \"$P\"; lab_second_vpc", common::turn())
    }

    /// With VLANs on the gateway's devices: 100 on wan, 10 and 20 on lan.
    pub fn with_vlans() -> Self {
        let lab = Self::made_by("lab_up_tagged", common::turn());
        let tagger = common::repository().join("tests/namespaces/tagger.py");
        for arguments in ["wan-trunk 100:wan-100", "lan-trunk 10:lan-10 20:lan-20"] {
            let tagger = lab.spawn("tagger", &format!("exec python3 {} {arguments}", tagger.display()));
            tagger.says("ready");
            lab.servers.borrow_mut().push(tagger);
        }
        lab
    }

    fn made_by(functions: &str, turn: common::Turn) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_left_behind();
        let prefix = format!("{NAME}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(&prefix);
        fs::create_dir_all(&directory).expect("a directory for a test's files");
        let lab = Self { prefix, directory, servers: RefCell::new(Vec::new()), _turn: turn };
        lab.shell(&format!("{functions} \"$P\""));
        let watch = common::repository().join("scripts/lib/watch_private.pl");
        let watch = lab.spawn("internet", &format!("exec perl {} gw", watch.display()));
        watch.says("watching");
        lab.servers.borrow_mut().push(watch);
        lab
    }

    /// Where the test's files lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name of a host's namespace.
    pub fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Runs a script with the functions of `scripts/lib/lab.sh` and the prefix in `$P`.
    pub fn shell(&self, script: &str) -> String {
        self.output(&mut self.bash(script, 30), script).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a shell command on a host, for at most half a minute, and returns what it printed.
    pub fn run(&self, host: &str, command: &str) -> String {
        self.attempt(host, command).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, where it may fail: then with what it printed.
    pub fn attempt(&self, host: &str, command: &str) -> Result<String, String> {
        self.output(&mut self.on(host, command, 30), &format!("{host}: {command}"))
    }

    /// Starts a command on a host.
    pub fn spawn(&self, host: &str, command: &str) -> Background {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let log = self.directory.join(format!("{}-{host}.log", COUNT.fetch_add(1, Ordering::Relaxed)));
        let output = File::create(&log).expect("a log");
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace(host), "bash", "-c", command])
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a log"))
            .stderr(output)
            .spawn()
            .expect("ip netns exec");
        Background { name: format!("{host}: {command}"), child, log }
    }

    /// Starts a command on a host that runs until the lab ends, and waits until it listens on a TCP port.
    pub fn serve(&self, host: &str, command: &str, port: u16) {
        let server = self.spawn(host, command);
        let ready =
            wait_for(100, || self.attempt(host, &format!("ss -Hltn 'sport = :{port}' | grep -q .")).is_ok());
        assert!(ready, "does not listen on {port}: {}", server.output());
        self.servers.borrow_mut().push(server);
    }

    /// Starts a web server whose pages say `the page of HOST`, the port and the client's address. Its files lie in
    /// [`Self::files`].
    pub fn web_server(&self, host: &str, ports: &[u16]) {
        let library = common::repository().join("scripts/lib/lab.sh");
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        let command = format!(
            ". {}; lab_web_server {} {} 'the page of {host}' {}",
            library.display(),
            self.namespace(host),
            self.directory.join(host).display(),
            ports.join(" ")
        );
        self.serve(host, &command, ports[0].parse().expect("a port"));
    }

    /// The directory that a host's web server shows as `/files/`.
    pub fn files(&self, host: &str) -> PathBuf {
        self.directory.join(host).join("files")
    }

    /// Fetches a page and asserts that it holds all the words.
    pub fn page(&self, host: &str, url: &str, words: &[&str]) {
        let text = self.run(host, &format!("curl -sS --fail --max-time 10 {url}"));
        for word in words {
            assert!(text.contains(word), "{host} fetches {url}: \"{word}\" is missing in\n{text}");
        }
    }

    /// What is true of every network in which everything went well.
    pub fn assert_clean(&self) {
        let leaks =
            self.servers.borrow().iter().find(|server| server.name.contains("watch_private")).map(|watch| {
                watch
                    .output()
                    .lines()
                    .filter(|line| !line.starts_with("watching"))
                    .collect::<Vec<_>>()
                    .join("\n")
            });
        assert_eq!(leaks.as_deref(), Some(""), "private addresses on the Internet side");
        let wrong = self.shell(
            "prefix=$P; state=/; . \"$L/steps.sh\"; \
             for name in $(lab_namespaces \"$P\"); do echo \"${name#\"$P-\"} $(wrong_checksums \"${name#\"$P-\"}\")\"; done",
        );
        assert!(wrong.lines().count() > 5, "{wrong}");
        for line in wrong.lines() {
            assert!(line.ends_with(" 0"), "packets with wrong checksums that reached a host: {line}");
        }
    }

    fn on(&self, host: &str, command: &str, seconds: u32) -> Command {
        let mut on = Command::new("timeout");
        on.args(["--kill-after=2", &seconds.to_string(), "ip", "netns", "exec"]);
        on.args([&self.namespace(host), "bash", "-o", "pipefail", "-c", command]);
        on.current_dir(&self.directory);
        on
    }

    fn bash(&self, script: &str, seconds: u32) -> Command {
        let library = common::repository().join("scripts/lib");
        let mut bash = Command::new("timeout");
        bash.args(["--kill-after=2", &seconds.to_string(), "bash", "-euo", "pipefail", "-c"]);
        bash.arg(format!(". \"$L/lab.sh\"; {script}"));
        bash.env("P", &self.prefix).env("L", library);
        bash
    }

    fn output(&self, command: &mut Command, name: &str) -> Result<String, String> {
        let output = command.stdin(Stdio::null()).output().expect("timeout");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let error = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: {name}: {}\n{text}{error}", self.prefix, output.status))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.servers.get_mut().clear();
        let down = self.bash("lab_down \"$P\"", 30).status();
        if !down.is_ok_and(|status| status.success()) {
            eprintln!("{}: the namespaces could not be removed", self.prefix);
        }
        if std::thread::panicking() {
            eprintln!("the test's files lie in {}", self.directory.display());
        } else {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

impl Background {
    /// What it has printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has printed something.
    pub fn says(&self, word: &str) {
        assert!(
            wait_for(150, || self.output().contains(word)),
            "{} does not say {word}: {}",
            self.name,
            self.output()
        );
    }

    /// Waits for its end, for at most so many seconds, and returns what it printed if it ended well.
    pub fn finish(mut self, seconds: u32) -> Result<String, String> {
        let mut status = None;
        wait_for(seconds * 10, || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        match status {
            Some(status) if status.success() => Ok(self.output()),
            Some(status) => Err(format!("{}: {status}\n{}", self.name, self.output())),
            None => Err(format!("{}: still runs after {seconds} s\n{}", self.name, self.output())),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, by name.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args(["-s", signal, &self.process().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "{}: kill", self.name);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks every tenth of a second, so many times, whether something is true.
pub fn wait_for(tries: u32, mut is_true: impl FnMut() -> bool) -> bool {
    for _ in 0..tries {
        if is_true() {
            return true;
        }
        sleep(Duration::from_millis(100));
    }
    is_true()
}

/// Removes networks of test runs that were killed.
fn remove_left_behind() {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let mut prefixes: Vec<_> = names
        .filter_map(|name| name.file_name().into_string().ok())
        .filter_map(|name| {
            let mut parts = name.strip_prefix(NAME)?.split('-');
            let (process, count) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            (!Path::new("/proc").join(&process).exists()).then(|| format!("{NAME}{process}-{count}"))
        })
        .collect();
    prefixes.sort();
    prefixes.dedup();
    for prefix in prefixes {
        let library = common::repository().join("scripts/lib/lab.sh");
        let script = format!(". {}; lab_down {prefix}", library.display());
        let _ = Command::new("timeout").args(["30", "bash", "-c", &script]).status();
    }
}
