//! The gateway killed in the middle of changes: what was acknowledged is there after a restart, and nothing is there by half.
//!
//! `NATGATE_KILLS` says how often it is killed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use crate::common::daemon::Site;
use crate::common::need_root;
use natgate::base::rng::Rng;
use natgate::control::client::{Client, ClientError};
use natgate::control::protocol::{Answer, ChangeAction, ChangeRequest, Changed, Request, ResourcesRequest};
use serde_json::{Value, json};

fn client(directory: &Path) -> Result<Client, ClientError> {
    Client::connect(&directory.join("natgate.sock"))
}

fn list(directory: &Path, kind: &str) -> Result<Vec<Value>, ClientError> {
    let request = ResourcesRequest { kind: kind.into(), ..ResourcesRequest::default() };
    let mut all = Vec::new();
    client(directory)?.ask(Request::Resources(request), |answer| {
        if let Answer::Resource(resource) = answer {
            all.push(resource);
        }
        ControlFlow::Continue(())
    })?;
    Ok(all)
}

fn change(client: &mut Client, request: ChangeRequest) -> Result<Changed, ClientError> {
    let mut changed = None;
    client.ask(Request::Change(Box::new(request)), |answer| {
        if let Answer::Changed(answer) = answer {
            changed = Some(*answer);
        }
        ControlFlow::Continue(())
    })?;
    Ok(changed.expect("an answer"))
}

fn request(action: ChangeAction, kind: &str, id: Option<&str>, body: Value) -> ChangeRequest {
    ChangeRequest {
        action,
        kind: kind.into(),
        id: id.map(Into::into),
        body,
        force: true,
        idempotency_key: None,
        sessions: None,
    }
}

/// Resources by identifier, as they are shown.
type Resources = BTreeMap<String, Value>;

/// What one client had acknowledged, and what the change that was on its way would have made of it.
struct Account {
    acknowledged: Resources,
    on_its_way: Option<OnItsWay>,
}

#[derive(Clone, Debug)]
enum OnItsWay {
    Create(Value),
    Update(String, Value),
    Delete(Vec<String>),
}

const CLIENTS: usize = 4;

/// The address that a client's EIP has.
fn address(client: usize) -> String {
    format!("203.0.113.{}", 16 + client)
}

/// Changes things until the gateway dies: an EIP, entries on it, updates of them, and the EIP with all its entries at once.
fn busy(directory: &Path, number: usize, mut state: Resources, seed: u64) -> Account {
    let mut rng = Rng::from_seed(seed);
    let Ok(mut client) = client(directory) else { return Account { acknowledged: state, on_its_way: None } };
    loop {
        let eip = state.iter().find(|(id, _)| id.starts_with("eip-")).map(|(id, _)| id.clone());
        let entries: Vec<String> = state.keys().filter(|id| id.starts_with("fwd-")).cloned().collect();
        let port = u16::try_from(1 + rng.below(60_000)).expect("a port");
        let host = format!("10.0.{}.{}", 1 + number, 10 + rng.below(200));
        let (request, intent) = match (&eip, entries.len()) {
            (None, _) => {
                let body = json!({"address": address(number), "gateway": "gw1"});
                (request(ChangeAction::Create, "eip", None, body.clone()), OnItsWay::Create(body))
            }
            (Some(eip), 5..) => {
                let gone = entries.iter().chain([eip]).cloned().collect();
                (request(ChangeAction::Delete, "eip", Some(eip), Value::Null), OnItsWay::Delete(gone))
            }
            (Some(_), 1..) if rng.below(3) == 0 => {
                let body = json!({"private_ip": host});
                let id = &entries[0];
                (
                    request(ChangeAction::Update, "dnat", Some(id), body.clone()),
                    OnItsWay::Update(id.clone(), body),
                )
            }
            (Some(eip), _) => {
                let body = json!({"gateway": "gw1", "eip": eip, "public_port": port, "private_ip": host, "private_port": port, "protocol": "UDP"});
                (request(ChangeAction::Create, "dnat", None, body.clone()), OnItsWay::Create(body))
            }
        };
        match change(&mut client, request) {
            Ok(changed) => {
                for id in &changed.deleted {
                    state.remove(id);
                }
                if let Some(resource) = changed.resource.map(|json| json.value()) {
                    let id = resource["id"].as_str().expect("an identifier").to_owned();
                    state.insert(id, resource);
                }
            }
            // Two entries by chance on one port: nothing changed.
            Err(ClientError::Refused(fault)) if fault.refusal.is_some() => {}
            Err(_) => return Account { acknowledged: state, on_its_way: Some(intent) },
        }
    }
}

