//! Arbitrary bytes as what people and programs write: configuration files, and lines of the management protocol. Called by
//! the fuzz targets in `fuzz/` and by the replay of their corpora. Each function panics exactly if something is wrong.

use natgate::config::{self, Compiler, PortFacts};
use natgate::control::inventory::{Change, Document, Id, Inventory, Kind, Refusal, Resource};
use natgate::control::protocol::{ChangeAction, ChangeRequest, Envelope, Request};
use natgate::policy::Snapshot;
use serde_json::{Value, json};

/// A configuration file. One that is refused says where and why; one that is accepted differs in nothing from itself, may
/// replace itself, and compiles.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let model = match config::parse(text, "natgate.toml") {
        Ok(model) => model,
        Err(errors) => {
            assert!(errors.len() > 0, "refused without a reason");
            let lines = text.split('\n').count();
            for error in &errors {
                assert!(!error.rule.is_empty(), "{error:?}");
                assert!(error.line.is_none_or(|line| (1..=lines).contains(&(line as usize))), "{error:?}");
                assert!(error.to_string().starts_with("natgate.toml:"), "{error}");
            }
            return;
        }
    };
    assert_eq!(config::diff(&model, &model), []);
    config::check_reload(&model, &model).expect("it may replace itself");
    let facts = vec![PortFacts { mac: [2, 0, 0, 0, 0, 1], mtu: 9216 }; model.ports().len()];
    let mut compiler = Compiler::new();
    let first = compiler.compile(&model, &facts, &Snapshot::default());
    // The largest packet of an interface may be above that of these ports; nothing else is left to be wrong.
    if let Ok(first) = first {
        compiler.compile(&model, &facts, &first).expect("it compiles again");
    }
}

/// What of a configuration file a gateway with a store has.
const SETTINGS: &str = r#"
[quotas]
gateways_per_vpc = 2
eips_per_gateway = 4
dnat_entries_per_gateway = 5
snat_entries_per_gateway = 3
[[port]]
name = "wan"
device = "eth0"
[[port]]
name = "lan"
device = "eth1"
[[outside]]
port = "wan"
address = "203.0.113.2/24"
gateway = "203.0.113.1"
public = ["203.0.113.16/29", "198.51.100.0/30"]
"#;

/// When all of it happens, in seconds since 1970.
const NOW: u64 = 1_700_000_000;
/// As many lines are looked at.
const LINES: usize = 16;

/// A resource of each kind, in an order in which none comes before what it refers to.
pub fn resources() -> [(Kind, Value); 7] {
    [
        (Kind::Vpc, json!({"name": "prod", "cidr": "10.0.0.0/16"})),
        (
            Kind::VSwitch,
            json!({"name": "web", "vpc": "prod", "cidr": "10.0.1.0/24", "port": "lan", "address": "10.0.1.1"}),
        ),
        (Kind::Gateway, json!({"name": "gw1", "vpc": "prod", "vswitch": "web"})),
        (Kind::Plan, json!({"name": "plan", "bandwidth": "100Mbps"})),
        (Kind::Eip, json!({"address": "203.0.113.16", "gateway": "gw1"})),
        (
            Kind::Dnat,
            json!({"gateway": "gw1", "eip": "203.0.113.16", "public_port": 80, "private_ip": "10.0.1.2",
                "private_port": 8080, "protocol": "TCP"}),
        ),
        (Kind::Snat, json!({"gateway": "gw1", "source": "vswitch:web", "eips": ["203.0.113.16"]})),
    ]
}

/// Request lines, to a gateway that has one resource of each kind. What is read is written and read again as the same; a
/// change is made whole and can be taken back, or is refused and leaves no trace; and what is there then can be exported
/// and applied as it is.
pub fn management(bytes: &[u8]) {
    let settings = config::parse(SETTINGS, "natgate.toml").expect("good settings");
    let mut desk = Desk { inventory: Inventory::new(settings, vec![1500, 1500]), next: 0 };
    for (kind, body) in resources() {
        desk.change(&created(kind, body)).expect("a good resource").expect("a change");
    }
    for line in bytes.split(|byte| *byte == b'\n').take(LINES) {
        let Ok(envelope) = serde_json::from_slice::<Envelope>(line) else { continue };
        let written = serde_json::to_vec(&envelope).expect("what was read can be written");
        let again: Envelope = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(again, envelope);
        desk.serve(&envelope.request);
    }
}

/// The request for a new resource.
pub fn created(kind: Kind, body: Value) -> ChangeRequest {
    ChangeRequest {
        action: ChangeAction::Create,
        kind: kind.noun().into(),
        id: None,
        body,
        force: false,
        idempotency_key: None,
        sessions: None,
    }
}

