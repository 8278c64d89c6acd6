//! Several DNAT entries that lead to one private endpoint, and one peer that speaks to it by more than one of them from the
//! same port. On the inside the flows look the same; an answer never leaves from the external endpoint of the other (RFC 3022 §2.2).

use natgate::base::DropReason;

use crate::support::packet::TCP;
use crate::support::{Config, Flags, Packet, Side, TestNet, ip};

const INSIDE: Side = Side::Vpc(0);
const HOST: &str = "10.0.0.20";
const BY_PORT: (&str, u16) = ("203.0.113.16", 8081);
const BY_OTHER_PORT: (&str, u16) = ("203.0.113.18", 8082);
const BY_ADDRESS: (&str, u16) = ("203.0.113.17", 80);

fn network(workers: u16) -> TestNet {
    let config = Config::new()
        .forward(TCP, BY_PORT, (HOST, 80), 1)
        .forward(TCP, BY_OTHER_PORT, (HOST, 80), 1)
        .any_port(BY_ADDRESS.0, HOST);
    TestNet::with_workers(&config, workers, 7)
}

fn endpoint((address, port): (&str, u16)) -> (std::net::Ipv4Addr, u16) {
    (ip(address), port)
}

/// Opens a connection by one entry and checks that the answer leaves from there.
fn open(net: &mut TestNet, client: (std::net::Ipv4Addr, u16), by: (&str, u16)) {
    let syn = Packet::syn(client, endpoint(by));
    let inside = net.send(Side::Outside, &syn).forwarded(INSIDE).clone();
    assert_eq!(inside.destination(), (ip(HOST), 80));
    let flags = Flags::SYN_ACK;
    let answer = Packet::tcp(inside.destination(), client, flags, 5, 1);
    let out = net.send(INSIDE, &answer).forwarded(Side::Outside).clone();
    assert_eq!(out.source(), endpoint(by), "answered from another entry's endpoint");
}

#[test]
fn the_second_flow_waits_for_the_end_of_the_first() {
    for workers in [1, 2] {
        let mut net = network(workers);
        for (n, (first, second)) in [
            (BY_PORT, BY_OTHER_PORT),
            (BY_OTHER_PORT, BY_PORT),
            (BY_PORT, BY_ADDRESS),
            (BY_ADDRESS, BY_OTHER_PORT),
        ]
        .into_iter()
        .enumerate()
        {
            let client = (ip("198.51.100.7"), 40_000 + n as u16);
            open(&mut net, client, first);
            // Not while the first is open: neither a new connection nor data.
            net.send(Side::Outside, &Packet::syn(client, endpoint(second))).dropped(DropReason::FlowConflict);
            let data = Packet::tcp(client, endpoint(second), Flags::ACK, 1, 6);
            net.send(Side::Outside, &data).dropped(DropReason::FlowConflict);
            open(&mut net, client, first);
            // Half closed is still open.
            let close = |from, to| Packet::tcp(from, to, Flags::FIN_ACK, 2, 7);
            net.send(INSIDE, &close((ip(HOST), 80), client)).forwarded(Side::Outside);
            net.send(Side::Outside, &Packet::syn(client, endpoint(second))).dropped(DropReason::FlowConflict);
            net.send(Side::Outside, &close(client, endpoint(first))).forwarded(INSIDE);
            // Then the port serves another connection at once.
            open(&mut net, client, second);
            net.send(Side::Outside, &Packet::syn(client, endpoint(first))).dropped(DropReason::FlowConflict);
        }
    }
}

#[test]
fn datagrams_wait_for_the_first_flow_to_expire() {
    let mut net = network(1);
    let client = (ip("198.51.100.7"), 40_000);
    let config = net.config().clone().eip("203.0.113.19").any_port("203.0.113.19", HOST);
    net.reload(&config);
    let (first, second) = ((ip(BY_ADDRESS.0), 53), (ip("203.0.113.19"), 53));
    net.send(Side::Outside, &Packet::udp(client, first, b"first")).forwarded(INSIDE);
    net.send(Side::Outside, &Packet::udp(client, second, b"second")).dropped(DropReason::FlowConflict);
    let answer = Packet::udp((ip(HOST), 53), client, b"answer");
    assert_eq!(net.send(INSIDE, &answer).forwarded(Side::Outside).source(), first);
    net.advance(std::time::Duration::from_mins(6));
    net.idle(16);
    net.send(Side::Outside, &Packet::udp(client, second, b"second")).forwarded(INSIDE);
    assert_eq!(net.send(INSIDE, &answer).forwarded(Side::Outside).source(), second);
}

/// An entry that is gone leaves nothing behind that could be in the way.
#[test]
fn a_flow_of_a_removed_entry_makes_room() {
    let mut net = network(1);
    let client = (ip("198.51.100.7"), 40_000);
    open(&mut net, client, BY_PORT);
    let config = Config::new().forward(TCP, BY_OTHER_PORT, (HOST, 80), 1);
    net.reload(&config);
    open(&mut net, client, BY_OTHER_PORT);
}
