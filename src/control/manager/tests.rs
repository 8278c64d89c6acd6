//! A gateway on ports in memory, managed.

mod reload;
mod sessions;

use std::path::Path;
use std::sync::Mutex as TestMutex;
use std::time::Duration;

use etherparse::PacketBuilder;

use super::*;
use crate::base::PortIndex;
use crate::config::{self, Code};
use crate::control::address::Protocol;
use crate::control::describe::PacketDescription;
use crate::control::metering::Metering;
use crate::control::protocol::{
    CaptureRequest, Change, ChangeKind, Explanation, Fault, FaultCode, KillRequest, Killed, MeteringRequest,
    ReloadRequest, Session, SessionsRequest, Trace, TraceRequest, UsageBy, UsageRequest, WatchRequest,
    WhoRequest,
};
use crate::control::socket::scratch;
use crate::nic::memory::{self, Far};
use crate::nic::{Pool, Port};
use crate::worker::setup::RING;
use crate::worker::{Gateway, Idle, OnDeath, Setup, Threads};

const BASE: &str = r#"
[system]
workers = 1
[[port]]
name = "wan"
device = "eth0"
[[port]]
name = "lan"
device = "eth1"
[[outside]]
port = "wan"
address = "198.51.100.1/24"
public = ["203.0.113.16/28"]
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
[[snat]]
name = "all"
gateway = "gw1"
source = "vpc"
eips = ["203.0.113.17"]
"#;

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

/// Notes what it hears.
#[derive(Debug, Default)]
struct Notes(Arc<TestMutex<Vec<&'static str>>>);

impl Observer for Notes {
    fn reloading(&self) {
        self.0.lock().unwrap().push("reloading");
    }
    fn reloaded(&self) {
        self.0.lock().unwrap().push("reloaded");
    }
    fn in_force(&self, _model: &Model, _snapshot: &Snapshot) -> Result<(), String> {
        self.0.lock().unwrap().push("in force");
        Ok(())
    }
}

struct Bench {
    manager: Manager,
    wan: Far,
    lan: Far,
    lan_mac: [u8; 6],
    notes: Arc<TestMutex<Vec<&'static str>>>,
    directory: scratch::Directory,
}

fn open(index: u16, pool: &Arc<Pool>) -> (Port, Far) {
    let index = PortIndex(index);
    let (port, mut far) = memory::open(index, 1, pool, &memory::Options::of(index));
    (port, far.remove(0))
}

impl Bench {
    fn new(text: &str) -> Self {
        let directory = scratch::Directory::new();
        let config = directory.path().join("natgate.toml");
        std::fs::write(&config, text).unwrap();
        let model = config::load(&config).unwrap();
        let pool = Pool::new(8192, 2048).unwrap();
        let ((wan_port, wan), (lan_port, lan)) = (open(0, &pool), open(1, &pool));
        let ports = vec![wan_port, lan_port];
        let facts: Vec<_> =
            ports.iter().map(|port| PortFacts { mac: port.info.mac, mtu: port.info.mtu }).collect();
        let lan_mac = facts[1].mac;
        let mut compiler = Compiler::new();
        let snapshot = compiler.compile(&model, &facts, &Snapshot::default()).unwrap();
        let (sessions, neighbours, snat_eips, clock) = (1024, 64, 16, Clock::start());
        let setup = Setup {
            ports,
            pool,
            workers: 1,
            sessions,
            neighbours,
            snat_eips,
            ring: RING,
            events: 0,
            seed: Some(1),
            snapshot,
        };
        let running = Gateway::launch(
            setup,
            Threads { cores: None, idle: Idle::Sleep, clock, on_death: OnDeath::default() },
        )
        .unwrap();
        let notes = Arc::default();
        let observer = Box::new(Notes(Arc::clone(&notes)));
        let manager = Manager::new(Parts {
            running,
            model,
            directory: compiler.directory(),
            compiler,
            facts: Facts { config, ports: facts, cores: None, sessions, neighbours, clock },
            observer,
        });
        Self { manager, wan, lan, lan_mac, notes, directory }
    }

    fn write(&self, text: &str) {
        std::fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> &Path {
        &self.manager.facts.config
    }

    fn reload(&self) -> Result<crate::control::protocol::Reloaded, Fault> {
        self.manager.reload(&ReloadRequest::default())
    }

    fn explain(&self, packet: &str) -> Explanation {
        self.manager.explain(&packet.parse::<PacketDescription>().unwrap()).unwrap()
    }

    fn sessions(&self, request: &SessionsRequest) -> Vec<Session> {
        let mut sessions = Vec::new();
        let end = self.manager.sessions(request, &mut |session| {
            sessions.push(session);
            ControlFlow::Continue(())
        });
        assert_eq!(end.unwrap().count, sessions.len() as u64);
        sessions
    }

    /// A private host sends a UDP packet to the outside.
    fn send_out(&mut self, source_port: u16) {
        assert!(self.lan.send(&question(self.lan_mac, source_port)));
    }

    fn stop(self) {
        let Self { manager, wan, lan, .. } = self;
        let ending = manager.stop();
        drop((wan, lan));
        assert!(ending.died.is_empty() && ending.unclosed.is_empty());
        crate::worker::finish::conservation(&ending.workers, 0).unwrap();
    }
}

/// A UDP packet of a private host to the outside.
fn question(gateway: [u8; 6], source_port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], gateway)
        .ipv4([10, 0, 1, 10], [198, 51, 100, 7], 64)
        .udp(source_port, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"question").unwrap();
    frame
}

