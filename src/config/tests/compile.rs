//! Snapshots answer what their models say, and a reload touches what it changes.

use std::fmt::Write as _;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::base::{EipIndex, EntryId, Generation, InterfaceIndex, PortIndex, VpcIndex};
use crate::policy::{Realm, Snapshot};

/// Entries of random files: small numbers, so that they meet each other.
#[derive(Clone, Debug)]
enum Entry {
    AnyPort { gateway: u8, eip: u8, host: u8 },
    Ports { gateway: u8, eip: u8, host: u8, public: u16, private: u16, extra: u16, udp: bool },
    Snat { gateway: u8, bits: u8, host: u8, eips: Vec<u8> },
}

impl Entry {
    fn text(&self) -> String {
        match self {
            Self::AnyPort { gateway, eip, host } => format!(
                "[[dnat]]\ngateway = 'gw{gateway}'\neip = '203.0.113.{eip}'\npublic_port = 'Any'\n\
                 private_ip = '10.0.1.{host}'\nprivate_port = 'Any'\nprotocol = 'Any'\n"
            ),
            Self::Ports { gateway, eip, host, public, private, extra, udp } => format!(
                "[[dnat]]\ngateway = 'gw{gateway}'\neip = '203.0.113.{eip}'\npublic_port = '{public}/{}'\n\
                 private_ip = '10.0.1.{host}'\nprivate_port = '{private}/{}'\nprotocol = '{}'\n",
                public + extra,
                private + extra,
                if *udp { "UDP" } else { "TCP" }
            ),
            Self::Snat { gateway, bits, host, eips } => {
                let source = crate::policy::Prefix::of(0x0a00_0100 | u32::from(*host), *bits);
                let eips: Vec<String> = eips.iter().map(|eip| format!("'203.0.113.{eip}'")).collect();
                format!(
                    "[[snat]]\ngateway = 'gw{gateway}'\nsource = '{source}'\neips = [{}]\n",
                    eips.join(", ")
                )
            }
        }
    }
}

/// Two VPCs with the same addresses and three gateways: `gw0` and `gw1` in the first, `gw2` in the second.
fn base(bindings: &[u8]) -> String {
    let mut text = String::from(
        "[[port]]\nname = 'wan'\ndevice = 'eth0'\n[[port]]\nname = 'lan'\ndevice = 'eth1'\n\
         [[outside]]\nport = 'wan'\naddress = '203.0.113.1/24'\npublic = ['203.0.113.0/24']\n",
    );
    for (i, vpc) in ["one", "two"].iter().enumerate() {
        write!(
            text,
            "[[vpc]]\nname = '{vpc}'\ncidr = '10.0.0.0/16'\n[[vpc.vswitch]]\nname = 'vs'\ncidr = '10.0.1.0/24'\n\
             port = 'lan'\nvlan = {}\naddress = '10.0.1.1'\n",
            i + 1
        )
        .unwrap();
    }
    for (gateway, vpc) in ["one", "one", "two"].iter().enumerate() {
        write!(text, "[[gateway]]\nname = 'gw{gateway}'\nvpc = '{vpc}'\nvswitch = 'vs'\n").unwrap();
    }
    for (i, gateway) in bindings.iter().enumerate() {
        write!(text, "[[eip]]\naddress = '203.0.113.{}'\ngateway = 'gw{gateway}'\n", i + 10).unwrap();
    }
    text
}

const EIPS: u8 = 8;
const BINDINGS: [u8; EIPS as usize] = [0, 0, 0, 1, 1, 2, 2, 2];

fn entry() -> impl Strategy<Value = Entry> {
    let eip = 10..10 + EIPS;
    let host = 2u8..8;
    // Mostly the gateway that the EIP is bound to.
    let gateway = |eip: u8| BINDINGS[usize::from(eip - 10)];
    prop_oneof![
        1 => (eip.clone(), host.clone()).prop_map(move |(eip, host)| Entry::AnyPort { gateway: gateway(eip), eip, host }),
        4 => (eip.clone(), host.clone(), 1u16..40, 1u16..40, 0u16..6, any::<bool>()).prop_map(
            move |(eip, host, public, private, extra, udp)| Entry::Ports {
                gateway: gateway(eip), eip, host, public, private, extra, udp
            }
        ),
        3 => (host, 16u8..=32, prop::collection::vec(eip, 1..4)).prop_map(move |(host, bits, eips)| Entry::Snat {
            gateway: gateway(eips[0]), bits, host, eips
        }),
    ]
}

