//! TCP (RFC 5382, RFC 7857).

use std::collections::HashSet;
use std::time::Duration;

use natgate::base::DropReason;
use natgate::nat::SessionState;
use natgate::nat::tcp::TcpState;
use natgate::policy::Filtering;

use crate::common::*;
use crate::support::net::Judge;
use crate::support::packet::{TCP, TIME_EXCEEDED, UNREACHABLE};
use crate::support::{Body, Flags, Packet, TestNet};

/// The states of all TCP sessions.
fn states(net: &TestNet) -> Vec<SessionState> {
    net.sessions().iter().filter(|row| row.protocol == TCP).map(|row| row.state).collect()
}

/// A segment with all that may be in one.
fn rich(mut packet: Packet) -> Packet {
    packet.ip.tos = 0x02;
    let tcp = tcp_mut(&mut packet);
    tcp.flags = Flags(0xf8);
    (tcp.window, tcp.urgent) = (0xfffe, 0x0102);
    // No operation, timestamps, SACK of two blocks.
    tcp.options = [&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 5, 18][..], &[9; 16]].concat();
    packet
}

/// RFC 5382 REQ-2: outbound connection: handshake, data, half-close, close; options and sequence numbers unchanged.
#[test]
fn tcp_01_whole_connection() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let (client, server) = ((HOST, 4000), PEER);
        let mut syn = Packet::syn(client, server);
        // MSS, SACK permitted, timestamps, window scale.
        tcp_mut(&mut syn).options = vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        let left = out(&mut net, &syn);
        let external = left.source();
        became(&left, syn.from(external).ttl(63));
        // Direction, flags, sequence number, acknowledgement, data: the host closes first, and the peer goes on sending.
        for (outward, flags, seq, ack, data) in [
            (false, Flags::SYN_ACK, 7000, 1001, &b""[..]),
            (true, Flags::ACK, 1001, 7001, b""),
            (true, Flags(0x18), 1001, 7001, b"GET /"),
            (false, Flags::ACK, 7001, 1006, b"200"),
            (true, Flags::FIN_ACK, 1006, 7004, b""),
            (false, Flags::ACK, 7004, 1007, b"and more"),
            (true, Flags::ACK, 1007, 7012, b""),
            (false, Flags::FIN_ACK, 7012, 1007, b"last"),
            (true, Flags::ACK, 1007, 7017, b""),
        ] {
            if outward {
                let sent = Packet::tcp(client, server, flags, seq, ack).payload(data);
                became(&out(&mut net, &sent), sent.from(external).ttl(63));
            } else {
                let sent = Packet::tcp(server, external, flags, seq, ack).payload(data);
                assert_eq!(into(&mut net, &sent), sent.to(client).ttl(63));
            }
        }
        assert_eq!(states(&net), [SessionState::Tcp(TcpState::Closed)]);
    }
}

/// RFC 5382 REQ-1: endpoint-independent mapping for TCP.
#[test]
fn tcp_02_endpoint_independent() {
    let mut net = TestNet::new(&snat());
    let external = connected(&mut net, (HOST, 4000), PEER);
    for peer in [(PEER.0, 80), PEER_2, (neighbour(), 443)] {
        assert_eq!(connected(&mut net, (HOST, 4000), peer), external);
    }
}

/// RFC 5382 REQ-1: endpoint-independent mapping for TCP when two hosts use the same source port.
#[test]
fn tcp_03_endpoint_independent_in_a_crowd() {
    let mut net = TestNet::new(&snat());
    let externals = [HOST, OTHER].map(|host| connected(&mut net, (host, 4000), PEER));
    for peer in [PEER_2, (PEER.0, 80)] {
        assert_eq!([HOST, OTHER].map(|host| connected(&mut net, (host, 4000), peer)), externals);
    }
}

/// RFC 5382 REQ-7: no port overloading for TCP.
#[test]
fn tcp_04_no_port_overloading() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let mut seen = HashSet::new();
        for n in 0..200 {
            for peer in [PEER, PEER_2] {
                let external = connected(&mut net, (host(1, n), 4000), peer);
                assert_eq!(seen.insert(external), peer == PEER, "{external:?} has one owner");
            }
        }
    }
}

