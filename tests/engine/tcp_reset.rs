//! Resets to both hosts of an established connection that expires (`tcp_reset`): believed by both, and sent only where asked for.

use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::policy::Timeouts;

use crate::support::net::{Left, Observed};
use crate::support::packet::{TCP, Tcp};
use crate::support::{Body, Config, Flags, Packet, Side, TestNet, ip};

const INSIDE: Side = Side::Vpc(0);
const OUTSIDE: Side = Side::Outside;
const HOST: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 2), 4000);
const PEER: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 443);
const PUBLIC: (Ipv4Addr, u16) = (Ipv4Addr::new(203, 0, 113, 18), 80);
const SERVICE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 4), 8080);

/// A reset: on which side, from where to where, and its sequence number.
type Reset = (Side, (Ipv4Addr, u16), (Ipv4Addr, u16), u32);

fn config(tcp_reset: bool) -> Config {
    let mut config = Config::new().snat("10.0.0.0/16", &["203.0.113.16"]).forward(
        TCP,
        ("203.0.113.18", 80),
        ("10.0.0.4", 8080),
        1,
    );
    let timeouts = Timeouts { tcp_reset, ..Timeouts::RFC };
    config.snat[0].timeouts = timeouts;
    config.dnat[0].timeouts = timeouts;
    config
}

/// Three segments and some data, so that both hosts have acknowledged something.
fn connect(net: &mut TestNet, side: Side, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Packet {
    let other = if side == INSIDE { OUTSIDE } else { INSIDE };
    let syn = net.send(side, &Packet::syn(from, to)).forwarded(other).clone();
    let syn_ack = net.send(other, &syn.answer()).forwarded(side).clone();
    net.send(side, &syn_ack.answer()).forwarded(other);
    net.send(side, &Packet::tcp(from, to, Flags::ACK, 1001, 7001).payload(b"12345")).forwarded(other);
    let data = Packet::tcp(syn.destination(), syn.source(), Flags::ACK, 7001, 1006).payload(b"123");
    net.send(other, &data).forwarded(side);
    net.send(side, &Packet::tcp(from, to, Flags::ACK, 1006, 7004)).forwarded(other);
    syn
}

/// All resets of a step: on which side, from where to where, and with which sequence number.
fn resets(observed: &Observed) -> Vec<Reset> {
    let read = |left: &Left| match &left.packet.body {
        Body::Tcp(Tcp { flags: Flags::RST | Flags::RST_ACK, seq, .. }) if !left.forwarded => {
            Some((left.side, left.packet.source(), left.packet.destination(), *seq))
        }
        _ => None,
    };
    observed.left.iter().filter_map(read).collect()
}

fn over_the_timeout(net: &mut TestNet) -> Vec<Reset> {
    let before = net.advance(Duration::from_mins(123));
    assert!(resets(&before).is_empty(), "too early");
    let mut seen = vec![];
    for _ in 0..120 {
        seen.extend(resets(&net.advance(Duration::from_secs(1))));
    }
    assert!(net.sessions().is_empty());
    seen.sort_unstable_by_key(|(_, source, destination, _)| (*source, *destination));
    seen
}

#[test]
fn both_hosts_of_a_snat_connection_are_told() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&config(true), workers, 1);
        let external = connect(&mut net, INSIDE, HOST, PEER).source();
        assert_eq!(
            over_the_timeout(&mut net),
            [(INSIDE, PEER, HOST, 7004), (OUTSIDE, external, PEER, 1006)],
            "each with the number that its receiver expects next"
        );
    }
}

#[test]
fn both_hosts_of_a_dnat_connection_are_told() {
    let mut net = TestNet::new(&config(true));
    let client = (PEER.0, 50_000);
    connect(&mut net, OUTSIDE, client, PUBLIC);
    assert_eq!(
        over_the_timeout(&mut net),
        [(INSIDE, client, SERVICE, 1006), (OUTSIDE, PUBLIC, client, 7004)]
    );
}

#[test]
fn nobody_is_told_without_the_option_or_of_what_is_not_established() {
    let mut net = TestNet::new(&config(false));
    connect(&mut net, INSIDE, HOST, PEER);
    assert_eq!(over_the_timeout(&mut net), []);
    // Half open, closed, and no TCP at all.
    let mut net = TestNet::new(&config(true));
    net.send(INSIDE, &Packet::syn(HOST, PEER)).forwarded(OUTSIDE);
    net.send(INSIDE, &Packet::udp(HOST, PEER, b"?")).forwarded(OUTSIDE);
    let other = (ip("10.0.0.7"), 4001);
    let external = connect(&mut net, INSIDE, other, PEER).source();
    net.send(INSIDE, &Packet::tcp(other, PEER, Flags::FIN_ACK, 1006, 7004)).forwarded(OUTSIDE);
    net.send(OUTSIDE, &Packet::tcp(PEER, external, Flags::FIN_ACK, 7004, 1007)).forwarded(INSIDE);
    assert_eq!(over_the_timeout(&mut net), []);
}

#[test]
fn hairpinned_connections_tell_the_two_private_hosts() {
    let mut net = TestNet::new(&config(true));
    let syn = net.send(INSIDE, &Packet::syn(HOST, PUBLIC)).forwarded(INSIDE).clone();
    let syn_ack = net.send(INSIDE, &syn.answer()).forwarded(INSIDE).clone();
    net.send(INSIDE, &syn_ack.answer()).forwarded(INSIDE);
    let seen = over_the_timeout(&mut net);
    let ends: Vec<_> =
        seen.iter().map(|(side, source, destination, _)| (*side, *source, *destination)).collect();
    assert_eq!(ends, [(INSIDE, syn.source(), SERVICE), (INSIDE, PUBLIC, HOST)]);
}
