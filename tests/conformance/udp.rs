//! UDP (RFC 4787, RFC 3022, RFC 768).

use std::collections::{BTreeSet, HashSet};

use natgate::base::DropReason;
use natgate::policy::{Filtering, Mapping, PortRange};

use crate::common::*;
use crate::support::config::prefix;
use crate::support::net::Judge;
use crate::support::packet::{PARAMETER_PROBLEM, TIME_EXCEEDED, UDP, UNREACHABLE};
use crate::support::{Body, Config, Packet, TestNet, ip};

fn without_checksum(mut packet: Packet) -> Packet {
    if let Body::Udp { checksum, .. } = &mut packet.body {
        *checksum = false;
    }
    packet
}

/// RFC 3022 §2.2: outbound UDP leaves from the pool; the reply comes back to the sender.
#[test]
fn udp_01_out_and_back() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let sent = Packet::udp((HOST, 4000), PEER, b"query");
        let left = out(&mut net, &sent);
        assert_eq!((left.ip.src, left.destination()), (POOL, PEER));
        let back = into(&mut net, &left.answer());
        assert_eq!(
            (back.source(), back.destination(), &back.body),
            (PEER, (HOST, 4000), &sent.answer().body)
        );
    }
}

/// RFC 4787 REQ-1: endpoint-independent mapping: other peers and ports see the same mapping.
#[test]
fn udp_02_endpoint_independent() {
    let mut net = TestNet::new(&snat());
    let external = mapped(&mut net, (HOST, 4000), PEER);
    for peer in [(PEER.0, 54), PEER_2, (PEER_2.0, 53), (neighbour(), 1)] {
        assert_eq!(mapped(&mut net, (HOST, 4000), peer), external);
    }
}

/// RFC 4787 REQ-1: endpoint-independent mapping holds when two hosts use the same source port.
#[test]
fn udp_03_endpoint_independent_in_a_crowd() {
    let mut net = TestNet::new(&snat());
    let externals = [HOST, OTHER].map(|host| mapped(&mut net, (host, 4000), PEER));
    for peer in [PEER_2, (PEER.0, 54), PEER] {
        assert_eq!([HOST, OTHER].map(|host| mapped(&mut net, (host, 4000), peer)), externals);
    }
}

/// RFC 4787 REQ-3: no port overloading: two hosts never share one external address and port.
#[test]
fn udp_04_no_port_overloading() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let mut seen = HashSet::new();
        for n in 0..200 {
            for peer in [PEER, PEER_2] {
                let external = mapped(&mut net, (host(1, n), 4000), peer);
                assert_eq!(seen.insert(external), peer == PEER, "{external:?} has one owner");
            }
        }
    }
}

/// RFC 4787 REQ-3a: port range kept: 0-1023 stays below 1024, others above.
#[test]
fn udp_05_port_range() {
    let config = snat().snat_with(|entry| entry.ports = PortRange { first: 1, last: 65535 });
    let mut net = TestNet::new(&config);
    for port in [1, 53, 123, 500, 1022, 1023, 1024, 1025, 5060, 40_000, 65_535] {
        for n in 2..12 {
            let (_, external) = mapped(&mut net, (host(1, n), port), PEER);
            assert_eq!(external < 1024, port < 1024, "{port} became {external}");
        }
    }
}

/// RFC 4787 REQ-4, RFC 7857 §8: port parity kept, also when the port is taken.
#[test]
fn udp_06_port_parity() {
    let mut net = TestNet::new(&snat());
    for port in 5000..5010 {
        // The port itself can be kept only once.
        for n in 2..12 {
            let (_, external) = mapped(&mut net, (host(1, n), port), PEER);
            assert_eq!(external % 2, port % 2, "{port} became {external}");
        }
    }
}

