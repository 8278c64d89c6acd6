//! DNAT entries (RFC 3022 §2): one-to-one EIPs and port mappings.

use natgate::base::DropReason;

use crate::common::*;
use crate::support::packet::{GRE, TCP, UDP};
use crate::support::{Config, Flags, Packet, TestNet};

const CLIENT: Endpoint = (PEER.0, 50_000);

/// A whole connection from a client to a public endpoint that leads to a private one.
fn connection(net: &mut TestNet, client: Endpoint, public: Endpoint, private: Endpoint) {
    for (inward, flags, seq, ack, data) in [
        (true, Flags::SYN, 1000, 0, &b""[..]),
        (false, Flags::SYN_ACK, 7000, 1001, b""),
        (true, Flags::ACK, 1001, 7001, b""),
        (true, Flags(0x18), 1001, 7001, b"GET /"),
        (false, Flags(0x18), 7001, 1006, b"200"),
        (false, Flags::FIN_ACK, 7004, 1006, b""),
        (true, Flags::ACK, 1006, 7005, b"and"),
        (true, Flags::FIN_ACK, 1009, 7005, b""),
        (false, Flags::ACK, 7005, 1010, b""),
    ] {
        if inward {
            let sent = Packet::tcp(client, public, flags, seq, ack).payload(data);
            assert_eq!(into(net, &sent), sent.to(private).ttl(63));
        } else {
            let sent = Packet::tcp(private, client, flags, seq, ack).payload(data);
            became(&out(net, &sent), sent.from(public).ttl(63));
        }
    }
}

/// A protocol without ports passes a one-to-one EIP both ways, with only addresses changed.
fn passes(protocol: u8) {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        let payload: Vec<u8> = (0..100).collect();
        let inbound = Packet::other(CLIENT.0, ANY_EIP, protocol, &payload);
        assert_eq!(into(&mut net, &inbound), inbound.to((ONE_TO_ONE, 0)).ttl(63));
        let outbound = Packet::other(ONE_TO_ONE, CLIENT.0, protocol, &payload);
        assert_eq!(out(&mut net, &outbound), outbound.from((ANY_EIP, 0)).ttl(63));
        // Also begun by the host, to somebody else.
        let outbound = Packet::other(ONE_TO_ONE, PEER_2.0, protocol, &payload);
        assert_eq!(out(&mut net, &outbound), outbound.from((ANY_EIP, 0)).ttl(63));
    }
}

/// RFC 3022 §2.1: one-to-one EIP: inbound UDP reaches the host, port and client address unchanged; reply leaves as
/// the EIP.
#[test]
fn dnat_01_one_to_one_inbound() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        for port in [1, 53, 1024, 40_000, 65_535] {
            let sent = Packet::udp(CLIENT, (ANY_EIP, port), b"query");
            let arrived = into(&mut net, &sent);
            assert_eq!(arrived, sent.clone().to((ONE_TO_ONE, port)).ttl(63));
            let answer = arrived.answer();
            assert_eq!(out(&mut net, &answer), answer.from((ANY_EIP, port)).ttl(63));
        }
    }
}

/// RFC 3022 §2.1: one-to-one EIP: new outbound flows of the host use its EIP and keep their port.
#[test]
fn dnat_02_one_to_one_outbound() {
    for workers in [1, 2, 4] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        for port in [1, 1023, 4000, 4001, 65_535] {
            for peer in [PEER, PEER_2] {
                assert_eq!(mapped(&mut net, (ONE_TO_ONE, port), peer), (ANY_EIP, port));
                let back = into(&mut net, &Packet::udp(peer, (ANY_EIP, port), b"reply"));
                assert_eq!(back.destination(), (ONE_TO_ONE, port));
                assert_eq!(connected(&mut net, (ONE_TO_ONE, port), peer), (ANY_EIP, port));
                let back = into(&mut net, &Packet::tcp(peer, (ANY_EIP, port), Flags::SYN_ACK, 7000, 1001));
                assert_eq!(back.destination(), (ONE_TO_ONE, port));
                let ping = Packet::ping(ONE_TO_ONE, peer.0, port, 1);
                let left = out(&mut net, &ping);
                assert_eq!(left, ping.clone().from((ANY_EIP, port)).ttl(63));
                let back = into(&mut net, &left.answer());
                assert_eq!((back.ip.dst, &back.body), (ONE_TO_ONE, &ping.answer().body));
            }
        }
    }
}