fn file(entries: &[Entry]) -> String {
    base(&BINDINGS) + &entries.iter().map(Entry::text).collect::<String>()
}

/// The entries less those that break a rule with one before them, and the model of the rest.
fn valid(mut entries: Vec<Entry>) -> (Vec<Entry>, Model) {
    loop {
        let errors = match parse(&file(&entries), "natgate.toml") {
            Ok(model) => return (entries, model),
            Err(errors) => errors,
        };
        let keys: BTreeSet<String> =
            errors.iter().filter_map(|e| Some(e.key.split_once('.')?.0.to_owned())).collect();
        let (mut dnat, mut snat) = (0, 0);
        let before = entries.len();
        entries.retain(|entry| {
            let (kind, number) =
                if matches!(entry, Entry::Snat { .. }) { ("snat", &mut snat) } else { ("dnat", &mut dnat) };
            *number += 1;
            !keys.contains(&format!("{kind}[{}]", *number - 1))
        });
        assert!(entries.len() < before, "{errors}");
    }
}

fn compiled(compiler: &mut Compiler, model: &Model, previous: &Snapshot) -> Arc<Snapshot> {
    compiler.compile(model, &FACTS, previous).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Everything that a worker can ask, against a plain reading of the model.
fn assert_answers(model: &Model, snapshot: &Snapshot, directory: &Directory) {
    let vpc_of = |gateway: &Name| {
        let gateway = model.gateways().iter().find(|g| g.name == *gateway).expect("a gateway");
        directory.vpc_named(gateway.vpc.as_str()).expect("a VPC")
    };
    let owns = |dnat: &Dnat, number: u8, port: u16| match dnat.forward {
        Forward::Ports { protocol, public, .. } => protocol.number() == number && public.contains(port),
        Forward::AnyPort => false,
    };
    assert_eq!(snapshot.eip_count(), model.eips().len());
    for eip in model.eips() {
        let found = snapshot.eip(eip.address.into()).expect("an EIP");
        assert_eq!(directory.eip(found.index), Some(eip.address));
        assert_eq!(found.gateway.and_then(|g| directory.gateway(g)), eip.gateway.as_ref().map(Name::as_str));
        let any = model.dnat().iter().find(|d| d.eip == eip.address && d.forward == Forward::AnyPort);
        let expected = any.map(|d| (vpc_of(&d.gateway), u32::from(d.private_ip)));
        assert_eq!(found.any_port.map(|entry| (entry.vpc, entry.host)), expected);
        for (number, port) in
            [6u8, 17].into_iter().flat_map(|number| (1u16..50).map(move |port| (number, port)))
        {
            let owner = model.dnat().iter().find(|d| d.eip == eip.address && owns(d, number, port));
            let forward = found.forward(number, port);
            let expected = owner.map(|d| {
                let Forward::Ports { public, private_first, .. } = d.forward else { unreachable!() };
                (vpc_of(&d.gateway), u32::from(d.private_ip), private_first + (port - public.first))
            });
            assert_eq!(forward.map(|f| (f.vpc, f.host, f.host_port(port))), expected);
            assert_eq!(found.reserved(number, port & !63) >> (port & 63) & 1 == 1, owner.is_some());
            let entry = forward.and_then(|f| directory.entry(f.id));
            assert_eq!(entry.map(|e| &e.effect), owner.map(Dnat::effect).as_ref());
        }
    }
    for (vpc, host) in
        [VpcIndex(0), VpcIndex(1)].into_iter().flat_map(|v| (0u32..12).map(move |h| (v, 0x0a00_0100 + h)))
    {
        let here = |d: &&Dnat| vpc_of(&d.gateway) == vpc && u32::from(d.private_ip) == host;
        let found = snapshot.host(vpc, host);
        let any =
            model.dnat().iter().filter(here).filter(|d| d.forward == Forward::AnyPort).map(|d| d.eip).min();
        assert_eq!(found.and_then(|h| h.any_port).map(|e| Ipv4Addr::from(e.address)), any);
        for (number, port) in
            [6u8, 17].into_iter().flat_map(|number| (1u16..50).map(move |port| (number, port)))
        {
            let back = |d: &Dnat| match d.forward {
                Forward::Ports { protocol, public, private_first } => {
                    let offset = port.checked_sub(private_first)?;
                    let public_port = public.first + offset;
                    (protocol.number() == number && public_port <= public.last)
                        .then_some((d.eip, public_port))
                }
                Forward::AnyPort => None,
            };
            // Where gateways compete, the lowest EIP has it.
            let expected = model.dnat().iter().filter(here).filter_map(back).min();
            let entry = found.and_then(|host| host.forward(number, port));
            assert_eq!(entry.map(|e| (Ipv4Addr::from(e.address), e.public_port(port))), expected);
        }
        let covering = model.snat().iter().filter(|s| vpc_of(&s.gateway) == vpc && s.prefix.contains(host));
        let expected = covering.max_by_key(|s| s.prefix.len());
        let entry = snapshot.snat(vpc, host);
        assert_eq!(entry.map(|e| e.pool.len()), expected.map(|s| s.eips.len()));
        if let (Some(entry), Some(expected)) = (entry, expected) {
            assert_eq!(directory.gateway(entry.gateway), Some(expected.gateway.as_str()));
            let pool: Vec<Ipv4Addr> = entry.pool.iter().map(|member| member.address.into()).collect();
            assert_eq!(pool, expected.eips);
            assert!(
                entry.pool.iter().all(|member| directory.eip(member.index) == Some(member.address.into()))
            );
        }
    }
}

/// Of no EIP.
const UNUSED: EipIndex = EipIndex(8000);

/// When each EIP was last changed.
fn stamps(snapshot: &Snapshot, model: &Model) -> Vec<(Ipv4Addr, Generation)> {
    let stamp = |eip: &Eip| snapshot.eip(eip.address.into()).map(|found| snapshot.eip_changed(found.index));
    model.eips().iter().filter_map(|eip| Some((eip.address, stamp(eip)?))).collect()
}

/// The EIPs that the step from one snapshot to the next has touched.
fn touched(before: &Snapshot, after: &Snapshot, model: &Model) -> BTreeSet<Ipv4Addr> {
    let pairs = stamps(before, model).into_iter().zip(stamps(after, model));
    pairs.filter(|(old, new)| old != new).map(|(_, (address, _))| address).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_answers_what_its_model_says(
        first in prop::collection::vec(entry(), 0..24),
        second in prop::collection::vec(entry(), 0..24),
    ) {
        let mut compiler = Compiler::new();
        let (_, model) = valid(first);
        let one = compiled(&mut compiler, &model, &Snapshot::default());
        assert_answers(&model, &one, &compiler.directory());
        // And after a reload that changes everything at once, and back again.
        let (_, other) = valid(second);
        let two = compiled(&mut compiler, &other, &one);
        assert_answers(&other, &two, &compiler.directory());
        let three = compiled(&mut compiler, &model, &two);
        assert_answers(&model, &three, &compiler.directory());
        prop_assert!(one.generation() < two.generation() && two.generation() < three.generation());
        for eip in model.eips() {
            let slot = |snapshot: &Snapshot| snapshot.eip(eip.address.into()).map(|e| e.index);
            prop_assert_eq!(slot(&one), slot(&three));
        }
    }

    #[test]
    fn the_same_file_again_touches_nothing(entries in prop::collection::vec(entry(), 0..24)) {
        let mut compiler = Compiler::new();
        let (_, model) = valid(entries);
        let one = compiled(&mut compiler, &model, &Snapshot::default());
        let two = compiled(&mut compiler, &model, &one);
        prop_assert_eq!(touched(&one, &two, &model), BTreeSet::new());
        prop_assert!(std::ptr::eq(one.topology(), two.topology()));
        for (vpc, host) in [(0u16, 2u32), (1, 3)].map(|(v, h)| (VpcIndex(v), 0x0a00_0100 + h)) {
            let same = match (one.snat(vpc, host), two.snat(vpc, host)) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            };
            prop_assert!(same);
        }
    }

    /// Taking one entry away touches its own EIPs; putting it back touches these, and those whose sessions may now belong
    /// to it: the pool of the wider entry, or the private host.
    #[test]
    fn one_entry_touches_its_own_eips(
        entries in prop::collection::vec(entry(), 1..24),
        which in any::<prop::sample::Index>(),
    ) {
        let (entries, full) = valid(entries);
        if entries.is_empty() {
            return Ok(());
        }
        let mut fewer = entries.clone();
        let entry = fewer.remove(which.index(fewer.len()));
        let (fewer, less) = valid(fewer);
        prop_assert_eq!(fewer.len() + 1, entries.len());
        let mut compiler = Compiler::new();
        let one = compiled(&mut compiler, &full, &Snapshot::default());
        let two = compiled(&mut compiler, &less, &one);
        let three = compiled(&mut compiler, &full, &two);
        let address = |eip: &u8| Ipv4Addr::new(203, 0, 113, *eip);
        let (own, host, is_static) = match &entry {
            Entry::AnyPort { eip, host, .. } | Entry::Ports { eip, host, .. } => {
                (BTreeSet::from([address(eip)]), *host, true)
            }
            Entry::Snat { eips, host, .. } => (eips.iter().map(address).collect(), *host, false),
        };
        prop_assert_eq!(touched(&one, &two, &full), own.clone());
        let vpc = match &entry {
            Entry::AnyPort { gateway, .. } | Entry::Ports { gateway, .. } | Entry::Snat { gateway, .. } => {
                VpcIndex(u16::from(*gateway == 2))
            }
        };
        let mut expected = own;
        let covers = match &entry {
            // The next wider entry of the same VPC.
            Entry::Snat { bits, .. } => less
                .snat()
                .iter()
                .filter(|s| s.prefix.len() < *bits && s.prefix.contains(0x0a00_0100 | u32::from(host)))
                .filter(|s| compiler.directory().vpc_named(if s.gateway.as_str() == "gw2" { "two" } else { "one" }) == Some(vpc))
                .max_by_key(|s| s.prefix.len())
                .map(|s| s.eips.clone()),
            _ => None,
        };
        expected.extend(covers.into_iter().flatten());
        prop_assert_eq!(touched(&two, &three, &full), expected);
        // The host's dynamic sessions give way to its first static entry.
        let host = 0x0a00_0100 | u32::from(host);
        if is_static && two.host(vpc, host).is_none() {
            prop_assert_eq!(three.changed(UNUSED, host), three.generation());
        }
    }
}