/// RFC 4787 REQ-8: filtering is endpoint-independent or address-dependent, not per port.
#[test]
fn udp_07_filtering_not_per_port() {
    for filtering in [Filtering::EndpointIndependent, Filtering::AddressDependent] {
        let mut net = TestNet::new(&snat().snat_with(|entry| entry.filtering = filtering));
        let external = mapped(&mut net, (HOST, 4000), PEER);
        let other_port = into(&mut net, &Packet::udp((PEER.0, 54), external, b"from another port"));
        assert_eq!(other_port.destination(), (HOST, 4000));
        if filtering == Filtering::AddressDependent {
            net.send(OUTSIDE, &Packet::udp(PEER_2, external, b"unknown")).dropped(DropReason::Filtered);
        }
    }
}

/// RFC 6888 REQ-7, RFC 4787 REQ-8: endpoint-independent filtering: an unknown peer reaches the mapping.
#[test]
fn udp_08_filtering_endpoint_independent() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let external = mapped(&mut net, (HOST, 4000), PEER);
        let unknown = Packet::udp(PEER_2, external, b"hello");
        let arrived = into(&mut net, &unknown);
        assert_eq!(arrived, unknown.to((HOST, 4000)).ttl(63));
        assert_eq!(out(&mut net, &arrived.answer()).source(), external);
    }
}

/// RFC 768, RFC 3022 §4.1: a UDP checksum of zero (none) stays zero.
#[test]
fn udp_09_no_checksum() {
    let (mut net, ways) = ways(2, UDP);
    for way in ways {
        way.with(without_checksum).check(&mut net);
    }
}

/// RFC 768, RFC 1624: a computed UDP checksum of zero is sent as 0xffff, never as 0 (none).
#[test]
fn udp_10_checksum_that_sums_to_zero() {
    let (mut net, ways) = ways(1, UDP);
    let field = |frame: &[u8]| [frame[14 + 20 + 6], frame[14 + 20 + 7]];
    for way in ways {
        // One of all payloads of two bytes makes the sum zero before, and one after translation.
        let mut edges = 0;
        for word in 0..=u16::MAX {
            let way = way.with(|packet| packet.payload(&word.to_be_bytes()));
            let sums =
                [&way.sent, &way.becomes].map(|packet| field(&[&[0; 14], &packet.encode()[..]].concat()));
            if sums.contains(&[0xff, 0xff]) {
                edges += 1;
                let observed = way.check(&mut net);
                assert_eq!(field(&observed.frames[0].1), sums[1], "{way:?}");
            }
        }
        assert_eq!(edges, 2);
    }
}

/// RFC 1624, RFC 3022 §4.1: a corrupt UDP datagram is not given a valid checksum.
#[test]
fn udp_11_corrupt_stays_corrupt() {
    let (mut net, ways) = ways(1, UDP);
    net.judge = Judge::Header;
    for way in ways {
        for at in [20, 21, 24, 25, 26, 27, 28, 31] {
            let observed = tampered(&mut net, way.from, &way.sent, |packet| packet[at] ^= 0x55);
            for (_, frame) in observed.frames.iter().filter(|(_, frame)| frame[12..14] == [8, 0]) {
                let readable = Packet::decode(&frame[14..]);
                assert!(
                    readable.is_err()
                        || matches!(&readable, Ok(left) if matches!(left.body, Body::Error { .. })),
                    "made valid: {readable:?}"
                );
            }
        }
    }
}

/// robustness: a UDP length that disagrees with the IP length is harmless.
#[test]
fn udp_12_length() {
    let (mut net, ways) = ways(1, UDP);
    for way in &ways {
        for len in [0, 7, 13, 1000, 0xffff] {
            let observed = tampered(&mut net, way.from, &way.sent, |packet| {
                packet[24..26].copy_from_slice(&u16::to_be_bytes(len));
            });
            observed.dropped(DropReason::TransportMalformed);
        }
        // Shorter than the packet: the rest is padding, as the receiver will see.
        net.judge = Judge::Header;
        tampered(&mut net, way.from, &way.sent, |packet| packet[24..26].copy_from_slice(&[0, 9]));
        net.judge = Judge::Strict;
    }
    for way in ways {
        way.check(&mut net);
    }
}

