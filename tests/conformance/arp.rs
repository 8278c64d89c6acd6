//! Who has which address (RFC 826, RFC 5227).

use std::time::Duration;

use natgate::base::DropReason;

use crate::common::*;
use crate::support::codec::{Arp, Link, Mac, arp_frame};
use crate::support::config::{GATEWAY, ROUTER, gateway_mac, host_mac};
use crate::support::net::arp_answer;
use crate::support::{Config, Observed, Packet, Side, TestNet, ip};

use std::net::Ipv4Addr;

const BROADCAST: Mac = [0xff; 6];

fn tell(net: &mut TestNet, side: Side, to: Mac, arp: Arp) -> Observed {
    let frame = arp_frame(Link { dst: to, src: arp.sender.0, vlan: None }, &arp);
    net.inject(net.config().link(side).port, &frame)
}

/// The answer to a question of a host on the link.
fn ask(net: &mut TestNet, side: Side, from: Ipv4Addr, about: Ipv4Addr) -> Option<Mac> {
    let arp = Arp { request: true, sender: (host_mac(side, from), from), target: ([0; 6], about) };
    arp_answer(&tell(net, side, BROADCAST, arp), about)
}

/// Whether an address is announced.
fn announced(observed: &Observed, side: Side, address: Ipv4Addr) -> bool {
    observed
        .arps
        .iter()
        .any(|(on, arp)| (*on, arp.sender, arp.target.1) == (side, (gateway_mac(side), address), address))
}

/// RFC 826: answers ARP for its inside address.
#[test]
fn arp_01_inside_address() {
    let mut net = TestNet::new(&everything());
    assert_eq!(ask(&mut net, INSIDE, HOST, ip("10.0.0.1")), Some(gateway_mac(INSIDE)));
}

/// RFC 826: answers ARP on the outside for every EIP (DNAT and SNAT pools).
#[test]
fn arp_02_every_eip() {
    let mut net = TestNet::new(&everything());
    for eip in [POOL, ANY_EIP, PORT_EIP, GATEWAY] {
        assert_eq!(ask(&mut net, OUTSIDE, ROUTER, eip), Some(gateway_mac(OUTSIDE)), "{eip}");
    }
}

/// RFC 826: does not answer ARP for an address that nobody has (no blind proxy ARP).
#[test]
fn arp_03_no_blind_proxy() {
    let mut net = TestNet::new(&everything());
    for address in ["203.0.113.19", "203.0.113.9", "198.51.100.1", "203.0.113.255", "0.0.0.0"] {
        assert_eq!(ask(&mut net, OUTSIDE, ROUTER, ip(address)), None, "{address}");
    }
    for address in ["10.0.0.77", "203.0.113.16", "203.0.113.2", "198.51.100.1"] {
        assert_eq!(ask(&mut net, INSIDE, HOST, ip(address)), None, "{address}");
    }
}

/// RFC 826, RFC 2663 §4: does not answer ARP for private hosts on the outside.
#[test]
fn arp_04_private_hosts_stay_private() {
    let mut net = TestNet::new(&everything());
    mapped(&mut net, (HOST, 4000), PEER);
    for address in [HOST, ONE_TO_ONE, SERVER, ip("10.0.0.1")] {
        assert_eq!(ask(&mut net, OUTSIDE, ROUTER, address), None, "{address}");
    }
}

/// RFC 5227 §2.1.1: answers an ARP probe (sender 0.0.0.0) for an EIP.
#[test]
fn arp_05_probe() {
    let mut net = TestNet::new(&everything());
    for eip in [POOL, ANY_EIP, PORT_EIP] {
        let probe = Arp {
            request: true,
            sender: (host_mac(OUTSIDE, neighbour()), Ipv4Addr::UNSPECIFIED),
            target: ([0; 6], eip),
        };
        let observed = tell(&mut net, OUTSIDE, BROADCAST, probe);
        assert_eq!(arp_answer(&observed, eip), Some(gateway_mac(OUTSIDE)), "{eip}");
    }
}

/// RFC 1122 §2.3.2.1: answers a unicast ARP request for an EIP.
#[test]
fn arp_06_unicast_request() {
    let mut net = TestNet::new(&everything());
    for eip in [POOL, ANY_EIP, PORT_EIP] {
        let sender = (host_mac(OUTSIDE, ROUTER), ROUTER);
        let request = Arp { request: true, sender, target: ([0; 6], eip) };
        let observed = tell(&mut net, OUTSIDE, gateway_mac(OUTSIDE), request);
        assert_eq!(arp_answer(&observed, eip), Some(gateway_mac(OUTSIDE)), "{eip}");
    }
}

/// RFC 5227 §2.3: announces every EIP (gratuitous ARP) when it is configured.
#[test]
fn arp_07_announces_eips() {
    let mut net = TestNet::new(&Config::new());
    let observed = net.reload(&everything());
    for eip in [POOL, ANY_EIP, PORT_EIP] {
        assert!(announced(&observed, OUTSIDE, eip), "{eip}: {:?}", observed.arps);
    }
    // Twice, two seconds apart.
    let observed = net.advance(Duration::from_secs(2));
    assert!(announced(&observed, OUTSIDE, ANY_EIP), "{:?}", observed.arps);
    let observed = net.advance(Duration::from_secs(2));
    assert!(!announced(&observed, OUTSIDE, ANY_EIP), "{:?}", observed.arps);
}