/// RFC 5382 REQ-2a: simultaneous open.
#[test]
fn tcp_05_simultaneous_open() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let (client, peer) = ((HOST, 4000), PEER);
        let external = connected(&mut net, client, peer);
        into(&mut net, &Packet::tcp(peer, external, Flags::SYN, 7000, 0));
        out(&mut net, &Packet::tcp(client, peer, Flags::SYN_ACK, 1000, 7001));
        into(&mut net, &Packet::tcp(peer, external, Flags::SYN_ACK, 7000, 1001));
        assert_eq!(states(&net), [SessionState::Tcp(TcpState::Established)]);
        out(&mut net, &Packet::tcp(client, peer, Flags::ACK, 1001, 7001).payload(b"both"));
    }
}

/// RFC 5382 REQ-4: an unsolicited SYN gets no answer for 6 seconds, and none at all after a crossing outbound SYN.
#[test]
fn tcp_06_unsolicited_syn() {
    for filtering in [Filtering::EndpointIndependent, Filtering::AddressAndPortDependent] {
        let mut net = TestNet::new(&snat().snat_with(|entry| entry.filtering = filtering));
        let early = Packet::syn(PEER, (POOL, 4000));
        let observed = lost(&mut net, OUTSIDE, &early);
        assert_eq!(observed.drops, [DropReason::UnsolicitedSyn]);
        for _ in 0..7 {
            assert!(net.advance(Duration::from_secs(1)).left.is_empty(), "no answer, not even later");
        }
        lost(&mut net, OUTSIDE, &early);
        // The crossing SYN leaves, and the connection comes about by the peer's next SYN.
        let external = connected(&mut net, (HOST, 4000), PEER);
        assert!(net.advance(Duration::from_secs(7)).left.is_empty());
        into(&mut net, &Packet::syn(PEER, external));
    }
}

/// RFC 7857 §2.2: RST is translated both ways.
#[test]
fn tcp_07_rst_is_translated() {
    for flags in [Flags::RST, Flags::RST_ACK] {
        for at in 0..6 {
            let (mut net, ways) = ways(2, TCP);
            let reset = ways[at].with(|mut packet| {
                tcp_mut(&mut packet).flags = flags;
                packet.payload(b"")
            });
            reset.check(&mut net);
        }
    }
}

/// RFC 5961 §3, RFC 7857 §2.2: a blind RST far outside the window does not kill the connection's mapping.
#[test]
fn tcp_08_blind_rst() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let external = established(&mut net, (HOST, 4000), PEER);
        for far in [0x4000_0000_u32, 0x8000_0000, 0xc000_0000] {
            for (side, from, to, next) in
                [(OUTSIDE, PEER, external, 7001_u32), (INSIDE, (HOST, 4000), PEER, 1001)]
            {
                let blind = Packet::tcp(from, to, Flags::RST, next.wrapping_add(far), 0);
                net.send(side, &blind);
                assert_eq!(states(&net), [SessionState::Tcp(TcpState::Established)], "{blind:?}");
            }
        }
        net.advance(Duration::from_hours(1));
        into(&mut net, &Packet::tcp(PEER, external, Flags::ACK, 7001, 1001).payload(b"an hour later"));
        // One inside the window is believed.
        into(&mut net, &Packet::tcp(PEER, external, Flags::RST, 7014, 0));
        assert_eq!(states(&net), [SessionState::Tcp(TcpState::Reset)]);
    }
}

/// RFC 5382 REQ-10: no ICMP error ends a TCP connection's mapping.
#[test]
fn tcp_09_no_error_ends_a_connection() {
    let (mut net, ways) = ways(1, TCP);
    for pair in ways.chunks(2) {
        let left = pair[0].becomes.clone();
        for (kind, code) in
            [(UNREACHABLE, 0), (UNREACHABLE, 1), (UNREACHABLE, 3), (UNREACHABLE, 13), (TIME_EXCEEDED, 0)]
        {
            net.send(OUTSIDE, &Packet::error(left.ip.dst, kind, code, &left, None)).forwarded(INSIDE);
        }
        assert!(states(&net).iter().all(|state| *state == SessionState::Tcp(TcpState::Established)));
        for way in pair {
            way.check(&mut net);
        }
    }
}