/// RFC 4787 REQ-11: deterministic: behaviour is the same after 200 other mappings.
#[test]
fn udp_13_deterministic() {
    let mut net = TestNet::new(&snat());
    let behaviour = |net: &mut TestNet, port: u16| {
        let externals = [PEER, PEER_2].map(|peer| mapped(net, (HOST, port), peer));
        let admitted = net.send(OUTSIDE, &Packet::udp((PEER.0, 99), externals[0], b"?")).left.len();
        let alike = |external: u16| external % 2 == port % 2 && (external < 1024) == (port < 1024);
        (externals[0] == externals[1], externals[0].0, alike(externals[0].1), admitted)
    };
    let before = behaviour(&mut net, 4000);
    for n in 0..200 {
        mapped(&mut net, (host(1, n), 4000 + u16::from(n)), PEER);
    }
    assert_eq!(behaviour(&mut net, 4002), before);
    assert_eq!(behaviour(&mut net, 4000), before);
}

/// RFC 6056 §3, RFC 7857 §9, RFC 6888 REQ-15: new external ports are either the inside port or unpredictable.
#[test]
fn udp_14_ports_are_unpredictable() {
    let ports = |seed| {
        let mut net = TestNet::with_workers(&snat(), 1, seed);
        (2..52).map(|n| mapped(&mut net, (host(1, n), 4000), PEER).1).collect::<Vec<_>>()
    };
    let (a, b) = (ports(1), ports(2));
    let predicted = a.iter().zip(&b).filter(|(a, b)| a == b && **a != 4000).count();
    assert!(predicted <= 2, "the same in two runs: {predicted}");
    for ports in [a, b] {
        let steps: BTreeSet<_> =
            ports.windows(2).map(|pair| i32::from(pair[1]) - i32::from(pair[0])).collect();
        assert!(steps.len() > 40, "in steps: {ports:?}");
        let (low, high) = ports.iter().partition::<Vec<u16>, _>(|port| **port < 33_000);
        assert!(low.len() > 8 && high.len() > 8, "all over the range: {ports:?}");
    }
}

/// RFC 4787 REQ-2, RFC 6888 REQ-2: paired pooling: all flows of one host use one EIP of the pool.
#[test]
fn udp_15_paired_pooling() {
    let config = Config::new().snat("10.0.0.0/16", &["203.0.113.16", "203.0.113.18", "203.0.113.20"]);
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&config, workers, 1);
        let mut used = BTreeSet::new();
        for n in 2..40 {
            let from = host(1, n);
            let (eip, _) = mapped(&mut net, (from, 4000), PEER);
            used.insert(eip);
            for port in 4001..4010 {
                assert_eq!(mapped(&mut net, (from, port), PEER_2).0, eip);
                assert_eq!(connected(&mut net, (from, port), PEER_2).0, eip);
                assert_eq!(out(&mut net, &Packet::ping(from, PEER.0, port, 1)).ip.src, eip);
            }
        }
        assert_eq!(used.len(), 3, "the hosts are spread over the pool");
    }
}

/// RFC 6888 REQ-3: a non-contiguous pool is used in full and nothing outside it.
#[test]
fn udp_16_whole_pool() {
    let pool = ["203.0.113.16", "203.0.113.19", "203.0.113.25", "203.0.113.31"];
    let config = Config::new().snat("10.0.0.0/16", &pool);
    let mut net = TestNet::new(&config);
    let used: BTreeSet<_> = (0..200).map(|n| mapped(&mut net, (host(1, n), 4000), PEER).0).collect();
    assert_eq!(used, pool.map(ip).into());
}

/// RFC 7857 §5: UDP and TCP of one inside port work side by side.
#[test]
fn udp_17_udp_and_tcp_side_by_side() {
    let mut net = TestNet::new(&snat());
    let udp = mapped(&mut net, (HOST, 4000), PEER);
    let tcp = established(&mut net, (HOST, 4000), PEER);
    let datagram = into(&mut net, &Packet::udp(PEER, udp, b"datagram"));
    let segment = into(&mut net, &Packet::tcp(PEER, tcp, crate::support::Flags::ACK, 7001, 1001));
    assert_eq!([datagram.destination(), segment.destination()], [(HOST, 4000); 2]);
    // One port serves both where it is free for both.
    assert_eq!(udp, tcp);
}