#[test]
fn the_example_compiles_to_what_it_says() {
    let model = model(EXAMPLE);
    let mut compiler = Compiler::new();
    let snapshot = compiled(&mut compiler, &model, &Snapshot::default());
    let directory = compiler.directory();
    let address = |text: &str| u32::from(text.parse::<Ipv4Addr>().expect("an address"));

    let wan = snapshot.interface_of(PortIndex(0), 100).expect("the outside interface");
    let lan = snapshot.interface_of(PortIndex(1), 10).expect("the vSwitch's interface");
    assert_eq!(snapshot.interface_of(PortIndex(0), 0), None);
    assert_eq!((directory.interface(wan), directory.interface(lan)), (Some("wan.100"), Some("lan.10")));
    let interface = snapshot.interface(lan).expect("an interface");
    assert_eq!((interface.mac, interface.mtu, interface.vlan), (FACTS[1].mac, 1500, Some(10)));

    let vpc = directory.vpc_named("prod").expect("a VPC");
    assert!(snapshot.is_own_address(Realm::Outside, address("203.0.113.2")));
    assert!(snapshot.is_own_address(Realm::Vpc(vpc), address("10.0.1.1")));
    let route = |realm, to: &str| {
        snapshot.route(realm, address(to)).map(|r| (r.interface, r.next_hop.map(Ipv4Addr::from)))
    };
    let hop = |text: &str| Some(text.parse().expect("an address"));
    assert_eq!(route(Realm::Outside, "8.8.8.8"), Some((wan, hop("203.0.113.1"))));
    assert_eq!(route(Realm::Outside, "198.51.100.7"), Some((wan, hop("203.0.113.9"))));
    assert_eq!(route(Realm::Outside, "203.0.113.77"), Some((wan, None)));
    assert_eq!(route(Realm::Vpc(vpc), "10.0.1.77"), Some((lan, None)));
    assert_eq!(route(Realm::Vpc(vpc), "10.0.9.1"), Some((lan, hop("10.0.1.254"))));
    assert_eq!(route(Realm::Vpc(vpc), "10.0.8.1"), None);
    assert_eq!(snapshot.topology().public_ranges.lookup(address("203.0.113.20")), Some(&wan));

    let entry = snapshot.snat(vpc, address("10.0.1.5")).expect("the SNAT entry");
    assert_eq!((entry.host_quota, entry.timeouts.udp, entry.timeouts.icmp), (100_000, 600, 600));
    assert!(entry.untranslated.lookup(address("192.0.2.9")).is_some());
    let info = directory.entry(entry.id).expect("an entry");
    assert_eq!((info.kind(), &*info.name, info.gateway.as_str()), (EntryKind::Snat, "all", "gw1"));
}

