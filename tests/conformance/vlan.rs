//! 802.1Q: sides that are VLANs of a port.

use natgate::base::DropReason;

use crate::common::*;
use crate::support::codec::{Link, ip_frame, split_frame};
use crate::support::config::{gateway_mac, host_mac};
use crate::support::{Config, Packet, Side, TestNet};

const OUTSIDE_VLAN: u16 = 100;
const VPC_VLANS: [u16; 2] = [10, 20];

/// Two VPCs with the same addresses on VLANs of one port, the outside on another's VLAN.
fn config() -> Config {
    let mut config = everything().vpc(VPC_VLANS[1]);
    config = config.snat("10.0.0.0/16", &["203.0.113.20"]).snat_with(|entry| entry.vpc = 1);
    config.vpcs[0].link.vlan = Some(VPC_VLANS[0]);
    config.outside.vlan = Some(OUTSIDE_VLAN);
    config
}

/// IEEE 802.1Q: with VLANs configured, both sides use their tag.
#[test]
fn vlan_01_both_sides_tagged() {
    let mut net = TestNet::new(&config());
    let vlan_of = |observed: &crate::support::Observed| {
        split_frame(&observed.frames.last().expect("a frame").1).expect("a frame").0.vlan
    };
    for (vpc, eip) in [(0, POOL), (1, crate::support::ip("203.0.113.20"))] {
        let side = Side::Vpc(vpc);
        let sent = Packet::udp((HOST, 4000), PEER, b"query");
        let observed = net.send(side, &sent);
        let left = observed.forwarded(OUTSIDE);
        assert_eq!((left.ip.src, vlan_of(&observed)), (eip, Some(OUTSIDE_VLAN)));
        let observed = net.send(OUTSIDE, &left.answer());
        assert_eq!(observed.forwarded(side).destination(), (HOST, 4000));
        assert_eq!(vlan_of(&observed), Some(VPC_VLANS[vpc]));
    }
}

/// IEEE 802.1Q: with VLANs configured, untagged and foreign tags are dropped.
#[test]
fn vlan_02_untagged_and_foreign() {
    let mut net = TestNet::new(&config());
    let inside = Packet::udp((HOST, 4000), PEER, b"query");
    let outside = Packet::udp((PEER.0, 50_000), (ANY_EIP, 7), b"query");
    for (port, side, packet, own) in
        [(1, INSIDE, inside, &VPC_VLANS[..]), (0, OUTSIDE, outside, &[OUTSIDE_VLAN])]
    {
        for vlan in [None, Some(0), Some(1), Some(10), Some(11), Some(20), Some(100), Some(4094)] {
            if vlan.is_some_and(|vlan| own.contains(&vlan)) {
                continue;
            }
            let link = Link { dst: gateway_mac(side), src: host_mac(side, HOST), vlan };
            net.inject(port, &ip_frame(link, &packet)).dropped(DropReason::UnknownVlan);
        }
    }
    assert!(net.sessions().is_empty());
}
