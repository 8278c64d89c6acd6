//! The rules, one by one, and that the indexes follow whatever happens.

mod plan;
mod rules;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::{self, Code};

const SETTINGS: &str = r#"
[quotas]
gateways_per_vpc = 3
eips_per_gateway = 4
dnat_entries_per_gateway = 6
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

struct Bench {
    inventory: Inventory,
    next: u64,
}

impl Bench {
    fn new() -> Self {
        let settings = config::parse(SETTINGS, "natgate.toml").unwrap();
        Self { inventory: Inventory::new(settings, vec![1500, 1500]), next: 1 }
    }

    /// One VPC with an attached vSwitch, a gateway and two EIPs bound to it.
    fn furnished() -> Self {
        let mut bench = Self::new();
        bench.create(Kind::Vpc, json!({"name": "prod", "cidr": "10.0.0.0/16"}));
        bench.create(
            Kind::VSwitch,
            json!({"name": "web", "vpc": "prod", "cidr": "10.0.1.0/24", "port": "lan", "address": "10.0.1.1"}),
        );
        bench.create(Kind::Gateway, json!({"name": "gw1", "vpc": "prod", "vswitch": "web"}));
        bench.create(Kind::Eip, json!({"address": "203.0.113.16", "gateway": "gw1"}));
        bench.create(Kind::Eip, json!({"name": "second", "address": "203.0.113.17", "gateway": "gw1"}));
        bench
    }

    fn try_create(&mut self, kind: Kind, spec: Value) -> Result<Id, Refusal> {
        let id = Id::new(kind, self.next);
        self.next += 1;
        self.inventory.create(spec, id, 1_700_000_000)?;
        Ok(id)
    }

    fn create(&mut self, kind: Kind, spec: Value) -> Id {
        let text = spec.to_string();
        self.try_create(kind, spec).unwrap_or_else(|refusal| panic!("{text}: {refusal}"))
    }

    fn refused(&mut self, kind: Kind, spec: Value) -> Refusal {
        let before = self.state();
        let refusal = self.try_create(kind, spec).unwrap_err();
        assert_eq!(self.state(), before);
        refusal
    }

    fn state(&self) -> Vec<Value> {
        self.inventory.iter().map(|resource| self.inventory.specify(resource).to_value()).collect()
    }

    fn show(&self, id: Id) -> Value {
        self.inventory.specify(self.inventory.get(id).unwrap()).to_value()
    }

    /// Goes steps, each of which may be refused, and returns what they changed.
    fn walk(&mut self, steps: Vec<Step>) -> Vec<Change> {
        let mut all = Vec::new();
        for step in steps {
            let before = self.state();
            let ids: Vec<Id> = self.inventory.iter().map(|r| r.id()).collect();
            let pick = |which: u8| ids.get(usize::from(which) % ids.len().max(1)).copied();
            let changed = match step {
                Step::Create(kind, spec) => {
                    let id = Id::new(kind, self.next);
                    self.next += 1;
                    self.inventory.create(spec, id, 5).map(|change| vec![change])
                }
                Step::Update(which, patch) => {
                    let Some(id) = pick(which) else { continue };
                    self.inventory.update(id, &patch).map(|change| vec![change])
                }
                Step::Delete(which, force) => {
                    let Some(id) = pick(which) else { continue };
                    self.inventory.delete(id, force)
                }
            };
            match changed {
                Ok(changes) => all.extend(changes),
                Err(_) => assert_eq!(self.state(), before),
            }
        }
        all
    }
}

