//! Fragments in any order and at any worker (RFC 4787 REQ-14), and what is too large for the way out (REQ-13).

use std::time::Duration;

use natgate::base::DropReason;

use crate::common::*;
use crate::support::packet::{TCP, UDP, UNREACHABLE};
use crate::support::{Flags, Packet, Quote, Side, TestNet, ip};

const WORKERS: [u16; 3] = [1, 2, 3];
const CLIENT: Endpoint = (PEER.0, 50_000);

/// The orders in which parts of a datagram may come: all of them.
fn orders(parts: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![vec![]];
    for part in 0..parts {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=order.len()).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, part);
                    order
                })
            })
            .collect();
    }
    orders
}

/// Sends parts one after the other, each to the worker that a number says, and gives what leaves on the other side.
fn pass(net: &mut TestNet, from: Side, to: Side, parts: &[&Packet], spread: usize) -> Vec<Packet> {
    let mut left = vec![];
    for (at, part) in parts.iter().enumerate() {
        let worker = (spread >> at) % net.engines.len();
        let frame = net.frame_of(from, part);
        let observed = net.inject_at(worker, net.config().link(from).port, &frame);
        for packet in observed.left {
            assert!(packet.forwarded && packet.side == to, "{packet:?}");
            left.push(packet.packet);
        }
    }
    left
}

/// Sends a datagram in parts in the given order and gives what the receiver makes of what leaves.
#[track_caller]
fn whole(
    net: &mut TestNet,
    (from, to): (Side, Side),
    packet: &Packet,
    order: &[usize],
    spread: usize,
) -> Packet {
    // The header of TCP is not to be split.
    let parts = packet.fragments(if packet.protocol() == TCP { 24 } else { 16 });
    let ordered: Vec<_> = order.iter().map(|at| &parts[*at]).collect();
    let left = pass(net, from, to, &ordered, spread);
    assert_eq!(left.len(), order.len(), "all of them leave: {left:?}");
    // A duplicate is of no use to the receiver, but is the same. What comes behind the whole is none of it any more.
    let mut distinct: Vec<Packet> = vec![];
    for part in left {
        if !distinct.contains(&part) {
            distinct.push(part);
        }
        if let Ok(whole) = Packet::reassemble(&distinct) {
            assert!(distinct.iter().all(|part| part.ip.id == whole.ip.id), "of one datagram: {distinct:?}");
            return whole;
        }
    }
    panic!("no whole datagram: {distinct:?}")
}

/// A datagram of four parts.
fn large(from: Endpoint, to: Endpoint, id: u16) -> Packet {
    let payload: Vec<u8> = (0..50).map(|at| at ^ id as u8).collect();
    let mut packet = Packet::udp(from, to, &payload);
    packet.ip.id = id;
    packet
}

/// Each way of UDP, with everybody's fragments in each of the orders and spread over the workers in every way.
fn each(orders: &[Vec<usize>], pick: impl Fn(&Way) -> bool) {
    for workers in WORKERS {
        let mut id = 0;
        let (mut net, ways) = ways(workers, UDP);
        for way in ways.iter().filter(|way| pick(way)) {
            for order in orders {
                for spread in 0..if workers == 1 { 1 } else { 16 } {
                    id += 1;
                    let sent = large(way.sent.source(), way.sent.destination(), id);
                    let expected = large(way.becomes.source(), way.becomes.destination(), id).ttl(63);
                    let arrived =
                        whole(&mut net, (way.from, way.to), &sent, order, spread * workers as usize / 2);
                    assert_eq!(arrived.body, expected.body);
                    assert_eq!((arrived.ip.src, arrived.ip.dst), (expected.ip.src, expected.ip.dst));
                }
            }
        }
        assert_eq!(net.totals().held, 0, "nothing is left waiting");
    }
}

fn in_order() -> Vec<Vec<usize>> {
    vec![vec![0, 1, 2, 3]]
}

/// RFC 4787 REQ-14: outbound fragments in order are translated and reassemble.
#[test]
fn frag_01_outbound_in_order() {
    each(&in_order(), |way| way.to == OUTSIDE);
}

/// RFC 4787 REQ-14: outbound fragments out of order are translated and reassemble.
#[test]
fn frag_02_outbound_in_any_order() {
    each(&orders(4), |way| way.to == OUTSIDE);
}

/// RFC 4787 REQ-14: outbound fragments with a duplicate are translated and reassemble.
#[test]
fn frag_03_outbound_with_a_duplicate() {
    let duplicates = (0..4).flat_map(|twice| {
        (0..=4).map(move |at| {
            let mut order = vec![0, 1, 2, 3];
            order.insert(at, twice);
            order
        })
    });
    each(&duplicates.collect::<Vec<_>>(), |way| way.to == OUTSIDE);
}

/// RFC 4787 REQ-14: inbound fragments of a reply, in order and reversed.
#[test]
fn frag_04_inbound_reply() {
    each(&[vec![0, 1, 2, 3], vec![3, 2, 1, 0]], |way| way.from == OUTSIDE && way.becomes.ip.dst == HOST);
}

