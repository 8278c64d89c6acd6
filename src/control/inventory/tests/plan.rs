//! Files that an inventory is to become.

use super::*;
use crate::control::inventory::plan::Objection;

impl Inventory {
    fn document(&self) -> Document {
        let mut all = Document::new();
        for resource in self.iter() {
            all.push(self.specify(resource));
        }
        all
    }

    fn try_apply(&mut self, document: &Document) -> Result<Vec<Change>, Vec<Objection>> {
        let mut next = 1 << 40;
        let changes = self.plan(document, 1_800_000_000, &mut || {
            next += 1;
            next
        })?;
        self.make_all(&changes);
        self.assert_same(&self.restored());
        Ok(changes)
    }

    /// Applies a file, and checks that doing so again changes nothing.
    fn apply(&mut self, document: &Document) -> Vec<Change> {
        let changes = self.try_apply(document).unwrap_or_else(|objections| panic!("{objections:?}"));
        assert_eq!(self.try_apply(document), Ok(vec![]));
        changes
    }

    fn objections(&mut self, document: &Document) -> Vec<String> {
        let before = self.document();
        let objections = self.try_apply(document).unwrap_err();
        assert_eq!(self.document(), before);
        objections.iter().map(|Objection { item, refusal }| format!("{item}: {refusal}")).collect()
    }
}

fn read(text: &str) -> Document {
    toml::from_str(text).unwrap()
}

const BY_HAND: &str = r#"
version = 1
[[vpc]]
name = "prod"
cidr = "10.0.0.0/16"
[[vswitch]]
vpc = "prod"
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
name = "second"
address = "203.0.113.17"
gateway = "gw1"
[[dnat]]
gateway = "gw1"
eip = "203.0.113.16"
public_port = 80
private_ip = "10.0.1.10"
private_port = 8080
protocol = "TCP"
[[dnat]]
name = "mail"
gateway = "gw1"
eip = "203.0.113.16"
public_port = 25
private_ip = "10.0.1.11"
private_port = 25
protocol = "TCP"
[dnat.timeouts]
tcp_established = "1h"
[[snat]]
gateway = "gw1"
source = "vpc"
eips = ["second"]
tags = { team = "web" }
"#;

#[test]
fn what_was_exported_makes_an_empty_inventory_the_same() {
    let mut bench = Bench::furnished();
    bench.create(Kind::Dnat, dnat(json!(80), "10.0.1.10", json!(8080), "TCP"));
    bench.create(Kind::Dnat, dnat(json!("100/120"), "10.0.1.11", json!("200/220"), "UDP"));
    bench.create(Kind::Snat, json!({"gateway": "gw1", "source": "vswitch:web", "eips": ["second"]}));
    bench.inventory.update(Id::new(Kind::Gateway, 3), &json!({"tags": {"a": "b"}})).unwrap();
    let document = bench.inventory.document();
    assert_eq!(bench.inventory.try_apply(&document), Ok(vec![]));
    for text in [toml::to_string(&document).unwrap(), serde_json::to_string(&document).unwrap()] {
        let read: Document =
            if text.starts_with('{') { serde_json::from_str(&text).unwrap() } else { read(&text) };
        assert_eq!(read, document);
        let mut fresh = Bench::new().inventory;
        assert_eq!(fresh.apply(&read).len(), 8);
        assert_eq!(fresh.resources, bench.inventory.resources);
        assert_eq!(fresh.document(), document);
    }
}

#[test]
fn what_is_written_by_hand_keeps_what_it_describes() {
    let mut inventory = Bench::new().inventory;
    assert_eq!(inventory.apply(&read(BY_HAND)).len(), 8);
    let eip = inventory.eip_at("203.0.113.16".parse().unwrap()).unwrap().meta.id;
    // The file by name and place, the inventory by identifier: the same resources.
    let changes = inventory.apply(&read(&BY_HAND.replace("private_port = 8080", "private_port = 8081")));
    let [change] = &changes[..] else { panic!("{changes:?}") };
    assert!(change.before.is_some() && change.after.is_some());
    // An entry of another port is the one of its name.
    let changes = inventory.apply(&read(&BY_HAND.replace("public_port = 25", "public_port = 2525")));
    assert!(changes.iter().all(|change| change.before.is_some() && change.after.is_some()), "{changes:?}");
    // Without a name it is another one.
    let changes = inventory.apply(&read(&BY_HAND.replace("public_port = 80", "public_port = 81")));
    let gone = changes.iter().filter(|change| change.after.is_none()).count();
    assert_eq!((changes.len(), gone), (3, 1));
    // What a file does not say is not to be: a description, too.
    inventory.update(eip, &json!({"description": "the first"})).unwrap();
    assert_eq!(inventory.apply(&read(BY_HAND)).iter().filter(|change| change.id == eip).count(), 1);
    assert_eq!(inventory.apply(&Document::new()).len(), 8);
    assert!(inventory.is_empty());
}

