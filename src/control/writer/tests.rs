//! The writer with a real store and a gateway that is only a place for snapshots.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, sync_channel};

use serde_json::{Value, json};

use super::*;
use crate::base::time::Clock;
use crate::config;
use crate::control::inventory::resource::Resource;
use crate::control::protocol::{ApplyRequest, Document, LiveSessions, SessionPolicy};
use crate::control::socket::scratch;
use crate::policy::{Leaving, Prefix};

const SETTINGS: &str = r#"
[store]
[quotas]
dnat_entries_per_gateway = "1M"
eips_per_gateway = "10k"
[[port]]
name = "wan"
device = "eth0"
[[port]]
name = "lan"
device = "eth1"
[[outside]]
port = "wan"
address = "203.0.113.2/24"
public = ["198.18.0.0/20"]
"#;

const FACTS: [PortFacts; 2] =
    [PortFacts { mac: [2, 0, 0, 0, 0, 1], mtu: 1500 }, PortFacts { mac: [2, 0, 0, 0, 0, 2], mtu: 1500 }];

/// Takes snapshots; refuses to confirm them when told so.
struct Shelf {
    current: Mutex<Arc<Snapshot>>,
    directory: Mutex<Directory>,
    lags: AtomicBool,
}

impl Outlet for Shelf {
    fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.lock().unwrap())
    }

    fn publish(&self, snapshot: Arc<Snapshot>, _: Option<Model>, directory: Directory) -> Result<(), Fault> {
        *self.current.lock().unwrap() = snapshot;
        *self.directory.lock().unwrap() = directory;
        if self.lags.load(Ordering::Relaxed) {
            return Err(Fault::new(FaultCode::NotInForce, "it lags"));
        }
        Ok(())
    }
}

struct Bench {
    writer: Option<Writer>,
    shelf: Arc<Shelf>,
    directory: scratch::Directory,
}

impl Bench {
    fn new() -> Self {
        let directory = scratch::Directory::new();
        let (writer, shelf) = open(&directory);
        Self { writer: Some(writer), shelf, directory }
    }

    fn reopen(&mut self) {
        self.writer = None;
        let (writer, shelf) = open(&self.directory);
        (self.writer, self.shelf) = (Some(writer), shelf);
    }

    fn desk(&self) -> Desk {
        self.writer.as_ref().unwrap().desk().unwrap()
    }

    fn ask(&self, request: ChangeRequest) -> Result<Changed, Fault> {
        self.desk().change("user 0", request)
    }

    fn create(&self, kind: &str, body: Value) -> String {
        let changed = self.ask(create(kind, body)).unwrap();
        changed.resource.unwrap().value()["id"].as_str().unwrap().to_owned()
    }

    /// A VPC, a gateway and two EIPs.
    fn furnish(&self) {
        self.create("vpc", json!({"name": "prod", "cidr": "10.0.0.0/8"}));
        self.create(
            "vswitch",
            json!({"name": "web", "vpc": "prod", "cidr": "10.0.0.0/9", "port": "lan", "address": "10.0.0.1"}),
        );
        self.create("gateway", json!({"name": "gw1", "vpc": "prod", "vswitch": "web"}));
        self.create("eip", json!({"address": "198.18.0.1", "gateway": "gw1"}));
        self.create("eip", json!({"address": "198.18.0.2", "gateway": "gw1"}));
    }

