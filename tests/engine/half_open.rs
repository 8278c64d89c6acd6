//! Half-open connections are limited and the first to go: a flood of SYN segments, from inside or outside, takes nothing from
//! established connections, and others still get in.

use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::base::DropReason;
use natgate::nat::SessionState;
use natgate::nat::tcp::TcpState;

use crate::support::packet::TCP;
use crate::support::{Config, Flags, Packet, Side, TestNet, ip};

const INSIDE: Side = Side::Vpc(0);
const OUTSIDE: Side = Side::Outside;
const PEER: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 443);
const SESSIONS: usize = 256;

type Endpoint = (Ipv4Addr, u16);

fn config() -> Config {
    Config::new().snat("10.0.0.0/16", &["203.0.113.16"]).forward(
        TCP,
        ("203.0.113.18", 80),
        ("10.0.0.4", 8080),
        1,
    )
}

fn network(workers: u16, config: &Config) -> TestNet {
    TestNet::sized(config, workers, 1, SESSIONS)
}

fn host(x: u8, y: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, x, y)
}

/// Opens a connection by three segments and gives its external endpoint.
#[track_caller]
fn establish(net: &mut TestNet, from: Endpoint) -> Endpoint {
    let syn = net.send(INSIDE, &Packet::syn(from, PEER)).forwarded(OUTSIDE).clone();
    let syn_ack = net.send(OUTSIDE, &syn.answer()).forwarded(INSIDE).clone();
    net.send(INSIDE, &syn_ack.answer()).forwarded(OUTSIDE);
    syn.source()
}

#[track_caller]
fn carries(net: &mut TestNet, from: Endpoint, external: Endpoint) {
    let out = Packet::tcp(from, PEER, Flags::ACK, 1001, 7001).payload(b"out");
    assert_eq!(net.send(INSIDE, &out).forwarded(OUTSIDE).source(), external);
    let back = Packet::tcp(PEER, external, Flags::ACK, 7001, 1004).payload(b"in");
    assert_eq!(net.send(OUTSIDE, &back).forwarded(INSIDE).destination(), from);
}

fn half_open(net: &TestNet) -> usize {
    net.sessions().iter().filter(|row| row.state == SessionState::Tcp(TcpState::Opening)).count()
}

/// Established connections of hosts that spread over all workers.
fn established(net: &mut TestNet, count: u8) -> Vec<(Endpoint, Endpoint)> {
    (0..count)
        .map(|n| {
            let from = (host(1, n), 4000);
            (from, establish(net, from))
        })
        .collect()
}

#[test]
fn a_flood_from_inside_harms_no_established_connection_and_lets_new_ones_in() {
    for workers in [1, 2] {
        let mut net = network(workers, &config());
        let connections = established(&mut net, 60);
        for n in 0..2000u16 {
            let from = (host(2, (n % 7) as u8), 10_000 + n);
            net.send(INSIDE, &Packet::syn(from, PEER)).forwarded(OUTSIDE);
            assert!(half_open(&net) <= usize::from(workers) * SESSIONS / 2);
            if n % 100 == 0 {
                // Somebody who answers at once gets in at any time.
                establish(&mut net, (host(3, (n / 100) as u8), 5000));
            }
        }
        for (from, external) in connections {
            carries(&mut net, from, external);
        }
    }
}

#[test]
fn a_full_table_gives_up_the_half_open_connection_that_waits_longest() {
    let mut net = network(1, &config());
    let connections = established(&mut net, 200);
    let waiting: Vec<_> = (0..56u16).map(|n| (host(2, 1), 10_000 + n)).collect();
    for from in &waiting {
        net.send(INSIDE, &Packet::syn(*from, PEER)).forwarded(OUTSIDE);
    }
    assert_eq!(net.sessions().len(), SESSIONS);
    // One a new session of any protocol, the oldest first.
    for gone in 1..=56 {
        net.send(INSIDE, &Packet::udp((host(4, 1), 1000 + gone as u16), PEER, b"new")).forwarded(OUTSIDE);
        let mut left: Vec<_> = net.sessions().iter().map(|row| row.inside).collect();
        left.retain(|inside| inside.0 == u32::from(host(2, 1)));
        left.sort_unstable();
        let expected: Vec<_> = waiting[gone..].iter().map(|(host, port)| (u32::from(*host), *port)).collect();
        assert_eq!(left, expected);
    }
    // Established ones never go: now the table is full.
    net.send(INSIDE, &Packet::udp((host(4, 1), 2000), PEER, b"late"));
    assert_eq!(net.totals().drops[DropReason::SessionTableFull as usize], 1);
    for (from, external) in connections {
        carries(&mut net, from, external);
    }
}

