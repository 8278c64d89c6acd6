//! What must never leave, and what must do no harm.

use std::net::Ipv4Addr;

use natgate::base::DropReason;

use crate::common::*;
use crate::support::codec::{Link, ip_frame};
use crate::support::config::{GATEWAY, host_mac};
use crate::support::net::Judge;
use crate::support::packet::{GRE, Ip, REDIRECT, TCP, UDP, UNREACHABLE};
use crate::support::{Body, Config, Flags, Packet, TestNet, ip};

const CLIENT: Endpoint = (PEER.0, 50_000);

/// Datagrams from the outside to everything that has an address, from a source.
fn to_everything(source: Ipv4Addr) -> Vec<Packet> {
    [(ANY_EIP, 7), PUBLIC, (POOL, 4000)].map(|to| Packet::udp((source, 50_000), to, b"from where?")).to_vec()
}

/// A fragment of a datagram between two addresses.
fn fragment(packet: &Packet, offset: u16, more: bool, payload: &[u8]) -> Packet {
    let ip = Ip { fragment: Some((offset, more)), ..packet.ip.clone() };
    Packet { ip, body: Body::Other { protocol: packet.protocol(), payload: payload.to_vec() } }
}

/// RFC 2663 §2.6, RFC 3022 §4: never sends an untranslated private source to the outside.
#[test]
fn sec_01_no_private_source_outside() {
    // A host without a SNAT entry, and one whose ports are exhausted, in either mapping; the network asserts it of every
    // frame that leaves.
    let config = Config::new().snat("10.0.0.0/24", &["203.0.113.16"]).snat_with(|entry| {
        entry.ports = natgate::policy::PortRange { first: 2000, last: 2001 };
    });
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&config, workers, 1);
        for from in [(host(1, 2), 4000), (HOST, 4000), (HOST, 4001), (HOST, 4002), (OTHER, 1)] {
            for packet in [
                Packet::udp(from, PEER, b"out"),
                Packet::syn(from, PEER),
                Packet::ping(from.0, PEER.0, from.1, 1),
                Packet::pong(from.0, PEER.0, from.1, 1),
                Packet::other(from.0, PEER.0, GRE, b"\0\0\x08\0"),
                Packet::error(from.0, UNREACHABLE, 3, &Packet::udp(PEER, from, b""), None),
            ] {
                let observed = net.send(INSIDE, &packet);
                for left in observed.left.iter().filter(|left| left.side == OUTSIDE) {
                    assert_eq!(left.packet.ip.src, POOL);
                }
            }
        }
        assert!(net.totals().drops[DropReason::PortsExhausted as usize] > 0);
    }
}

/// RFC 2663 §9, RFC 4787 §5: packets for private addresses from the outside are dropped.
#[test]
fn sec_02_private_destination_from_outside() {
    let mut net = TestNet::new(&everything());
    mapped(&mut net, (HOST, 4000), PEER);
    for private in [HOST, ONE_TO_ONE, SERVER, ip("10.0.0.1"), ip("192.168.1.1")] {
        for packet in [
            Packet::udp(PEER, (private, 4000), b"routed here"),
            Packet::syn(PEER, (private, 8080)),
            Packet::ping(PEER.0, private, 1, 1),
        ] {
            lost(&mut net, OUTSIDE, &packet);
        }
    }
}

/// RFC 2827, RFC 1812 §5.3.8: drops private sources that arrive on the outside (spoofed inside hosts).
#[test]
fn sec_03_private_source_from_outside() {
    let mut net = TestNet::new(&everything());
    for source in [HOST, ONE_TO_ONE, SERVER, ip("10.0.0.1")] {
        for packet in to_everything(source) {
            net.send(OUTSIDE, &packet).dropped(DropReason::SpoofedSource);
        }
    }
}

/// RFC 1812 §5.3.7: drops martian sources from the outside (0/8, 127/8, multicast, broadcast).
#[test]
fn sec_04_martian_source() {
    let mut net = TestNet::new(&everything());
    for source in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255"] {
        for packet in to_everything(ip(source)) {
            net.send(OUTSIDE, &packet).dropped(DropReason::MartianSource);
        }
    }
}

