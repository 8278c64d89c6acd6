//! ICMP queries and errors (RFC 5508, RFC 792).

use std::net::Ipv4Addr;

use natgate::base::DropReason;

use crate::common::*;
use crate::support::net::Judge;
use crate::support::packet::{PARAMETER_PROBLEM, TCP, TIME_EXCEEDED, UDP, UNREACHABLE};
use crate::support::{Body, Packet, Quote, TestNet, ip};

const ERRORS: [(u8, u8); 7] = [
    (UNREACHABLE, 0),
    (UNREACHABLE, 1),
    (UNREACHABLE, 3),
    (UNREACHABLE, 13),
    (TIME_EXCEEDED, 0),
    (TIME_EXCEEDED, 1),
    (PARAMETER_PROBLEM, 0),
];

/// An error of the peer or a router about what has left, and what its receiver is owed: the packet that it sent itself.
fn comes_back(net: &mut TestNet, from: Ipv4Addr, sent: &Packet, left: &Packet) {
    for (kind, code) in ERRORS {
        let arrived = into(net, &Packet::error(from, kind, code, left, None));
        assert_eq!((arrived.ip.src, arrived.ip.dst), (from, sent.ip.src));
        let mut view = sent.clone().ttl(left.ip.ttl);
        view.ip.id = left.ip.id;
        assert_eq!(quoted(&arrived), ((kind, code), &Quote::of(&view, None)));
    }
}

/// A datagram that has left by SNAT, and how it left.
fn query(net: &mut TestNet) -> (Packet, Packet) {
    let sent = Packet::udp((HOST, 4000), PEER, b"query");
    let left = out(net, &sent);
    (sent, left)
}

/// An error about `left` whose ICMP message is changed, with its checksum made right.
fn changed_error(
    net: &mut TestNet,
    left: &Packet,
    edit: impl FnOnce(&mut Vec<u8>),
) -> crate::support::Observed {
    let error = Packet::error(PEER.0, UNREACHABLE, 3, left, None);
    tampered(net, OUTSIDE, &error, |packet| {
        edit(packet);
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[22..24].fill(0);
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&packet[20..]).ones_complement();
        packet[22..24].copy_from_slice(&sum.to_ne_bytes());
        fix(packet);
    })
}

/// RFC 5508 REQ-1: echo: identifier translated, reply returns to the sender with its own identifier.
#[test]
fn icmp_01_echo() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        for seq in 1..5 {
            let sent = Packet::ping(HOST, PEER.0, 7, seq);
            let left = out(&mut net, &sent);
            assert_eq!((left.ip.src, left.ip.dst), (POOL, PEER.0));
            let back = into(&mut net, &left.answer());
            assert_eq!((&back.body, back.ip.dst), (&sent.answer().body, HOST));
        }
        assert_eq!(net.sessions().len(), 1);
    }
}

/// RFC 5508 REQ-1a: echo identifier mapping is the same for all peers.
#[test]
fn icmp_02_identifier_for_all_peers() {
    let mut net = TestNet::new(&snat());
    let ids =
        [PEER.0, PEER_2.0, neighbour()].map(|peer| out(&mut net, &Packet::ping(HOST, peer, 7, 1)).source().1);
    assert_eq!(ids, [ids[0]; 3]);
}

/// RFC 5508 §3.1, RFC 3022 §2.2: two hosts with the same identifier pinging one peer are kept apart.
#[test]
fn icmp_03_same_identifier() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let pings: Vec<_> = (0..50)
            .map(|n| {
                let sent = Packet::ping(host(1, n), PEER.0, 7, 1);
                let left = out(&mut net, &sent);
                (sent, left)
            })
            .collect();
        for (sent, left) in pings {
            let back = into(&mut net, &left.answer());
            assert_eq!((&back.body, back.ip.dst), (&sent.answer().body, sent.ip.src));
        }
    }
}

/// RFC 3022 §2.1: echo to a one-to-one EIP reaches the host and is answered as the EIP.
#[test]
fn icmp_04_echo_to_one_to_one() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        let sent = Packet::ping(PEER.0, ANY_EIP, 7, 1);
        let arrived = into(&mut net, &sent);
        assert_eq!((arrived.ip.src, arrived.ip.dst, &arrived.body), (PEER.0, ONE_TO_ONE, &sent.body));
        let answer = out(&mut net, &arrived.answer());
        assert_eq!((answer.ip.src, answer.ip.dst, &answer.body), (ANY_EIP, PEER.0, &sent.answer().body));
    }
}