#[test]
fn what_one_leaves_another_takes_in_the_same_step() {
    let mut bench = Bench::furnished();
    let first = bench.create(Kind::Dnat, dnat(json!(80), "10.0.1.10", json!(80), "TCP"));
    let second = bench.create(Kind::Dnat, dnat(json!(81), "10.0.1.10", json!(81), "TCP"));
    bench.create(Kind::Gateway, json!({"name": "gw2", "vpc": "prod", "vswitch": "web"}));
    let start = bench.inventory.restored();
    // Two entries change their ports with each other.
    let mut document = bench.inventory.document();
    (document.dnat[0].id, document.dnat[1].id) = (document.dnat[1].id.clone(), document.dnat[0].id.clone());
    (document.dnat[0].created_at, document.dnat[1].created_at) = (None, None);
    let changes = bench.inventory.apply(&document);
    assert_eq!(changes.len(), 2);
    assert_eq!([first, second].map(|id| bench.show(id)["public_port"].clone()), [json!(81), json!(80)]);
    bench.inventory.undo(&changes);
    bench.inventory.assert_same(&start);
    // An EIP goes to another gateway, and its entries become that one's.
    let mut document = bench.inventory.document();
    document.eip[0].gateway = Some("gw2".into());
    for entry in &mut document.dnat {
        (entry.id, entry.gateway) = (None, Some("gw2".into()));
    }
    let changes = bench.inventory.apply(&document);
    assert_eq!(changes.len(), 5);
    // And back, from what a store keeps of it.
    let before = changes.iter().map(|change| {
        (change.id, change.before.as_ref().map(|before| bench.inventory.specify(before).to_value()))
    });
    let back = bench.inventory.plan_back(before).unwrap();
    bench.inventory.make_all(&back);
    bench.inventory.assert_same(&start);
}