/// RFC 1812 §5.3.7, RFC 6890: drops class E sources (240/4) from the outside.
#[test]
fn sec_05_class_e_source() {
    let mut net = TestNet::new(&everything());
    for source in ["240.0.0.1", "250.1.2.3", "255.255.255.254"] {
        for packet in to_everything(ip(source)) {
            net.send(OUTSIDE, &packet).dropped(DropReason::MartianSource);
        }
    }
}

/// RFC 1812 §5.3.7: does not forward martian destinations from the inside.
#[test]
fn sec_06_martian_destination() {
    let mut net = TestNet::new(&everything());
    for source in [HOST, ONE_TO_ONE, SERVER] {
        for destination in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "240.0.0.1", "255.255.255.255"] {
            let packet = Packet::udp((source, 8080), (ip(destination), 53), b"where to?");
            net.send(INSIDE, &packet).dropped(DropReason::MartianDestination);
        }
        // The broadcast address of the outside link is nobody either.
        lost(&mut net, INSIDE, &Packet::udp((source, 8080), (ip("203.0.113.255"), 53), b"all of you"));
    }
}

/// RFC 4787 §1 (unicast only), RFC 1812 §5.3.4: does not forward multicast from the inside.
#[test]
fn sec_07_multicast() {
    let mut net = TestNet::new(&everything());
    for source in [HOST, ONE_TO_ONE, SERVER] {
        for group in ["224.0.0.1", "224.0.0.251", "232.1.1.1", "239.255.255.250"] {
            let packet = Packet::udp((source, 1900), (ip(group), 1900), b"anyone?");
            net.send(INSIDE, &packet).dropped(DropReason::MartianDestination);
            // As hosts send it: to the group's Ethernet address.
            let [_, b, c, d] = ip(group).octets();
            let dst = [0x01, 0, 0x5e, b & 0x7f, c, d];
            let link = Link { dst, src: host_mac(INSIDE, source), vlan: None };
            let observed = net.inject(1, &ip_frame(link, &packet));
            assert!(observed.frames.is_empty() && observed.drops.len() == 1, "{observed:?}");
        }
    }
}

/// RFC 1812 §5.3.7 (land attack): land attack: source equal to destination is dropped, no loop.
#[test]
fn sec_08_land() {
    let mut net = TestNet::new(&everything());
    for address in [ANY_EIP, PORT_EIP, POOL, GATEWAY] {
        lost(&mut net, OUTSIDE, &Packet::syn((address, 80), (address, 80)));
    }
    for address in [HOST, ONE_TO_ONE, ip("10.0.0.1")] {
        lost(&mut net, INSIDE, &Packet::syn((address, 80), (address, 80)));
    }
    assert!(net.sessions().is_empty());
}

/// RFC 2827: drops its own EIPs as source on the outside.
#[test]
fn sec_09_own_eip_as_source() {
    let mut net = TestNet::new(&everything());
    for source in [ANY_EIP, PORT_EIP, POOL] {
        for packet in to_everything(source).iter().filter(|packet| packet.ip.dst != source) {
            net.send(OUTSIDE, packet).dropped(DropReason::SpoofedSource);
        }
    }
}

/// RFC 2663 §9: unassigned EIP: nothing reaches the inside.
#[test]
fn sec_10_unassigned_eip() {
    let mut net = TestNet::new(&everything().eip("203.0.113.20"));
    // An EIP without entries, and an address of the range that is no EIP.
    for free in [ip("203.0.113.20"), ip("203.0.113.21")] {
        for packet in [
            Packet::udp(CLIENT, (free, 53), b"anyone?"),
            Packet::syn(CLIENT, (free, 80)),
            Packet::other(CLIENT.0, free, GRE, b"\0\0\x08\0"),
        ] {
            net.send(OUTSIDE, &packet).dropped(DropReason::EipUnassigned);
        }
    }
}

