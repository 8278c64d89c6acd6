//! Changes of entries while traffic flows.

use natgate::base::DropReason;

use crate::common::*;
use crate::support::packet::{TCP, UDP};
use crate::support::{Flags, Packet, Ports, TestNet, ip};

/// Asserts that every way is as before.
#[track_caller]
fn undisturbed(net: &mut TestNet, ways: &[Way]) {
    let sessions = net.sessions().len();
    for way in ways {
        way.check(net);
    }
    assert_eq!(net.sessions().len(), sessions);
}

/// product: adding a mapping does not disturb connections, and takes effect at once.
#[test]
fn conf_01_adding() {
    for workers in [1, 2] {
        for protocol in [TCP, UDP] {
            let (mut net, ways) = ways(workers, protocol);
            let new = Packet::udp((PEER.0, 50_000), (ip("203.0.113.20"), 53), b"query");
            lost(&mut net, OUTSIDE, &new);
            let config = everything().forward(UDP, ("203.0.113.20", 53), ("10.0.0.5", 53), 1);
            net.reload(&config);
            assert_eq!(into(&mut net, &new).destination(), (OTHER, 53));
            undisturbed(&mut net, &ways);
        }
    }
}

/// product: removing a mapping stops new connections and leaves the other mappings alone.
#[test]
fn conf_02_removing() {
    for workers in [1, 2] {
        for protocol in [TCP, UDP] {
            let (mut net, ways) = ways(workers, protocol);
            let mut config = everything();
            config.dnat.retain(|entry| entry.ports == Ports::Any);
            net.reload(&config);
            for packet in [Packet::syn(PEER_2, PUBLIC), Packet::udp(PEER_2, PUBLIC, b"query")] {
                lost(&mut net, OUTSIDE, &packet);
            }
            undisturbed(&mut net, &ways[..4]);
        }
    }
}

/// product: moving an EIP to another host sends new flows there.
#[test]
fn conf_03_moving() {
    for workers in [1, 2] {
        let (mut net, ways) = ways(workers, UDP);
        let mut config = everything();
        config.dnat[0].host = OTHER;
        net.reload(&config);
        let new = Packet::udp(PEER_2, (ANY_EIP, 7), b"who is it now?");
        assert_eq!(into(&mut net, &new).destination(), (OTHER, 7));
        assert_eq!(mapped(&mut net, (OTHER, 4000), PEER), (ANY_EIP, 4000));
        assert_eq!(mapped(&mut net, (ONE_TO_ONE, 4000), PEER).0, POOL);
        undisturbed(&mut net, &[ways[0].clone(), ways[1].clone(), ways[4].clone(), ways[5].clone()]);
    }
}

/// product: applying the same configuration again changes nothing for live flows.
#[test]
fn conf_04_the_same_again() {
    for workers in [1, 2] {
        for protocol in [TCP, UDP] {
            let (mut net, ways) = ways(workers, protocol);
            for _ in 0..3 {
                let before = net.totals();
                net.reload(&everything());
                undisturbed(&mut net, &ways);
                let after = net.totals();
                assert_eq!(after.sessions_created, before.sessions_created);
                assert_eq!(after.sessions_removed, before.sessions_removed);
            }
            let reset = Packet::tcp(PEER, (POOL, 1), Flags::RST, 0, 0);
            net.send(OUTSIDE, &reset).dropped(DropReason::NoMapping);
        }
    }
}
