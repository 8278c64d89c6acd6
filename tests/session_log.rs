//! The session log of a running gateway: JSON lines, syslog and IPFIX as tshark reads them, and who had an address.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::daemon::{Gateway, Namespace, PORTS};
use common::need_root;
use natgate::base::time::Clock;
use serde_json::Value;

const FLOWS: usize = 300;

struct Bench {
    namespace: Namespace,
    directory: PathBuf,
    gateway: Option<Gateway>,
}

impl Bench {
    fn new(name: &str, settings: &str) -> Self {
        let namespace = Namespace::new(name);
        assert!(namespace.command("ip").args(["link", "set", "lo", "up"]).status().expect("ip").success());
        let directory =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a directory");
        let here = directory.display();
        let text = format!(
            r#"
[system]
workers = 1
control = "{here}/natgate.sock"
[timeouts]
udp = "10s"
[session_log]
file = "{here}/sessions.jsonl"
index = "{here}/index"
{settings}
{PORTS}
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
[[eip]]
address = "203.0.113.16"
gateway = "gw1"
[[eip]]
address = "203.0.113.17"
gateway = "gw1"
[[dnat]]
name = "dns"
gateway = "gw1"
eip = "203.0.113.17"
public_port = 53
private_ip = "10.0.1.20"
private_port = 5353
protocol = "UDP"
[[snat]]
name = "all"
gateway = "gw1"
source = "vpc"
eips = ["203.0.113.16"]
"#
        );
        fs::write(directory.join("natgate.toml"), text).expect("a configuration");
        Self { namespace, directory, gateway: None }
    }

    fn start(&mut self) {
        self.gateway = Some(Gateway::start(&self.namespace, &self.directory));
    }

    /// Flows through the gateway, one packet each and the answer if it is translated back.
    fn flows(&self, arguments: &str) {
        let sent = self
            .namespace
            .command(env!("CARGO_BIN_EXE_natgate"))
            .args("pktgen --backend af_packet --order sequential --rate 2k --seconds 1".split(' '))
            .args(arguments.split(' '))
            .output()
            .expect("natgate pktgen");
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    }

    fn flows_out(&self) {
        self.flows(
            "--send lan-far --receive wan-far --gateway 10.0.1.1 --source 10.0.1.16/28 --destination 198.18.0.1 \
             --answer 203.0.113.1 --both-ways --flows 300",
        );
    }