/// RFC 5382 REQ-2: one-to-one EIP: whole inbound TCP connection.
#[test]
fn dnat_03_one_to_one_connection() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        connection(&mut net, CLIENT, (ANY_EIP, 443), (ONE_TO_ONE, 443));
    }
}

/// RFC 3022 §2.2: TCP port mapping: address and port rewritten, client unchanged, whole connection.
#[test]
fn dnat_04_tcp_port() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        connection(&mut net, CLIENT, PUBLIC, SERVICE);
    }
}

/// RFC 3022 §2.2: UDP port mapping: rewritten both ways.
#[test]
fn dnat_05_udp_port() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        let sent = Packet::udp(CLIENT, PUBLIC, b"query");
        let arrived = into(&mut net, &sent);
        assert_eq!(arrived, sent.to(SERVICE).ttl(63));
        let answer = arrived.answer();
        became(&out(&mut net, &answer), answer.from(PUBLIC).ttl(63));
    }
}

/// product: port range mapping: each port goes to its own inside port.
#[test]
fn dnat_06_port_range() {
    for protocol in [TCP, UDP] {
        let config = Config::new().forward(protocol, ("203.0.113.18", 9000), ("10.0.0.4", 7000), 100);
        let mut net = TestNet::with_workers(&config, 2, 1);
        let packet = |port| match protocol {
            TCP => Packet::syn(CLIENT, (PORT_EIP, port)),
            _ => Packet::udp(CLIENT, (PORT_EIP, port), b"data"),
        };
        for offset in 0..100 {
            let arrived = into(&mut net, &packet(9000 + offset));
            assert_eq!(arrived.destination(), (SERVER, 7000 + offset));
            assert_eq!(out(&mut net, &arrived.answer()).source(), (PORT_EIP, 9000 + offset));
        }
        for outside in [8999, 9100] {
            lost(&mut net, OUTSIDE, &packet(outside));
        }
    }
}

/// RFC 3022 §2.2: a port mapping covers only its own protocol and ports.
#[test]
fn dnat_07_only_its_own() {
    let config = Config::new().forward(TCP, ("203.0.113.18", 80), ("10.0.0.4", 8080), 1);
    for workers in [1, 2, 4] {
        let mut net = TestNet::with_workers(&config, workers, 1);
        into(&mut net, &Packet::syn(CLIENT, PUBLIC));
        for packet in [
            Packet::syn(CLIENT, (PORT_EIP, 79)),
            Packet::syn(CLIENT, (PORT_EIP, 81)),
            Packet::syn(CLIENT, (PORT_EIP, 8080)),
            Packet::tcp(CLIENT, (PORT_EIP, 81), Flags::ACK, 1, 1),
            Packet::udp(CLIENT, PUBLIC, b"not TCP"),
            Packet::other(CLIENT.0, PORT_EIP, GRE, b"\0\0\x08\0"),
            Packet::other(CLIENT.0, PORT_EIP, 132, &[0, 80, 0, 80, 0, 0, 0, 0]),
        ] {
            lost(&mut net, OUTSIDE, &packet);
        }
        // A ping is answered by the gateway, not by the host.
        net.send(OUTSIDE, &Packet::ping(CLIENT.0, PORT_EIP, 80, 1)).reply(OUTSIDE);
        // The host's other ports are not the entry's, neither are its datagrams from the same one.
        for packet in [
            Packet::udp(SERVICE, CLIENT, b"not TCP"),
            Packet::syn((SERVER, 8079), CLIENT),
            Packet::syn((SERVER, 8081), CLIENT),
        ] {
            net.send(INSIDE, &packet).dropped(DropReason::NoSnatEntry);
        }
        assert_eq!(out(&mut net, &Packet::tcp(SERVICE, CLIENT, Flags::SYN_ACK, 1, 1)).source(), PUBLIC);
    }
}

