//! Limits (RFC 6888, RFC 5508 REQ-8).

use std::collections::HashSet;
use std::time::Duration;

use natgate::base::DropReason;
use natgate::policy::{Limits, PortRange};

use crate::common::*;
use crate::support::packet::UNREACHABLE;
use crate::support::{Observed, Packet, Quote, TestNet, ip};

const QUOTA: u16 = 8;

fn with_quota(workers: u16) -> TestNet {
    let config = snat().snat_with(|entry| entry.host_quota = u32::from(QUOTA));
    TestNet::with_workers(&config, workers, 1)
}

/// Asserts that the host was told that it may not (RFC 1812 §5.2.7.1), and sees its own packet quoted.
#[track_caller]
fn told(observed: &Observed, sent: &Packet, reason: DropReason) {
    assert_eq!(observed.drops, [reason]);
    let error = observed.reply(INSIDE);
    assert_eq!((error.ip.src, error.ip.dst), (ip("10.0.0.1"), sent.ip.src));
    assert_eq!(quoted(error), ((UNREACHABLE, 13), &Quote::of(sent, None)));
}

/// RFC 6888 REQ-4: a host gets no more mappings than its quota (8).
#[test]
fn lim_01_quota() {
    for workers in [1, 2] {
        let mut net = with_quota(workers);
        for n in 0..100 {
            let observed = match n % 3 {
                0 => net.send(INSIDE, &Packet::udp((HOST, 4000 + n), PEER, b"")),
                1 => net.send(INSIDE, &Packet::syn((HOST, 4000 + n), PEER)),
                _ => net.send(INSIDE, &Packet::ping(HOST, PEER.0, 4000 + n, 1)),
            };
            let left = observed.left.iter().filter(|left| left.side == OUTSIDE).count();
            // A new connection takes the place of one whose handshake is not complete, and of nothing else.
            assert_eq!(left, usize::from(n < QUOTA || n % 3 == 1), "the {n}th: {observed:?}");
            assert!(net.sessions().len() <= usize::from(QUOTA));
        }
        assert_eq!(net.sessions().len(), usize::from(QUOTA));
    }
}

/// RFC 6888 REQ-11D: a host at its quota keeps its existing mappings, and others are not affected.
#[test]
fn lim_02_quota_harms_nobody() {
    for workers in [1, 2] {
        let mut net = with_quota(workers);
        let externals: Vec<_> = (0..QUOTA).map(|n| mapped(&mut net, (HOST, 4000 + n), PEER)).collect();
        for n in 0..50 {
            let late = Packet::udp((HOST, 5000 + n), PEER, b"");
            assert_eq!(net.send(INSIDE, &late).drops, [DropReason::HostQuota]);
        }
        for (n, external) in (0..QUOTA).zip(externals) {
            assert_eq!(mapped(&mut net, (HOST, 4000 + n), PEER), external);
            let back = into(&mut net, &Packet::udp(PEER, external, b"still here"));
            assert_eq!(back.destination(), (HOST, 4000 + n));
        }
        for n in 0..QUOTA {
            mapped(&mut net, (OTHER, 4000 + n), PEER);
        }
    }
}

/// RFC 5508 REQ-8, RFC 6888 REQ-11B: the refused host gets Destination Unreachable (code 13 or 1).
#[test]
fn lim_03_refused_host_is_told() {
    for workers in [1, 2] {
        let kinds = |n: u16| {
            [
                Packet::udp((HOST, 5000 + n), PEER, b"one more"),
                Packet::syn((HOST, 5000 + n), PEER),
                Packet::ping(HOST, PEER.0, 5000 + n, 1),
            ]
        };
        let mut net = with_quota(workers);
        for n in 0..QUOTA {
            mapped(&mut net, (HOST, 4000 + n), PEER);
        }
        for sent in kinds(0) {
            told(&net.send(INSIDE, &sent), &sent, DropReason::HostQuota);
        }
        // Ports that are exhausted, and a gateway's specification.
        let config = snat().snat_with(|entry| entry.ports = PortRange { first: 2000, last: 2001 });
        let mut net = TestNet::with_workers(&config, workers, 1);
        let refused: Vec<_> = (0..10_u16)
            .flat_map(kinds)
            .map(|sent| (net.send(INSIDE, &sent), sent))
            .filter(|(observed, _)| !observed.drops.is_empty())
            .collect();
        assert!(refused.len() >= 20);
        for (observed, sent) in refused {
            told(&observed, &sent, DropReason::PortsExhausted);
        }
        let mut config = snat();
        config.vpcs[0].limits = Limits { sessions: 1, ..Limits::UNLIMITED };
        let mut net = TestNet::with_workers(&config, workers, 1);
        mapped(&mut net, (OTHER, 4000), PEER);
        for sent in kinds(0) {
            told(&net.send(INSIDE, &sent), &sent, DropReason::SessionLimit);
        }
        // One that comes too fast is not told: the next try gets in.
        config.vpcs[0].limits = Limits { new_per_second: 1, ..Limits::UNLIMITED };
        let mut net = TestNet::with_workers(&config, workers, 1);
        mapped(&mut net, (OTHER, 4000), PEER);
        for sent in kinds(0) {
            net.send(INSIDE, &sent).dropped(DropReason::SessionRateLimit);
            net.advance(Duration::from_secs(1));
            net.send(INSIDE, &sent).forwarded(OUTSIDE);
        }
    }
    // A table that has no room.
    let mut net = TestNet::sized(&snat(), 1, 1, 2);
    mapped(&mut net, (OTHER, 4000), PEER);
    mapped(&mut net, (OTHER, 4001), PEER);
    let sent = Packet::udp((HOST, 4000), PEER, b"one more");
    told(&net.send(INSIDE, &sent), &sent, DropReason::SessionTableFull);
}

/// RFC 4787 REQ-3, RFC 6888 REQ-11A/D: an exhausted port pool refuses new mappings and overloads none.
#[test]
fn lim_04_exhausted_pool() {
    for workers in [1, 2] {
        let config = snat().snat_with(|entry| entry.ports = PortRange { first: 2000, last: 2031 });
        let mut net = TestNet::with_workers(&config, workers, 1);
        let mut owners = HashSet::new();
        let mut flows = vec![];
        for n in 0..100 {
            let sent = Packet::udp((host(1, n), 4000), PEER, b"");
            let observed = net.send(INSIDE, &sent);
            if observed.drops.is_empty() {
                let external = observed.forwarded(OUTSIDE).source();
                assert!(owners.insert(external), "{external:?} is overloaded");
                flows.push((sent.source(), external));
            } else {
                assert_eq!(observed.drops, [DropReason::PortsExhausted]);
            }
        }
        // Every port is used before anybody is refused; a host's worker has its share of them.
        assert_eq!(owners.len(), 32);
        for (inside, external) in flows {
            assert_eq!(into(&mut net, &Packet::udp(PEER, external, b"")).destination(), inside);
        }
    }
}
