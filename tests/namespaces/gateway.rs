//! The real binary in a lab.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::lab::{Background, Lab, wait_for};

/// Where the binary lies.
const BINARY: &str = env!("CARGO_BIN_EXE_natgate");

/// A running gateway.
pub struct Gateway<'a> {
    lab: &'a Lab,
    process: Option<Background>,
    file: PathBuf,
    devices: Vec<String>,
    before: Vec<String>,
}

/// Where the management socket of a lab's gateway lies.
pub fn socket(lab: &Lab) -> PathBuf {
    lab.directory().join("natgate.sock")
}

impl<'a> Gateway<'a> {
    /// Starts it with a configuration file and waits until it answers.
    pub fn start(lab: &'a Lab, configuration: &str) -> Self {
        let file = lab.directory().join("natgate.toml");
        fs::write(&file, configuration).expect("the configuration file");
        let devices: Vec<_> = lab
            .run("gw", "ls /sys/class/net")
            .split_whitespace()
            .filter(|device| {
                configuration.contains(&format!("device = \"{device}\""))
                    || configuration.contains(&format!("iface={device},"))
            })
            .map(str::to_owned)
            .collect();
        if configuration.contains("iface=") {
            // Its drivers for kernel devices have no room for super-frames.
            lab.shell("lab_unsegmented \"$P\"");
        }
        let before = devices.iter().map(|device| state_of(lab, device)).collect();
        let mut process = lab.spawn("gw", &format!("exec {BINARY} run --config {}", file.display()));
        let gateway = |process| Self { lab, process, file, devices, before };
        let mut ended = false;
        let answers = wait_for(150, || {
            ended = process.has_ended();
            ended || lab.attempt("gw", &client(lab, "status")).is_ok()
        });
        assert!(answers && !ended, "the gateway does not start: {}", process.output());
        gateway(Some(process))
    }

    /// Asks it something and returns the answer.
    pub fn ask(&self, arguments: &str) -> String {
        self.lab.run("gw", &client(self.lab, arguments))
    }

    /// Asks it something that may be refused.
    pub fn attempt(&self, arguments: &str) -> Result<String, String> {
        self.lab.attempt("gw", &client(self.lab, arguments))
    }

    /// All counters.
    pub fn stats(&self) -> Value {
        serde_json::from_str(&self.ask("stats --json")).expect("the counters as JSON")
    }

    /// A counter of all workers together, by its path such as `/drops/no-route`.
    pub fn total(&self, counter: &str) -> u64 {
        let stats = self.stats();
        let value = stats.pointer(&format!("/total{counter}")).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no counter {counter} in {stats}"))
    }

    /// Changes its configuration file.
    pub fn configure(&self, configuration: &str) {
        fs::write(&self.file, configuration).expect("the configuration file");
    }

    /// Changes its configuration file and applies it.
    pub fn reload(&self, configuration: &str) -> String {
        self.configure(configuration);
        self.ask("reload")
    }

    /// Sends it a signal, by name.
    pub fn signal(&self, signal: &str) {
        self.process.as_ref().expect("the process").signal(signal);
    }

    /// Ends it, and asserts what is true of every run.
    pub fn finish(mut self) {
        let stats = self.stats();
        let workers = stats["workers"].as_array().expect("the workers' counters");
        assert!(!workers.is_empty());
        for counts in workers.iter().chain([&stats["total"]]) {
            assert_conserved(counts);
        }
        let process = self.process.take().expect("the process");
        process.signal("TERM");
        process.finish(10).unwrap_or_else(|error| panic!("SIGTERM: {error}"));
        for (device, before) in self.devices.iter().zip(&self.before) {
            assert_eq!(&state_of(self.lab, device), before, "{device} was not given back as it was");
        }
        self.lab.assert_clean();
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        // Reached only when a test fails: finish takes the process.
        if let Some(process) = &self.process {
            if let Ok(stats) = self.attempt("stats") {
                eprintln!("{stats}");
            }
            eprintln!("the gateway's log:\n{}", process.output());
        }
    }
}

fn client(lab: &Lab, arguments: &str) -> String {
    format!("NATGATE_SOCKET={} {BINARY} {arguments}", socket(lab).display())
}

/// Everything that came has exactly one end, or waits for one.
fn assert_conserved(counts: &Value) {
    let count = |name: &str| counts[name].as_u64().unwrap_or_else(|| panic!("no {name} in {counts}"));
    let drops: u64 = counts["drops"].as_object().expect("drops").values().filter_map(Value::as_u64).sum();
    assert_eq!(drops, count("dropped"), "{counts}");
    let ended = ["forwarded", "handed", "consumed", "held", "dropped"].map(count).iter().sum::<u64>();
    assert_eq!(count("received") + count("taken_over"), ended, "{counts}");
}

/// What a device can and does, without its statistics.
fn state_of(lab: &Lab, device: &str) -> String {
    lab.run(
        "gw",
        &format!("ip -details link show {device}; ethtool -k {device}; ethtool -c {device} 2>/dev/null; ip address show {device}"),
    )
}