#[test]
fn everything_that_is_wrong_is_told_in_the_words_of_the_file() {
    let mut inventory = Bench::new().inventory;
    inventory.apply(&read(BY_HAND));
    let with = |from: &str, to: &str| {
        assert!(BY_HAND.contains(from), "{from}");
        read(&BY_HAND.replacen(from, to, 1))
    };
    let more = |text: &str| read(&format!("{BY_HAND}{text}"));
    // All errors of a kind.
    let twice = "[[dnat]]\ngateway = \"gw1\"\neip = \"203.0.113.16\"\npublic_port = 25\nprivate_ip = \"10.0.1.12\"\nprivate_port = 25\nprotocol = \"TCP\"\n";
    let missing = twice.replace("gw1", "gw7").replace("25", "26");
    let objections = inventory.objections(&more(&format!("{twice}{missing}")));
    let expected = [
        "dnat[2]: public_port = 25: (EIP, public port, protocol) is unique over all gateways, and ranges do not overlap [DnatPortConflict]; in the way: dnat[1] \"mail\"",
        "dnat[3]: gateway = gw7: the resource must exist [NotFound]",
    ];
    assert_eq!(objections, expected);
    // What holds only together.
    let objections = inventory.objections(&with("cidr = \"10.0.1.0/24\"", "cidr = \"10.0.1.0/28\""));
    assert!(
        objections[0].starts_with("gateway[0]: vswitch = web: the value does not change"),
        "{objections:?}"
    );
    let objections = inventory.objections(&with("10.0.1.10", "10.0.1.1"));
    assert!(objections[1].starts_with("dnat[0]: private_ip = 10.0.1.1:"), "{objections:?}");
    let routes = "cidr = \"10.0.0.0/16\"\nroutes = [{ to = \"10.0.9.0/24\", via = \"10.0.7.7\" }]";
    let objections = inventory.objections(&with("cidr = \"10.0.0.0/16\"", routes));
    assert!(objections[0].starts_with("vpc[0]: routes[0].via"), "{objections:?}");
    // Quotas.
    let entries: String =
        (1000..1005).map(|port| twice.replace("25", &port.to_string()).replace(".12", ".13")).collect();
    let objections = inventory.objections(&more(&entries));
    assert!(
        objections
            .iter()
            .all(|text| text.contains("gateway = gateway[0] \"gw1\"") && text.contains("[QuotaDnat]")),
        "{objections:?}"
    );
    // What a file has to say, and what it may not.
    for (document, expected) in [
        (with("version = 1", "version = 2"), ": version = 2: "),
        (with("name = \"prod\"", "id = \"vpc-0000000000009\""), "vswitch[0]: vpc = prod: "),
        (more("[[vpc]]\ncidr = \"10.9.0.0/16\"\n"), "vpc[1]: name: the key is required"),
        (more("[[vpc]]\nname = \"prod\"\ncidr = \"10.9.0.0/16\"\n"), "vpc[0]: name = prod: "),
        (more("[[eip]]\nname = \"third\"\n"), "eip[2]: address: the key is required"),
        (more("[[eip]]\nid = \"eip-1\"\naddress = \"203.0.113.18\"\n"), "eip[2]: id = eip-1: "),
        (more("[[eip]]\naddress = \"203.0.113.18\"\nstatus = \"InUse\"\n"), "eip[2]: status: "),
        (
            more("[[eip]]\naddress = \"203.0.113.18\"\ncreated_at = \"today\"\n"),
            "eip[2]: created_at = today: ",
        ),
        (
            with("cidr = \"10.0.0.0/16\"", "cidr = \"10.0.0.0/15\""),
            "vpc[0]: cidr = 10.0.0.0/15: the value does not change",
        ),
        (
            with("[[vpc]]", "[[vpc]]\ncreated_at = \"2000-01-01T00:00:00Z\""),
            "vpc[0]: created_at = 2000-01-01T00:00:00Z: the value does not",
        ),
    ] {
        let objections = inventory.objections(&document);
        assert!(objections[0].starts_with(expected), "{expected}: {objections:?}");
    }
    let same = "[[eip]]\nid = \"eip-0000000000009\"\naddress = \"203.0.113.18\"\n";
    let objections = inventory.objections(&more(&format!("{same}{}", same.replace(".18", ".19"))));
    assert!(
        objections[0].starts_with("eip[3]: id = eip-0000000000009: an identifier stands for one"),
        "{objections:?}"
    );
    // A protected gateway stays.
    let gateway = inventory.after(Kind::Gateway, None).next().unwrap().id();
    inventory.update(gateway, &json!({"deletion_protection": true})).unwrap();
    let objections = inventory.objections(&Document::new());
    assert!(objections[0].contains("[DeletionProtected]"), "{objections:?}");
}

#[test]
fn a_quota_that_has_shrunk_keeps_what_is_there() {
    let settings = |quota: &str| {
        let text = SETTINGS.replace("dnat_entries_per_gateway = 6", quota);
        config::parse(&text, "natgate.toml").unwrap()
    };
    let mut inventory = Bench::new().inventory;
    inventory.apply(&read(BY_HAND));
    inventory.settings = settings("dnat_entries_per_gateway = 1");
    let document = inventory.document();
    assert_eq!(inventory.try_apply(&document), Ok(vec![]));
    let mut fresh = Inventory::new(settings("dnat_entries_per_gateway = 1"), vec![1500, 1500]);
    assert!(fresh.objections(&document)[0].contains("[QuotaDnat]"));
}

proptest! {
    /// From any inventory to any other, and back.
    #[test]
    fn a_file_leads_from_anywhere_to_anywhere(from in proptest::collection::vec(steps(), 1..40), to in proptest::collection::vec(steps(), 1..40)) {
        let reach = |steps, next| {
            let mut bench = Bench::furnished();
            bench.next = next;
            bench.walk(steps);
            bench.inventory
        };
        let (mut here, there) = (reach(from, 1000), reach(to, 2000));
        let start = here.restored();
        let changes = here.apply(&there.document());
        here.assert_same(&there);
        here.undo(&changes);
        here.assert_same(&start);
    }
}
