//! Bandwidth limits of EIPs: over all workers together, in each direction, for every way that a packet can go.

use std::time::Duration;

use natgate::base::DropReason;

use crate::support::packet::UDP;
use crate::support::{Body, Config, Packet, Side, TestNet, ip};

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
    let Body::Udp { payload, .. } = &packet.body else { panic!("{packet:?}") };
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

/// Two EIPs under one plan: one of SNAT and a DNAT port, one that is a host's own.
fn planned(workers: u16, rate: u64) -> TestNet {
    let mut config = network(1).config().clone();
    for eip in &mut config.eips {
        (eip.bandwidth, eip.plan) = (Some(rate), Some(7));
    }
    TestNet::with_workers(&config, workers, 3)
}

/// Packets that leave by both EIPs.
fn by_both() -> Vec<Packet> {
    let peer = (ip("198.51.100.7"), 9);
    let shared =
        (0..8u8).map(|host| Packet::udp((std::net::Ipv4Addr::new(10, 0, 1, host), 4000), peer, &[0; 972]));
    let own = (0..8).map(|port| Packet::udp((ip("10.0.0.30"), 4000 + port), peer, &[0; 972]));
    shared.chain(own).collect()
}

#[test]
fn eips_of_a_plan_share_its_limit_over_all_workers() {
    for workers in [1, 2, 4] {
        let mut net = planned(workers, LIMIT);
        assert_limited(passed(&mut net, INSIDE, &by_both()));
        // The other direction has not used any of it.
        let incoming: Vec<_> = [LIMITED, OTHER]
            .into_iter()
            .flat_map(|eip| {
                (0..8)
                    .map(move |port| Packet::udp((ip("198.51.100.7"), 5000 + port), (ip(eip), 53), &[0; 972]))
            })
            .collect();
        assert_limited(passed(&mut net, Side::Outside, &incoming));
    }
}

#[test]
fn a_plans_use_stays_when_an_eip_joins_and_goes_when_its_rate_changes() {
    let mut net = planned(2, LIMIT);
    let drain = |net: &mut TestNet| {
        let sent = (0..400).map(|n| net.send(INSIDE, &by_both()[n % 16]).left.len());
        sent.sum::<usize>()
    };
    assert!(drain(&mut net) > 50, "a burst passes");
    let mut config = net.config().clone();
    // One leaves for a limit of its own, and comes back: the plan is as exhausted as it was.
    (config.eips[1].plan, config.eips[1].bandwidth) = (None, Some(LIMIT));
    net.reload(&config);
    assert!(drain(&mut net) > 50, "its own limit is unused");
    (config.eips[1].plan, config.eips[1].bandwidth) = (Some(7), Some(LIMIT));
    net.reload(&config);
    assert!(drain(&mut net) < 3);
    for eip in &mut config.eips {
        eip.bandwidth = Some(2 * LIMIT);
    }
    net.reload(&config);
    assert!(drain(&mut net) > 100, "a new rate begins anew");
}