/// RFC 4787 REQ-12: no ICMP error ends a UDP mapping.
#[test]
fn udp_18_no_error_ends_a_mapping() {
    let mut net = TestNet::new(&snat());
    let query = Packet::udp((HOST, 4000), PEER, b"query");
    let left = out(&mut net, &query);
    let kinds = (0..16).map(|code| (UNREACHABLE, code)).chain([
        (TIME_EXCEEDED, 0),
        (TIME_EXCEEDED, 1),
        (PARAMETER_PROBLEM, 0),
    ]);
    for (kind, code) in kinds {
        net.send(OUTSIDE, &Packet::error(PEER.0, kind, code, &left, None)).forwarded(INSIDE);
        assert_eq!(into(&mut net, &left.answer()).destination(), (HOST, 4000));
        assert_eq!(out(&mut net, &query).source(), left.source());
    }
    assert_eq!(net.sessions().len(), 1);
}

/// RFC 4787 REQ-3, RFC 6888 REQ-1: a dynamic mapping never takes a port that a DNAT mapping owns on the same EIP.
#[test]
fn udp_19_ports_of_dnat_are_taken() {
    // On the EIP of the pool all ports but a few belong to a mapping.
    let config = snat().forward(UDP, ("203.0.113.16", 1024), ("10.0.0.4", 1024), 64_000);
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&config, workers, 1);
        for n in 0..200 {
            let (_, external) = mapped(&mut net, (host(1, n), 1024 + u16::from(n)), PEER);
            assert!(external >= 1024 + 64_000, "{external} belongs to the mapping");
        }
    }
}

/// RFC 6888 REQ-6: translation can be turned off for a destination prefix.
#[test]
fn udp_20_untranslated_destination() {
    let config = snat().snat_with(|entry| entry.untranslated = vec![prefix("192.0.2.0/24")]);
    let mut net = TestNet::new(&config);
    let exempt = Packet::udp((HOST, 4000), (ip("192.0.2.7"), 53), b"as I am");
    assert_eq!(out(&mut net, &exempt), exempt.clone().ttl(63));
    assert_eq!(into(&mut net, &exempt.answer()), exempt.answer().ttl(63));
    assert_eq!(mapped(&mut net, (HOST, 4000), PEER).0, POOL, "others are translated");
    assert_eq!(net.sessions().len(), 1);
}

/// RFC 3022 §2.2: an unsolicited datagram to a pool address without mapping is dropped.
#[test]
fn udp_21_unsolicited() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let (_, used) = mapped(&mut net, (HOST, 4000), PEER);
        for port in [1, 53, 4001, 40_000, 65_535].into_iter().filter(|port| *port != used) {
            net.send(OUTSIDE, &Packet::udp(PEER, (POOL, port), b"?")).dropped(DropReason::NoMapping);
        }
        // Nor with endpoint-dependent mapping from anybody but the peer.
        let config = snat().snat_with(|entry| {
            entry.mapping = Mapping::EndpointDependent;
            entry.filtering = Filtering::AddressAndPortDependent;
        });
        let mut net = TestNet::with_workers(&config, workers, 1);
        let external = mapped(&mut net, (HOST, 4000), PEER);
        lost(&mut net, OUTSIDE, &Packet::udp(PEER_2, external, b"?"));
    }
}

/// RFC 3022 §4.1: 500 datagrams of all sizes pass unchanged, in order, with valid checksums.
#[test]
fn udp_22_all_sizes() {
    let (mut net, ways) = ways(2, UDP);
    for len in (0..1473).step_by(3).chain([1470, 1471, 1472]) {
        let payload: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
        for way in &ways {
            way.with(|packet| packet.payload(&payload)).check(&mut net);
        }
    }
}