/// RFC 1812 §4.3.3.6: the gateway answers echo on its inside address.
#[test]
fn icmp_05_echo_to_gateway() {
    let mut net = TestNet::new(&everything());
    for len in [0, 1, 56, 1472] {
        let sent = Packet::ping(HOST, ip("10.0.0.1"), 7, 1).payload(&vec![b'x'; len]);
        let observed = net.send(INSIDE, &sent);
        let reply = observed.reply(INSIDE);
        assert_eq!((reply.ip.src, reply.ip.dst, &reply.body), (ip("10.0.0.1"), HOST, &sent.answer().body));
    }
}

/// RFC 5508 REQ-4: errors about UDP from the peer: receiver, type, code and quoted packet reverted, checksums right.
#[test]
fn icmp_06_udp_errors() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let (sent, left) = query(&mut net);
        comes_back(&mut net, PEER.0, &sent, &left);
    }
}

/// RFC 5382 REQ-9, RFC 5508 REQ-4: errors about TCP from the peer are translated.
#[test]
fn icmp_07_tcp_errors() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let sent = Packet::syn((HOST, 4000), PEER);
        let left = out(&mut net, &sent);
        comes_back(&mut net, PEER.0, &sent, &left);
    }
}

/// RFC 4787 REQ-12a, RFC 5508 REQ-4: errors from a router on the path (not the peer) pass.
#[test]
fn icmp_08_router_errors() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let (sent, left) = query(&mut net);
        comes_back(&mut net, FAR_ROUTER, &sent, &left);
        let sent = Packet::ping(HOST, PEER.0, 9, 1);
        let left = out(&mut net, &sent);
        comes_back(&mut net, FAR_ROUTER, &sent, &left);
    }
}

/// RFC 1191, RFC 5382 REQ-9: Fragmentation Needed passes with its MTU, for SNAT and DNAT flows.
#[test]
fn icmp_09_fragmentation_needed() {
    for protocol in [TCP, UDP] {
        let (mut net, ways) = ways(2, protocol);
        for way in ways.iter().filter(|way| way.to == OUTSIDE) {
            let large = way.with(|packet| packet.payload(&[7; 1400]));
            let left = large.check(&mut net).forwarded(OUTSIDE).clone();
            let needed = error(FAR_ROUTER, UNREACHABLE, 4, [0, 0, 0x04, 0xb0], &left);
            let arrived = into(&mut net, &needed);
            assert_eq!(arrived.ip.dst, way.sent.ip.src);
            let Body::Error { rest, .. } = &arrived.body else { panic!("no error: {arrived:?}") };
            assert_eq!(*rest, [0, 0, 0x04, 0xb0], "the MTU of the path");
            assert_eq!(quoted(&arrived).1.source(), way.sent.source());
        }
    }
}

/// RFC 5508 REQ-4: an error about a flow without mapping is dropped.
#[test]
fn icmp_10_error_about_no_flow() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let (_, left) = query(&mut net);
        let other_port = left.source().1 ^ 2;
        for about in [
            left.clone().from((POOL, other_port)),
            left.clone().to((PEER.0, 54)),
            left.clone().to(PEER_2),
            Packet::syn(left.source(), PEER),
        ] {
            let observed =
                lost(&mut net, OUTSIDE, &Packet::error(about.ip.dst, UNREACHABLE, 3, &about, None));
            assert_eq!(observed.drops, [DropReason::IcmpErrorNoFlow]);
        }
    }
}

/// RFC 5508 REQ-3: an error with a wrong ICMP checksum is dropped.
#[test]
fn icmp_11_wrong_checksum() {
    let mut net = TestNet::new(&snat());
    let (_, left) = query(&mut net);
    let error = Packet::error(PEER.0, UNREACHABLE, 3, &left, None);
    for at in [20, 21, 22, 23, 24, 50] {
        let observed = tampered(&mut net, OUTSIDE, &error, |packet| packet[at] ^= 0x01);
        assert!(observed.left.is_empty(), "{observed:?}");
    }
    let observed = tampered(&mut net, OUTSIDE, &error, |packet| packet[23] ^= 0x40);
    observed.dropped(DropReason::TransportChecksum);
}

