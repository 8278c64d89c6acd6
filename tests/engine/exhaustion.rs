//! How many connections one EIP carries, and that "exhausted" is said only when it is true.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use natgate::base::DropReason;
use natgate::policy::{Filtering, Mapping};

use crate::support::{Config, Packet, Side, TestNet, ip};

const EIP: &str = "203.0.113.16";
const INSIDE: Side = Side::Vpc(0);
/// External ports from 1024 on: what hosts that use such ports get (RFC 4787 REQ-3a).
const PORTS: usize = 64_512;

fn network(mapping: Mapping, sessions: usize) -> TestNet {
    let config = Config::new().snat("10.0.0.0/16", &[EIP]).snat_with(|entry| {
        entry.mapping = mapping;
        if mapping == Mapping::EndpointDependent {
            entry.filtering = Filtering::AddressAndPortDependent;
        }
    });
    TestNet::sized(&config, 1, 1, sessions)
}

/// Sends a packet for which no port is left: its host is told.
fn refused(net: &mut TestNet, packet: &Packet) {
    let observed = net.send(INSIDE, packet);
    assert_eq!(observed.drops, [DropReason::PortsExhausted]);
    observed.reply(INSIDE);
}

/// The n-th connection of some hosts, each of which uses so many ports.
fn source(n: usize) -> (Ipv4Addr, u16) {
    const EACH: usize = 50_000;
    (Ipv4Addr::new(10, 0, 0, 2 + (n / EACH) as u8), 2000 + (n % EACH) as u16)
}

/// With endpoint-dependent mapping each destination has all ports of an EIP to itself.
#[test]
fn one_eip_carries_64k_connections_to_each_destination() {
    let mut net = network(Mapping::EndpointDependent, 300_000);
    let peers = [(ip("198.51.100.1"), 443), (ip("198.51.100.1"), 444), (ip("198.51.100.2"), 443)];
    let mut flows = HashSet::new();
    for peer in peers {
        for n in 0..PORTS {
            let mut sent = Packet::udp(source(n), peer, b"");
            // It keeps its identification.
            sent.ip.dont_fragment = true;
            let out = net.send(INSIDE, &sent).forwarded(Side::Outside).clone();
            assert_eq!((out.ip.src, out.destination()), (ip(EIP), peer));
            assert!(
                flows.insert((out.source().1, peer)),
                "two connections on port {} to {peer:?}",
                out.source().1
            );
            if n % 251 == 0 {
                let back = net.send(Side::Outside, &out.answer()).forwarded(INSIDE).clone();
                assert_eq!(back, sent.answer().ttl(back.ip.ttl));
            }
        }
        // Not one more to this destination.
        refused(&mut net, &Packet::udp(source(PORTS), peer, b""));
    }
    assert_eq!(flows.len(), PORTS * peers.len());
}

/// With endpoint-independent mapping an EIP has as many mappings as ports: every one of them is found before hosts are refused, and one
/// that comes back is found again.
#[test]
fn every_port_is_found_before_hosts_are_refused() {
    let mut net = network(Mapping::EndpointIndependent, 100_000);
    let peer = (ip("198.51.100.1"), 443);
    let mut ports = HashSet::new();
    for n in 0..PORTS {
        let out = net.send(INSIDE, &Packet::udp(source(n), peer, b"")).forwarded(Side::Outside).clone();
        assert!(ports.insert(out.source().1), "port {} has two owners", out.source().1);
    }
    let late = Packet::udp(source(PORTS), peer, b"");
    refused(&mut net, &late);
    // An hour later all of them have expired.
    for _ in 0..60 {
        net.advance(std::time::Duration::from_mins(1));
    }
    net.idle(100_000 / 16);
    assert!(net.sessions().is_empty());
    net.send(INSIDE, &late).forwarded(Side::Outside);
}