    /// What is in force is what a gateway that is started on this inventory would have.
    fn assert_consistent(&self) {
        self.desk().read(|inventory| {
            let all: Vec<Change> = inventory
                .iter()
                .map(|r| Change { id: r.id(), before: None, after: Some(Arc::clone(r)) })
                .collect();
            let fresh = Incremental::new(FACTS.to_vec()).start(inventory, &all).unwrap().snapshot;
            let current = self.shelf.current();
            assert_eq!(current.eip_count(), fresh.eip_count());
            for resource in inventory.iter() {
                match &**resource {
                    Resource::Eip(eip) => {
                        let ours = current.eip(eip.address.into()).unwrap();
                        let theirs = fresh.eip(eip.address.into()).unwrap();
                        let ports = |eip: &crate::policy::Eip| -> Vec<_> {
                            let forwards = eip.forwards().iter();
                            forwards.map(|f| (f.protocol, f.first, f.last, f.host, f.host_first)).collect()
                        };
                        assert_eq!(ports(ours), ports(theirs));
                        assert_eq!(ours.gateway.is_some(), theirs.gateway.is_some());
                        assert_eq!(ours.any_port.map(|a| a.host), theirs.any_port.map(|a| a.host));
                    }
                    Resource::Dnat(entry) => {
                        let vpc = crate::base::VpcIndex(0);
                        let host = current.host(vpc, entry.private_ip.into()).unwrap();
                        let theirs = fresh.host(vpc, entry.private_ip.into()).unwrap();
                        assert_eq!(host.forwards().len(), theirs.forwards().len());
                    }
                    Resource::Snat(entry) => {
                        let table = current.snat_table(crate::base::VpcIndex(0)).unwrap();
                        assert_eq!(table.exact(entry.prefix).unwrap().pool.len(), entry.eips.len());
                    }
                    _ => {}
                }
            }
        });
    }
}

fn open(directory: &scratch::Directory) -> (Writer, Arc<Shelf>) {
    let store = Store::open(&directory.path().join("store.redb")).unwrap();
    let settings = config::parse(SETTINGS, "natgate.toml").unwrap();
    let (ledger, start) = Ledger::load(store, settings, FACTS.to_vec()).unwrap();
    let shelf = Arc::new(Shelf {
        current: Mutex::new(start.snapshot),
        directory: Mutex::new(start.directory),
        lags: AtomicBool::new(false),
    });
    (Writer::start(ledger, Arc::clone(&shelf) as _).unwrap(), shelf)
}

fn create(kind: &str, body: Value) -> ChangeRequest {
    ChangeRequest {
        action: ChangeAction::Create,
        kind: kind.into(),
        id: None,
        body,
        force: false,
        idempotency_key: None,
        sessions: None,
    }
}

fn entry(number: u32) -> Value {
    // A hundred entries an EIP.
    let (eip, port) = (1 + number / 100, 1 + number % 100);
    let eip = std::net::Ipv4Addr::from(0xc612_0000 + eip);
    let host = std::net::Ipv4Addr::from(0x0a00_1000 + number);
    json!({"gateway": "gw1", "eip": eip, "public_port": port, "private_ip": host, "private_port": 80, "protocol": "TCP"})
}

fn delete(kind: &str, id: &str, force: bool) -> ChangeRequest {
    ChangeRequest { action: ChangeAction::Delete, id: Some(id.into()), force, ..create(kind, Value::Null) }
}

fn update(kind: &str, id: &str, body: Value) -> ChangeRequest {
    ChangeRequest { action: ChangeAction::Update, id: Some(id.into()), ..create(kind, body) }
}