/// RFC 5508 REQ-3a: an error whose quoted IP header checksum is wrong is dropped.
#[test]
fn icmp_12_wrong_quoted_checksum() {
    let mut net = TestNet::new(&snat());
    let (_, left) = query(&mut net);
    changed_error(&mut net, &left, |_| ()).forwarded(INSIDE);
    changed_error(&mut net, &left, |packet| packet[28 + 10] ^= 0x01).dropped(DropReason::IcmpErrorMalformed);
}

/// RFC 5508 REQ-3b: an error whose quoted packet has IP options is translated.
#[test]
fn icmp_13_quoted_options() {
    let mut net = TestNet::new(&snat());
    let mut sent = Packet::udp((HOST, 4000), PEER, b"query");
    sent.ip.options = vec![148, 4, 0, 0, 1, 1, 1, 0];
    let left = out(&mut net, &sent);
    comes_back(&mut net, PEER.0, &sent, &left);
}

/// RFC 5508 REQ-3c: an error passes although the quoted transport checksum is wrong.
#[test]
fn icmp_14_wrong_quoted_transport_checksum() {
    let mut net = TestNet::new(&snat());
    let (_, left) = query(&mut net);
    net.judge = Judge::Header;
    let observed = changed_error(&mut net, &left, |packet| packet[28 + 20 + 6] ^= 0x55);
    let arrived = observed.forwarded(INSIDE);
    assert_eq!((arrived.ip.dst, quoted(arrived).1.source()), (HOST, (HOST, 4000)));
}

/// RFC 5508 REQ-3d, RFC 4884: an error with an ICMP extension (MPLS) passes with the extension intact.
#[test]
fn icmp_15_extension() {
    let mut net = TestNet::new(&snat());
    let (_, left) = query(&mut net);
    // RFC 4884: the quote padded to 128 bytes, its length in words, and an MPLS label stack behind it.
    let extension = [0x20, 0, 0, 0, 0, 8, 1, 1, 0x12, 0x34, 0x51, 0x40];
    let observed = changed_error(&mut net, &left, |packet| {
        packet[25] = 32;
        packet.resize(28 + 128, 0);
        packet.extend(extension);
    });
    let arrived = observed.forwarded(INSIDE);
    let (_, quote) = quoted(arrived);
    assert_eq!((quote.source(), arrived.ip.dst), ((HOST, 4000), HOST));
    assert_eq!(quote.transport[128 - 20..], extension);
    let Body::Error { rest, .. } = &arrived.body else { panic!("no error: {arrived:?}") };
    assert_eq!(rest[1], 32);
}

/// RFC 792: minimal quotes (IP header and 8 bytes) are translated; shorter ones are harmless.
#[test]
fn icmp_16_short_quotes() {
    for protocol in [TCP, UDP] {
        let (mut net, ways) = ways(1, protocol);
        for way in ways {
            let left = &way.becomes;
            let error = Packet::error(left.ip.dst, UNREACHABLE, 3, left, Some(8));
            let arrived = net.send(way.to, &error).forwarded(way.from).clone();
            let (_, quote) = quoted(&arrived);
            assert_eq!((quote.source(), quote.destination()), (way.sent.source(), way.sent.destination()));
            assert_eq!(quote.transport.len(), 8);
            // Shorter ones.
            for len in 0..28 {
                let observed = tampered(&mut net, way.to, &error, |packet| {
                    packet.truncate(28 + len);
                    packet[2..4].copy_from_slice(&(28 + len as u16).to_be_bytes());
                    packet[22..24].fill(0);
                    let sum =
                        etherparse::checksum::Sum16BitWords::new().add_slice(&packet[20..]).ones_complement();
                    packet[22..24].copy_from_slice(&sum.to_ne_bytes());
                    fix(packet);
                });
                observed.dropped(DropReason::IcmpErrorMalformed);
            }
            way.check(&mut net);
        }
    }
}

/// RFC 5508 REQ-4, REQ-6: an error about an echo request is translated and leaves the session alive.
#[test]
fn icmp_17_error_about_echo() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let sent = Packet::ping(HOST, PEER.0, 7, 1);
        let left = out(&mut net, &sent);
        for from in [PEER.0, FAR_ROUTER] {
            comes_back(&mut net, from, &sent, &left);
        }
        let back = into(&mut net, &left.answer());
        assert_eq!(back.destination(), (HOST, 7), "the session is alive");
        assert_eq!(out(&mut net, &sent).source(), left.source());
    }
}

