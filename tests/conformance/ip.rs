//! The IPv4 header (RFC 791, RFC 1812).

use natgate::base::DropReason;

use crate::common::*;
use crate::support::config::GATEWAY;
use crate::support::packet::{GRE, TCP, TIME_EXCEEDED, UDP};
use crate::support::{Observed, Packet, Quote, TestNet, ip};

/// Each way of TCP and UDP with its packet's bytes changed; nothing of it may leave.
fn refused(reasons: &[DropReason], edit: impl Fn(&mut Vec<u8>)) {
    for protocol in [TCP, UDP] {
        let (mut net, ways) = ways(1, protocol);
        for way in ways {
            let observed = tampered(&mut net, way.from, &way.sent, &edit);
            assert!(observed.left.is_empty(), "{way:?}: {observed:?}");
            assert!(matches!(&observed.drops[..], [one] if reasons.contains(one)), "{observed:?}");
            way.check(&mut net);
        }
    }
}

/// RFC 1812 §5.3.1: decrements TTL by one in both directions.
#[test]
fn ip_01_ttl_goes_down() {
    for protocol in [TCP, UDP] {
        let (mut net, ways) = ways(2, protocol);
        for way in ways {
            for ttl in [2, 64, 255] {
                assert_eq!(way.with(|packet| packet.ttl(ttl)).check(&mut net).one().packet.ip.ttl, ttl - 1);
            }
        }
    }
}

/// RFC 1812 §5.3.1, RFC 5508 REQ-10a: TTL 1 from inside: Time Exceeded from the gateway, original header quoted.
#[test]
fn ip_02_ttl_ends_inside() {
    let mut net = TestNet::new(&everything());
    for sent in [
        Packet::udp((HOST, 4000), PEER, b"traceroute").ttl(1),
        Packet::syn((HOST, 4000), PEER).ttl(1),
        Packet::ping(HOST, PEER.0, 7, 1).ttl(1),
        Packet::udp((ONE_TO_ONE, 4000), PEER, b"traceroute").ttl(1),
    ] {
        let observed = net.send(INSIDE, &sent);
        let error = observed.reply(INSIDE);
        assert_eq!((error.ip.src, error.ip.dst), (ip("10.0.0.1"), sent.ip.src));
        assert_eq!(quoted(error), ((TIME_EXCEEDED, 0), &Quote::of(&sent, None)));
        assert_eq!(observed.drops, [DropReason::TtlExpired]);
    }
}

/// RFC 1812 §5.3.1, RFC 5508 REQ-10a: TTL 1 from outside: Time Exceeded that shows only public addresses.
#[test]
fn ip_03_ttl_ends_outside() {
    let mut net = TestNet::new(&everything());
    let client = (PEER.0, 50_000);
    for to in [(ANY_EIP, 7), PUBLIC] {
        let sent = Packet::udp(client, to, b"traceroute").ttl(1);
        let observed = net.send(OUTSIDE, &sent);
        let error = observed.reply(OUTSIDE);
        assert_eq!((error.ip.src, error.ip.dst), (GATEWAY, client.0));
        assert_eq!(quoted(error), ((TIME_EXCEEDED, 0), &Quote::of(&sent, None)));
        let bytes = &observed.frames.last().expect("a frame").1;
        assert!(!bytes.windows(2).skip(14).any(|pair| pair == [10, 0]), "no private address: {bytes:02x?}");
    }
}

/// RFC 1812 §5.3.1: drops packets that arrive with TTL 0.
#[test]
fn ip_04_ttl_zero() {
    refused(&[DropReason::TtlZero], |packet| {
        packet[8] = 0;
        fix(packet);
    });
}

/// RFC 1812 §5.2.2: drops a wrong IP header checksum.
#[test]
fn ip_05_header_checksum() {
    for delta in [1, 0x80, 0xff] {
        refused(&[DropReason::IpChecksum], |packet| packet[11] ^= delta);
    }
    refused(&[DropReason::IpChecksum], |packet| packet[10..12].fill(0));
}

