//! Arbitrary bytes into everything that reads bytes from outside: called by the fuzz targets in `fuzz/`, by the replay of
//! their corpora and by property tests. Each function panics exactly if something is wrong.

use std::time::Duration;

use natgate::base::Checksum;
use natgate::wire::arp::Arp;
use natgate::wire::ethernet::{self, Link};
use natgate::wire::icmp::Quoted;
use natgate::wire::rewrite::{self, Change, End};
use natgate::wire::{Datagram, Transport, options};

use super::codec;
use super::config::{Config, Side};
use super::net::{Judge, TestNet};
use super::packet::{Body, Flags, GRE, Ip, Packet, TCP, TIME_EXCEEDED, UDP, UNREACHABLE, ip};

/// Every parser on its own; what is accepted is compared with what etherparse reads, and rewritten.
pub fn parse(bytes: &[u8]) {
    let _ = Arp::parse(bytes);
    let _ = options::check(bytes);
    quoted(bytes);
    datagram(bytes, 0);
    if let Ok(link) = Link::parse(bytes) {
        assert!(link.len <= bytes.len(), "{link:?}");
        let _ = Arp::parse(&bytes[link.len..]);
        if link.ether_type == ethernet::IPV4 {
            datagram(bytes, link.len);
        }
    }
}

fn datagram(bytes: &[u8], l3: usize) {
    let Ok(parsed) = Datagram::parse(bytes, l3) else { return };
    assert!(usize::from(parsed.l4) <= parsed.end() && parsed.end() <= bytes.len(), "{parsed:?}");
    let (seen, protocol, header) = codec::decode_header(&bytes[l3..]).expect("etherparse reads it too");
    assert_eq!((parsed.source, parsed.destination), (seen.src.into(), seen.dst.into()));
    assert_eq!((parsed.protocol, parsed.ttl, parsed.id), (protocol, seen.ttl, seen.id));
    assert_eq!(parsed.header_len(), header.slice().len());
    let segment = &bytes[usize::from(parsed.l4)..parsed.end()];
    if matches!(parsed.transport, Transport::Tcp | Transport::Udp) {
        let ports = [parsed.source_port.to_be_bytes(), parsed.destination_port.to_be_bytes()].concat();
        assert_eq!(ports, segment[..4]);
    }
    if parsed.transport == Transport::IcmpError {
        quoted(segment);
    }
    for end in [End::Source, End::Destination] {
        let mut copy = bytes.to_vec();
        rewrite::apply(&mut copy, &parsed, &Change::of(&parsed, end, 0x0a00_0001, 7), 1);
        codec::decode_header(&copy[l3..]).expect("the header stays right");
        assert_eq!(copy[parsed.end()..], bytes[parsed.end()..], "nothing behind the packet changes");
    }
    let mut copy = bytes.to_vec();
    rewrite::finish_checksum(&mut copy, &parsed, true);
    if !parsed.is_fragment()
        && parsed.fragment & 0x8000 == 0
        && segment.len() >= 20
        && parsed.transport == Transport::Tcp
    {
        let checked = Packet::decode(&copy[l3..parsed.end()]);
        assert!(!matches!(&checked, Err(error) if error.contains("TCP checksum")), "{checked:?}");
    }
}

fn quoted(message: &[u8]) {
    let Ok(quoted) = Quoted::parse(message) else { return };
    assert!(quoted.l4 + 8 <= message.len(), "{quoted:?}");
    for end in [End::Source, End::Destination] {
        let mut copy = message.to_vec();
        rewrite::apply_quoted(&mut copy, &quoted, end, 0xc633_6401, 9);
        codec::decode_header(&copy[8..]).expect("the quoted header stays right");
        assert_eq!(copy.len(), message.len());
    }
}

/// The configuration that frames meet: everything of each kind.
pub fn config() -> Config {
    let mut config = Config::new()
        .vpc(20)
        .any_port("203.0.113.17", "10.0.0.3")
        .forward(TCP, ("203.0.113.16", 80), ("10.0.0.2", 8080), 1)
        .forward(UDP, ("203.0.113.16", 5000), ("10.0.0.2", 6000), 100)
        .snat("10.0.0.0/16", &["203.0.113.16", "203.0.113.18"])
        .snat_with(|entry| entry.untranslated = vec![super::config::prefix("192.0.2.0/24")])
        .snat("10.0.0.0/16", &["203.0.113.20"])
        .snat_with(|entry| entry.vpc = 1);
    config.outside.mtu = 1400;
    config
}

/// A network for arbitrary frames. It holds a few sessions, so that frames can meet them, and few more have room.
pub fn network(workers: u16) -> TestNet {
    let mut net = TestNet::sized(&config(), workers, 1, 64);
    for (side, packet) in samples() {
        net.send(side, &packet);
    }
    net.judge = Judge::Header;
    net
}