#[test]
fn entries_that_come_move_and_go_leave_their_neighbours_alone() {
    let bench = Bench::new();
    bench.furnish();
    let entry = |eip: &str, port: u16| json!({"gateway": "gw1", "eip": eip, "public_port": port, "private_ip": "10.0.0.9", "private_port": port, "protocol": "TCP"});
    let ids: Vec<_> = (1..=5).map(|port| bench.create("dnat", entry("198.18.0.1", port))).collect();
    bench.assert_consistent();
    let changes = [
        update("dnat", &ids[0], json!({"eip": "198.18.0.2"})),
        update("dnat", &ids[1], json!({"public_port": 9, "private_ip": "10.0.0.10"})),
        update("dnat", &ids[2], json!({"timeouts": {"udp": "9s"}})),
        delete("dnat", &ids[3], false),
        update("dnat", &ids[0], json!({"eip": "198.18.0.1"})),
        create(
            "dnat",
            json!({"gateway": "gw1", "eip": "198.18.0.2", "public_port": "Any", "private_ip": "10.0.0.11", "private_port": "Any", "protocol": "Any"}),
        ),
    ];
    for change in changes {
        bench.ask(change).unwrap();
        bench.assert_consistent();
    }
    let eip = |address: [u8; 4]| Arc::clone(bench.shelf.current().eip(u32::from_be_bytes(address)).unwrap());
    assert_eq!(eip([198, 18, 0, 1]).forwards().iter().map(|f| f.first).collect::<Vec<_>>(), [1, 3, 5, 9]);
    assert!(eip([198, 18, 0, 2]).any_port.is_some() && eip([198, 18, 0, 2]).forwards().is_empty());
}

#[test]
fn a_change_is_in_force_and_stays_after_a_restart() {
    let mut bench = Bench::new();
    bench.furnish();
    let web = bench.create("dnat", entry(0));
    let snat = bench.create("snat", json!({"gateway": "gw1", "source": "vpc", "eips": ["198.18.0.2"]}));
    let snapshot = bench.shelf.current();
    assert_eq!(snapshot.eip(0xc612_0001).unwrap().forward(6, 1).unwrap().host, 0x0a00_1000);
    assert_eq!(snapshot.snat(crate::base::VpcIndex(0), 0x0a01_0203).unwrap().pool.len(), 1);
    assert!(snapshot.topology().vpcs[0].cidr == Some(Prefix::of(0x0a00_0000, 8)));
    // An update of its target keeps an entry's number; one of its port makes it another.
    let id = |bench: &Bench, port| {
        bench.shelf.current().eip(0xc612_0001).unwrap().forward(6, port).map(|entry| entry.id)
    };
    let first = id(&bench, 1).unwrap();
    bench.ask(update("dnat", &web, json!({"private_ip": "10.0.9.9"}))).unwrap();
    assert_eq!(id(&bench, 1), Some(first));
    assert!(bench.shelf.directory.lock().unwrap().entry(first).unwrap().summary.contains("10.0.9.9:80"));
    bench.ask(update("dnat", &web, json!({"public_port": 7}))).unwrap();
    assert_eq!(id(&bench, 1), None);
    assert_ne!(id(&bench, 7), Some(first));
    assert!(bench.shelf.directory.lock().unwrap().entry(first).is_none());
    bench.assert_consistent();
    let before = bench.desk().read(|inventory| inventory.iter().cloned().collect::<Vec<_>>());
    bench.reopen();
    let after = bench.desk().read(|inventory| inventory.iter().cloned().collect::<Vec<_>>());
    assert_eq!(before, after);
    bench.assert_consistent();
    bench.ask(delete("eip", "198.18.0.2", true)).unwrap();
    assert!(bench.desk().read(|inventory| inventory.snat(snat.parse().unwrap()).is_none()));
    assert!(bench.shelf.current().snat(crate::base::VpcIndex(0), 0x0a01_0203).is_none());
    bench.assert_consistent();
    let audit = bench.desk().audit(None, 100).unwrap();
    assert_eq!((audit[0].action.as_str(), audit.len()), ("delete", 11));
    assert_eq!((audit[0].who.as_str(), audit[0].after.is_none()), ("user 0", true));
}

#[test]
fn a_refused_change_changes_nothing_and_says_why() {
    let bench = Bench::new();
    bench.furnish();
    bench.create("dnat", entry(0));
    let generation = bench.shelf.current().generation();
    let fault = bench.ask(create("dnat", entry(0))).unwrap_err();
    assert_eq!((fault.code, fault.refusal.unwrap().code), (FaultCode::Refused, Code::DnatPortConflict));
    let fault = bench.ask(delete("gateway", "gw1", false)).unwrap_err();
    assert_eq!(fault.refusal.unwrap().conflicts.len(), 3);
    assert!(bench.ask(create("colour", json!({}))).is_err());
    assert_eq!(bench.shelf.current().generation(), generation);
}

