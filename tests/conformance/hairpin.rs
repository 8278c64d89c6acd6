//! Hairpinning (RFC 4787 REQ-9): private hosts that meet at public addresses.

use crate::common::*;
use crate::support::packet::{TIME_EXCEEDED, UNREACHABLE};
use crate::support::{Flags, Packet, Quote, TestNet};

/// With one worker and with two, at any of which any of the packets may arrive.
fn networks() -> impl Iterator<Item = TestNet> {
    [(1, 1), (2, 1), (2, 2), (2, 3)]
        .into_iter()
        .map(|(workers, seed)| TestNet::with_workers(&everything(), workers, seed))
}

/// A datagram there and its answer back, each showing the other's external endpoint.
#[track_caller]
fn there_and_back(net: &mut TestNet, from: Endpoint, public: Endpoint, private: Endpoint) -> Endpoint {
    let there = around(net, &Packet::udp(from, public, b"there"));
    assert_eq!(there.destination(), private);
    let external = there.source();
    let back = around(net, &there.answer());
    assert_eq!((back.source(), back.destination()), (public, from));
    external
}

/// RFC 4787 REQ-9, 9a: UDP hairpin to another inside host's dynamic mapping, external source shown.
#[test]
fn hair_01_udp_to_dynamic_mapping() {
    for mut net in networks() {
        let [a, b] = [(HOST, 4000), (OTHER, 5000)];
        let externals = [a, b].map(|from| mapped(&mut net, from, PEER));
        assert_eq!(there_and_back(&mut net, a, externals[1], b), externals[0]);
        assert_eq!(there_and_back(&mut net, b, externals[0], a), externals[1]);
    }
}

/// RFC 4787 REQ-9, 9a: UDP hairpin to a port mapping, external source shown; answer returns.
#[test]
fn hair_02_udp_to_port_mapping() {
    for mut net in networks() {
        let external = there_and_back(&mut net, (HOST, 4000), PUBLIC, SERVICE);
        assert_eq!(external.0, POOL);
        assert_eq!(mapped(&mut net, (HOST, 4000), PEER), external, "as the rest of the world sees it");
    }
}

/// RFC 5382 REQ-8, 8a: TCP hairpin to a port mapping: whole handshake and data.
#[test]
fn hair_03_tcp_to_port_mapping() {
    for mut net in networks() {
        let client = (HOST, 4000);
        let syn = around(&mut net, &Packet::syn(client, PUBLIC));
        let external = syn.source();
        assert_eq!((external.0, syn.destination()), (POOL, SERVICE));
        for (outward, flags, seq, ack, data) in [
            (false, Flags::SYN_ACK, 7000, 1001, &b""[..]),
            (true, Flags::ACK, 1001, 7001, b""),
            (true, Flags(0x18), 1001, 7001, b"GET /"),
            (false, Flags(0x18), 7001, 1006, b"200"),
            (true, Flags::FIN_ACK, 1006, 7004, b""),
            (false, Flags::FIN_ACK, 7004, 1007, b""),
            (true, Flags::ACK, 1007, 7005, b""),
        ] {
            let (sent, expected) = if outward {
                let sent = Packet::tcp(client, PUBLIC, flags, seq, ack).payload(data);
                (sent.clone(), sent.from(external).to(SERVICE))
            } else {
                let sent = Packet::tcp(SERVICE, external, flags, seq, ack).payload(data);
                (sent.clone(), sent.from(PUBLIC).to(client))
            };
            let left = around(&mut net, &sent);
            let ip = crate::support::Ip { id: left.ip.id, ttl: 63, ..expected.ip.clone() };
            assert_eq!(left, Packet { ip, body: expected.body });
        }
    }
}

/// RFC 4787 REQ-9: UDP hairpin to a one-to-one EIP.
#[test]
fn hair_04_udp_to_one_to_one() {
    for mut net in networks() {
        let external = there_and_back(&mut net, (HOST, 4000), (ANY_EIP, 7), (ONE_TO_ONE, 7));
        assert_eq!(external.0, POOL);
    }
}

/// RFC 4787 REQ-9: a host reaches itself through its own port mapping.
#[test]
fn hair_05_to_itself() {
    for mut net in networks() {
        there_and_back(&mut net, (SERVER, 4000), PUBLIC, SERVICE);
        let syn = around(&mut net, &Packet::syn((SERVER, 4000), PUBLIC));
        let syn_ack = around(&mut net, &syn.answer());
        assert_eq!((syn_ack.source(), syn_ack.destination()), (PUBLIC, (SERVER, 4000)));
    }
}

/// RFC 5508 REQ-7: ICMP echo hairpins to a one-to-one EIP and back.
#[test]
fn hair_06_echo_to_one_to_one() {
    for mut net in networks() {
        for seq in 1..4 {
            let there = around(&mut net, &Packet::ping(HOST, ANY_EIP, 77, seq));
            assert_eq!((there.ip.src, there.ip.dst), (POOL, ONE_TO_ONE));
            let back = around(&mut net, &there.answer());
            let mut expected = Packet::pong(ANY_EIP, HOST, 77, seq).ttl(63);
            expected.ip.id = back.ip.id;
            assert_eq!(back, expected);
        }
    }
}

/// RFC 5508 REQ-7, 7a: a hairpinned ICMP error reaches the sender with its own view quoted.
#[test]
fn hair_07_icmp_error() {
    for mut net in networks() {
        for (public, private) in [(PUBLIC, SERVICE), ((ANY_EIP, 7), (ONE_TO_ONE, 7))] {
            let sent = Packet::udp((HOST, 4000), public, b"is it there?");
            let there = around(&mut net, &sent);
            for (kind, code) in [(UNREACHABLE, 3), (TIME_EXCEEDED, 1)] {
                let error = around(&mut net, &Packet::error(private.0, kind, code, &there, None));
                assert_eq!((error.ip.src, error.ip.dst), (public.0, HOST), "from where it was sent to");
                let (what, quote) = quoted(&error);
                // As it was when it arrived: one hop older than it was sent.
                let mut view = sent.clone().ttl(63);
                view.ip.id = quote.ip.id;
                assert_eq!((what, quote), ((kind, code), &Quote::of(&view, None)));
            }
        }
    }
}

/// RFC 4787 REQ-9, RFC 3022: a one-to-one host that hairpins to a port mapping shows its own EIP.
#[test]
fn hair_08_one_to_one_to_port_mapping() {
    for mut net in networks() {
        let external = there_and_back(&mut net, (ONE_TO_ONE, 4000), PUBLIC, SERVICE);
        assert_eq!(external, (ANY_EIP, 4000));
    }
}
