//! The writer with a real store and a gateway that is only a place for snapshots.

mod leaving;
mod load;

use std::sync::Mutex;
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

    fn publish(
        &self,
        snapshot: Arc<Snapshot>,
        frame: Option<Model>,
        directory: Directory,
    ) -> Result<(), Fault> {
        assert!(
            frame.is_none_or(|frame| frame.eips().is_empty()),
            "a change costs as much as there are EIPs"
        );
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
    assert!(
        bench
            .shelf
            .directory
            .lock()
            .unwrap()
            .entry(first)
            .unwrap()
            .effect
            .to_string()
            .contains("10.0.9.9:80")
    );
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

/// While the disk takes its time, readers see what was on it before, and wait for nothing.
#[test]
fn readers_do_not_wait_for_the_disk() {
    let bench = Bench::new();
    bench.furnish();
    let (before, records) =
        (bench.desk().read(Inventory::len), bench.desk().audit(None, 1000).unwrap().len());
    let desk = bench.desk();
    std::thread::scope(|scope| {
        let disk = desk.store.stand_still();
        let change = scope.spawn(|| bench.ask(create("dnat", entry(1))));
        let (reader, read) = channel();
        let desk = &desk;
        scope.spawn(move || {
            // Long enough for the writer to come to the disk.
            std::thread::sleep(Duration::from_millis(300));
            let seen = desk.read(Inventory::len);
            reader.send((seen, desk.audit(None, 1000).unwrap().len())).unwrap();
        });
        let seen = read.recv_timeout(Duration::from_secs(10));
        let is_waiting = !change.is_finished();
        drop(disk);
        assert_eq!((seen, is_waiting), (Ok((before, records)), true));
        change.join().unwrap().unwrap();
    });
    assert_eq!(desk.read(Inventory::len), before + 1);
    bench.assert_consistent();
}