/// RFC 5382 REQ-2: the same 5-tuple can be reopened after a close (TIME_WAIT reuse).
#[test]
fn tcp_10_reopened() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let (client, peer) = ((HOST, 4000), PEER);
        let external = established(&mut net, client, peer);
        out(&mut net, &Packet::tcp(client, peer, Flags::FIN_ACK, 1001, 7001));
        into(&mut net, &Packet::tcp(peer, external, Flags::FIN_ACK, 7001, 1002));
        out(&mut net, &Packet::tcp(client, peer, Flags::ACK, 1002, 7002));
        assert_eq!(states(&net), [SessionState::Tcp(TcpState::Closed)]);
        assert_eq!(established(&mut net, client, peer), external, "the same port");
        assert_eq!(states(&net), [SessionState::Tcp(TcpState::Established)]);
        net.advance(Duration::from_mins(30));
        into(&mut net, &Packet::tcp(peer, external, Flags::ACK, 7001, 1001));
    }
}

/// RFC 1624: TCP checksums right for 300 segments incl. 0x0000/0xffff edges and odd lengths.
#[test]
fn tcp_11_checksums() {
    let (mut net, ways) = ways(2, TCP);
    for n in 0_u16..300 {
        let payload: Vec<u8> = (0..n % 97).map(|at| (at * 31 + n) as u8).collect();
        for way in &ways {
            way.with(|packet| packet.payload(&payload)).check(&mut net);
        }
    }
    // The window moves the checksum over both edges, before and after translation.
    let field = |packet: &Packet| u16::from_be_bytes([packet.encode()[36], packet.encode()[37]]);
    for way in &ways {
        let mut edges = 0;
        for window in 0..=u16::MAX {
            let way = way.with(|mut packet| {
                tcp_mut(&mut packet).window = window;
                packet
            });
            if [&way.sent, &way.becomes].iter().any(|packet| field(packet).wrapping_add(1) <= 1) {
                edges += 1;
                way.check(&mut net);
            }
        }
        assert!(edges >= 2, "{edges}");
    }
}

/// RFC 1624, RFC 3022 §4.1: a corrupt TCP segment is not given a valid checksum.
#[test]
fn tcp_12_corrupt_stays_corrupt() {
    let (mut net, ways) = ways(1, TCP);
    net.judge = Judge::Header;
    for way in ways {
        for at in [20, 23, 25, 30, 33, 35, 36, 37, 40, 43] {
            let observed = tampered(&mut net, way.from, &way.sent, |packet| packet[at] ^= 0x11);
            for (_, frame) in &observed.frames {
                let readable = Packet::decode(&frame[14..]);
                assert!(
                    readable.is_err()
                        || matches!(&readable, Ok(left) if matches!(left.body, Body::Error { .. })),
                    "byte {at} made valid: {readable:?}"
                );
            }
        }
    }
}

/// RFC 3022 §4.1: urgent pointer, window, ECN flags and all options pass unchanged.
#[test]
fn tcp_13_header_unchanged() {
    let (mut net, ways) = ways(2, TCP);
    for way in ways {
        way.with(rich).check(&mut net);
    }
}

/// RFC 5382 REQ-3, RFC 6888 REQ-7: filtering for TCP: a SYN from an unknown peer reaches an open mapping.
#[test]
fn tcp_14_filtering_endpoint_independent() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&snat(), workers, 1);
        let external = established(&mut net, (HOST, 4000), PEER);
        let unknown = Packet::syn(PEER_2, external);
        let arrived = into(&mut net, &unknown);
        assert_eq!(arrived, unknown.to((HOST, 4000)).ttl(63));
        assert_eq!(out(&mut net, &arrived.answer()).source(), external);
    }
}

/// RFC 5382 REQ-3: filtering for TCP is not address-and-port-dependent.
#[test]
fn tcp_15_filtering_not_per_port() {
    for filtering in [Filtering::EndpointIndependent, Filtering::AddressDependent] {
        let mut net = TestNet::new(&snat().snat_with(|entry| entry.filtering = filtering));
        let external = established(&mut net, (HOST, 4000), PEER);
        let arrived = into(&mut net, &Packet::syn((PEER.0, 54), external));
        assert_eq!(arrived.destination(), (HOST, 4000));
    }
}