/// Numbers that sessions keep are not given to others.
#[test]
fn numbers_are_not_given_twice() {
    let mut compiler = Compiler::new();
    let ids =
        |compiler: &Compiler| compiler.directory().entries().map(|(id, _)| id).collect::<BTreeSet<EntryId>>();
    let one = compiled(&mut compiler, &model(EXAMPLE), &Snapshot::default());
    let first = ids(&compiler);
    let gateway = compiler.directory().gateway_named("gw1").expect("a gateway");
    let meter = Arc::clone(&one.gateway(gateway).expect("a gateway").meter);

    let empty = EXAMPLE.split("[[gateway]]").next().expect("the part before gateways");
    let two = compiled(&mut compiler, &model(empty), &one);
    assert_eq!((two.eip_count(), ids(&compiler).len()), (0, 0));
    assert_eq!(two.snat_table(VpcIndex(0)).map(|table| table.len()), Some(0));
    // Its sessions still count out.
    assert!(two.gateway(gateway).is_some_and(|g| Arc::ptr_eq(&g.meter, &meter)));

    let renamed = EXAMPLE.replace("gw1", "gw2");
    let three = compiled(&mut compiler, &model(&renamed), &two);
    let other = compiler.directory().gateway_named("gw2").expect("a gateway");
    assert_ne!(other, gateway);
    assert!(three.gateway(other).is_some_and(|g| !Arc::ptr_eq(&g.meter, &meter)));
    assert!(first.is_disjoint(&ids(&compiler)));

    let four = compiled(&mut compiler, &model(EXAMPLE), &three);
    assert!(four.gateway(gateway).is_some_and(|g| Arc::ptr_eq(&g.meter, &meter)));
    assert_eq!(compiler.directory().gateway_named("gw1"), Some(gateway));
    assert!(first.is_disjoint(&ids(&compiler)));
}