/// What the snapshot says about the sessions of all entries.
fn leaving(bench: &Bench) -> Vec<Leaving> {
    let current = bench.shelf.current();
    (0..100).filter_map(|entry| current.leaving(EntryId(entry))).collect()
}

#[test]
fn the_sessions_of_a_changed_entry_are_kept_drained_or_killed_as_the_change_says() {
    let bench = Bench::new();
    bench.furnish();
    let id = bench.create("dnat", entry(1));
    let with = |request: ChangeRequest, policy, drain_seconds, reset| {
        let sessions = Some(LiveSessions { policy, drain_seconds, reset });
        bench.ask(ChangeRequest { sessions, ..request })
    };
    let to = |host: &str| update("dnat", &id, json!({ "private_ip": host }));
    let (keep, drain, kill) = (SessionPolicy::Keep, SessionPolicy::Drain, SessionPolicy::Kill);

    with(to("10.0.0.11"), keep, None, false).unwrap();
    assert_eq!(leaving(&bench), [Leaving::Kept]);
    // The next change says nothing: they end.
    bench.ask(to("10.0.0.12")).unwrap();
    assert_eq!(leaving(&bench), []);
    with(to("10.0.0.13"), kill, None, true).unwrap();
    assert_eq!(leaving(&bench), [Leaving::Reset]);
    with(to("10.0.0.14"), kill, None, false).unwrap();
    assert_eq!(leaving(&bench), []);

    // Drained, also when the entry is gone; at the deadline its EIP's sessions are looked at again.
    with(delete("dnat", &id, false), drain, Some(1), true).unwrap();
    assert_eq!(leaving(&bench), [Leaving::Kept]);
    let eip = bench.shelf.current().eip(0xc612_0001).unwrap().index;
    let before = bench.shelf.current().eip_changed(eip);
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert_eq!(leaving(&bench), [Leaving::Kept]);
    std::thread::sleep(std::time::Duration::from_millis(900));
    assert_eq!(leaving(&bench), [Leaving::Reset]);
    assert!(bench.shelf.current().eip_changed(eip) > before);

    let id = bench.create("dnat", entry(2));
    let renamed = || update("dnat", &id, json!({"name": "other"}));
    for refused in [
        with(renamed(), keep, None, true),
        with(renamed(), keep, Some(9), false),
        with(renamed(), drain, Some(0), false),
        with(create("dnat", entry(3)), keep, None, false),
        with(update("gateway", "gw1", json!({"name": "other"})), keep, None, false),
    ] {
        assert_eq!(refused.unwrap_err().code, FaultCode::BadRequest);
    }
    assert_eq!(leaving(&bench), [Leaving::Reset]);
    bench.assert_consistent();
}

#[test]
fn an_apply_says_what_becomes_of_the_sessions_that_it_leaves() {
    let bench = Bench::new();
    bench.furnish();
    bench.create("dnat", entry(1));
    let apply = |reset| {
        let sessions = Some(LiveSessions { policy: SessionPolicy::Keep, drain_seconds: None, reset });
        let document = Document::new();
        bench.desk().apply("user 0", ApplyRequest { document, sessions, ..ApplyRequest::default() })
    };
    assert_eq!(apply(true).unwrap_err().code, FaultCode::BadRequest);
    assert_eq!(leaving(&bench), []);
    // All goes, and what the entry has carried so far goes on.
    apply(false).unwrap();
    assert_eq!(leaving(&bench), [Leaving::Kept]);
}