/// RFC 4787 REQ-14: inbound fragments to a one-to-one EIP, in order and reversed.
#[test]
fn frag_05_inbound_to_one_to_one() {
    each(&[vec![0, 1, 2, 3], vec![3, 2, 1, 0]], |way| way.from == OUTSIDE && way.sent.ip.dst == ANY_EIP);
}

/// RFC 4787 REQ-14: inbound fragments to a port mapping, in order.
#[test]
fn frag_06_inbound_to_port_mapping() {
    each(&in_order(), |way| way.from == OUTSIDE && way.sent.ip.dst == PORT_EIP);
}

/// RFC 4787 REQ-14: inbound fragments to a port mapping, reversed.
#[test]
fn frag_07_inbound_to_port_mapping_reversed() {
    each(&orders(4), |way| way.from == OUTSIDE && way.sent.ip.dst == PORT_EIP);
    // TCP segments are not fragmented by who sends them, but on the way they may be. And without any session before.
    for workers in WORKERS {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        let segment = Packet::tcp(CLIENT, PUBLIC, Flags::ACK, 1, 1).payload(&[7; 60]);
        let arrived = whole(&mut net, (OUTSIDE, INSIDE), &segment, &[3, 1, 2, 0], 0b0110);
        assert_eq!(arrived, segment.to(SERVICE).ttl(63));
        assert_eq!(arrived.protocol(), TCP);
    }
}

/// RFC 4787 REQ-14, RFC 5508 REQ-1: a fragmented echo request and reply pass.
#[test]
fn frag_08_echo() {
    for workers in WORKERS {
        for order in orders(4) {
            for spread in [0, 0b0101, 0b1100] {
                let mut net = TestNet::with_workers(&everything(), workers, 1);
                let sent = Packet::ping(HOST, PEER.0, 7, 1).payload(&[b'x'; 50]);
                let left = whole(&mut net, (INSIDE, OUTSIDE), &sent, &order, spread);
                assert_eq!((left.ip.src, left.ip.dst), (POOL, PEER.0));
                let back = whole(&mut net, (OUTSIDE, INSIDE), &left.answer(), &order, spread);
                assert_eq!((back.ip.dst, &back.body), (HOST, &sent.answer().body));
                // And to a host with an EIP of its own.
                let sent = Packet::ping(PEER.0, ANY_EIP, 7, 1).payload(&[b'x'; 50]);
                let arrived = whole(&mut net, (OUTSIDE, INSIDE), &sent, &order, spread);
                let back = whole(&mut net, (INSIDE, OUTSIDE), &arrived.answer(), &order, spread);
                assert_eq!((back.ip.src, &back.body), (ANY_EIP, &sent.answer().body));
            }
        }
    }
}

/// A network whose outside carries no more than this.
const MTU: u16 = 1400;

fn narrow() -> TestNet {
    let mut config = everything();
    config.outside.mtu = MTU;
    let mut net = TestNet::new(&config);
    mapped(&mut net, (HOST, 1), PEER);
    net
}

/// Asserts that a host is told of the outside's MTU, and sees its own packet quoted.
#[track_caller]
fn told(net: &mut TestNet, sent: &Packet) {
    let observed = net.send(INSIDE, sent);
    assert_eq!(observed.drops, [DropReason::FragmentationNeeded]);
    let error = observed.reply(INSIDE);
    assert_eq!((error.ip.src, error.ip.dst), (ip("10.0.0.1"), sent.ip.src));
    let ((kind, code), quote) = quoted(error);
    assert_eq!((kind, code), (UNREACHABLE, 4));
    let crate::support::Body::Error { rest, .. } = &error.body else { panic!("no error: {error:?}") };
    assert_eq!(rest[2..], MTU.to_be_bytes(), "RFC 1191 §4");
    let whole = Quote::of(sent, None);
    assert_eq!((&quote.ip, quote.total_len), (&whole.ip, whole.total_len));
    assert!(quote.transport.len() >= 8 && whole.transport.starts_with(&quote.transport));
}

/// RFC 4787 REQ-13, RFC 1191 §4: DF packet above the outside MTU: Fragmentation Needed with that MTU, original
/// quoted.
#[test]
fn frag_09_df_above_mtu() {
    let mut net = narrow();
    for len in [1373, 1472] {
        let mut sent = Packet::udp((HOST, 4000), PEER, &vec![7; len]);
        sent.ip.dont_fragment = true;
        told(&mut net, &sent);
    }
    let mut fits = Packet::udp((HOST, 4000), PEER, &[7; 1372]);
    fits.ip.dont_fragment = true;
    out(&mut net, &fits);
}

