//! Port blocks and deterministic mapping: each private host's ports lie in blocks of its own, which it keeps while it has sessions, which
//! no other host has at the same time, and of which the log tells.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use natgate::base::DropReason;
use natgate::nat::Event;
use natgate::policy::{Allocation, PortRange};
use rtrb::{Consumer, RingBuffer};

use crate::support::config::prefix;
use crate::support::packet::UDP;
use crate::support::{Config, Packet, Side, TestNet, ip};

const INSIDE: Side = Side::Vpc(0);
const OUTSIDE: Side = Side::Outside;
const PEER: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 53);
const SIZE: u16 = 64;

fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, n)
}

fn config(allocation: Allocation, ports: PortRange) -> Config {
    Config::new().snat("10.0.1.0/24", &["203.0.113.16", "203.0.113.19"]).snat_with(|entry| {
        entry.allocation = allocation;
        entry.ports = ports;
    })
}

fn blocks(per_host: u8) -> Config {
    let ports = PortRange { first: 1024, last: 65535 };
    config(Allocation::Blocks { size: SIZE, per_host }, ports)
}

/// 256 hosts on two EIPs with 128 blocks each.
fn deterministic() -> Config {
    let ports = PortRange { first: 1024, last: 1024 + 128 * SIZE - 1 };
    config(Allocation::Deterministic { size: SIZE, source: prefix("10.0.1.0/24") }, ports)
}

fn block_of(port: u16) -> u16 {
    (port - 1024) / SIZE
}

/// The external endpoint of a datagram, whose answer comes back.
#[track_caller]
fn mapped(net: &mut TestNet, from: (Ipv4Addr, u16)) -> (Ipv4Addr, u16) {
    let left = net.send(INSIDE, &Packet::udp(from, PEER, b"?")).forwarded(OUTSIDE).clone();
    let back = net.send(OUTSIDE, &left.answer()).forwarded(INSIDE).clone();
    assert_eq!(back.destination(), from);
    left.source()
}

/// The ends of the logs of all workers.
fn logs(net: &mut TestNet) -> Vec<Consumer<Event>> {
    let log = |engine: &mut natgate::nat::Engine| {
        let (ring, reader) = RingBuffer::new(10_000);
        engine.tell(ring);
        reader
    };
    net.engines.iter_mut().map(log).collect()
}

/// What the logs tell: blocks by host, EIP and first port, and whether they were taken; nothing of sessions.
fn told(logs: &mut [Consumer<Event>]) -> Vec<(Ipv4Addr, Ipv4Addr, PortRange, bool)> {
    let mut seen = vec![];
    for log in logs {
        while let Ok(event) = log.pop() {
            match event {
                Event::Block { block, is_taken, .. } => {
                    seen.push((block.inside.into(), block.external.into(), block.ports, is_taken));
                }
                other => panic!("a log of blocks has {other:?}"),
            }
        }
    }
    seen
}

#[test]
fn hosts_have_blocks_of_their_own() {
    for workers in [1, 2, 3] {
        let mut net = TestNet::with_workers(&blocks(2), workers, 1);
        let mut owners: BTreeMap<(Ipv4Addr, u16), Ipv4Addr> = BTreeMap::new();
        for n in 0..60 {
            for port in 4000..4010 {
                let (eip, external) = mapped(&mut net, (host(n), port));
                let owner = *owners.entry((eip, block_of(external))).or_insert(host(n));
                assert_eq!(owner, host(n), "{external} of {eip}");
            }
        }
        assert_eq!(owners.len(), 60, "ten mappings need one block each");
    }
}

#[test]
fn a_host_gets_another_block_when_one_is_full_and_no_more_than_it_may() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&blocks(2), workers, 1);
        let mut log = logs(&mut net);
        let mut used = BTreeSet::new();
        for n in 0..2 * SIZE {
            let (eip, external) = mapped(&mut net, (host(1), 4000 + n));
            assert!(used.insert((eip, external)), "{external} twice");
        }
        let taken = told(&mut log);
        assert_eq!(taken.iter().filter(|(inside, .., is_taken)| *is_taken && *inside == host(1)).count(), 2);
        for (eip, port) in &used {
            let is_in = |(_, external, ports, _): &(_, Ipv4Addr, PortRange, bool)| {
                external == eip && ports.contains(*port)
            };
            assert!(taken.iter().any(is_in), "{port} is in no block that was told");
        }
        net.send(INSIDE, &Packet::udp((host(1), 9000), PEER, b"one more"));
        assert_eq!(net.totals().drops[DropReason::PortsExhausted as usize], 1);
        // Another protocol has the same ports of the same blocks; another host has others.
        net.send(INSIDE, &Packet::syn((host(1), 4000), PEER)).forwarded(OUTSIDE);
        assert!(told(&mut log).is_empty());
        assert!(!used.contains(&mapped(&mut net, (host(2), 4000))));
    }
}