/// An SNAT entry of two EIPs of which the first has left it, drained for so many seconds.
fn drained(bench: &Bench, seconds: u64) -> (String, crate::base::EipIndex) {
    let id = bench.create("snat", json!({"gateway": "gw1", "source": "vpc", "eips": ["198.18.0.1"]}));
    let request = update("snat", &id, json!({"eips": ["198.18.0.2"]}));
    let policy = SessionPolicy::Drain;
    let sessions = Some(LiveSessions { policy, drain_seconds: Some(seconds), reset: false });
    bench.ask(ChangeRequest { sessions, ..request }).unwrap();
    assert_eq!(leaving(bench), [Leaving::Kept]);
    (id, bench.shelf.current().eip(0xc612_0001).unwrap().index)
}

#[test]
fn a_later_change_that_takes_no_sessions_leaves_a_deadline_as_it_is() {
    let bench = Bench::new();
    bench.furnish();
    let (id, eip) = drained(&bench, 1);
    let before = bench.shelf.current().eip_changed(eip);
    for body in [
        json!({"description": "for people"}),
        json!({"name": "other"}),
        json!({"timeouts": {"udp": "9m"}}),
        json!({"eips": ["198.18.0.2", "198.18.0.3"]}),
    ] {
        if body.get("eips").is_some() {
            bench.create("eip", json!({"address": "198.18.0.3", "gateway": "gw1"}));
        }
        bench.ask(update("snat", &id, body)).unwrap();
        assert_eq!(leaving(&bench), [Leaving::Kept]);
    }
    assert_eq!(bench.shelf.current().eip_changed(eip), before);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(leaving(&bench), []);
    assert!(bench.shelf.current().eip_changed(eip) > before);
}

#[test]
fn a_later_change_that_takes_sessions_ends_those_that_were_drained() {
    let bench = Bench::new();
    bench.furnish();
    bench.create("eip", json!({"address": "198.18.0.3", "gateway": "gw1"}));
    for last in [Some(json!({"eips": ["198.18.0.3"]})), None] {
        let (id, eip) = drained(&bench, 300);
        let before = bench.shelf.current().eip_changed(eip);
        bench.ask(last.map_or_else(|| delete("snat", &id, false), |body| update("snat", &id, body))).unwrap();
        assert_eq!(leaving(&bench), []);
        assert!(bench.shelf.current().eip_changed(eip) > before);
        if bench.desk().read(|inventory| inventory.get(id.parse().unwrap()).is_some()) {
            bench.ask(delete("snat", &id, false)).unwrap();
        }
    }
}

#[test]
fn a_second_deadline_holds_for_the_eips_of_the_first_one_too() {
    let bench = Bench::new();
    bench.furnish();
    bench.create("eip", json!({"address": "198.18.0.3", "gateway": "gw1"}));
    let (id, eip) = drained(&bench, 300);
    let with = |eips: &str, policy, drain_seconds| {
        let sessions = Some(LiveSessions { policy, drain_seconds, reset: false });
        bench.ask(ChangeRequest { sessions, ..update("snat", &id, json!({ "eips": [eips] })) }).unwrap();
    };
    with("198.18.0.3", SessionPolicy::Drain, Some(1));
    let before = bench.shelf.current().eip_changed(eip);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(leaving(&bench), []);
    assert!(bench.shelf.current().eip_changed(eip) > before);
    // They are killed with the others, too.
    with("198.18.0.1", SessionPolicy::Keep, None);
    let third = bench.shelf.current().eip(0xc612_0003).unwrap().index;
    let before = bench.shelf.current().eip_changed(third);
    with("198.18.0.2", SessionPolicy::Kill, None);
    assert_eq!(leaving(&bench), []);
    assert!(bench.shelf.current().eip_changed(third) > before);
}