/// RFC 1858 §3, RFC 3128: tiny TCP fragments (fragment offset 1) never come out.
#[test]
fn sec_11_tiny_fragments() {
    let mut net = TestNet::new(&everything());
    let segment = Packet::syn(CLIENT, (ANY_EIP, 80)).payload(b"data");
    let bytes = segment.encode()[20..].to_vec();
    for to in [ANY_EIP, PORT_EIP] {
        let segment = segment.clone().to((to, 80));
        let tiny = fragment(&segment, 8, true, &bytes[8..16]);
        net.send(OUTSIDE, &tiny).dropped(DropReason::FragmentTiny);
        // With the ports alone in the first fragment (RFC 3128).
        let first = fragment(&segment, 0, true, &bytes[..8]);
        net.send(OUTSIDE, &first).dropped(DropReason::TransportTruncated);
        net.send(OUTSIDE, &tiny).dropped(DropReason::FragmentTiny);
    }
}

/// RFC 1858 §4 (overlapping fragments): overlapping fragments cannot rewrite the ports of a mapped datagram.
#[test]
fn sec_12_overlapping_fragments() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        let mapped = Packet::udp(CLIENT, PUBLIC, &[0; 32]);
        let parts = mapped.fragments(16);
        into(&mut net, &parts[0]);
        // A second beginning that claims a port which is not mapped.
        let forged = Packet::udp(CLIENT, (PORT_EIP, 22), &[0; 32]).fragments(16);
        lost(&mut net, OUTSIDE, &forged[0]);
        // What comes behind it goes through the mapping or nowhere, and what the host gets begins with the mapped port:
        // nothing else comes in at the offset of the ports.
        for left in net.send(OUTSIDE, &parts[1]).left {
            assert_eq!((left.packet.ip.dst, left.packet.ip.fragment), (SERVER, parts[1].ip.fragment));
        }
        let again = into(&mut net, &parts[0]);
        let Body::Other { payload, .. } = &again.body else { panic!("no fragment: {again:?}") };
        assert_eq!(payload[2..4], 8080_u16.to_be_bytes());
    }
    // The same of what comes back to private hosts, whose ports belong to different workers.
    for (workers, port) in [(1, 53), (2, 53), (2, 60_000), (4, 53), (4, 31_000), (4, 60_000)] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        let external = mapped(&mut net, (HOST, 4000), PEER);
        let parts = Packet::udp(PEER, external, &[7; 32]).fragments(16);
        assert_eq!(into(&mut net, &parts[0]).ip.dst, HOST);
        let forged = Packet::udp(PEER, (POOL, port), &[0; 32]).fragments(16);
        lost(&mut net, OUTSIDE, &forged[0]);
        for part in &parts[1..] {
            for left in net.send(OUTSIDE, part).left {
                assert_eq!((left.packet.ip.dst, left.packet.ip.fragment), (HOST, part.ip.fragment));
            }
        }
        let again = into(&mut net, &parts[0]);
        let Body::Other { payload, .. } = &again.body else { panic!("no fragment: {again:?}") };
        assert_eq!((again.ip.dst, &payload[2..4]), (HOST, &4000_u16.to_be_bytes()[..]));
        // Nothing is left of it.
        net.advance(std::time::Duration::from_secs(33));
        assert_eq!(net.totals().held, 0);
        for part in &parts {
            assert_eq!(into(&mut net, part).ip.dst, HOST);
        }
    }
    for workers in [1, 2, 3] {
        overlaps_are_refused(workers);
        overlaps_that_wait_are_refused(workers);
    }
}