#[test]
fn blocks_of_ports_are_an_entrys_own_and_stay_as_they_are() {
    let mut bench = Bench::furnished();
    let entry = |source: &str, eip: &str, more: Value| {
        let mut spec = json!({"gateway": "gw1", "source": source, "eips": [eip], "ports": "1024/65535"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    // 256 addresses, 64512 ports: 252 each.
    let fixed = json!({"port_blocks": 253, "deterministic": true});
    let refusal = bench.refused(Kind::Snat, entry("vswitch:web", "second", fixed));
    assert_eq!((refusal.code, &*refusal.parameter), (Code::SnatDeterministic, "deterministic"));
    assert!(refusal.hint.is_some_and(|hint| hint.contains("no larger than 252")));
    let fixed = json!({"port_blocks": 252, "deterministic": true});
    let id = bench.create(Kind::Snat, entry("vswitch:web", "second", fixed));
    let shown = bench.show(id);
    assert_eq!((&shown["port_blocks"], &shown["deterministic"]), (&json!(252), &json!(true)));

    let refusal = bench.refused(Kind::Snat, entry("10.0.2.0/24", "second", json!({})));
    assert_eq!((refusal.code, &*refusal.parameter), (Code::SnatBlocksShared, "eips[0]"));
    let blocks = json!({"port_blocks": 512, "blocks_per_host": 2});
    let other = bench.create(Kind::Snat, entry("10.0.2.0/24", "203.0.113.16", blocks));
    assert_eq!(bench.show(other)["blocks_per_host"], json!(2));

    for (id, patch) in [
        (id, json!({"port_blocks": 128})),
        (id, json!({"deterministic": null})),
        (other, json!({"ports": "2048/65535"})),
        (other, json!({"port_blocks": null, "blocks_per_host": null})),
    ] {
        let refusal = bench.inventory.update(id, &patch).unwrap_err();
        assert_eq!((refusal.code, &*refusal.parameter), (Code::ReadOnly, "port_blocks"), "{patch}");
    }
    bench.inventory.update(other, &json!({"name": "homes", "timeouts": {"udp": "1m"}})).unwrap();
}

#[allow(clippy::needless_pass_by_value, reason = "it reads as the call of a constructor")]
fn dnat(public: Value, host: &str, private: Value, protocol: &str) -> Value {
    json!({"gateway": "gw1", "eip": "203.0.113.16", "public_port": public, "private_ip": host, "private_port": private, "protocol": protocol})
}

impl Inventory {
    /// Whether two inventories have the same resources and the same indexes.
    fn assert_same(&self, other: &Self) {
        assert_eq!(self.resources, other.resources);
        assert_eq!(self.order, other.order);
        assert_eq!(self.names, other.names);
        assert_eq!(self.references, other.references);
        assert_eq!(self.addresses, other.addresses);
        assert_eq!(self.public, other.public);
        assert_eq!(self.private, other.private);
        assert_eq!(self.any_port, other.any_port);
        assert_eq!(self.private_any, other.private_any);
        assert_eq!(self.hosts, other.hosts);
        assert_eq!(self.sources, other.sources);
        assert_eq!(self.cidrs, other.cidrs);
        assert_eq!(self.links, other.links);
        assert_eq!(self.pooled, other.pooled);
    }

    /// The same inventory, made anew of what is written.
    fn restored(&self) -> Self {
        let mut restored = Self::new(self.settings.clone(), self.mtus.clone());
        for resource in self.iter() {
            let value = self.specify(resource).to_value();
            // As the store does: through text.
            let value: Value = serde_json::from_str(&value.to_string()).unwrap();
            restored.restore(resource.kind(), value).unwrap_or_else(|refusal| panic!("{refusal}"));
        }
        restored
    }
}

#[test]
fn resources_are_shown_as_they_were_asked_for() {
    let mut bench = Bench::furnished();
    let id = bench.create(
        Kind::Dnat,
        json!({
            "name": "web", "description": "the shop", "tags": {"team": "shop"}, "gateway": "gw1", "eip": "second",
            "public_port": "8000/8009", "private_ip": "10.0.1.10", "private_port": "80/89", "protocol": "tcp",
            "timeouts": {"udp": "90s"},
        }),
    );
    let gateway = Id::new(Kind::Gateway, 3);
    assert_eq!(
        bench.show(id),
        json!({
            "id": id.to_string(), "name": "web", "description": "the shop", "tags": {"team": "shop"},
            "gateway": gateway.to_string(), "eip": Id::new(Kind::Eip, 5).to_string(), "public_ip": "203.0.113.17",
            "public_port": "8000/8009", "private_ip": "10.0.1.10", "private_port": "80/89", "protocol": "TCP",
            "timeouts": {"udp": "1m30s"}, "status": "Available", "created_at": "2023-11-14T22:13:20Z",
        })
    );
    let shown = bench.show(gateway);
    assert_eq!(shown["dnat_table"], format!("ftb-{}", gateway.suffix()));
    assert_eq!(shown["specification"], "Unlimited");
    assert_eq!(bench.show(Id::new(Kind::Eip, 4))["status"], "InUse");
    bench.inventory.assert_same(&bench.inventory.restored());
}

#[test]
fn names_may_be_used_twice_but_then_stand_for_nobody() {
    let mut bench = Bench::furnished();
    let other = bench.create(Kind::Vpc, json!({"name": "prod", "cidr": "10.0.0.0/16"}));
    let refusal = bench.refused(Kind::VSwitch, json!({"vpc": "prod", "cidr": "10.0.2.0/24"}));
    assert_eq!(refusal.code, Code::AmbiguousName);
    assert_eq!(refusal.conflicts.len(), 2);
    // vSwitches of one name in two VPCs are told apart by the VPC.
    bench.create(Kind::VSwitch, json!({"name": "web", "vpc": other.to_string(), "cidr": "10.0.1.0/24"}));
    bench.create(Kind::Gateway, json!({"vpc": other.to_string(), "vswitch": "web"}));
}

#[test]
fn quotas_hold() {
    let mut bench = Bench::furnished();
    bench.create(Kind::Eip, json!({"gateway": "gw1"}));
    bench.create(Kind::Eip, json!({"gateway": "gw1"}));
    let refusal = bench.refused(Kind::Eip, json!({"gateway": "gw1"}));
    assert_eq!(refusal.code, Code::QuotaEips);
    let unbound = bench.create(Kind::Eip, json!({}));
    let refusal = bench.inventory.update(unbound, &json!({"gateway": "gw1"})).unwrap_err();
    assert_eq!(refusal.code, Code::QuotaEips);
    for port in 1..=6 {
        bench.create(Kind::Dnat, dnat(json!(port), "10.0.1.10", json!(port), "TCP"));
    }
    assert_eq!(bench.refused(Kind::Dnat, dnat(json!(7), "10.0.1.10", json!(7), "TCP")).code, Code::QuotaDnat);
    for _ in 0..2 {
        bench.create(Kind::Gateway, json!({"vpc": "prod", "vswitch": "web"}));
    }
    assert_eq!(
        bench.refused(Kind::Gateway, json!({"vpc": "prod", "vswitch": "web"})).code,
        Code::QuotaGateways
    );
}

#[test]
fn free_addresses_are_given_in_turn_until_there_is_none() {
    let mut bench = Bench::new();
    let mut given = std::collections::BTreeSet::new();
    loop {
        match bench.try_create(Kind::Eip, json!({})) {
            Ok(id) => assert!(given.insert(bench.inventory.eip(id).unwrap().address)),
            Err(refusal) => {
                assert_eq!(refusal.code, Code::NoFreeAddress);
                break;
            }
        }
    }
    assert_eq!(given.len(), 12);
    let first = Id::new(Kind::Eip, 1);
    bench.inventory.delete(first, false).unwrap();
    bench.create(Kind::Eip, json!({}));
}

#[test]
fn an_update_changes_what_it_names() {
    let mut bench = Bench::furnished();
    let entry = bench.create(Kind::Dnat, dnat(json!(80), "10.0.1.10", json!(8080), "TCP"));
    let inventory = &mut bench.inventory;
    inventory.update(entry, &json!({"name": "web", "private_ip": "10.0.1.11", "tags": {"a": "b"}})).unwrap();
    inventory.update(entry, &json!({"name": null, "public_port": 81})).unwrap();
    let shown = bench.show(entry);
    assert_eq!(shown.get("name"), None);
    assert_eq!((&shown["private_ip"], &shown["public_port"]), (&json!("10.0.1.11"), &json!(81)));
    assert_eq!(shown["tags"], json!({"a": "b"}));
    let inventory = &mut bench.inventory;
    for (id, patch, code) in [
        (entry, json!({"status": "Broken"}), Code::ReadOnly),
        (entry, json!({"gateway": "gw2"}), Code::NotFound),
        (entry, json!({"colour": "red"}), Code::UnknownKey),
        (entry, json!([1]), Code::WrongType),
        (Id::new(Kind::Eip, 4), json!({"address": "203.0.113.18"}), Code::ReadOnly),
        (Id::new(Kind::Eip, 4), json!({"gateway": null}), Code::InUse),
        (Id::new(Kind::Vpc, 1), json!({"cidr": "10.0.0.0/8"}), Code::ReadOnly),
        (Id::new(Kind::Vpc, 9), json!({}), Code::NotFound),
        (Id::new(Kind::VSwitch, 2), json!({"address": "10.0.1.11"}), Code::DnatPrivateUnusable),
    ] {
        assert_eq!(inventory.update(id, &patch).unwrap_err().code, code, "{patch}");
    }
    // A specification's limits go with it.
    let gateway = Id::new(Kind::Gateway, 3);
    inventory.update(gateway, &json!({"specification": "PayByLcu", "sessions": "5M"})).unwrap();
    inventory.update(gateway, &json!({"specification": "Small"})).unwrap();
    // A route needs its link, and the link stays while the route is there.
    let vpc = Id::new(Kind::Vpc, 1);
    let route = |via: &str| json!({"routes": [{"to": "10.0.9.0/24", "via": via}]});
    assert_eq!(inventory.update(vpc, &route("10.0.2.2")).unwrap_err().code, Code::NextHopNotOnLink);
    assert_eq!(inventory.update(vpc, &route("10.0.1.1")).unwrap_err().code, Code::NextHopIsOwn);
    inventory.update(vpc, &route("10.0.1.2")).unwrap();
    let vswitch = Id::new(Kind::VSwitch, 2);
    let detached = json!({"port": null, "address": null});
    assert_eq!(inventory.update(vswitch, &detached).unwrap_err().code, Code::NextHopNotOnLink);
    assert_eq!(inventory.delete(vswitch, true).unwrap_err().code, Code::InUse);
    inventory.assert_same(&inventory.restored());
}

#[test]
fn deleting_names_what_is_in_the_way_and_force_takes_it_along() {
    let mut bench = Bench::furnished();
    let entry = bench.create(Kind::Dnat, dnat(json!(80), "10.0.1.10", json!(8080), "TCP"));
    let both = bench
        .create(Kind::Snat, json!({"gateway": "gw1", "source": "vpc", "eips": ["203.0.113.16", "second"]}));
    let alone =
        bench.create(Kind::Snat, json!({"gateway": "gw1", "source": "10.0.1.9", "eips": ["203.0.113.16"]}));
    let (gateway, first, second) = (Id::new(Kind::Gateway, 3), Id::new(Kind::Eip, 4), Id::new(Kind::Eip, 5));
    let inventory = &mut bench.inventory;
    let refusal = inventory.delete(gateway, false).unwrap_err();
    assert_eq!(refusal.code, Code::InUse);
    assert_eq!(refusal.conflicts, [first, second, entry, both, alone].map(|id| id.to_string()));
    // A released EIP leaves no entry behind.
    let changes = inventory.delete(first, true).unwrap();
    assert_eq!(changes.len(), 4);
    assert!(inventory.dnat(entry).is_none() && inventory.snat(alone).is_none());
    assert_eq!(inventory.snat(both).unwrap().eips.len(), 1);
    inventory.undo(&changes);
    assert!(inventory.eip(first).is_some() && inventory.snat(both).unwrap().eips.len() == 2);
    inventory.assert_same(&inventory.restored());
    // Protection is stronger than force, even of the VPC.
    inventory.update(gateway, &json!({"deletion_protection": true})).unwrap();
    for id in [gateway, Id::new(Kind::Vpc, 1)] {
        let refusal = inventory.delete(id, true).unwrap_err();
        assert_eq!((refusal.code, refusal.conflicts), (Code::DeletionProtected, vec![gateway.to_string()]));
    }
    inventory.update(gateway, &json!({"deletion_protection": false})).unwrap();
    inventory.delete(Id::new(Kind::Vpc, 1), true).unwrap();
    let left: Vec<Id> = inventory.iter().map(|resource| resource.id()).collect();
    assert_eq!(left, [first, second]);
    assert!(inventory.eip(first).unwrap().gateway.is_none());
    inventory.assert_same(&inventory.restored());
}

#[derive(Clone, Debug)]
enum Step {
    Create(Kind, Value),
    Update(u8, Value),
    Delete(u8, bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let name = || prop_oneof![Just("aa"), Just("bb"), Just("cc")];
    let address = || (16u8..20).prop_map(|last| format!("203.0.113.{last}"));
    let host = || (0u8..4).prop_map(|last| format!("10.0.1.{}", 10 + last));
    let ports = || prop_oneof![Just("1"), Just("2"), Just("1/3"), Just("3/5"), Just("Any")];
    let protocol = || prop_oneof![Just("TCP"), Just("UDP"), Just("Any")];
    let dnat = (name(), address(), ports(), host(), ports(), protocol()).prop_map(|(gateway, eip, public, host, private, protocol)| {
        json!({"gateway": gateway, "eip": eip, "public_port": public, "private_ip": host, "private_port": private, "protocol": protocol})
    });
    let snat = (
        name(),
        prop_oneof![Just("vpc"), Just("10.0.1.0/24"), Just("10.0.1.10"), Just("vswitch:aa")],
        proptest::collection::vec(address(), 1..3),
    )
        .prop_map(|(gateway, source, eips)| json!({"gateway": gateway, "source": source, "eips": eips}));
    prop_oneof![
        1 => name().prop_map(|name| Step::Create(Kind::Vpc, json!({"name": name, "cidr": "10.0.0.0/16"}))),
        2 => (name(), name(), 0u8..3, 1u16..4).prop_map(|(name, vpc, net, vlan)| Step::Create(
            Kind::VSwitch,
            json!({"name": name, "vpc": vpc, "cidr": format!("10.0.{net}.0/24"), "port": "lan", "vlan": vlan, "address": format!("10.0.{net}.1")}),
        )),
        2 => (name(), name(), name()).prop_map(|(name, vpc, vswitch)| Step::Create(
            Kind::Gateway,
            json!({"name": name, "vpc": vpc, "vswitch": vswitch}),
        )),
        4 => (address(), name()).prop_map(|(address, gateway)| Step::Create(
            Kind::Eip,
            json!({"address": address, "gateway": gateway}),
        )),
        8 => dnat.prop_map(|spec| Step::Create(Kind::Dnat, spec)),
        4 => snat.prop_map(|spec| Step::Create(Kind::Snat, spec)),
        2 => (any::<u8>(), name()).prop_map(|(which, name)| Step::Update(which, json!({"name": name}))),
        2 => (any::<u8>(), ports(), ports()).prop_map(|(which, public, private)| Step::Update(
            which,
            json!({"public_port": public, "private_port": private}),
        )),
        1 => (any::<u8>(), proptest::option::of(name())).prop_map(|(which, gateway)| Step::Update(which, json!({"gateway": gateway}))),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(which, force)| Step::Delete(which, force)),
    ]
}

proptest! {
    /// Whatever happens, the indexes are those of the resources, no rule is broken, and undoing leads back.
    #[test]
    fn indexes_follow_and_undoing_leads_back(steps in proptest::collection::vec(steps(), 1..60)) {
        let mut bench = Bench::furnished();
        bench.create(Kind::Vpc, json!({"name": "aa", "cidr": "10.0.0.0/16"}));
        bench.create(Kind::VSwitch, json!({"name": "aa", "vpc": "aa", "cidr": "10.0.1.0/24", "port": "lan", "vlan": 9, "address": "10.0.1.1"}));
        bench.create(Kind::Gateway, json!({"name": "aa", "vpc": "aa", "vswitch": "aa"}));
        bench.create(Kind::Eip, json!({"address": "203.0.113.18", "gateway": "aa"}));
        let start = bench.inventory.restored();
        let all = bench.walk(steps);
        bench.inventory.assert_same(&bench.inventory.restored());
        bench.inventory.undo(&all);
        bench.inventory.assert_same(&start);
    }
}