/// RFC 3022 §2.2: clients with the same source port stay apart.
#[test]
fn dnat_08_clients_stay_apart() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        for client in [(PEER.0, 50_000), (PEER_2.0, 50_000), (neighbour(), 50_000)] {
            connection(&mut net, client, PUBLIC, SERVICE);
        }
    }
}

/// RFC 3022 §2.2: one client, two EIP ports, one inside port: answers never come from the wrong EIP port.
#[test]
fn dnat_09_two_ports_one_service() {
    let config = Config::new()
        .forward(UDP, ("203.0.113.18", 80), ("10.0.0.4", 8080), 1)
        .forward(UDP, ("203.0.113.18", 81), ("10.0.0.4", 8080), 1)
        .forward(UDP, ("203.0.113.20", 80), ("10.0.0.4", 8080), 1);
    let publics = [PUBLIC, (PORT_EIP, 81), (crate::support::ip("203.0.113.20"), 80)];
    for workers in [1, 2] {
        // Each public port as the one that is used first.
        for first in 0..publics.len() {
            let mut net = TestNet::with_workers(&config, workers, 1);
            for at in 0..publics.len() {
                let public = publics[(first + at) % publics.len()];
                let observed = net.send(OUTSIDE, &Packet::udp(CLIENT, public, b"query"));
                // The host cannot tell the flows apart: what it answers goes to the one that it belongs to, or the second
                // flow does not come about.
                if let [left] = &observed.left[..] {
                    let answer = out(&mut net, &left.packet.answer());
                    assert_eq!((answer.source(), answer.destination()), (public, CLIENT));
                } else {
                    assert_eq!((at > 0, observed.drops.len()), (true, 1), "{observed:?}");
                }
            }
            // Another client is not concerned.
            for (at, public) in publics.into_iter().enumerate() {
                let other = (PEER_2.0, 50_000 + at as u16);
                let arrived = into(&mut net, &Packet::udp(other, public, b"query"));
                assert_eq!(out(&mut net, &arrived.answer()).source(), public);
            }
        }
    }
}

/// RFC 3022 §2.2: a mapped host's own outbound flows use SNAT, not the mapping's EIP port.
#[test]
fn dnat_10_own_flows_use_snat() {
    let mut net = TestNet::with_workers(&everything(), 2, 1);
    for port in [80, 4000, 8079, 8081] {
        assert_eq!(mapped(&mut net, (SERVER, port), PEER).0, POOL);
        assert_eq!(connected(&mut net, (SERVER, port), PEER).0, POOL);
    }
    assert_eq!(out(&mut net, &Packet::ping(SERVER, PEER.0, 8080, 1)).ip.src, POOL);
    // What it says from its service is the service's.
    assert_eq!(mapped(&mut net, SERVICE, PEER), PUBLIC);
}

/// RFC 3022 §2.1: one-to-one EIP passes GRE both ways with only addresses changed.
#[test]
fn dnat_11_gre() {
    passes(GRE);
}

/// RFC 3022 §2.1, RFC 3715: one-to-one EIP passes ESP both ways with only addresses changed.
#[test]
fn dnat_12_esp() {
    passes(50);
}

/// RFC 3022 §2.1: one-to-one EIP passes SCTP (its CRC32c does not cover addresses).
#[test]
fn dnat_13_sctp() {
    passes(132);
}

/// RFC 3022 §2.1: one-to-one EIP passes an unknown protocol.
#[test]
fn dnat_14_unknown_protocol() {
    passes(253);
    let mut net = TestNet::new(&everything());
    net.send(INSIDE, &Packet::other(HOST, PEER.0, 253, b"no")).dropped(DropReason::ProtocolUnsupported);
}
