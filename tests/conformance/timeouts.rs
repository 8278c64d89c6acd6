//! How long mappings live (RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2).

use std::time::Duration;

use natgate::base::{DropReason, Tick};
use natgate::policy::Timeouts;

use crate::common::*;
use crate::support::packet::{TCP, UDP};
use crate::support::{Flags, Packet, TestNet};

/// A table is swept once a second.
const SWEEP: Duration = Duration::from_secs(2);

fn default_timeout(choose: impl Fn(Timeouts) -> u32) -> Duration {
    let ticks = choose(Timeouts::default());
    assert_eq!(ticks, choose(Timeouts::RFC));
    Duration::from_nanos(u64::from(ticks) * Tick::NANOS)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A network whose SNAT entry has short timeouts.
fn brief() -> TestNet {
    TestNet::new(&snat().snat_with(|entry| {
        let ticks = |s| Tick::ticks(seconds(s));
        entry.timeouts = Timeouts {
            tcp_established: ticks(600),
            tcp_transitory: ticks(30),
            udp: ticks(20),
            icmp: ticks(10),
            other: ticks(20),
            tcp_reset: false,
        };
    }))
}

/// Asserts that the one session lives just so long without traffic.
#[track_caller]
fn lives(net: &mut TestNet, timeout: Duration) {
    net.advance(timeout.saturating_sub(Duration::from_millis(200)));
    assert_eq!(net.sessions().len(), 1, "gone before {timeout:?}");
    net.advance(SWEEP);
    assert!(net.sessions().is_empty(), "alive after {timeout:?}: {:?}", net.sessions());
}

/// RFC 4787 REQ-5: default UDP timeout is at least 2 minutes.
#[test]
fn time_01_udp_at_least() {
    assert!(default_timeout(|timeouts| timeouts.udp) >= seconds(120));
}

/// RFC 4787 REQ-5c: default UDP timeout is 5 minutes or more.
#[test]
fn time_02_udp_recommended() {
    assert!(default_timeout(|timeouts| timeouts.udp) >= seconds(300));
    let mut net = TestNet::new(&snat());
    mapped(&mut net, (HOST, 4000), PEER);
    lives(&mut net, seconds(300));
}

/// RFC 5508 REQ-2: default ICMP query timeout is at least 60 s.
#[test]
fn time_03_icmp_at_least() {
    assert!(default_timeout(|timeouts| timeouts.icmp) >= seconds(60));
    let mut net = TestNet::new(&snat());
    out(&mut net, &Packet::ping(HOST, PEER.0, 7, 1));
    lives(&mut net, seconds(60));
}

/// RFC 5382 REQ-5: default established TCP timeout is at least 2 h 4 min.
#[test]
fn time_04_established_at_least() {
    assert!(default_timeout(|timeouts| timeouts.tcp_established) >= seconds(2 * 3600 + 4 * 60));
    let mut net = TestNet::new(&snat());
    let external = established(&mut net, (HOST, 4000), PEER);
    net.advance(seconds(2 * 3600 + 4 * 60 - 1));
    into(&mut net, &Packet::tcp(PEER, external, Flags::ACK, 7001, 1001).payload(b"after two hours"));
    lives(&mut net, seconds(2 * 3600 + 4 * 60));
}

/// RFC 5382 REQ-5, RFC 7857 §2.1: default transitory TCP timeout is at least 4 minutes.
#[test]
fn time_05_transitory_at_least() {
    assert!(default_timeout(|timeouts| timeouts.tcp_transitory) >= seconds(240));
    // Opening, closed by both, and reset.
    let ends: [&[(bool, Flags)]; 3] = [
        &[],
        &[(false, Flags::SYN_ACK), (true, Flags::FIN_ACK), (false, Flags::FIN_ACK)],
        &[(false, Flags::SYN_ACK), (true, Flags::ACK), (true, Flags::RST)],
    ];
    for segments in ends {
        let mut net = TestNet::new(&snat());
        let external = connected(&mut net, (HOST, 4000), PEER);
        for (outward, flags) in segments {
            if *outward {
                out(&mut net, &Packet::tcp((HOST, 4000), PEER, *flags, 1001, 7001));
            } else {
                into(&mut net, &Packet::tcp(PEER, external, *flags, 7000, 1001));
            }
        }
        lives(&mut net, seconds(240));
    }
}

/// RFC 4787 REQ-5: a UDP mapping lives for its configured timeout.
#[test]
fn time_06_udp_lives() {
    let mut net = brief();
    let external = mapped(&mut net, (HOST, 4000), PEER);
    net.advance(seconds(19));
    into(&mut net, &Packet::udp(PEER, external, b"in time"));
}

/// RFC 4787 §4.3: an idle UDP mapping is gone after its timeout.
#[test]
fn time_07_idle_udp_ends() {
    let mut net = brief();
    let external = mapped(&mut net, (HOST, 4000), PEER);
    net.advance(seconds(20) + SWEEP);
    net.send(OUTSIDE, &Packet::udp(PEER, external, b"too late")).dropped(DropReason::NoMapping);
    assert!(net.sessions().is_empty());
}

/// RFC 4787 REQ-6: outbound traffic refreshes a UDP mapping.
#[test]
fn time_08_outbound_refreshes() {
    let mut net = brief();
    let external = mapped(&mut net, (HOST, 4000), PEER);
    for _ in 0..20 {
        net.advance(seconds(15));
        assert_eq!(mapped(&mut net, (HOST, 4000), PEER), external);
    }
    into(&mut net, &Packet::udp(PEER, external, b"after five minutes"));
}

/// RFC 5508 REQ-2: an ICMP query session lives for its configured timeout.
#[test]
fn time_09_icmp_lives() {
    let mut net = brief();
    let left = out(&mut net, &Packet::ping(HOST, PEER.0, 7, 1));
    net.advance(seconds(9));
    into(&mut net, &left.answer());
}

/// RFC 5508 §3.2: an idle ICMP query session is gone after its timeout.
#[test]
fn time_10_idle_icmp_ends() {
    let mut net = brief();
    let left = out(&mut net, &Packet::ping(HOST, PEER.0, 7, 1));
    net.advance(seconds(10) + SWEEP);
    net.send(OUTSIDE, &left.answer()).dropped(DropReason::NoMapping);
}

/// RFC 5382 REQ-5: an established TCP connection outlives the transitory timeout.
#[test]
fn time_11_established_outlives_transitory() {
    let mut net = brief();
    let external = established(&mut net, (HOST, 4000), PEER);
    net.advance(seconds(599));
    into(&mut net, &Packet::tcp(PEER, external, Flags::ACK, 7001, 1001));
}

/// RFC 5382 REQ-5: an idle established TCP connection is gone after its timeout.
#[test]
fn time_12_idle_established_ends() {
    let mut net = brief();
    let external = established(&mut net, (HOST, 4000), PEER);
    net.advance(seconds(600) + SWEEP);
    let late = Packet::tcp(PEER, external, Flags::ACK, 7001, 1001);
    net.send(OUTSIDE, &late).dropped(DropReason::NoMapping);
}

/// RFC 5382 REQ-5: a half-open TCP connection is gone after the transitory timeout.
#[test]
fn time_13_half_open_ends() {
    let mut net = brief();
    connected(&mut net, (HOST, 4000), PEER);
    lives(&mut net, seconds(30));
}

/// RFC 3022 §2.1: DNAT mappings never time out.
#[test]
fn time_14_dnat_never_ends() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        let client = (PEER.0, 50_000);
        for protocol in [TCP, UDP] {
            for (public, private) in [(PUBLIC, SERVICE), ((ANY_EIP, 443), (ONE_TO_ONE, 443))] {
                let (there, back) = match protocol {
                    TCP => {
                        let segment = |from, to| Packet::tcp(from, to, Flags::ACK, 1, 1).payload(b"data");
                        (segment(client, public), segment(private, client))
                    }
                    _ => (Packet::udp(client, public, b"data"), Packet::udp(private, client, b"data")),
                };
                for days in [0, 1, 30, 365] {
                    net.advance(Duration::from_hours(24 * days));
                    assert_eq!(into(&mut net, &there).destination(), private);
                    net.advance(Duration::from_hours(24 * days));
                    assert_eq!(out(&mut net, &back).source(), public);
                }
            }
        }
    }
}
