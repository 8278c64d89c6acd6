//! Clamping the segment size of TCP connections (`tcp_mss` of an outside interface): in SYN segments of both directions and of
//! every kind of flow, never enlarged, and nothing else is changed.

use std::net::Ipv4Addr;

use crate::support::packet::TCP;
use crate::support::{Body, Config, Flags, Packet, Side, TestNet, ip};

const INSIDE: Side = Side::Vpc(0);
const OUTSIDE: Side = Side::Outside;
const PEER: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 443);

fn config(tcp_mss: Option<u16>) -> Config {
    let config = Config::new()
        .snat("10.0.0.0/16", &["203.0.113.16"])
        .any_port("203.0.113.17", "10.0.0.3")
        .forward(TCP, ("203.0.113.18", 80), ("10.0.0.4", 8080), 1);
    Config { tcp_mss, ..config }
}

/// The packet with this segment size among its options.
fn announcing(mut packet: Packet, size: u16) -> Packet {
    let Body::Tcp(tcp) = &mut packet.body else { panic!("no TCP: {packet:?}") };
    let [high, low] = size.to_be_bytes();
    // Window scale first, so that the value lies across two words.
    tcp.options = vec![3, 3, 7, 2, 4, high, low, 1];
    packet
}

/// The segment size that a packet announces. The network has checked its checksum.
fn announced(packet: &Packet) -> u16 {
    let Body::Tcp(tcp) = &packet.body else { panic!("no TCP: {packet:?}") };
    assert_eq!([&tcp.options[..5], &tcp.options[7..]].concat(), [3, 3, 7, 2, 4, 1], "{packet:?}");
    u16::from_be_bytes([tcp.options[5], tcp.options[6]])
}

/// Opens a connection of each kind, both hosts announcing `size`, and gives what each host hears.
fn handshakes(net: &mut TestNet, size: u16) -> Vec<u16> {
    let mut heard = vec![];
    for (from, to, side) in [
        ((ip("10.0.0.2"), 4000), PEER, INSIDE),
        ((ip("10.0.0.3"), 4000), PEER, INSIDE),
        (PEER, (ip("203.0.113.17"), 80), OUTSIDE),
        (PEER, (ip("203.0.113.18"), 80), OUTSIDE),
    ] {
        let other = if side == INSIDE { OUTSIDE } else { INSIDE };
        let syn = net.send(side, &announcing(Packet::syn(from, to), size)).forwarded(other).clone();
        let syn_ack = net.send(other, &announcing(syn.answer(), size)).forwarded(side).clone();
        heard.extend([announced(&syn), announced(&syn_ack)]);
    }
    heard
}

#[test]
fn both_hosts_of_every_connection_hear_the_smaller_size() {
    for workers in [1, 2] {
        for (clamp, size, becomes) in [
            (None, 1460, 1460),
            (Some(1300), 1460, 1300),
            (Some(1300), 1300, 1300),
            // Never enlarged.
            (Some(1300), 900, 900),
            (Some(1300), 0, 0),
            // No more than the MTU has room for.
            (Some(u16::MAX), 8960, 1460),
            (Some(u16::MAX), 1200, 1200),
        ] {
            let mut net = TestNet::with_workers(&config(clamp), workers, 1);
            assert_eq!(handshakes(&mut net, size), [becomes; 8], "{clamp:?}");
        }
    }
}

#[test]
fn the_narrower_side_decides() {
    for narrow in [OUTSIDE, INSIDE] {
        let mut config = config(Some(u16::MAX));
        match narrow {
            OUTSIDE => config.outside.mtu = 1400,
            Side::Vpc(vpc) => config.vpcs[vpc].link.mtu = 1400,
        }
        let mut net = TestNet::new(&config);
        assert_eq!(handshakes(&mut net, 1460), [1360; 8]);
    }
}

#[test]
fn only_syn_segments_are_touched_and_hairpinned_ones_not() {
    let mut net = TestNet::new(&config(Some(1300)));
    let client = (ip("10.0.0.2"), 4000);
    net.send(INSIDE, &Packet::syn(client, PEER)).forwarded(OUTSIDE);
    let segment = announcing(Packet::tcp(client, PEER, Flags::ACK, 1001, 7001), 1460);
    assert_eq!(announced(net.send(INSIDE, &segment).forwarded(OUTSIDE)), 1460);
    let around = announcing(Packet::syn(client, (ip("203.0.113.18"), 80)), 1460);
    assert_eq!(announced(net.send(INSIDE, &around).forwarded(INSIDE)), 1460);
}