#[test]
fn what_a_change_says_of_sessions_holds_beside_others_of_the_same_batch() {
    let bench = Bench::new();
    bench.furnish();
    let id = bench.create("snat", json!({"gateway": "gw1", "source": "vpc", "eips": ["198.18.0.1"]}));
    let sessions = Some(LiveSessions { policy: SessionPolicy::Keep, drain_seconds: None, reset: false });
    let moved = ChangeRequest { sessions, ..update("snat", &id, json!({"eips": ["198.18.0.2"]})) };
    let desk = bench.desk();
    // The writer waits for the inventory at the first of them, so that the others queue up behind it.
    let answers: Vec<Receiver<_>> = desk.read(|_| {
        let rename = |name: &str| update("snat", &id, json!({ "name": name }));
        let requests = [rename("one"), moved, rename("two"), rename("three")];
        let queued = requests.into_iter().map(|request| {
            let (reply, answered) = sync_channel(1);
            desk.begin("user 0", request, Box::new(move |answer| drop(reply.send(answer)))).unwrap();
            answered
        });
        let queued = queued.collect();
        std::thread::sleep(std::time::Duration::from_millis(100));
        queued
    });
    for answer in answers {
        answer.recv().unwrap().unwrap();
    }
    assert_eq!(leaving(&bench), [Leaving::Kept]);
}

#[test]
fn sessions_of_an_entry_with_port_blocks_are_neither_kept_nor_drained() {
    let bench = Bench::new();
    bench.furnish();
    let pool = json!({"gateway": "gw1", "source": "vpc", "eips": ["198.18.0.1"], "port_blocks": 512});
    let id = bench.create("snat", pool);
    let moved = || update("snat", &id, json!({"eips": ["198.18.0.2"]}));
    let ask = |request: ChangeRequest, policy| {
        let sessions = Some(LiveSessions { policy, drain_seconds: None, reset: false });
        bench.ask(ChangeRequest { sessions, ..request })
    };
    let generation = bench.shelf.current().generation();
    for policy in [SessionPolicy::Keep, SessionPolicy::Drain] {
        for request in [moved(), delete("snat", &id, false)] {
            let fault = ask(request, policy).unwrap_err();
            let refusal = fault.refusal.unwrap();
            assert_eq!((refusal.code, &*refusal.parameter), (Code::BlockSessions, "live_sessions"));
            assert_eq!((refusal.value.as_deref(), fault.hint.is_some()), (Some(policy.name()), true));
        }
    }
    // Nothing was changed.
    assert_eq!(bench.shelf.current().generation(), generation);
    bench.desk().read(|inventory| {
        let entry = inventory.snat(id.parse().unwrap()).unwrap();
        assert_eq!(entry.eips[0].1, std::net::Ipv4Addr::new(198, 18, 0, 1));
    });
    ask(moved(), SessionPolicy::Kill).unwrap();
    bench.ask(delete("snat", &id, false)).unwrap();
    bench.assert_consistent();
}

#[test]
fn a_repetition_with_the_same_key_is_answered_and_not_made() {
    let mut bench = Bench::new();
    bench.furnish();
    let request = ChangeRequest { idempotency_key: Some("k1".into()), ..create("eip", json!({})) };
    let first = bench.ask(request.clone()).unwrap();
    for _ in 0..2 {
        let again = bench.ask(request.clone()).unwrap();
        assert_eq!((again.resource, again.replayed), (first.resource.clone(), true));
        bench.reopen();
    }
    let other = ChangeRequest { body: json!({"name": "other"}), ..request.clone() };
    assert_eq!(bench.ask(other).unwrap_err().refusal.unwrap().code, Code::IdempotencyKey);
    let bad = ChangeRequest { idempotency_key: Some("a b".into()), ..request };
    assert_eq!(bench.ask(bad).unwrap_err().refusal.unwrap().code, Code::IdempotencyKey);
}