#[test]
fn a_host_at_its_quota_gives_up_its_own_half_open_connection_for_a_new_one() {
    let mut net = network(1, &config().snat_with(|entry| entry.host_quota = 4));
    let flooding = host(2, 1);
    let other = (host(2, 2), 4000);
    net.send(INSIDE, &Packet::syn(other, PEER)).forwarded(OUTSIDE);
    let kept = (flooding, 4000);
    let external = establish(&mut net, kept);
    for n in 0..50 {
        net.send(INSIDE, &Packet::syn((flooding, 10_000 + n), PEER)).forwarded(OUTSIDE);
    }
    assert_eq!(net.sessions().len(), 5, "four of its own, and that of the other host");
    carries(&mut net, kept, external);
    // Not for what is no connection.
    net.send(INSIDE, &Packet::udp((flooding, 1), PEER, b"?"));
    assert_eq!(net.totals().drops[DropReason::HostQuota as usize], 1);
    // Where all are established none goes.
    for n in 0..3 {
        establish(&mut net, (flooding, 20_000 + n));
    }
    net.send(INSIDE, &Packet::syn((flooding, 30_000), PEER));
    assert_eq!(net.totals().drops[DropReason::HostQuota as usize], 2);
    carries(&mut net, kept, external);
}

#[test]
fn a_flood_from_outside_takes_no_room_from_others_and_is_translated() {
    let mut net = network(1, &config());
    let connections = established(&mut net, 60);
    for n in 0..1000u16 {
        let from = (Ipv4Addr::from(0xc633_6401 + u32::from(n)), 40_000);
        let arrived =
            net.send(OUTSIDE, &Packet::syn(from, (ip("203.0.113.18"), 80))).forwarded(INSIDE).clone();
        assert_eq!(arrived.destination(), (ip("10.0.0.4"), 8080));
    }
    assert_eq!(half_open(&net), SESSIONS / 2);
    // Clients behind the flood are served, and private hosts still get out.
    let client = (ip("198.51.100.200"), 50_000);
    let syn = net.send(OUTSIDE, &Packet::syn(client, (ip("203.0.113.18"), 80))).forwarded(INSIDE).clone();
    let syn_ack = net.send(INSIDE, &syn.answer()).forwarded(OUTSIDE).clone();
    net.send(OUTSIDE, &syn_ack.answer()).forwarded(INSIDE);
    for n in 0..100 {
        establish(&mut net, (host(3, n), 5000));
    }
    for (from, external) in connections {
        carries(&mut net, from, external);
    }
}

/// A reset does not save a half-open connection from being the first to go.
#[test]
fn a_flood_of_resets_is_no_way_around() {
    let mut net = network(1, &config());
    for n in 0..1000u16 {
        let from = (host(2, 1), 10_000 + n);
        net.send(INSIDE, &Packet::syn(from, PEER)).forwarded(OUTSIDE);
        net.send(INSIDE, &Packet::tcp(from, PEER, Flags::RST, 1001, 0)).forwarded(OUTSIDE);
    }
    assert!(net.sessions().len() <= SESSIONS / 2);
    establish(&mut net, (host(3, 1), 5000));
}