/// What overlaps a fragment that has come is refused, and its datagram passes as it was sent.
fn overlaps_are_refused(workers: u16) {
    let (mut net, ways) = ways(workers, UDP);
    let hairpin = Way {
        from: INSIDE,
        sent: Packet::udp((OTHER, 4000), PUBLIC, b""),
        to: INSIDE,
        becomes: Packet::udp((POOL, 0), SERVICE, b""),
    };
    // Ports do not matter to an any-port entry, and its fragments need not meet anywhere.
    let ways = ways.into_iter().filter(|way| ![way.sent.ip.dst, way.becomes.ip.src].contains(&ANY_EIP));
    let ways = ways.chain([hairpin]);
    for (id, way) in (1..).zip(ways) {
        // Bytes 0 to 16, 16 to 32, 32 to 48 and 48 to 58.
        let mut sent = way.sent.clone().payload(&[7; 50]);
        sent.ip.id = id;
        let (parts, bytes) = (sent.fragments(16), sent.encode()[20..].repeat(2));
        let mut left = vec![];
        for (next, overlaps) in [
            (
                0,
                vec![(0, true, 8), (0, true, 24), (8, true, 8), (8, true, 16), (8, false, 50), (16, true, 0)],
            ),
            (2, vec![(16, true, 24), (40, true, 8), (32, false, 16), (16, false, 16), (8, true, 48)]),
            (3, vec![(48, true, 16), (56, true, 8), (64, false, 8), (16, false, 16), (0, true, 64)]),
        ] {
            left.push(net.send(way.from, &parts[next]).forwarded(way.to).clone());
            for (offset, more, len) in overlaps {
                let overlap = fragment(&sent, offset, more, &bytes[..len]);
                net.send(way.from, &overlap).dropped(DropReason::FragmentOverlap);
            }
            // A duplicate is none.
            net.send(way.from, &parts[next]).forwarded(way.to);
        }
        left.push(net.send(way.from, &parts[1]).forwarded(way.to).clone());
        let whole = Packet::reassemble(&left).expect("a whole datagram");
        assert_eq!((whole.destination(), whole.ip.src), (way.becomes.destination(), way.becomes.ip.src));
        assert_eq!(whole.encode()[28..], sent.encode()[28..], "as it was sent");
        // All of it has come: what is next is another datagram, of another size and from another port.
        let mut other = way.sent.clone().payload(&[9; 40]).from((sent.ip.src, 4000));
        other.ip.id = id;
        for part in other.fragments(24) {
            net.send(way.from, &part).forwarded(way.to);
        }
    }
}

/// Nor do those pass that come before the first one.
fn overlaps_that_wait_are_refused(workers: u16) {
    let mut net = TestNet::with_workers(&everything(), workers, 1);
    let parts = Packet::udp(CLIENT, PUBLIC, &[7; 32]).fragments(16);
    let overlap = fragment(&parts[0], 8, true, &[9; 16]);
    for part in [&parts[1], &overlap, &parts[2]] {
        assert!(net.send(OUTSIDE, part).left.is_empty());
    }
    let observed = net.send(OUTSIDE, &parts[0]);
    assert_eq!(observed.drops, [DropReason::FragmentOverlap]);
    let left: Vec<_> = observed.left.iter().map(|left| left.packet.clone()).collect();
    let whole = Packet::reassemble(&left).expect("a whole datagram");
    assert_eq!(whole, Packet::udp(CLIENT, SERVICE, &[7; 32]).ttl(63));
}

/// robustness (teardrop, ping of death): teardrop and oversized fragments are harmless.
#[test]
fn sec_13_teardrop_and_ping_of_death() {
    let (mut net, ways) = ways(2, UDP);
    net.judge = Judge::Header;
    for way in &ways {
        let teardrop = [(0, true, 36), (24, false, 4), (24, true, 0), (8, false, 0), (0, true, 8)];
        for (offset, more, len) in teardrop {
            net.send(way.from, &fragment(&way.sent, offset, more, &vec![0; len]));
        }
        // Past the largest datagram.
        for len in [1000, 600] {
            let last = fragment(&way.sent, 65_528, false, &vec![0; len]);
            net.send(way.from, &last).dropped(DropReason::FragmentOverlap);
        }
    }
    net.judge = Judge::Strict;
    for way in ways {
        way.check(&mut net);
    }
}

/// robustness (TCP flags): odd TCP segments (null, xmas, SYN+FIN, bad data offset) are harmless.
#[test]
fn sec_14_odd_tcp_flags() {
    let (mut net, ways) = ways(2, TCP);
    for way in &ways {
        for flags in [0x00, 0x29, 0x03, 0x07, 0x3f, 0xff, 0x01, 0x06, 0x20] {
            let mut odd = way.sent.clone();
            tcp_mut(&mut odd).flags = Flags(flags);
            net.send(way.from, &odd);
            // And without a session: whatever becomes of it, the network checks what leaves.
            net.send(way.from, &odd.from((way.sent.ip.src, 61_000)));
        }
        for data_offset in [0, 4, 15] {
            let observed = tampered(&mut net, way.from, &way.sent, |packet| packet[32] = data_offset << 4);
            observed.dropped(DropReason::TransportMalformed);
        }
    }
    // Through it all, what is mapped is still mapped to the same.
    for way in &ways {
        way.check(&mut net);
    }
}