/// RFC 1812 §5.2.2: drops an IHL below 5.
#[test]
fn ip_06_header_too_short() {
    for len in 0..5 {
        refused(&[DropReason::IpHeaderLength], |packet| {
            packet[0] = 0x40 | len;
            fix(packet);
        });
    }
}

/// RFC 1812 §5.2.2: drops an IHL that runs past the packet.
#[test]
fn ip_07_header_past_packet() {
    for len in [14, 15] {
        refused(&[DropReason::IpHeaderLength], |packet| {
            // As much as a header of that length lacks the last word.
            packet[0] = 0x40 | len;
            packet.resize(usize::from(len) * 4 - 4, 0);
            packet[3] = len * 4 - 4;
            fix(packet);
        });
    }
}

/// RFC 1812 §5.2.2: drops an IP version other than 4 under ethertype 0800.
#[test]
fn ip_08_version() {
    for version in [0, 5, 6, 15] {
        refused(&[DropReason::IpVersion], |packet| {
            packet[0] = version << 4 | 5;
            fix(packet);
        });
    }
}

/// RFC 1812 §5.2.2: drops a total length above the frame or below the header.
#[test]
fn ip_09_total_length() {
    for edit in [
        (|packet: &mut Vec<u8>| packet[2..4].copy_from_slice(&[0, 19])) as fn(&mut Vec<u8>),
        |packet| packet[2..4].copy_from_slice(&[0, 0]),
        |packet| packet[3] += 1,
        |packet| packet[2] = 0xff,
    ] {
        refused(&[DropReason::IpTotalLength], |packet| {
            edit(packet);
            fix(packet);
        });
    }
}

/// robustness: truncated transport headers (0-19 bytes) are not forwarded mis-translated.
#[test]
fn ip_10_truncated_transport() {
    let mut net = TestNet::new(&everything());
    let client = (PEER.0, 50_000);
    for (side, packet) in [
        (INSIDE, Packet::udp((HOST, 4000), PEER, b"data")),
        (INSIDE, Packet::syn((HOST, 4000), PEER)),
        (INSIDE, Packet::ping(HOST, PEER.0, 7, 1)),
        (INSIDE, Packet::syn((ONE_TO_ONE, 4000), PEER)),
        (OUTSIDE, Packet::udp(client, (ANY_EIP, 7), b"data")),
        (OUTSIDE, Packet::syn(client, (ANY_EIP, 7))),
        (OUTSIDE, Packet::ping(client.0, ANY_EIP, 7, 1)),
        (OUTSIDE, Packet::syn(client, PUBLIC)),
    ] {
        let header = if packet.protocol() == TCP { 20 } else { 8 };
        for len in 0..header {
            let observed = tampered(&mut net, side, &packet, |packet| {
                packet.truncate(20 + len);
                packet[2..4].copy_from_slice(&(20 + len as u16).to_be_bytes());
                fix(packet);
            });
            observed.dropped(DropReason::TransportTruncated);
        }
    }
}

/// RFC 1812 §4.2.2.1, RFC 7126 §4.2: forwards and translates packets with harmless IP options (ports found behind
/// them).
#[test]
fn ip_11_harmless_options() {
    let record_route = [&[7, 39, 4][..], &[0; 36], &[0]].concat();
    let timestamp = [68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let router_alert = vec![148, 4, 0, 0];
    let nothing = vec![1, 1, 1, 0];
    for options in [nothing, router_alert, timestamp, record_route] {
        for protocol in [TCP, UDP] {
            let (mut net, ways) = ways(1, protocol);
            for way in ways {
                let with_options = way.with(|mut packet| {
                    packet.ip.options.clone_from(&options);
                    packet
                });
                with_options.check(&mut net);
            }
        }
    }
}

/// RFC 7126 §4.3-4.4: drops source-routed packets (LSRR, SSRR), so they cannot reach private hosts.
#[test]
fn ip_12_source_route() {
    for kind in [131, 137] {
        for before in [&[][..], &[1], &[148, 4, 0, 0, 1]] {
            let [a, b, c, d] = HOST.octets();
            let mut options = [before, &[kind, 7, 4, a, b, c, d]].concat();
            options.resize(options.len().next_multiple_of(4), 0);
            let (mut net, ways) = ways(1, UDP);
            for mut way in ways {
                way.sent.ip.options.clone_from(&options);
                net.send(way.from, &way.sent).dropped(DropReason::SourceRoute);
            }
        }
    }
}

/// RFC 7126 §4.5-4.6: malformed IP options (length 0, 1, past the header) are dropped and harmless.
#[test]
fn ip_13_malformed_options() {
    for options in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 5, 4, 0], [1, 1, 1, 68], [1, 7, 255, 4]] {
        let (mut net, ways) = ways(1, UDP);
        for way in ways {
            let mut malformed = way.clone();
            malformed.sent.ip.options = options.to_vec();
            net.send(way.from, &malformed.sent).dropped(DropReason::IpOptions);
            way.check(&mut net);
        }
    }
}