/// Valid packets of every kind, of which some belong together.
pub fn samples() -> Vec<(Side, Packet)> {
    let inside = Side::Vpc(0);
    let (server, one_to_one, client) = (ip("10.0.0.2"), ip("10.0.0.3"), ip("10.0.0.4"));
    let peer = ip("198.51.100.1");
    let [port_eip, any_eip, snat_eip] = ["203.0.113.16", "203.0.113.17", "203.0.113.18"].map(ip);
    let query = Packet::udp((client, 4000), (peer, 53), b"query");
    let incoming = Packet::syn((peer, 50_000), (port_eip, 80));
    let at_server = incoming.clone().to((server, 8080));
    let outgoing = Packet::tcp((any_eip, 22), (peer, 50_001), Flags::SYN_ACK, 7, 8);
    let mut with_options = query.clone();
    with_options.ip.options = vec![0x94, 4, 0, 0];
    let mut no_checksum = query.clone();
    no_checksum.ip.dst = ip("192.0.2.7");
    if let Body::Udp { checksum, .. } = &mut no_checksum.body {
        *checksum = false;
    }
    let mut large = query.clone().payload(&[7; 1440]);
    large.ip.dont_fragment = true;
    vec![
        (inside, query.clone()),
        (inside, Packet::syn((client, 4000), (peer, 443))),
        (inside, Packet::ping(client, peer, 7, 1)),
        (inside, Packet::ping(client, ip("10.0.0.1"), 7, 1)),
        (inside, Packet::udp((client, 4001), (port_eip, 5003), b"hairpin")),
        (inside, Packet::udp((one_to_one, 4001), (any_eip, 5003), b"to itself")),
        (inside, Packet::other(one_to_one, peer, GRE, b"\0\0\x08\0tunnelled")),
        (inside, at_server.answer()),
        (inside, Packet::error(server, UNREACHABLE, 3, &at_server, Some(8))),
        (inside, query.clone().ttl(1)),
        (inside, with_options),
        (inside, no_checksum),
        (inside, large.clone()),
        (inside, Packet { ip: Ip { dont_fragment: false, ..large.ip.clone() }, ..large }),
        (Side::Vpc(1), query.clone()),
        (Side::Outside, incoming),
        (Side::Outside, Packet::udp((peer, 53), (port_eip, 5003), b"by range")),
        (Side::Outside, Packet::syn((peer, 50_001), (any_eip, 22))),
        (Side::Outside, Packet::other(peer, any_eip, GRE, b"\0\0\x08\0tunnelled")),
        (Side::Outside, Packet::ping(peer, any_eip, 9, 1)),
        (Side::Outside, Packet::ping(peer, port_eip, 9, 1)),
        (Side::Outside, Packet::error(ip("192.0.2.254"), TIME_EXCEEDED, 0, &outgoing, None)),
        (Side::Outside, Packet::udp((peer, 53), (snat_eip, 4000), b"perhaps")),
        (Side::Outside, Packet::pong(peer, snat_eip, 7, 1)),
    ]
}

/// One frame, behind a byte that says how it arrives.
pub fn frame(bytes: &[u8]) {
    let Some((how, frame)) = bytes.split_first() else { return };
    let mut net = network(1 + u16::from(how >> 6));
    arrive(&mut net, *how, frame);
}

fn arrive(net: &mut TestNet, how: u8, frame: &[u8]) {
    net.checksum = match how >> 2 & 3 {
        0 => Checksum::Unverified,
        1 => Checksum::Verified,
        2 => Checksum::Partial,
        _ => Checksum::MaybePartial,
    };
    net.inject(u16::from(how & 1), frame);
}

/// A sequence of frames with time between them, in records: a byte that says what, one that says how long to wait, two of
/// length, and the bytes. A record is a frame as it is, or changes to one of the [`samples`].
pub fn sequence(bytes: &[u8]) {
    let mut net = network(2);
    let samples = samples();
    let mut rest = bytes;
    for _ in 0..64 {
        let [what, wait, high, low, after @ ..] = rest else { break };
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (content, after) = after.split_at(len);
        rest = after;
        if *wait > 0 {
            net.advance(Duration::from_millis(10 << (wait >> 4)));
        }
        if what & 0x80 == 0 {
            arrive(&mut net, *what, content);
            continue;
        }
        let (side, packet) = &samples[usize::from(what & 0x7f) % samples.len()];
        let mut frame = net.frame_of(*side, packet);
        change(&mut frame, content);
        let port = net.config().link(*side).port;
        net.checksum = Checksum::Unverified;
        net.inject(port, &frame);
    }
    net.assert_consistent();
}

/// Changes bytes of a frame, by pairs of place and value, and makes the IP header's checksum right again unless the last
/// byte is odd, so that the change is looked at by what comes behind the header.
pub fn change(frame: &mut Vec<u8>, changes: &[u8]) {
    for pair in changes.chunks_exact(2) {
        if pair[0] == 0xff {
            frame.truncate(usize::from(pair[1]));
        } else if let Some(byte) = frame.get_mut(usize::from(pair[0])) {
            *byte = pair[1];
        }
    }
    if changes.last().is_some_and(|last| last & 1 == 0) {
        fix_header(frame);
    }
}

/// Makes the IP header's checksum right.
pub fn fix_header(frame: &mut [u8]) {
    let l3 = if frame.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 };
    let len = frame.get(l3).map_or(0, |first| usize::from(first & 15) * 4);
    let Some(header) = frame.get_mut(l3..l3 + len).filter(|header| header.len() >= 20) else { return };
    header[10..12].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(header).ones_complement();
    header[10..12].copy_from_slice(&sum.to_ne_bytes());
}