/// Lines of requests of every kind, of which some follow from each other.
pub fn samples() -> Vec<String> {
    let line = |request: Value| json!({"version": 1, "request": request}).to_string();
    let change = |action: &str, kind: Kind, number: u64, body: Value, force: bool| {
        let id = (action != "create").then(|| Id::new(kind, number).to_string());
        let change = json!({"action": action, "kind": kind.noun(), "id": id, "body": body, "force": force,
            "idempotency_key": "k1", "sessions": {"policy": "drain", "drain_seconds": 60, "reset": true}});
        line(json!({"change": change}))
    };
    let questions = [
        json!("status"),
        json!({"reload": {"dry_run": true}}),
        json!({"usage": {}}),
        json!({"sessions": {"protocol": "tcp", "inside": "10.0.1.2:80", "eip": "203.0.113.16", "kind": "snat",
            "limit": 2, "count": true}}),
        json!({"kill": {"sessions": {"peer": "198.51.100.0/24"}, "reset": true, "all": false}}),
        json!({"watch": {"events": 1, "timeout_seconds": 0.5}}),
        json!({"who": {"address": "203.0.113.16", "port": 80, "protocol": "udp", "at": "2026-01-01T00:00:00Z"}}),
        json!({"trace": {"packets": 1, "timeout_seconds": 1.0, "host": "10.0.1.2"}}),
        json!({"capture": {"port": "wan", "snap_length": 64, "packets": 5, "seconds": 1.5}}),
        json!({"resources": {"kind": "eip", "id": "203.0.113.16", "limit": 10}}),
        json!({"audit": {"before": 7, "limit": 3}}),
        json!({"create-key": {"role": "viewer", "name": "someone"}}),
    ];
    let mut of_each: Document = Document::new();
    for (kind, body) in resources() {
        let spec = serde_json::from_value(json!({ (kind.noun()): body })).expect("a specification");
        of_each.push(spec);
    }
    let apply = line(json!({"apply": {"document": of_each, "dry_run": true, "confirm_seconds": 60}}));
    let mut samples: Vec<String> = questions.into_iter().map(line).collect();
    samples.push(resources().map(|(kind, body)| change("create", kind, 0, body, false)).join("\n"));
    let gone = json!({"description": "in words", "tags": {"a": "b"}, "name": null});
    let numbered = || Kind::ALL.into_iter().zip([1, 2, 3, 4, 5, 6, 7]);
    let updates = numbered().map(|(kind, at)| change("update", kind, at, gone.clone(), false));
    samples.push(updates.collect::<Vec<_>>().join("\n"));
    let deletions = numbered().map(|(kind, at)| change("delete", kind, at, json!(null), true));
    samples.push(deletions.rev().collect::<Vec<_>>().join("\n"));
    samples.push([change("delete", Kind::Vpc, 1, json!(null), true), apply.clone(), apply].join("\n"));
    samples
}

/// Where requests are made to come true.
struct Desk {
    inventory: Inventory,
    next: u64,
}

impl Desk {
    fn serve(&mut self, request: &Request) {
        let before = self.resources();
        let outcome = match request {
            Request::Change(request) => self.change(request),
            Request::Apply(request) => {
                let next = &mut self.next;
                let plan = self.inventory.plan(&request.document, NOW, &mut || {
                    *next += 1;
                    *next
                });
                match plan {
                    Ok(changes) => {
                        self.inventory.make_all(&changes);
                        Some(Ok(changes))
                    }
                    Err(objections) => {
                        assert!(!objections.is_empty(), "refused without a reason");
                        Some(Err(objections[0].refusal.clone()))
                    }
                }
            }
            _ => return,
        };
        match outcome {
            Some(Ok(changes)) => self.check(&before, &changes),
            Some(Err(refusal)) => {
                assert!(!refusal.rule.is_empty() && !refusal.to_string().is_empty(), "{refusal:?}");
                assert_eq!(self.resources(), before, "refused and yet changed: {refusal}");
            }
            None => {}
        }
    }

    /// Makes a change; none of a resource that nobody can mean.
    fn change(&mut self, request: &ChangeRequest) -> Option<Result<Vec<Change>, Refusal>> {
        let kind = Kind::of(&request.kind)?;
        if request.action == ChangeAction::Create {
            self.next += 1;
            let id = Id::new(kind, self.next);
            return Some(self.inventory.create(request.body.clone(), id, NOW).map(|change| vec![change]));
        }
        let id = request.id.as_ref()?.parse::<Id>().ok()?;
        Some(match request.action {
            ChangeAction::Update => self.inventory.update(id, &request.body).map(|change| vec![change]),
            _ => self.inventory.delete(id, request.force),
        })
    }

    fn check(&mut self, before: &[Resource], changes: &[Change]) {
        let after = self.resources();
        self.inventory.undo(changes);
        assert_eq!(self.resources(), before, "taken back");
        self.inventory.make_all(changes);
        assert_eq!(self.resources(), after, "made again");
        let mut export = Document::new();
        for resource in self.inventory.iter() {
            export.push(self.inventory.specify(resource));
        }
        let text = serde_json::to_string(&export).expect("an export can be written");
        let read: Document = serde_json::from_str(&text).expect("and read");
        assert_eq!(read, export);
        let plan = self.inventory.plan(&read, NOW, &mut || unreachable!("nothing is new"));
        assert_eq!(plan, Ok(vec![]), "an export changes nothing: {text}");
    }

    fn resources(&self) -> Vec<Resource> {
        self.inventory.iter().map(|resource| (**resource).clone()).collect()
    }
}
