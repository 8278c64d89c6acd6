//! Bandwidth limits of EIPs: over all workers together, in each direction, for every way that a packet can go.

mod support;

use std::time::Duration;

use natgate::base::DropReason;

use self::support::packet::UDP;
use self::support::{Config, Packet, Side, TestNet, ip};

const INSIDE: Side = Side::Vpc(0);
const LIMIT: u64 = 8_000_000;
const LIMITED: &str = "203.0.113.16";
const OTHER: &str = "203.0.113.17";

fn network(workers: u16) -> TestNet {
    let mut config = Config::new()
        .forward(UDP, (LIMITED, 53), ("10.0.0.20", 53), 1)
        .any_port(OTHER, "10.0.0.30")
        .snat("10.0.0.0/16", &[LIMITED]);
    for eip in &mut config.eips {
        eip.bandwidth = (eip.address == ip(LIMITED)).then_some(LIMIT);
    }
    TestNet::with_workers(&config, workers, 3)
}

/// Bytes of IP packets that leave in five seconds, of four times the limit that come.
fn passed(net: &mut TestNet, side: Side, packets: &[Packet]) -> u64 {
    let mut passed = 0;
    let bytes: u64 = packets.iter().map(bytes).sum();
    let gap = Duration::from_nanos(bytes * 8 * 1_000_000_000 / (4 * LIMIT));
    let end = net.now + Duration::from_secs(5);
    while net.now < end {
        for packet in packets {
            let observed = net.send(side, packet);
            passed += observed.left.iter().map(|left| self::bytes(&left.packet)).sum::<u64>();
            assert!(observed.drops.iter().all(|reason| *reason == DropReason::Bandwidth), "{observed:?}");
        }
        net.now = net.now + gap;
    }
    passed
}

/// Of an IP packet with UDP.
fn bytes(packet: &Packet) -> u64 {
    let support::Body::Udp { payload, .. } = &packet.body else { panic!("{packet:?}") };
    28 + payload.len() as u64
}

#[track_caller]
fn assert_limited(passed: u64) {
    let rated = LIMIT as f64 / 8.0 * 5.0;
    // One burst more: 0.1 s of the rate.
    assert!((rated..rated * 1.05).contains(&(passed as f64)), "{passed} bytes, {rated} at the limit");
}

#[test]
fn a_limit_holds_in_each_direction_over_all_workers() {
    for workers in [1, 2, 4] {
        let mut net = network(workers);
        let peer = (ip("198.51.100.7"), 9);
        let out: Vec<_> = (0..16u8)
            .map(|host| Packet::udp((std::net::Ipv4Addr::new(10, 0, 1, host), 4000), peer, &[0; 972]))
            .collect();
        assert_limited(passed(&mut net, INSIDE, &out));
        let incoming: Vec<_> = (0..16)
            .map(|port| Packet::udp((ip("198.51.100.7"), 5000 + port), (ip(LIMITED), 53), &[0; 972]))
            .collect();
        assert_limited(passed(&mut net, Side::Outside, &incoming));
    }
}

#[test]
fn others_are_not_limited_and_a_limit_can_go() {
    let mut net = network(2);
    let free = Packet::udp((ip("10.0.0.30"), 4000), (ip("198.51.100.7"), 9), &[0; 972]);
    for _ in 0..1000 {
        net.send(INSIDE, &free).forwarded(Side::Outside);
    }
    let limited = Packet::udp((ip("10.0.0.31"), 4000), (ip("198.51.100.7"), 9), &[0; 972]);
    let mut dropped = 0;
    for _ in 0..1000 {
        dropped += net.send(INSIDE, &limited).drops.len();
    }
    assert!((850..950).contains(&dropped), "{dropped} of 1000: a burst passes");
    let mut config = net.config().clone();
    config.eips.iter_mut().for_each(|eip| eip.bandwidth = None);
    net.reload(&config);
    for _ in 0..1000 {
        net.send(INSIDE, &limited).forwarded(Side::Outside);
    }
}