/// An entry that changes keeps its number, and a gateway its meter.
#[test]
fn what_changes_keeps_its_number() {
    let mut compiler = Compiler::new();
    let one = compiled(&mut compiler, &model(EXAMPLE), &Snapshot::default());
    let before: BTreeSet<EntryId> = compiler.directory().entries().map(|(id, _)| id).collect();
    let changed = edited(&[("private_port = 8080", "private_port = 8081"), ("\"Unlimited\"", "\"Small\"")]);
    let two = compiled(&mut compiler, &model(&changed), &one);
    let after: BTreeSet<EntryId> = compiler.directory().entries().map(|(id, _)| id).collect();
    assert_eq!(before, after);
    let gateway = compiler.directory().gateway_named("gw1").expect("a gateway");
    let (old, new) = (one.gateway(gateway).expect("a gateway"), two.gateway(gateway).expect("a gateway"));
    assert!(Arc::ptr_eq(&old.meter, &new.meter));
    assert_eq!(new.limits, Specification::Small.limits());
    let model = model(&changed);
    // The EIP, and the host: it has a static entry for another port now.
    assert_eq!(touched(&one, &two, &model), BTreeSet::from([Ipv4Addr::new(203, 0, 113, 16)]));
    let changed = |host| two.changed(UNUSED, u32::from(Ipv4Addr::new(10, 0, 1, host)));
    assert_eq!((changed(10), changed(11)), (two.generation(), Generation(0)));
}