/// What the peer sends to a port mapping without any connection is translated, and makes sessions only within the share of half-open
/// ones, for the transitory time.
#[test]
fn a_flood_of_segments_without_a_connection_is_one_of_half_open_ones() {
    for flags in [Flags::ACK, Flags::FIN_ACK, Flags::SYN_ACK, Flags(0)] {
        let mut net = network(1, &config());
        let connections = established(&mut net, 60);
        for n in 0..1000u16 {
            let from = (Ipv4Addr::from(0xc633_6401 + u32::from(n)), 40_000);
            // Twice, so that nobody takes the second for an answer.
            for _ in 0..2 {
                let stray = Packet::tcp(from, (ip("203.0.113.18"), 80), flags, 1, 1);
                net.send(OUTSIDE, &stray).forwarded(INSIDE);
            }
        }
        assert_eq!(half_open(&net), SESSIONS / 2, "{flags:?}");
        let longest = net.sessions().iter().filter(|row| !row.kind.is_snat()).map(|row| row.expires).max();
        assert!(longest <= Some(240 * 10), "four minutes in ticks: {longest:?}");
        for n in 0..100 {
            establish(&mut net, (host(3, n), 5000));
        }
        for (from, external) in connections {
            carries(&mut net, from, external);
        }
    }
}

/// As after a restart of the gateway: a connection through a DNAT entry goes on, and is established again as soon as the private host
/// says something, also where another worker sees what the peer says.
#[test]
fn a_connection_met_in_its_middle_is_established_by_the_private_host() {
    let client = (ip("198.51.100.200"), 50_000);
    let to_server = Packet::tcp(client, (ip("203.0.113.18"), 80), Flags::ACK, 1, 1);
    let to_client = Packet::tcp((ip("10.0.0.4"), 8080), client, Flags::ACK, 1, 1);
    for order in [[true, false], [false, true]] {
        for workers in [1, 2] {
            let mut net = network(workers, &config());
            for from_client in order {
                let (side, packet) = if from_client { (OUTSIDE, &to_server) } else { (INSIDE, &to_client) };
                let frame = net.frame_of(side, packet);
                let port = net.config().link(side).port;
                let worker = usize::from(from_client) % usize::from(workers);
                assert_eq!(net.inject_at(worker, port, &frame).left.len(), 1);
            }
            let states: Vec<_> = net.sessions().iter().map(|row| row.state).collect();
            assert!(states.contains(&SessionState::Tcp(TcpState::Established)), "{states:?}");
        }
    }
}

/// The handshake of a DNAT flow whose directions come to different workers: that which sees the private host knows that it is
/// complete.
#[test]
fn a_handshake_over_two_workers_completes() {
    let mut net = network(2, &config());
    let client = (ip("198.51.100.200"), 50_000);
    let mut at = |worker, side, packet: &Packet| {
        let frame = net.frame_of(side, packet);
        let port = net.config().link(side).port;
        let observed = net.inject_at(worker, port, &frame);
        let states =
            net.sessions().iter().filter(|row| row.worker.index() == 0).map(|row| row.state).collect();
        (observed.one().packet.clone(), states)
    };
    let mut states: Vec<SessionState>;
    let (syn, _) = at(1, OUTSIDE, &Packet::syn(client, (ip("203.0.113.18"), 80)));
    let (syn_ack, _) = at(0, INSIDE, &syn.answer());
    let (ack, ..) = at(1, OUTSIDE, &syn_ack.answer());
    (_, states) = at(0, INSIDE, &syn.answer());
    assert_eq!(states, [SessionState::Tcp(TcpState::Opening)], "the SYN-ACK again");
    (_, states) = at(0, INSIDE, &ack.answer());
    assert_eq!(states, [SessionState::Tcp(TcpState::Established)]);

    // The other one never knows, and forgets it after the transitory timeout; what comes then passes all the same.
    let of_client = |net: &TestNet| net.sessions().iter().filter(|row| row.worker.index() == 1).count();
    assert_eq!(of_client(&net), 1);
    assert!(net.advance(Duration::from_mins(5)).left.is_empty(), "nobody is told");
    assert_eq!(of_client(&net), 0);
    let data = Packet::tcp(client, (ip("203.0.113.18"), 80), Flags::ACK, 1, 1).payload(b"after five minutes");
    let frame = net.frame_of(OUTSIDE, &data);
    let arrived = net.inject_at(1, 0, &frame).forwarded(INSIDE).clone();
    let frame = net.frame_of(INSIDE, &arrived.answer());
    assert_eq!(net.inject_at(0, 1, &frame).forwarded(OUTSIDE).source(), (ip("203.0.113.18"), 80));
}