/// RFC 2663 §2.6: a TCP segment without a session never leaves with its private source.
#[test]
fn sec_15_segment_without_session() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        for flags in
            [Flags::ACK, Flags::RST, Flags::RST_ACK, Flags::FIN_ACK, Flags::SYN_ACK, Flags::PSH, Flags(0)]
        {
            let segment = Packet::tcp((HOST, 4000), PEER, flags, 1, 1).payload(b"from before a restart");
            net.send(INSIDE, &segment).dropped(DropReason::TcpNotSyn);
        }
        assert!(net.sessions().is_empty());
    }
}

/// RFC 2663 §2.6: a protocol that cannot be port-translated never leaves with its private source.
#[test]
fn sec_16_protocol_without_ports() {
    let mut net = TestNet::new(&everything());
    // IGMP, IP in IP, IPv6, GRE, ESP, AH, OSPF, SCTP, and one of nobody.
    for protocol in [2, 4, 41, GRE, 50, 51, 89, 132, 253] {
        let packet = Packet::other(HOST, PEER.0, protocol, &[0; 24]);
        net.send(INSIDE, &packet).dropped(DropReason::ProtocolUnsupported);
    }
}

/// RFC 1122 §3.2.2: sends no ICMP error about ICMP errors, fragments, broadcasts or odd sources.
#[test]
fn sec_17_no_error_about_errors() {
    let mut net = TestNet::new(&everything());
    let quiet = |net: &mut TestNet, side, packet: &Packet| {
        let observed = net.send(side, packet);
        assert!(observed.left.iter().all(|left| left.forwarded), "an error about {packet:?}: {observed:?}");
    };
    let query = Packet::udp((HOST, 4000), PEER, b"query");
    let left = out(&mut net, &query);
    let inbound = Packet::udp(CLIENT, (ANY_EIP, 7), &[0; 64]);
    let at_host = into(&mut net, &inbound);
    // An ICMP error whose TTL ends here, in each direction.
    quiet(&mut net, OUTSIDE, &Packet::error(PEER.0, UNREACHABLE, 3, &left, None).ttl(1));
    quiet(&mut net, INSIDE, &Packet::error(ONE_TO_ONE, UNREACHABLE, 3, &at_host, None).ttl(1));
    // A later fragment whose TTL ends here.
    let parts = inbound.fragments(32);
    into(&mut net, &parts[0]);
    quiet(&mut net, OUTSIDE, &parts[1].clone().ttl(1));
    // Odd sources.
    for source in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        quiet(&mut net, OUTSIDE, &Packet::udp((ip(source), 1), (ANY_EIP, 7), b"").ttl(1));
        quiet(&mut net, INSIDE, &Packet::udp((ip(source), 1), PEER, b"").ttl(1));
    }
    // A link broadcast.
    for (side, packet) in [(INSIDE, &query), (OUTSIDE, &inbound)] {
        let link = Link { dst: [0xff; 6], src: host_mac(side, HOST), vlan: None };
        let observed = net.inject(net.config().link(side).port, &ip_frame(link, &packet.clone().ttl(1)));
        assert!(observed.frames.is_empty(), "{observed:?}");
    }
}

/// RFC 1812 §5.2.7.2, RFC 5508 REQ-11: an ICMP Redirect from the outside neither passes nor changes forwarding.
#[test]
fn sec_18_redirect() {
    let mut net = TestNet::new(&everything());
    let query = Packet::udp((HOST, 4000), PEER, b"query");
    let left = out(&mut net, &query);
    let [a, b, c, d] = neighbour().octets();
    for code in 0..4 {
        let redirect = error(ip("203.0.113.1"), REDIRECT, code, [a, b, c, d], &left);
        net.send(OUTSIDE, &redirect).dropped(DropReason::IcmpType);
    }
    let observed = net.send(INSIDE, &query);
    observed.forwarded(OUTSIDE);
    assert_eq!(observed.frames[0].1[..6], host_mac(OUTSIDE, ip("203.0.113.1")), "by the same router");
}