/// RFC 1122 §2.3.2.2: keeps at least one packet while it resolves the next hop.
#[test]
fn arp_08_first_packet_waits() {
    let mut net = TestNet::new(&snat());
    net.answers_arp = false;
    let sent = Packet::udp((HOST, 4000), PEER, b"first");
    let observed = net.send(INSIDE, &sent);
    assert!(observed.left.is_empty() && observed.drops.is_empty(), "it waits: {observed:?}");
    assert!(observed.arps.iter().any(|(side, arp)| (*side, arp.target.1) == (OUTSIDE, ROUTER)));
    let answer = Arp {
        request: false,
        sender: (host_mac(OUTSIDE, ROUTER), ROUTER),
        target: (gateway_mac(OUTSIDE), GATEWAY),
    };
    let observed = tell(&mut net, OUTSIDE, gateway_mac(OUTSIDE), answer);
    let left = observed.forwarded(OUTSIDE);
    became(left, sent.from(left.source()).ttl(63));

    // A first window of TCP finds room (RFC 6928), and leaves in order.
    let mut net = TestNet::new(&snat());
    net.answers_arp = false;
    for n in 0..10 {
        let observed = net.send(INSIDE, &Packet::udp((HOST, 4000), PEER, &[n]));
        assert!(observed.left.is_empty() && observed.drops.is_empty(), "the {n}th: {observed:?}");
    }
    let observed = tell(&mut net, OUTSIDE, gateway_mac(OUTSIDE), answer);
    let sent: Vec<_> = (0..10).map(|n| Packet::udp((HOST, 4000), PEER, &[n]).body).collect();
    let left: Vec<_> = observed.left.iter().map(|left| left.packet.clone().from((HOST, 4000)).body).collect();
    assert_eq!(left, sent);

    // However many next hops are silent, one more packet finds room, but not without bound.
    let mut net = TestNet::new(&snat());
    net.answers_arp = false;
    for silent in 0..20 {
        for n in 0..20 {
            net.send(INSIDE, &Packet::udp((HOST, 4000), (Ipv4Addr::new(203, 0, 113, 200 + silent), 1), &[n]));
        }
    }
    let held = net.totals().held;
    assert!(held < 200, "{held} wait for nobody");
    let observed = net.send(INSIDE, &Packet::udp((HOST, 4000), PEER, b"first"));
    assert!(observed.drops.is_empty(), "{observed:?}");
    let observed = tell(&mut net, OUTSIDE, gateway_mac(OUTSIDE), answer);
    observed.forwarded(OUTSIDE);
}

/// RFC 826: follows a host that moves to another MAC address (gratuitous ARP).
#[test]
fn arp_09_host_moves() {
    for workers in [1, 2] {
        let mut net = TestNet::with_workers(&everything(), workers, 1);
        let inbound = Packet::udp((PEER.0, 50_000), (ANY_EIP, 7), b"data");
        into(&mut net, &inbound);
        net.answers_arp = false;
        let moved = [0x06, 0x99, 0, 0, 0, 3];
        let gratuitous = Arp { request: true, sender: (moved, ONE_TO_ONE), target: ([0; 6], ONE_TO_ONE) };
        tell(&mut net, INSIDE, BROADCAST, gratuitous);
        let observed = net.send(OUTSIDE, &inbound);
        observed.forwarded(INSIDE);
        assert_eq!(observed.frames[0].1[..6], moved);
    }
}

/// RFC 5227 §2.4: keeps (defends) an EIP that another host claims.
#[test]
fn arp_10_defends_eips() {
    let mut net = TestNet::new(&everything());
    let thief = [0x02, 0x66, 0, 0, 0, 1];
    for eip in [POOL, ANY_EIP, PORT_EIP] {
        for request in [true, false] {
            let claim = Arp { request, sender: (thief, eip), target: ([0; 6], eip) };
            let observed = tell(&mut net, OUTSIDE, BROADCAST, claim);
            assert!(announced(&observed, OUTSIDE, eip), "{:?}", observed.arps);
        }
    }
    into(&mut net, &Packet::udp((PEER.0, 50_000), (ANY_EIP, 7), b"still here"));
}

/// robustness: malformed ARP (wrong type, lengths, short) is ignored and harmless.
#[test]
fn arp_11_malformed() {
    let mut net = TestNet::new(&everything());
    let sender = (host_mac(OUTSIDE, ROUTER), ROUTER);
    let request = Arp { request: true, sender, target: ([0; 6], ANY_EIP) };
    let link = Link { dst: BROADCAST, src: sender.0, vlan: None };
    let right = arp_frame(link, &request);
    // Hardware type, protocol type, both lengths, operation.
    for (at, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (18, 0), (19, 0), (21, 0), (21, 9)] {
        let mut wrong = right.clone();
        wrong[at] = value;
        net.inject(0, &wrong).dropped(DropReason::ArpMalformed);
    }
    for len in 14..right.len() {
        net.inject(0, &right[..len]).dropped(DropReason::ArpMalformed);
    }
    assert_eq!(ask(&mut net, OUTSIDE, ROUTER, ANY_EIP), Some(gateway_mac(OUTSIDE)));
    into(&mut net, &Packet::udp((PEER.0, 50_000), (ANY_EIP, 7), b"still here"));
}