/// RFC 2474 §3, RFC 3168 §5.3, RFC 6864 §4.1: keeps DSCP, ECN and DF.
#[test]
fn ip_14_tos_and_df() {
    for protocol in [TCP, UDP] {
        let (mut net, ways) = ways(1, protocol);
        for way in ways {
            for (tos, dont_fragment) in
                [(0xff, true), (0xb8, true), (0x01, false), (0x02, true), (0x03, false)]
            {
                let marked = way.with(|mut packet| {
                    packet.ip.tos = tos;
                    packet.ip.dont_fragment = dont_fragment;
                    packet
                });
                marked.check(&mut net);
            }
        }
    }
}

/// RFC 1624 §3: incremental IP checksum is right at the 0x0000/0xffff edges.
#[test]
fn ip_15_checksum_edges() {
    let (mut net, ways) = ways(1, UDP);
    let checksum = |packet: &Packet| u16::from_be_bytes([packet.encode()[10], packet.encode()[11]]);
    for way in ways {
        let mut edges = 0;
        for id in 0..=u16::MAX {
            let at_edge = |sum: u16| sum.wrapping_add(0x102) <= 0x203;
            let way = way.with(|mut packet| {
                packet.ip.id = id;
                packet.ip.dont_fragment = true;
                packet
            });
            let left = way.becomes.clone().ttl(63);
            if !at_edge(checksum(&way.sent)) && !at_edge(checksum(&left)) {
                continue;
            }
            edges += 1;
            let Observed { frames, .. } = way.check(&mut net);
            assert_eq!(frames[0].1[14..], left.encode(), "to the last bit, of id {id:#06x}");
        }
        assert!(edges > 500, "{edges}");
    }
}

/// RFC 7857 §10, RFC 6864 §5.3.1: two hosts behind one EIP never share an IP ID towards one peer (fragmentable
/// datagrams).
#[test]
fn ip_16_identification() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let mut seen = std::collections::HashSet::new();
        for id in 0..500 {
            for (n, from) in [(HOST, 4000), (OTHER, 4000), (host(1, 9), 5000)].into_iter().enumerate() {
                let mut sent = Packet::udp(from, PEER, b"fragmentable");
                // All hosts count alike.
                sent.ip.id = id;
                let parts = if n == 2 { sent.fragments(8) } else { vec![sent] };
                let ids: Vec<_> = parts.iter().map(|part| out(&mut net, part).ip.id).collect();
                assert!(ids.iter().all(|id| *id == ids[0]), "one datagram, one identification: {ids:?}");
                assert!(seen.insert(ids[0]), "{:#06x} twice, the second time from {from:?}", ids[0]);
            }
        }
    }
    // What may not be fragmented needs no identification, and keeps its own (RFC 6864 §4.1).
    let mut net = TestNet::new(&snat());
    let mut sent = Packet::udp((HOST, 4000), PEER, b"atomic");
    sent.ip.dont_fragment = true;
    assert_eq!(out(&mut net, &sent).ip.id, sent.ip.id);
    let mut tunnel = Packet::other(ONE_TO_ONE, PEER.0, GRE, b"\0\0\x08\0tunnelled");
    tunnel.ip.id = 77;
    let mut net = TestNet::new(&everything());
    assert_eq!(out(&mut net, &tunnel).ip.id, 77, "an EIP of one host is its own");
}