/// An interface that goes leaves the others their numbers, and its own to the next.
#[test]
fn interfaces_keep_their_numbers() {
    let interface =
        |vlan: u16| format!("[[outside]]\nport = 'wan'\nvlan = {vlan}\naddress = '198.18.{vlan}.1/24'\n");
    let file = |vlans: &[u16]| {
        let ports = "[[port]]\nname = 'wan'\ndevice = 'eth0'\n[[port]]\nname = 'lan'\ndevice = 'eth1'\n";
        model(&vlans.iter().fold(ports.to_owned(), |text, vlan| text + &interface(*vlan)))
    };
    let mut compiler = Compiler::new();
    let of = |snapshot: &Snapshot, vlan| snapshot.interface_of(PortIndex(0), vlan);
    let one = compiled(&mut compiler, &file(&[1, 2, 3]), &Snapshot::default());
    let two = compiled(&mut compiler, &file(&[3, 1]), &one);
    assert_eq!([of(&two, 1), of(&two, 2), of(&two, 3)], [of(&one, 1), None, of(&one, 3)]);
    assert!(!two.is_own_address(Realm::Outside, u32::from(Ipv4Addr::new(198, 18, 2, 1))));
    assert_eq!(compiler.directory().interface(InterfaceIndex(1)), None);
    let three = compiled(&mut compiler, &file(&[1, 3, 4]), &two);
    assert_eq!([of(&three, 1), of(&three, 4), of(&three, 3)], [of(&one, 1), of(&one, 2), of(&one, 3)]);
    let four = compiled(&mut compiler, &file(&[]), &three);
    assert_eq!(four.topology().interfaces.len(), 0);
}

#[test]
fn what_the_ports_do_not_give_is_refused() {
    let model = model(&edited(&[("mtu = 1500", "mtu = 1501")]));
    let mut compiler = Compiler::new();
    let snapshot = Snapshot::default();
    let errors = compiler.compile(&model, &FACTS, &snapshot).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "natgate.toml:21: outside[0].mtu = 1501: an interface's MTU is at most what its port can carry [MtuAbovePort]\n  \
         hint: port \"wan\" carries 1500 bytes"
    );
    let errors = compiler.compile(&model, &FACTS[..1], &snapshot).unwrap_err();
    assert_eq!(errors.iter().map(|e| e.code).collect::<Vec<_>>(), [Code::PortCount]);
}

/// A compiler that has used up its numbers says so, and goes on with what it has.
#[test]
fn numbers_can_be_used_up() {
    let mut compiler = Compiler::new();
    let one = compiled(&mut compiler, &model(EXAMPLE), &Snapshot::default());
    compiler.use_up_entries();
    let more = format!(
        "{EXAMPLE}[[dnat]]\ngateway = 'gw1'\neip = '203.0.113.16'\npublic_port = 81\nprivate_ip = '10.0.1.10'\n\
         private_port = 81\nprotocol = 'TCP'\n"
    );
    let errors = compiler.compile(&model(&more), &FACTS, &one).unwrap_err();
    assert_eq!(errors.iter().map(|e| e.code).collect::<Vec<_>>(), [Code::Exhausted]);
    compiled(&mut compiler, &model(EXAMPLE), &one);
}