fn eventually(mut so: impl FnMut() -> bool) {
    for _ in 0..500 {
        if so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came to pass");
}

#[test]
fn what_is_used_stands_in_the_books() {
    let mut bench = Bench::new(BASE);
    let request = MeteringRequest::default();
    let fault = bench.manager.metering(&request).unwrap_err();
    assert_eq!(fault.hint.as_deref(), Some("give [metering] a path"));
    let settings =
        config::Metering { path: bench.directory.path().join("metering"), keep: Duration::from_hours(24) };
    let books = Arc::new(Books::open(&settings).unwrap());
    bench.manager.attach_books(Arc::clone(&books));
    // As many as may wait for the router's address.
    for port in 1000..1004 {
        bench.send_out(port);
    }
    eventually(|| bench.sessions(&SessionsRequest::default()).len() == 4);
    let Bench { manager, wan, lan, directory, .. } = bench;
    let manager = Arc::new(manager);
    drop(Metering::start(Arc::clone(&manager) as _, Some(books)).unwrap());
    let (rows, end) = manager.metering(&request).unwrap();
    assert_eq!((rows.len(), end.truncated), (2, false), "{rows:?}");
    for (row, kind) in rows.iter().zip(["gateway", "eip"]) {
        assert_eq!((row.kind.as_str(), row.peak_sessions, row.bytes_out), (kind, 4, 144));
        assert!(row.peak_new_sessions == 4 && !row.complete && row.capacity_units > 0.0, "{row:?}");
    }
    // They are in the file.
    let again = Books::open(&settings).unwrap();
    assert_eq!(again.hours(0..u64::from(u32::MAX), |_| true, 10).unwrap().0.len(), 2);
    let of = |gateway: Option<&str>, eip: Option<&str>| {
        let (gateway, eip) = (gateway.map(str::to_owned), eip.map(|eip| eip.parse().unwrap()));
        manager.metering(&MeteringRequest { gateway, eip, ..request.clone() })
    };
    assert_eq!(of(Some("gw1"), None).unwrap().0[0].kind, "gateway");
    assert_eq!(of(None, Some("203.0.113.17")).unwrap().0.len(), 1);
    assert_eq!(of(None, Some("203.0.113.16")).unwrap().0.len(), 0);
    assert!(of(Some("gw1"), Some("203.0.113.17")).is_err());
    let wrong = MeteringRequest { from: Some("yesterday".into()), ..request };
    assert_eq!(manager.metering(&wrong).unwrap_err().code, FaultCode::Refused);
    Arc::into_inner(manager).unwrap().stop();
    drop((wan, lan, directory));
}

#[test]
fn packets_are_traced() {
    let mut bench = Bench::new(BASE);
    let request = TraceRequest {
        protocol: None,
        source: Some("10.0.0.0/8:2002".parse().unwrap()),
        destination: None,
        host: None,
        port: Some("lan".into()),
        dropped: false,
        packets: 2,
        timeout_seconds: 20.0,
    };
    let mut traces: Vec<Trace> = Vec::new();
    let mut round = 0;
    let end = {
        // While it waits, packets come: only some of them are asked for.
        let Bench { manager, lan, lan_mac, .. } = &mut bench;
        manager.trace(&request, &mut |trace| {
            traces.extend(trace);
            round += 1;
            let mut frame = Vec::new();
            let builder = PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], *lan_mac)
                .ipv4([10, 0, 1, 10], [198, 51, 100, 7], 64)
                .udp(2000 + round % 3, 53);
            builder.write(&mut frame, b"question").unwrap();
            lan.send(&frame);
            ControlFlow::Continue(())
        })
    };
    let end = end.unwrap();
    assert_eq!((end.count, end.truncated, traces.len()), (2, false, 2));
    assert_eq!(traces[0].packet, "udp 10.0.1.10:2002 > 198.51.100.7:53 length 36 ttl 64 df");
    assert_eq!(traces[0].port, "lan");
    let session = traces[0].steps.iter().find(|step| step.stage == "session").unwrap();
    assert!(
        session.decision.starts_with("new snat: 10.0.1.10:2002 as 203.0.113.17:"),
        "{}",
        session.decision
    );
    let second = traces[1].steps.iter().find(|step| step.stage == "session").unwrap();
    assert!(second.decision.starts_with("known snat"), "{}", second.decision);

    let short = TraceRequest { timeout_seconds: 0.05, port: Some("wan".into()), ..request.clone() };
    let end = bench.manager.trace(&short, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((end.count, end.truncated), (0, true));
    let mut second = Ok(End::default());
    let longer = TraceRequest { timeout_seconds: 5.0, ..short };
    bench
        .manager
        .trace(&longer, &mut |_| {
            second = bench.manager.trace(&request, &mut |_| ControlFlow::Continue(()));
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(second.unwrap_err().code, FaultCode::Busy);
    bench.manager.hurry();
    assert!(bench.manager.trace(&longer, &mut |_| ControlFlow::Continue(())).unwrap().truncated);
    bench.stop();
}

#[test]
fn a_capture_of_no_frames_is_refused() {
    let mut bench = Bench::new(BASE);
    bench.send_out(5000);
    let request = CaptureRequest { packets: Some(0), seconds: Some(1.0), ..CaptureRequest::default() };
    let mut captured = 0;
    let answer = bench.manager.capture(&request, &mut |frame| {
        captured += usize::from(frame.is_some());
        ControlFlow::Continue(())
    });
    let fault = answer.unwrap_err();
    assert_eq!((fault.code, captured), (FaultCode::BadRequest, 0));
    assert!(fault.message.contains("packets = 0") && fault.hint.is_some());
    bench.stop();
}

/// Whose port it is follows from the configuration alone; natgate was told the time, or not.
#[test]
fn a_computed_owner_is_told_only_if_the_time_is_one() {
    let blocks =
        "source = \"10.0.1.16/28\"\nports = \"1024/65535\"\nport_blocks = 4000\ndeterministic = true";
    let bench = Bench::new(&BASE.replace("source = \"vpc\"", blocks));
    let who = |at: Option<&str>| {
        let (address, at) = ("203.0.113.17".parse().unwrap(), at.map(str::to_owned));
        bench.manager.who(&WhoRequest { address, port: 5024, protocol: Protocol(17), at })
    };
    for text in ["yesterday", "2026-13-01T00:00:00Z", ""] {
        let refusal = who(Some(text)).unwrap_err().refusal.unwrap();
        assert_eq!((refusal.code, refusal.value.as_deref()), (Code::InvalidTime, Some(text)));
    }
    for at in [None, Some("2026-01-31T23:59:00Z")] {
        let owners = who(at).unwrap();
        assert_eq!((owners.len(), &*owners[0].inside, &*owners[0].began_at), (1, "10.0.1.17", "computed"));
    }
    bench.stop();
}

#[test]
fn explanations_name_the_entry_and_the_way() {
    let bench = Bench::new(&format!("{BASE}{DNAT}"));
    let all = [
        "udp 10.0.1.10:4000 > 198.51.100.7:53",
        "tcp 10.0.1.10:8080 > 198.51.100.7:999 flags syn,ack",
        "tcp 198.51.100.7:999 > 203.0.113.16:80",
        "tcp 198.51.100.7:999 > 203.0.113.16:81",
        "tcp 10.0.1.11:4000 > 203.0.113.16:80",
        "icmp 198.51.100.7 > 203.0.113.16",
        "icmp 10.0.1.10 > 198.51.100.7 id 7 ttl 1",
        "udp 10.0.1.10:4000 > 192.0.2.1:53",
        "udp 10.0.1.10:4000 > 198.51.100.7:53 length 9000 df",
        "47 10.0.1.10 > 198.51.100.7",
        "udp 10.0.1.10:4000 > 198.51.100.7:53 from outside",
    ];
    let told = all.map(|packet| serde_json::to_string_pretty(&bench.explain(packet)).unwrap());
    insta::assert_snapshot!(told.join("\n"));
    let unknown = "udp 10.0.1.10:4000 > 198.51.100.7:53 from vpc test";
    let fault = bench.manager.explain(&unknown.parse().unwrap()).unwrap_err();
    assert_eq!(
        (fault.code, fault.message.as_str()),
        (FaultCode::BadRequest, "VPC \"test\" is not configured")
    );
    bench.stop();
}

#[test]
fn counters_add_up() {
    let mut bench = Bench::new(BASE);
    for port in 1..=20 {
        bench.send_out(port);
    }
    // A packet of a host that is no host of the VPC.
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], bench.lan_mac).ipv4(
        [192, 0, 2, 1],
        [198, 51, 100, 7],
        64,
    );
    builder.udp(1, 2).write(&mut frame, b"").unwrap();
    assert!(bench.lan.send(&frame));
    eventually(|| bench.manager.stats().total.received == 21);
    let stats = bench.manager.stats();
    assert_eq!((stats.total.balance, stats.total.dropped), (0, stats.total.drops.values().sum()));
    assert_eq!(stats.total.drops["source-outside-vpc"], 1);
    assert_eq!(stats.total.drops.len(), crate::base::DropReason::COUNT);
    assert_eq!((stats.ports[1].name.as_str(), stats.ports[1].rx_packets), ("lan", 21));
    assert_eq!(stats.workers[0].counts, stats.total);
    let _ = (&bench.wan, &bench.directory);
    bench.stop();
}
