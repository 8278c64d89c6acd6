//! The session log of a running gateway: JSON lines, syslog and IPFIX as tshark reads them, and who had an address.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::daemon::{NETWORK, Site};
use crate::common::need_root;
use natgate::base::time::Clock;
use serde_json::Value;

const FLOWS: usize = 300;

/// Entries on either way.
const ENTRIES: &str = r#"
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
"#;

/// A place for a gateway that logs its sessions. `settings` are those of the log.
fn logging(name: &str, settings: &str) -> Site {
    let log = "[timeouts]\nudp = \"10s\"\n[session_log]\nfile = \"DIRECTORY/sessions.jsonl\"\nindex = \"DIRECTORY/index\"\n";
    Site::new(name, &[log, settings, NETWORK, ENTRIES].concat())
}

impl Site {
    /// Changes the configuration before the start.
    fn edit(&self, from: &str, to: &str) {
        let path = self.path("natgate.toml");
        let text = fs::read_to_string(&path).expect("a configuration");
        assert!(text.contains(from), "{from}");
        fs::write(path, text.replace(from, to)).expect("a configuration");
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
        let text = fs::read_to_string(self.path("sessions.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    fn count(&self, event: &str, kind: &str) -> usize {
        let counted = self.lines().into_iter().filter(|line| line["event"] == event && line["kind"] == kind);
        counted.count()
    }

    /// What `natgate who` tells of the external endpoint of a line.
    fn who(&self, line: &Value, at: Option<&str>) -> Vec<Value> {
        self.who_has(line["external"].as_str().expect("an endpoint"), at)
    }

    /// What it tells of an external endpoint.
    fn who_has(&self, external: &str, at: Option<&str>) -> Vec<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_natgate"));
        let external = format!("{external}/udp");
        command.args(["who", &external, "--json", "--socket"]).arg(self.path("natgate.sock"));
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
    fn start(bench: &Site, filter: &str) -> Self {
        let path = bench.path("lo.pcap");
        let log = bench.path("tcpdump.log");
        let mut command = bench.namespace.command("tcpdump");
        // Segments on the loopback device are as long as can be: all of them is wanted.
        command
            .args(["-i", "lo", "--immediate-mode", "-U", "-s", "0", "-B", "32768", "-w"])
            .arg(&path)
            .arg(filter);
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
    let mut bench = logging("log", "syslog = \"127.0.0.1:514\"\nipfix = \"127.0.0.1:4739\"");
    let capture = Capture::start(&bench, "udp");
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
    let mut bench = logging("logend", "events = 1024");
    bench.start();
    bench.flows_out();
    wait_for("the beginning of all sessions", || bench.count("created", "snat") == FLOWS);
    let line = bench.lines().into_iter().find(|line| line["kind"] == "snat").expect("a session");
    fs::rename(bench.path("sessions.jsonl"), bench.path("sessions.1")).expect("to rename");
    wait_for("a file of the name", || bench.path("sessions.jsonl").exists());

    // Killed in the middle: what is found in the index stays there, and ends at the next start.
    let then = text(&line["time"]);
    wait_for("the index", || bench.who(&line, Some(&then)).len() == 1);
    bench.kill();
    bench.start();
    wait_for("the start", || bench.lines().iter().any(|line| line["event"] == "started"));
    let started =
        text(&bench.lines().iter().find(|line| line["event"] == "started").expect("a start")["time"]);
    wait_for("the index", || bench.who(&line, None).is_empty());
    let owners = bench.who(&line, Some(&then));
    assert_eq!(owners.len(), 1, "{owners:?}");
    assert!(text(&owners[0]["ended_at"]) <= started, "{owners:?} and {started}");

    bench.flows_out();
    bench.stop();
    let lines = bench.lines();
    assert_eq!(lines.last().expect("a line")["event"], "stopped", "{lines:?}");
    // More began than the ring holds, at a rate that it is emptied at: nothing is missing.
    assert!(lines.iter().all(|line| line["event"] != "lost"));
}

/// Takes what comes by TCP, a file for each connection; hangs up on the first one in its middle.
const COLLECTOR: &str = r#"
import socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
# What nobody reads is lost when it hangs up: it is to be little.
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
number = 0
while True:
    connection, _ = listener.accept()
    number += 1
    with open(f"{sys.argv[2]}.{number}", "wb") as file:
        while data := connection.recv(4096):
            file.write(data)
            file.flush()
            if number == 1 and file.tell() > 10000:
                break
    connection.close()
"#;

struct Collector(Child);

impl Collector {
    fn start(bench: &Site, port: u16, name: &str) -> Self {
        let mut command = bench.namespace.command("python3");
        command.args(["-c", COLLECTOR, &port.to_string()]).arg(bench.path(name));
        Self(command.spawn().expect("python3"))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The messages of a connection by octet counting (RFC 6587 3.4.1), without the one that was broken off.
fn counted(mut bytes: &[u8]) -> Vec<String> {
    let mut messages = Vec::new();
    while let Some(blank) = bytes.iter().position(|byte| *byte == b' ') {
        let digits = std::str::from_utf8(&bytes[..blank]).expect("a number");
        let len: usize = digits.parse().unwrap_or_else(|_| panic!("{digits:?} is no count of octets"));
        let Some(message) = bytes.get(blank + 1..blank + 1 + len) else { break };
        messages.push(std::str::from_utf8(message).expect("UTF-8").to_owned());
        bytes = &bytes[blank + 1 + len..];
    }
    messages
}

#[test]
fn by_tcp_nothing_is_missing_though_collectors_come_late_and_hang_up() {
    need_root!();
    let settings = "syslog = \"tcp://127.0.0.1:601\"\nipfix = \"tcp://127.0.0.1:4739\"";
    let mut bench = logging("logtcp", settings);
    let capture = Capture::start(&bench, "tcp port 4739");
    bench.start();
    bench.flows_out();
    wait_for("the beginning of all sessions", || bench.count("created", "snat") == FLOWS);
    let _collectors = [Collector::start(&bench, 601, "syslog"), Collector::start(&bench, 4739, "ipfix")];
    let file = |name: &str| fs::read(bench.path(name)).unwrap_or_default();
    wait_for("the end of all sessions", || bench.count("ended", "snat") == FLOWS);
    let expected: BTreeSet<_> = bench
        .lines()
        .iter()
        .filter(|line| line["kind"] == "snat")
        .map(|line| (text(&line["event"]), text(&line["inside"]), text(&line["external"])))
        .collect();
    assert_eq!(expected.len(), 2 * FLOWS);

    let mut told = BTreeSet::new();
    wait_for("everything in syslog", || {
        told.clear();
        for message in ["syslog.1", "syslog.2"].into_iter().flat_map(|name| counted(&file(name))) {
            assert!(message.starts_with("<134>1 "), "{message}");
            let line: Value =
                serde_json::from_str(&message[message.find('{').expect("JSON")..]).expect("JSON");
            if line["kind"] == "snat" {
                told.insert((text(&line["event"]), text(&line["inside"]), text(&line["external"])));
            }
        }
        told.len() == expected.len()
    });
    assert_eq!(told, expected);
    assert!(file("syslog.1").len() > 10_000);

    // As another reads it: each connection has its templates and a sequence of its own.
    let fields = [
        "tcp.stream",
        "cflow.sequence",
        "cflow.nat_event",
        "cflow.srcaddr",
        "cflow.post_natsource_ipv4_address",
        "cflow.srcport",
        "cflow.post_naptsource_transport_port",
        "cflow.template_id",
    ];
    let mut exported = BTreeSet::new();
    wait_for("everything by IPFIX", || file("ipfix.2").len() > 100);
    bench.stop();
    let capture = capture.finish();
    let packets = tshark(&capture, &["-d", "tcp.port==4739,cflow", "-Y", "cflow"], &fields);
    let mut streams = BTreeMap::<String, u64>::new();
    for packet in &packets {
        let column = |n: usize| packet[n].split(',').filter(|cell| !cell.is_empty()).collect::<Vec<_>>();
        let next = streams.entry(packet[0].clone()).or_insert_with(|| {
            assert!(!packet[7].is_empty(), "a connection begins with templates: {packet:?}");
            0
        });
        // Several messages may end in one packet.
        let first = column(1).first().and_then(|sequence| sequence.parse::<u64>().ok());
        assert_eq!(first, Some(*next), "{packet:?}");
        *next += column(2).len() as u64;
        let inside = column(3).into_iter().zip(column(5));
        let external = column(4).into_iter().zip(column(6));
        for (event, (inside, external)) in column(2).into_iter().zip(inside.zip(external)) {
            let word = if event == "4" { "created" } else { "ended" };
            let end = |(address, port)| format!("{address}:{port}");
            exported.insert((word.to_owned(), end(inside), end(external)));
        }
    }
    assert!(streams.len() >= 2, "{streams:?}");
    assert_eq!(exported, expected);
}

const SNAT: &str = "source = \"vpc\"\neips = [\"203.0.113.16\"]";

#[test]
fn blocks_are_told_instead_of_sessions() {
    need_root!();
    let mut bench = logging("logblocks", "ipfix = \"127.0.0.1:4739\"");
    bench.edit(SNAT, &format!("{SNAT}\nports = \"1024/65535\"\nport_blocks = 64"));
    let capture = Capture::start(&bench, "udp port 4739");
    bench.start();
    bench.flows_out();
    let of =
        |event: &str| bench.lines().into_iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let hosts = || of("block-allocated").iter().map(|line| text(&line["inside"])).collect::<BTreeSet<_>>();
    wait_for("a block for each of 14 hosts", || hosts().len() == 14);
    let blocks = of("block-allocated");
    let named = ["vpc", "gateway", "entry", "external"].map(|key| text(&blocks[0][key]));
    assert_eq!(named, ["prod", "gw1", "all", "203.0.113.16"], "{}", blocks[0]);
    assert!(of("created").is_empty());

    // Whoever has a port has all of the block.
    let block = &blocks[0];
    let endpoint = |key: &str| format!("203.0.113.16:{}", block[key]);
    for end in ["first_port", "last_port"] {
        let mut owners = Vec::new();
        wait_for("the block in the index", || {
            owners = bench.who_has(&endpoint(end), None);
            owners.len() == 1
        });
        assert_eq!(
            (&owners[0]["inside"], &owners[0]["entry"]),
            (&block["inside"], &block["entry"]),
            "{owners:?}"
        );
    }
    wait_for("the end of all blocks", || of("block-released").len() == blocks.len());
    wait_for("the end in the index", || bench.who_has(&endpoint("first_port"), None).is_empty());
    let then = bench.who_has(&endpoint("last_port"), Some(&text(&block["time"])));
    assert_eq!((then.len(), &then[0]["inside"]), (1, &block["inside"]), "{then:?}");
    assert!(bench.who_has(&endpoint("last_port"), Some("2001-01-01T00:00:00Z")).is_empty());

    let capture = capture.finish();
    let messages = tshark(
        &capture,
        &["-d", "udp.port==4739,cflow", "-Y", "cflow"],
        &["cflow.nat_event", "cflow.srcaddr"],
    );
    let column = |n: usize| {
        messages.iter().flat_map(move |message| message[n].split(',')).filter(|cell| !cell.is_empty())
    };
    let events = |event: &str| column(0).filter(|cell| *cell == event).count();
    assert_eq!(
        (events("16"), events("17"), column(0).count()),
        (blocks.len(), blocks.len(), 2 * blocks.len())
    );
    assert_eq!(column(1).map(str::to_owned).collect::<BTreeSet<_>>(), hosts());
}

#[test]
fn deterministic_owners_are_computed_and_nothing_is_logged() {
    need_root!();
    let mut bench = logging("logcomputed", "");
    bench.edit(
        SNAT,
        "source = \"10.0.1.16/28\"\neips = [\"203.0.113.16\"]\nports = \"1024/65535\"\nport_blocks = 4000\ndeterministic = true",
    );
    bench.start();
    bench.flows_out();
    for (port, inside) in
        [(1024, "10.0.1.16"), (5023, "10.0.1.16"), (5024, "10.0.1.17"), (65_023, "10.0.1.31")]
    {
        let owners = bench.who_has(&format!("203.0.113.16:{port}"), None);
        assert_eq!((owners.len(), text(&owners[0]["inside"])), (1, inside.to_owned()), "{port}: {owners:?}");
        assert_eq!((&owners[0]["began_at"], &owners[0]["entry"]), (&"computed".into(), &"all".into()));
    }
    // Beyond the last block, and on another EIP, it is looked for in the index.
    assert!(bench.who_has("203.0.113.16:65100", None).is_empty());
    assert!(bench.who_has("203.0.113.17:1024", None).is_empty());
    bench.stop();
    let events: BTreeSet<_> = bench.lines().iter().map(|line| text(&line["event"])).collect();
    assert_eq!(events, ["started", "stopped"].map(str::to_owned).into());
}

#[test]
fn what_the_index_tells_of_a_time_comes_before_what_is_computed() {
    need_root!();
    let mut bench = logging("logbefore", "");
    let blocks = format!("{SNAT}\nports = \"1024/65535\"\nport_blocks = 64");
    bench.edit(SNAT, &blocks);
    bench.start();
    bench.flows_out();
    let allocated = || bench.lines().into_iter().find(|line| line["event"] == "block-allocated");
    wait_for("a block", || allocated().is_some());
    let block = allocated().expect("a block");
    let (endpoint, time) = (format!("203.0.113.16:{}", block["first_port"]), text(&block["time"]));
    wait_for("the block in the index", || !bench.who_has(&endpoint, Some(&time)).is_empty());
    bench.stop();

    bench.edit(
        &blocks,
        "source = \"10.0.1.16/28\"\neips = [\"203.0.113.16\"]\nports = \"1024/65535\"\nport_blocks = 4000\ndeterministic = true",
    );
    bench.start();
    let then = bench.who_has(&endpoint, Some(&time));
    assert_eq!((then.len(), &then[0]["inside"]), (1, &block["inside"]), "{then:?}");
    assert_ne!(then[0]["began_at"], "computed");
    // Of now, and of a time that it knows nothing of, it tells by the address.
    for at in [None, Some("2001-01-01T00:00:00Z")] {
        assert_eq!(bench.who_has(&endpoint, at)[0]["began_at"], "computed");
    }
    bench.stop();
}