/// Whether what is there is what was acknowledged, or that with all of the change that was on its way.
fn judge(account: &Account, found: &Resources) -> Result<(), String> {
    let acknowledged = &account.acknowledged;
    if found == acknowledged {
        return Ok(());
    }
    let more: Vec<_> = found.iter().filter(|(id, _)| !acknowledged.contains_key(*id)).collect();
    let less: Vec<_> = acknowledged.keys().filter(|id| !found.contains_key(*id)).collect();
    let changed: Vec<_> = acknowledged
        .iter()
        .filter(|(id, before)| found.get(*id).is_some_and(|after| after != *before))
        .collect();
    let has = |resource: &Value, body: &Value| {
        let fields = body.as_object().expect("an object");
        fields.iter().all(|(key, value)| key == "gateway" || resource.get(key) == Some(value))
    };
    let explained = match (&account.on_its_way, more.as_slice(), less.as_slice(), changed.as_slice()) {
        (Some(OnItsWay::Create(body)), [(_, made)], [], []) => has(made, body),
        (Some(OnItsWay::Update(id, body)), [], [], [(changed, _)]) => *changed == id && has(&found[id], body),
        (Some(OnItsWay::Delete(all)), [], less, []) => {
            less.len() == all.len() && all.iter().all(|id| less.contains(&id))
        }
        _ => false,
    };
    if explained {
        return Ok(());
    }
    Err(format!("on its way: {:?}\nmore: {more:?}\nless: {less:?}\nchanged: {changed:?}", account.on_its_way))
}

#[test]
fn a_killed_gateway_has_all_that_was_acknowledged_and_nothing_by_half() {
    need_root!();
    let kills: u64 = std::env::var("NATGATE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    let mut site =
        Site::new("store", "sessions = 1024\nlog = \"warn\"\n[store]\npath = \"DIRECTORY/natgate.redb\"\n");
    site.start();
    let mut first = client(&site.directory).expect("a client");
    for (kind, body) in [
        ("vpc", json!({"name": "prod", "cidr": "10.0.0.0/16"})),
        (
            "vswitch",
            json!({"name": "web", "vpc": "prod", "cidr": "10.0.0.0/20", "port": "lan", "address": "10.0.0.1"}),
        ),
        ("gateway", json!({"name": "gw1", "vpc": "prod", "vswitch": "web"})),
    ] {
        change(&mut first, request(ChangeAction::Create, kind, None, body)).expect("a resource");
    }
    drop(first);
    let directory = site.directory.clone();
    let mut states: Vec<Resources> = vec![Resources::new(); CLIENTS];
    let mut rng = Rng::from_system().expect("random numbers");
    let (mut made, mut unsure) = (0, 0);
    for round in 0..kills {
        let accounts: Vec<Account> = std::thread::scope(|scope| {
            let clients: Vec<_> = states
                .iter()
                .enumerate()
                .map(|(number, state)| {
                    let (directory, state, seed) = (&directory, state.clone(), rng.next_u64());
                    scope.spawn(move || busy(directory, number, state, seed))
                })
                .collect();
            std::thread::sleep(Duration::from_micros(u64::from(rng.below(120_000))));
            site.kill();
            clients.into_iter().map(|client| client.join().expect("a client")).collect()
        });
        site.start();
        let eips = list(&directory, "eip").expect("EIPs");
        let entries = list(&directory, "dnat").expect("entries");
        for (number, account) in accounts.iter().enumerate() {
            let ours = |resource: &&Value| {
                [&resource["address"], &resource["public_ip"]].contains(&&json!(address(number)))
            };
            let found: Resources = (eips.iter().chain(&entries).filter(ours))
                .map(|resource| {
                    (resource["id"].as_str().expect("an identifier").to_owned(), resource.clone())
                })
                .collect();
            if let Err(reason) = judge(account, &found) {
                panic!("round {round}, client {number}: {reason}");
            }
            unsure += usize::from(found != account.acknowledged);
            made += 1;
            states[number] = found;
        }
        let owned: usize = states.iter().map(BTreeMap::len).sum();
        assert_eq!(owned, eips.len() + entries.len(), "something is nobody's");
    }
    println!("killed {kills} times; of {made} clients, {unsure} found a change that was not acknowledged");
}