    fn flows_in(&self) {
        self.flows(
            "--send wan-far --receive lan-far --gateway 203.0.113.2 --source 198.18.0.16/28 --address 203.0.113.1 \
             --destination 203.0.113.17 --port 53 --answer 10.0.1.20,203.0.113.1 --flows 300",
        );
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.join("sessions.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    fn count(&self, event: &str, kind: &str) -> usize {
        let counted = self.lines().into_iter().filter(|line| line["event"] == event && line["kind"] == kind);
        counted.count()
    }

    /// What `natgate who` tells of the external endpoint of a line.
    fn who(&self, line: &Value, at: Option<&str>) -> Vec<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_natgate"));
        let external = format!("{}/udp", line["external"].as_str().expect("an endpoint"));
        command.args(["who", &external, "--json", "--socket"]).arg(self.directory.join("natgate.sock"));
        if let Some(at) = at {
            command.args(["--at", at]);
        }
        let output = command.output().expect("natgate who");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

#[track_caller]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let clock = Clock::start();
    let start = clock.now();
    while !done() {
        assert!(clock.now().since(start) < Duration::from_secs(40), "{what} does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The columns of what tshark reads of a capture.
fn tshark(capture: &Path, arguments: &[&str], fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(capture).args(arguments).args([
        "-T",
        "fields",
        "-E",
        "separator=/t",
        "-E",
        "aggregator=,",
    ]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

struct Capture(Child, PathBuf);

impl Capture {
    fn start(bench: &Bench) -> Self {
        let path = bench.directory.join("lo.pcap");
        let log = bench.directory.join("tcpdump.log");
        let mut command = bench.namespace.command("tcpdump");
        command
            .args(["-i", "lo", "--immediate-mode", "-U", "-s", "4096", "-B", "32768", "-w"])
            .arg(&path)
            .arg("udp");
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).expect("a log"));
        let child = command.spawn().expect("tcpdump");
        wait_for("tcpdump", || fs::read_to_string(&log).unwrap_or_default().contains("listening"));
        Self(child, path)
    }

    fn finish(mut self) -> PathBuf {
        // All that was sent is written when nothing more comes.
        let mut size = 0;
        wait_for("the end of the capture", || {
            std::thread::sleep(Duration::from_secs(1));
            let before = std::mem::replace(&mut size, fs::metadata(&self.1).map_or(0, |file| file.len()));
            size == before && size > 0
        });
        let signal = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        assert!(signal.expect("kill").success());
        self.0.wait().expect("tcpdump");
        self.1.clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_session_is_told_to_every_place() {
    need_root!();
    let mut bench = Bench::new("log", "syslog = \"127.0.0.1:514\"\nipfix = \"127.0.0.1:4739\"");
    let capture = Capture::start(&bench);
    bench.start();
    bench.flows_out();
    wait_for("the beginning of all sessions", || bench.count("created", "snat") == FLOWS);
    let lines = bench.lines();
    assert_eq!(lines[0]["event"], "started", "{}", lines[0]);
    let first = lines.iter().find(|line| line["kind"] == "snat").expect("a session");
    let named = ["protocol", "vpc", "gateway", "entry"].map(|key| text(&first[key]));
    assert_eq!(named, ["udp", "prod", "gw1", "all"], "{first}");
    let external: BTreeSet<_> =
        lines.iter().filter(|line| line["kind"] == "snat").map(|line| text(&line["external"])).collect();
    assert_eq!(external.len(), FLOWS, "one external endpoint for each flow of one host's port");

    // Whoever has it now.
    let mut owners = Vec::new();
    wait_for("the beginning in the index", || {
        owners = bench.who(first, None);
        owners.len() == 1
    });
    for key in ["inside", "peer", "vpc", "gateway", "entry"] {
        assert_eq!(owners[0][key], first[key], "{owners:?}");
    }
    assert!(owners[0]["ended_at"].is_null(), "{owners:?}");
    bench.flows_in();
    wait_for("the beginning of DNAT sessions", || bench.count("created", "dnat-port") == FLOWS);

    wait_for("the end of all sessions", || {
        bench.count("ended", "snat") == FLOWS && bench.count("ended", "dnat-port") == FLOWS
    });
    let lines = bench.lines();
    let last = lines.iter().find(|line| line["event"] == "ended" && line["external"] == first["external"]);
    let last = last.expect("its end");
    assert_eq!((&last["ending"], &last["inside"]), (&Value::from("expired"), &first["inside"]), "{last}");
    assert!(last["bytes_out"].as_u64() > Some(0) && last["bytes_in"].as_u64() > Some(0), "{last}");
    let began = text(&last["began"]);
    assert!(began <= text(&first["time"]), "{last}");
    // Whoever had it then, and nobody now.
    wait_for("the end in the index", || bench.who(first, None).is_empty());
    let owners = bench.who(first, Some(&text(&first["time"])));
    assert_eq!((owners.len(), &owners[0]["inside"]), (1, &first["inside"]), "{owners:?}");
    assert_eq!(owners[0]["ended_at"], last["time"], "{owners:?}");
    assert!(bench.who(first, Some("2001-01-01T00:00:00Z")).is_empty());

    let capture = capture.finish();
    let told = tshark(&capture, &["-Y", "syslog"], &["syslog.version", "syslog.appname", "syslog.msgid"]);
    let mut messages = BTreeMap::<_, usize>::new();
    for message in told {
        assert_eq!((&*message[0], &*message[1]), ("1", "natgate"));
        // tshark takes the structured data and the message for parts of it.
        let event = message[2].split(' ').next().unwrap_or_default().to_owned();
        *messages.entry(event).or_default() += 1;
    }
    let of = |word: &str| messages.get(word).copied().unwrap_or(0);
    assert_eq!((of("created"), of("ended")), (2 * FLOWS, 2 * FLOWS), "{messages:?}");

    let fields = [
        "cflow.version",
        "cflow.nat_event",
        "cflow.srcaddr",
        "cflow.post_natsource_ipv4_address",
        "cflow.srcport",
        "cflow.post_naptsource_transport_port",
        "cflow.sequence",
    ];
    let messages = tshark(&capture, &["-d", "udp.port==4739,cflow", "-Y", "cflow"], &fields);
    let (mut events, mut endpoints) = (BTreeMap::<String, usize>::new(), BTreeSet::new());
    let mut expected = 0;
    for message in &messages {
        assert_eq!(message[0], "10", "{message:?}");
        assert_eq!(message[6], expected.to_string(), "a gap in the sequence");
        let column = |n: usize| message[n].split(',').filter(|cell| !cell.is_empty()).collect::<Vec<_>>();
        expected += column(1).len();
        for event in column(1) {
            *events.entry(event.to_owned()).or_default() += 1;
        }
        for ((address, port), (inside, inside_port)) in
            column(3).iter().zip(column(5)).zip(column(2).iter().zip(column(4)))
        {
            endpoints.insert((format!("{inside}:{inside_port}"), format!("{address}:{port}")));
        }
    }
    assert_eq!(events, BTreeMap::from([("4".into(), 2 * FLOWS), ("5".into(), 2 * FLOWS)]));
    for line in lines.iter().filter(|line| line["event"] == "created" && line["kind"] == "snat") {
        let pair = (text(&line["inside"]), text(&line["external"]));
        assert!(endpoints.contains(&pair), "{pair:?} was not exported");
    }
}

#[test]
fn the_log_is_rotated_by_its_name_and_survives_the_end() {
    need_root!();
    let mut bench = Bench::new("logend", "events = 1024");
    bench.start();
    bench.flows_out();
    wait_for("the beginning of all sessions", || bench.count("created", "snat") == FLOWS);
    let line = bench.lines().into_iter().find(|line| line["kind"] == "snat").expect("a session");
    fs::rename(bench.directory.join("sessions.jsonl"), bench.directory.join("sessions.1"))
        .expect("to rename");
    wait_for("a file of the name", || bench.directory.join("sessions.jsonl").exists());

    // Killed in the middle: what is found in the index stays there, and ends at the next start.
    let then = text(&line["time"]);
    wait_for("the index", || bench.who(&line, Some(&then)).len() == 1);
    bench.gateway.take().expect("a gateway").kill();
    bench.start();
    wait_for("the start", || bench.lines().iter().any(|line| line["event"] == "started"));
    let started =
        text(&bench.lines().iter().find(|line| line["event"] == "started").expect("a start")["time"]);
    wait_for("the index", || bench.who(&line, None).is_empty());
    let owners = bench.who(&line, Some(&then));
    assert_eq!(owners.len(), 1, "{owners:?}");
    assert!(text(&owners[0]["ended_at"]) <= started, "{owners:?} and {started}");

    bench.flows_out();
    bench.gateway.take().expect("a gateway").stop();
    let lines = bench.lines();
    assert_eq!(lines.last().expect("a line")["event"], "stopped", "{lines:?}");
    // More began than the ring holds, at a rate that it is emptied at: nothing is missing.
    assert!(lines.iter().all(|line| line["event"] != "lost"));
}
