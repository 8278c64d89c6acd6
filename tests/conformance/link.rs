//! Ethernet: what frames the gateway takes and makes.

use natgate::base::DropReason;

use crate::common::*;
use crate::support::codec::{Link, frame, ip_frame};
use crate::support::config::{ROUTER, gateway_mac, host_mac};
use crate::support::{Packet, TestNet};

fn link() -> Link {
    Link { dst: gateway_mac(INSIDE), src: host_mac(INSIDE, HOST), vlan: None }
}

fn query() -> Packet {
    Packet::udp((HOST, 4000), PEER, b"query")
}

/// IEEE 802.1D: ignores frames addressed to another station's MAC.
#[test]
fn l2_01_other_station() {
    let mut net = TestNet::new(&snat());
    let other = Link { dst: host_mac(INSIDE, OTHER), ..link() };
    net.inject(1, &ip_frame(other, &query())).dropped(DropReason::OtherStation);
    assert!(net.sessions().is_empty());
}

/// RFC 1812 §5.3.4: does not forward frames sent to the link broadcast address.
#[test]
fn l2_02_link_broadcast() {
    let mut net = TestNet::new(&snat());
    for dst in [[0xff; 6], [0x01, 0, 0x5e, 0, 0, 1]] {
        net.inject(1, &ip_frame(Link { dst, ..link() }, &query())).dropped(DropReason::LinkBroadcast);
    }
    assert!(net.sessions().is_empty());
}

/// RFC 894: trims Ethernet padding by the IP total length.
#[test]
fn l2_03_padding() {
    let (mut net, ways) = ways(1, crate::support::packet::UDP);
    for way in ways {
        let mut padded = net.frame_of(way.from, &way.sent);
        let len = padded.len();
        padded.resize(len + 14, 0xee);
        let observed = net.inject(net.config().link(way.from).port, &padded);
        assert_eq!(observed.forwarded(way.to).body, way.becomes.body);
        assert_eq!(observed.frames[0].1.len(), len);
    }
}

/// RFC 1812 §5.2: rewrites MAC addresses: own source, next hop's destination.
#[test]
fn l2_04_addresses_rewritten() {
    let (mut net, ways) = ways(1, crate::support::packet::UDP);
    for way in ways {
        let observed = way.check(&mut net);
        let (destination, source) = observed.frames[0].1[..12].split_at(6);
        let next_hop = net.config().next_hop(way.to, way.becomes.ip.dst);
        assert_eq!(destination, host_mac(way.to, next_hop));
        assert_eq!(source, gateway_mac(way.to));
    }
}

/// RFC 1812 §5.2.4: sends remote destinations to the default gateway's MAC.
#[test]
fn l2_05_default_gateway() {
    let mut net = TestNet::new(&snat());
    let observed = net.send(INSIDE, &query());
    let to = |observed: &crate::support::Observed| observed.frames.last().expect("a frame").1[..6].to_vec();
    assert_eq!(to(&observed), host_mac(OUTSIDE, ROUTER));
    // One on the link is sent to itself.
    let observed = net.send(INSIDE, &Packet::udp((HOST, 4000), (neighbour(), 53), b"near"));
    assert_eq!(to(&observed), host_mac(OUTSIDE, neighbour()));
}

/// IEEE 802.1Q: drops frames of an unknown VLAN when no VLAN is configured.
#[test]
fn l2_06_unknown_vlan() {
    let mut net = TestNet::new(&everything());
    for vlan in [1, 7, 4094] {
        net.inject(1, &ip_frame(Link { vlan: Some(vlan), ..link() }, &query()))
            .dropped(DropReason::UnknownVlan);
    }
    assert!(net.sessions().is_empty());
}

/// IEEE 802.1Q §6.9: treats a priority tag (VLAN 0) as untagged.
#[test]
fn l2_07_priority_tag() {
    let mut net = TestNet::new(&snat());
    // VLAN 0 with priority 5.
    let tagged = ip_frame(Link { vlan: Some(5 << 13), ..link() }, &query());
    net.inject(1, &tagged).forwarded(OUTSIDE);
}

/// RFC 3022 §2: does not bridge other protocols (IPv6, unknown ethertypes).
#[test]
fn l2_08_no_bridge() {
    let mut net = TestNet::new(&everything());
    let bytes = net.frame_of(INSIDE, &query());
    for (side, port) in [(OUTSIDE, 0), (INSIDE, 1)] {
        for kind in [0x86dd, 0x8863, 0x88cc, 0x0805, 0x9000, 0x0026] {
            for dst in [gateway_mac(side), [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
                let link = Link { dst, ..link() };
                let observed = net.inject(port, &frame(link, kind, &bytes[14..]));
                assert!(observed.frames.is_empty() && observed.drops.len() == 1, "{kind:#06x}: {observed:?}");
            }
        }
    }
}