/// RFC 4787 REQ-13a: a packet above the outside MTU without DF is fragmented, in order.
#[test]
fn frag_10_fragmented_on_the_way_out() {
    let mut net = narrow();
    for len in [1373, 1472] {
        let sent = Packet::udp((HOST, 4000), PEER, &vec![7; len]);
        let observed = net.send(INSIDE, &sent);
        let parts: Vec<_> = observed.left.iter().map(|left| left.packet.clone()).collect();
        let offsets: Vec<_> = parts.iter().map(|part| part.ip.fragment).collect();
        assert_eq!(offsets, [Some((0, true)), Some((1376, false))]);
        assert!(observed.frames.iter().all(|(_, frame)| frame.len() <= usize::from(MTU) + 14));
        let whole = Packet::reassemble(&parts).expect("a whole datagram");
        assert_eq!(whole.body, sent.clone().from(whole.source()).body);
        // A fragment that is itself too large.
        let large = Packet::udp((HOST, 4000), PEER, &vec![9; 2000]);
        let mut left = vec![];
        for part in large.fragments(1480) {
            left.extend(net.send(INSIDE, &part).left.into_iter().map(|left| left.packet));
        }
        assert_eq!(left.len(), 3);
        let whole = Packet::reassemble(&left).expect("a whole datagram");
        assert_eq!(whole.body, large.from(whole.source()).body);
    }
}

/// RFC 1191, RFC 5508 REQ-5: DF answer of a mapped host above the MTU: Fragmentation Needed to that host.
#[test]
fn frag_11_mapped_host_above_mtu() {
    let mut net = narrow();
    into(&mut net, &Packet::syn(CLIENT, PUBLIC));
    into(&mut net, &Packet::syn(CLIENT, (ANY_EIP, 443)));
    for from in [SERVICE, (ONE_TO_ONE, 443)] {
        let mut answer = Packet::tcp(from, CLIENT, Flags::ACK, 7001, 1001).payload(&[7; 1460]);
        answer.ip.dont_fragment = true;
        told(&mut net, &answer);
    }
}

/// RFC 791, RFC 4787 REQ-14: interleaved fragments of two hosts with the same IP ID do not mix.
#[test]
fn frag_12_same_identification() {
    for workers in WORKERS {
        for spread in 0..8 {
            let mut net = TestNet::with_workers(&snat(), workers, 1);
            let sent = [HOST, OTHER].map(|host| large((host, 4000), PEER, 0x77));
            let parts: Vec<_> = sent.iter().map(|packet| packet.fragments(16)).collect();
            let mixed: Vec<_> = [(0, 0), (1, 3), (1, 0), (0, 2), (0, 1), (1, 1), (1, 2), (0, 3)]
                .map(|(host, part)| &parts[host][part])
                .to_vec();
            let left = pass(&mut net, INSIDE, OUTSIDE, &mixed, spread * 37);
            assert_eq!(left.len(), 8);
            // What the peer tells apart by source and identification, as all that it has of them.
            let key = |packet: &Packet| (packet.ip.src, packet.ip.id);
            let (a, b): (Vec<_>, Vec<_>) = left.iter().cloned().partition(|part| key(part) == key(&left[0]));
            let bodies = [a, b].map(|parts| Packet::reassemble(&parts).expect("a whole datagram"));
            for (packet, sent) in bodies.iter().zip(&sent) {
                assert_eq!(packet.body, sent.clone().from(packet.source()).body);
            }
        }
    }
}

/// RFC 4787 REQ-14a: a flood of incomplete fragments harms neither whole packets nor new in-order fragments.
#[test]
fn frag_13_flood() {
    for workers in [1, 2] {
        let (mut net, ways) = ways(workers, UDP);
        for round in 0..6000_u16 {
            // Beginnings without an end, ends without a beginning, from inside and outside.
            let flood =
                large((PEER_2.0, round), [PUBLIC, (POOL, 4000)][usize::from(round % 2)], round).fragments(16);
            net.send(OUTSIDE, &flood[usize::from(round / 2 % 4)]);
            let flood = large((OTHER, 4000), PEER, round).fragments(16);
            net.send(INSIDE, &flood[usize::from(round % 3) + 1]);
            if round % 97 == 0 {
                for way in &ways {
                    way.check(&mut net);
                    let sent = large(way.sent.source(), way.sent.destination(), round);
                    let arrived = whole(&mut net, (way.from, way.to), &sent, &[0, 1, 2, 3], 0);
                    assert_eq!(arrived.source(), way.becomes.source());
                }
            }
        }
        let held = net.totals().held;
        assert!(held <= 256 * u64::from(workers), "bounded: {held} are held");
        // What one host sends without an end takes no room from another's that is out of order.
        net.advance(Duration::from_secs(5));
        for (side, from, to, flooding) in
            [(INSIDE, (HOST, 4000), PEER, OTHER), (OUTSIDE, CLIENT, PUBLIC, PEER_2.0)]
        {
            let parts = large(from, to, 7).fragments(16);
            for part in &parts[1..] {
                net.send(side, part);
            }
            for id in 0..1000 {
                net.send(side, &large((flooding, 4000), to, id).fragments(16)[2]);
            }
            let held = net.totals().held;
            assert!(held <= 64 * 2 + 6, "of each sender: {held} are held");
            assert_eq!(net.send(side, &parts[0]).left.len(), parts.len());
        }
        net.advance(Duration::from_secs(5));
        net.idle(50);
        assert_eq!(net.totals().held, 0, "for a bounded time");
    }
}