#[test]
fn concurrent_changes_are_made_one_after_the_other() {
    let bench = Bench::new();
    bench.furnish();
    let made: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let desk = bench.desk();
                scope.spawn(move || {
                    // All want the same twenty ports: each is given once.
                    (0..20).filter(|n| desk.change("user 0", create("dnat", entry(*n))).is_ok()).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(made, 20);
    bench.assert_consistent();
}

#[test]
fn what_lags_is_stored_and_said() {
    let mut bench = Bench::new();
    bench.furnish();
    bench.shelf.lags.store(true, Ordering::Relaxed);
    assert_eq!(bench.ask(create("dnat", entry(1))).unwrap_err().code, FaultCode::NotInForce);
    bench.reopen();
    assert_eq!(bench.desk().read(Inventory::len), 6);
}

/// Many entries, a hundred an EIP (`NATGATE_ENTRIES` says how many): the time to start, and the time from a request to its answer at 10,000 changes a second. Prints what it
/// measures; the bounds are wide, as this is not an optimised build and the machine has other work.
#[test]
fn many_entries() {
    let mut bench = Bench::new();
    bench.furnish();
    let many: u32 = std::env::var("NATGATE_ENTRIES").map_or(10_000, |text| text.parse().unwrap());
    for eip in 3..=many / 100 {
        let address = std::net::Ipv4Addr::from(0xc612_0000 + eip);
        bench.create("eip", json!({"address": address, "gateway": "gw1"}));
    }
    let clock = Clock::start();
    let start = clock.now();
    let desk = bench.desk();
    let (sender, answers) = channel();
    // Queued without waiting for each answer, as many connections would.
    let queue = |number: u32, answer: &Sender<(u32, Receiver<_>)>| {
        let (reply, answered) = sync_channel(1);
        let request = create("dnat", entry(number));
        desk.begin("user 0", request, Box::new(move |answer| drop(reply.send(answer)))).unwrap();
        answer.send((number, answered)).unwrap();
    };
    for number in 0..many {
        queue(number, &sender);
    }
    for _ in 0..many {
        let (_, answered): (u32, Receiver<Result<Changed, Fault>>) = answers.recv().unwrap();
        answered.recv().unwrap().unwrap();
    }
    let took = clock.now().since(start);
    println!("{many} entries made in {took:?}");
    drop(desk);
    bench.writer = None;
    let before = clock.now();
    let store = Store::open(&bench.directory.path().join("store.redb")).unwrap();
    let opened = clock.now();
    drop(store.contents().unwrap());
    println!("opened in {:?}, read in {:?}", opened.since(before), clock.now().since(opened));
    drop(store);
    let before = clock.now();
    bench.reopen();
    let took = clock.now().since(before);
    println!("started with {many} entries in {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    // Updates at a fixed rate, each with its time from request to answer.
    let ids: Vec<String> = bench.desk().read(|inventory| {
        inventory
            .after(Kind::Dnat, None)
            .take(many as usize / 5)
            .map(|resource| resource.id().to_string())
            .collect()
    });
    let desk = bench.desk();
    let (sender, waiting) = channel::<(crate::base::Moment, Receiver<Result<Changed, Fault>>)>();
    let collector = std::thread::spawn(move || {
        let mut times: Vec<Duration> = Vec::new();
        while let Ok((sent, answered)) = waiting.recv() {
            answered.recv().unwrap().unwrap();
            times.push(clock.now().since(sent));
        }
        times
    });
    let start = clock.now();
    for (n, id) in ids.iter().enumerate() {
        let due = Duration::from_micros(n as u64 * 100);
        while clock.now().since(start) < due {
            std::thread::sleep(Duration::from_micros(50));
        }
        let (reply, answered) = sync_channel(1);
        let host = std::net::Ipv4Addr::from(0x0a40_0000 + n as u32);
        let request = update("dnat", id, json!({ "private_ip": host }));
        desk.begin("user 0", request, Box::new(move |answer| drop(reply.send(answer)))).unwrap();
        sender.send((clock.now(), answered)).unwrap();
    }
    let span = clock.now().since(start);
    drop(sender);
    let mut times = collector.join().unwrap();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{} updates in {span:?}: median {:?}, p99 {:?}, most {:?}",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    drop(desk);
    bench.assert_consistent();
}