/// RFC 5508 REQ-5: the mapped host's Port Unreachable leaves as the EIP with the client's view quoted.
#[test]
fn icmp_18_mapped_host_complains() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        let client = (PEER.0, 50_000);
        for public in [PUBLIC, (ANY_EIP, 7)] {
            let sent = Packet::udp(client, public, b"is it open?");
            let arrived = into(&mut net, &sent);
            let error = out(&mut net, &Packet::error(arrived.ip.dst, UNREACHABLE, 3, &arrived, None));
            assert_eq!((error.ip.src, error.ip.dst), (public.0, client.0));
            assert_eq!(quoted(&error), ((UNREACHABLE, 3), &Quote::of(&sent.ttl(63), None)));
        }
    }
}

/// RFC 5508 REQ-5c: an error from an inside router about a DNAT flow shows no private address.
#[test]
fn icmp_19_inside_router_complains() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        let client = (PEER.0, 50_000);
        for public in [PUBLIC, (ANY_EIP, 7)] {
            let sent = Packet::udp(client, public, b"on the way");
            let arrived = into(&mut net, &sent);
            let observed = net.send(INSIDE, &Packet::error(host(9, 254), UNREACHABLE, 1, &arrived, None));
            let error = observed.forwarded(OUTSIDE);
            assert_eq!((error.ip.src, error.ip.dst), (public.0, client.0));
            assert_eq!(quoted(error).1, &Quote::of(&sent.ttl(63), None));
            let bytes = &observed.frames[0].1[14..];
            assert!(!bytes.windows(2).any(|pair| pair == [10, 0]), "no private address: {bytes:02x?}");
        }
    }
}

/// RFC 5508 REQ-5: an error from the inside about no known flow is dropped.
#[test]
fn icmp_20_inside_error_about_no_flow() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        for (from, to) in [(PEER, (HOST, 4000)), (PEER_2, (SERVER, 9)), (PEER, (OTHER, 53))] {
            let about = Packet::udp(from, to, b"never came");
            let observed = lost(&mut net, INSIDE, &Packet::error(to.0, UNREACHABLE, 3, &about, None));
            assert_eq!(observed.drops, [DropReason::IcmpErrorNoFlow]);
        }
    }
}

/// RFC 5508 REQ-5: the inside host's error about a reply leaves translated.
#[test]
fn icmp_21_inside_error_about_reply() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let (_, left) = query(&mut net);
        let reply = left.answer();
        let arrived = into(&mut net, &reply);
        let error = out(&mut net, &Packet::error(HOST, UNREACHABLE, 3, &arrived, None));
        assert_eq!((error.ip.src, error.ip.dst), (POOL, PEER.0));
        assert_eq!(quoted(&error), ((UNREACHABLE, 3), &Quote::of(&reply.ttl(63), None)));
    }
}

/// RFC 5508 REQ-4: errors about the mapped host's answers reach that host with its own view quoted.
#[test]
fn icmp_22_errors_about_answers() {
    for protocol in [TCP, UDP] {
        for workers in [1, 2] {
            let (mut net, ways) = ways(workers, protocol);
            for way in ways[2..].iter().filter(|way| way.to == OUTSIDE) {
                let left = way.check(&mut net).forwarded(OUTSIDE).clone();
                for from in [left.ip.dst, FAR_ROUTER] {
                    comes_back(&mut net, from, &way.sent, &left);
                }
            }
        }
    }
}

/// RFC 3022 §2.2: an unsolicited echo reply or wrong identifier is dropped.
#[test]
fn icmp_23_unsolicited_reply() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        lost(&mut net, OUTSIDE, &Packet::pong(PEER.0, POOL, 7, 1));
        let left = out(&mut net, &Packet::ping(HOST, PEER.0, 7, 1));
        let reply = left.answer();
        lost(&mut net, OUTSIDE, &reply.clone().to((POOL, left.source().1 ^ 1)));
        lost(&mut net, OUTSIDE, &reply.clone().from((PEER_2.0, 0)));
        into(&mut net, &reply);
        assert_eq!(net.sessions().len(), 1);
    }
}
