//! What `explain` says of fragments is what the engine then does with them: of datagrams of every kind, in any order, some of them
//! incomplete. (Of whole packets the conversations of `oracle` ask the same.)

use std::net::Ipv4Addr;

use proptest::prelude::*;
use proptest::sample::select;

use crate::support::config::prefix;
use crate::support::packet::{GRE, UDP};
use crate::support::{Body, Config, Packet, Side, TestNet, cases, ip};

const INSIDE: Side = Side::Vpc(0);
const OUTSIDE: Side = Side::Outside;
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

fn config() -> Config {
    Config::new()
        .snat("10.0.0.0/24", &["203.0.113.16"])
        .snat_with(|entry| entry.untranslated = vec![prefix("192.0.2.0/24")])
        .any_port("203.0.113.17", "10.0.0.3")
        .forward(UDP, ("203.0.113.18", 53), ("10.0.0.4", 5353), 1)
        .eip("203.0.113.20")
}

/// A datagram of one of the kinds, with an identification that others may have, too.
fn datagram() -> impl Strategy<Value = (Side, Packet)> {
    let hosts = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.9.9"];
    let eips = ["203.0.113.16", "203.0.113.17", "203.0.113.18", "203.0.113.20", "203.0.113.2", "10.0.0.2"];
    let out_to =
        ["198.51.100.1", "192.0.2.7", "203.0.113.17", "203.0.113.18", "10.0.0.1", "203.0.113.2", "224.0.0.1"];
    let port = || select(vec![53_u16, 4000, 5353]);
    let outward = (select(hosts.to_vec()), select(out_to.to_vec()), Just(INSIDE));
    let inward = (select(vec!["198.51.100.1", "10.0.0.2"]), select(eips.to_vec()), Just(OUTSIDE));
    let kind = select(vec![0_u8, 1, 2]);
    (prop_oneof![outward, inward], port(), port(), kind, 1..4_u16, select(vec![64_u8, 64, 64, 1])).prop_map(
        |((from, to, side), source, destination, kind, id, ttl)| {
            let (from, to) = (ip(from), ip(to));
            let mut packet = match kind {
                0 => Packet::udp((from, source), (to, destination), &[7; 100]),
                1 => Packet::ping(from, to, source, 1).payload(&[7; 100]),
                _ => Packet::other(from, to, GRE, &[7; 100]),
            };
            packet.ip.id = id;
            (side, packet.ttl(ttl))
        },
    )
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn fragments_meet_what_is_foretold(
        sent in prop::collection::vec((datagram(), 0..4_usize), 1..30),
    ) {
        let mut net = TestNet::new(&config());
        for ((side, packet), which) in sent {
            // Whole, or one of its fragments.
            let parts = packet.fragments(40);
            let packet = if which == 3 { packet } else { parts[which].clone() };
            let Some(foretold) = net.explain(side, &packet) else { continue };
            let observed = net.send(side, &packet);
            // What the first fragment lets go of comes behind it.
            let mut seen = observed.clone();
            if matches!(packet.body, Body::Other { .. }) && packet.ip.fragment == Some((0, true)) {
                seen.left.truncate(1);
                let is_sent = seen.left.iter().any(|left| left.forwarded);
                seen.drops.truncate(usize::from(!is_sent));
            }
            if let Err(error) = foretold.came_true(net.config(), &seen) {
                return Err(TestCaseError::fail(format!("{side:?} {packet:?}: {error}")));
            }
        }
    }
}

#[test]
fn a_later_fragment_waits_and_then_follows_the_first() {
    let mut net = TestNet::new(&config());
    let packet = Packet::udp((ip("10.0.0.2"), 4000), (PEER, 53), &[7; 100]);
    let parts = packet.fragments(40);
    let fate =
        |net: &TestNet, part: &Packet| net.explain(INSIDE, part).expect("an explanation").explanation.fate;
    assert_eq!(fate(&net, &parts[1]), Some(natgate::nat::Fate::Waits));
    assert!(matches!(fate(&net, &parts[0]), Some(natgate::nat::Fate::Sent { .. })));
    net.send(INSIDE, &parts[0]).forwarded(OUTSIDE);
    assert!(matches!(fate(&net, &parts[1]), Some(natgate::nat::Fate::Sent { .. })));
    net.send(INSIDE, &parts[1]).forwarded(OUTSIDE);
}

#[test]
fn no_fragment_for_the_gateway_itself_leaves_by_an_entry() {
    let mut net = TestNet::new(&config());
    for to in ["10.0.0.1", "203.0.113.2"] {
        let packet = Packet::udp((ip("10.0.0.3"), 4000), (ip(to), 53), &[7; 100]);
        for part in packet.fragments(40) {
            let observed = net.send(INSIDE, &part);
            assert!(observed.left.is_empty(), "{observed:?}");
        }
    }
}