#[test]
fn blocks_go_back_with_the_last_session_and_the_log_tells_so() {
    let mut net = TestNet::with_workers(&blocks(2), 2, 1);
    let mut log = logs(&mut net);
    for n in 0..20 {
        mapped(&mut net, (host(n), 4000));
        mapped(&mut net, (host(n), 4001));
    }
    let taken = told(&mut log);
    assert_eq!((taken.len(), taken.iter().all(|(.., is_taken)| *is_taken)), (20, true));
    for _ in 0..400 {
        net.advance(Duration::from_secs(1));
    }
    assert!(net.sessions().is_empty());
    let mut given: Vec<_> = told(&mut log).into_iter().map(|(a, b, c, taken)| (a, b, c, !taken)).collect();
    let mut taken = taken;
    given.sort_unstable_by_key(|(inside, ..)| *inside);
    taken.sort_unstable_by_key(|(inside, ..)| *inside);
    assert_eq!(given, taken, "what was given back is what was taken");
}

#[test]
fn all_blocks_can_be_had_and_then_hosts_are_refused() {
    let ports = PortRange { first: 1024, last: 1024 + 8 * SIZE - 1 };
    let mut net = TestNet::new(&config(Allocation::Blocks { size: SIZE, per_host: 1 }, ports));
    let mut refused = 0;
    let mut used = BTreeSet::new();
    for n in 0..40 {
        let observed = net.send(INSIDE, &Packet::udp((host(n), 4000), PEER, b"?"));
        match observed.left.iter().find(|left| left.side == OUTSIDE) {
            Some(left) => assert!(used.insert((left.packet.source().0, block_of(left.packet.source().1)))),
            None => refused += 1,
        }
    }
    assert_eq!((used.len(), refused), (16, 24), "two EIPs with eight blocks each");
}

#[test]
fn a_block_that_dnat_owns_is_of_no_use() {
    let ports = PortRange { first: 1024, last: 1024 + 2 * SIZE - 1 };
    let config = Config::new()
        .snat("10.0.1.0/24", &["203.0.113.16"])
        .snat_with(|entry| {
            entry.allocation = Allocation::Blocks { size: SIZE, per_host: 2 };
            entry.ports = ports;
        })
        .forward(UDP, ("203.0.113.16", 1024), ("10.0.0.4", 1024), SIZE);
    for seed in 1..20 {
        let mut net = TestNet::with_workers(&config, 1, seed);
        assert_eq!(block_of(mapped(&mut net, (host(1), 4000)).1), 1);
    }
}

#[test]
fn deterministic_ports_follow_from_the_address() {
    for (workers, seed) in [(1, 1), (1, 9), (3, 1)] {
        let mut net = TestNet::with_workers(&deterministic(), workers, seed);
        let mut log = logs(&mut net);
        for n in [0, 1, 5, 127, 128, 200, 255] {
            let eip = if n < 128 { ip("203.0.113.16") } else { ip("203.0.113.19") };
            for port in 4000..4000 + SIZE {
                let external = mapped(&mut net, (host(n), port));
                assert_eq!((external.0, block_of(external.1)), (eip, u16::from(n % 128)));
            }
            net.send(INSIDE, &Packet::udp((host(n), 9000), PEER, b"one more"));
        }
        assert_eq!(net.totals().drops[DropReason::PortsExhausted as usize], 7);
        assert!(told(&mut log).is_empty(), "nothing needs to be told");
    }
}

#[test]
fn a_change_of_the_blocks_ends_the_sessions_and_gives_everybody_new_ones() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&blocks(2), workers, 1);
        for n in 0..20 {
            mapped(&mut net, (host(n), 4000));
        }
        let ports = PortRange { first: 1024, last: 65535 };
        for after in [
            config(Allocation::Blocks { size: 2 * SIZE, per_host: 1 }, ports),
            deterministic(),
            config(Allocation::Ports, ports),
            blocks(1),
        ] {
            net.reload(&after);
            for n in 0..20 {
                mapped(&mut net, (host(n), 4000));
                mapped(&mut net, (host(n), 4001));
            }
            for _ in 0..100 {
                net.advance(Duration::from_millis(100));
            }
            assert_eq!(net.sessions().len(), 40);
        }
    }
}

/// A host has blocks of one entry only: another entry that covers it from now on gives it new ones at once, before anybody has looked at
/// its sessions, and what it has of the old ones ends.
#[test]
fn another_entry_for_a_host_ends_its_blocks_and_gives_it_new_ones_at_once() {
    for workers in [1, 2] {
        for allocation in [Allocation::Blocks { size: SIZE, per_host: 1 }, Allocation::Ports] {
            let mut net = TestNet::with_workers(&blocks(1), workers, 1);
            let mut log = logs(&mut net);
            let [old, others] = [host(5), host(6)].map(|host| mapped(&mut net, (host, 4000)));
            told(&mut log);
            let own = blocks(1).snat("10.0.1.5/32", &["203.0.113.20"]).snat_with(|entry| {
                entry.allocation = allocation;
                entry.ports = PortRange { first: 1024, last: 65535 };
            });
            net.publish(&own);
            let new = mapped(&mut net, (host(5), 5000));
            assert_eq!(new.0, ip("203.0.113.20"));
            if allocation == Allocation::Ports {
                // Each session is told of.
                log.clear();
            } else {
                let told: Vec<_> =
                    told(&mut log).into_iter().map(|(_, eip, _, taken)| (eip, taken)).collect();
                assert_eq!(told, [(old.0, false), (new.0, true)]);
            }
            assert_eq!(mapped(&mut net, (host(5), 4000)).0, new.0, "the old session is not in force");
            assert_eq!(mapped(&mut net, (host(6), 4000)), others);
            net.idle(5000);
            assert_eq!(net.sessions().len(), 3);
        }
    }
}
