//! What the tests share: a small network with a flow of each kind, and packets of each of them in both directions.

use std::net::Ipv4Addr;

use crate::support::packet::{TCP, UDP};
use crate::support::{Body, Config, Flags, Observed, Packet, Side, TestNet, ip};

pub const INSIDE: Side = Side::Vpc(0);
pub const OUTSIDE: Side = Side::Outside;

pub type Endpoint = (Ipv4Addr, u16);

/// The EIP that private hosts share.
pub const POOL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 16);
/// The EIP of [`ONE_TO_ONE`].
pub const ANY_EIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 17);
/// The EIP whose ports lead to [`SERVER`].
pub const PORT_EIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 18);
/// The EIP port that leads to port 8080 of [`SERVER`], for TCP and UDP.
pub const PUBLIC: Endpoint = (PORT_EIP, 80);

/// A private host that leaves by SNAT.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Another one.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
/// A private host with an EIP of its own.
pub const ONE_TO_ONE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
/// A private host to which ports of an EIP lead.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
/// Where the public port leads to.
pub const SERVICE: Endpoint = (SERVER, 8080);

/// Peers on the Internet.
pub const PEER: Endpoint = (Ipv4Addr::new(198, 51, 100, 1), 53);
pub const PEER_2: Endpoint = (Ipv4Addr::new(198, 51, 100, 2), 443);
/// A router on the way to them.
pub const FAR_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

/// All private hosts leave with [`POOL`].
pub fn snat() -> Config {
    Config::new().snat("10.0.0.0/16", &["203.0.113.16"])
}

/// SNAT, a one-to-one EIP and port mappings.
pub fn everything() -> Config {
    snat()
        .any_port("203.0.113.17", "10.0.0.3")
        .forward(TCP, ("203.0.113.18", 80), ("10.0.0.4", 8080), 1)
        .forward(UDP, ("203.0.113.18", 80), ("10.0.0.4", 8080), 1)
}

/// A packet and what it becomes on the other side.
#[derive(Clone, Debug)]
pub struct Way {
    pub from: Side,
    pub sent: Packet,
    pub to: Side,
    pub becomes: Packet,
}

impl Way {
    /// The same way for packets with something in them changed that translation does not touch.
    pub fn with(&self, change: impl Fn(Packet) -> Packet) -> Self {
        let Self { from, sent, to, becomes } = self.clone();
        Self { from, sent: change(sent), to, becomes: change(becomes) }
    }

    /// Sends it, and asserts that it becomes what it should, one hop later.
    #[track_caller]
    pub fn check(&self, net: &mut TestNet) -> Observed {
        let observed = net.send(self.from, &self.sent);
        became(observed.forwarded(self.to), self.becomes.clone().ttl(self.sent.ip.ttl - 1));
        observed
    }
}

/// A network of [`everything`] with a flow of each kind open, and a packet of each flow in both directions, of one
/// protocol: SNAT, one-to-one, port mapping.
pub fn ways(workers: u16, protocol: u8) -> (TestNet, Vec<Way>) {
    let mut net = TestNet::with_workers(&everything(), workers, 1);
    let packet = |from: Endpoint, to: Endpoint| match protocol {
        UDP => Packet::udp(from, to, b"data"),
        _ => Packet::tcp(from, to, Flags::ACK, 1001, 7001).payload(b"data"),
    };
    let first = |from: Endpoint, to: Endpoint| match protocol {
        UDP => Packet::udp(from, to, b"first"),
        _ => Packet::syn(from, to),
    };
    let inside = (HOST, 4000);
    let external = out(&mut net, &first(inside, PEER)).source();
    let client = (PEER.0, 50_000);
    into(&mut net, &first(client, (ANY_EIP, 7)));
    into(&mut net, &first(client, PUBLIC));
    let mut ways = vec![];
    for (host, public, peer) in
        [(inside, external, PEER), ((ONE_TO_ONE, 7), (ANY_EIP, 7), client), (SERVICE, PUBLIC, client)]
    {
        if protocol == TCP && host == inside {
            into(&mut net, &Packet::tcp(peer, public, Flags::SYN_ACK, 7000, 1001));
        } else if protocol == TCP {
            out(&mut net, &Packet::tcp(host, peer, Flags::SYN_ACK, 7000, 1001));
        }
        ways.extend([
            Way { from: INSIDE, sent: packet(host, peer), to: OUTSIDE, becomes: packet(public, peer) },
            Way { from: OUTSIDE, sent: packet(peer, public), to: INSIDE, becomes: packet(peer, host) },
        ]);
    }
    // Neighbours and, with several workers, sessions at each of them are known then.
    for way in &ways {
        way.check(&mut net);
    }
    (net, ways)
}

/// Asserts that a packet left as expected. The identification of what may be fragmented is the gateway's choice (IP-16).
#[track_caller]
pub fn became(left: &Packet, mut expected: Packet) {
    if !expected.ip.dont_fragment {
        expected.ip.id = left.ip.id;
    }
    assert_eq!(*left, expected);
}

/// Sends a packet from the inside and gives what leaves on the outside.
#[track_caller]
pub fn out(net: &mut TestNet, packet: &Packet) -> Packet {
    net.send(INSIDE, packet).forwarded(OUTSIDE).clone()
}

/// Sends a packet from the outside and gives what leaves on the inside.
#[track_caller]
pub fn into(net: &mut TestNet, packet: &Packet) -> Packet {
    net.send(OUTSIDE, packet).forwarded(INSIDE).clone()
}

/// Sends a packet that turns round at an EIP and gives what comes back to the inside.
#[track_caller]
pub fn around(net: &mut TestNet, packet: &Packet) -> Packet {
    net.send(INSIDE, packet).forwarded(INSIDE).clone()
}

/// The external endpoint of a host's datagrams to a peer.
#[track_caller]
pub fn mapped(net: &mut TestNet, from: Endpoint, to: Endpoint) -> Endpoint {
    out(net, &Packet::udp(from, to, b"?")).source()
}

/// The external endpoint of a host's connection to a peer.
#[track_caller]
pub fn connected(net: &mut TestNet, from: Endpoint, to: Endpoint) -> Endpoint {
    out(net, &Packet::syn(from, to)).source()
}

/// Opens a connection through SNAT and gives its external endpoint.
#[track_caller]
pub fn established(net: &mut TestNet, from: Endpoint, to: Endpoint) -> Endpoint {
    let external = connected(net, from, to);
    into(net, &Packet::tcp(to, external, Flags::SYN_ACK, 7000, 1001));
    out(net, &Packet::tcp(from, to, Flags::ACK, 1001, 7001));
    external
}

/// Asserts that a packet goes nowhere, and that nobody is told.
#[track_caller]
pub fn lost(net: &mut TestNet, side: Side, packet: &Packet) -> Observed {
    let observed = net.send(side, packet);
    assert!(observed.left.is_empty() && observed.drops.len() == 1, "not dropped: {observed:?}");
    observed
}

/// Sends a packet whose bytes are changed first: `edit` gets the IP packet.
pub fn tampered(net: &mut TestNet, side: Side, packet: &Packet, edit: impl FnOnce(&mut Vec<u8>)) -> Observed {
    let frame = net.frame_of(side, packet);
    let (link, ip) = frame.split_at(14);
    let mut ip = ip.to_vec();
    edit(&mut ip);
    net.inject(net.config().link(side).port, &[link, &ip].concat())
}

/// Makes the header checksum of an IP packet right.
pub fn fix(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    let Some(header) = packet.get_mut(..len).filter(|header| header.len() >= 20) else { return };
    header[10..12].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(header).ones_complement();
    header[10..12].copy_from_slice(&sum.to_ne_bytes());
}

/// An error about `about`, sent by `from`; the words behind the checksum are `rest`.
pub fn error(from: Ipv4Addr, kind: u8, code: u8, rest: [u8; 4], about: &Packet) -> Packet {
    let mut error = Packet::error(from, kind, code, about, None);
    if let Body::Error { rest: word, .. } = &mut error.body {
        *word = rest;
    }
    error
}

/// The packet that an ICMP error quotes, with the error's type and code.
#[track_caller]
pub fn quoted(packet: &Packet) -> ((u8, u8), &crate::support::Quote) {
    match &packet.body {
        Body::Error { kind, code, quote, .. } => ((*kind, *code), quote),
        _ => panic!("no ICMP error: {packet:?}"),
    }
}

/// The TCP part of a packet, to change.
#[track_caller]
pub fn tcp_mut(packet: &mut Packet) -> &mut crate::support::packet::Tcp {
    match &mut packet.body {
        Body::Tcp(tcp) => tcp,
        other => panic!("no TCP: {other:?}"),
    }
}

/// An address by its last two bytes: 10.0.x.y.
pub fn host(x: u8, y: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, x, y)
}

/// An address on the outside link, of nobody else.
pub fn neighbour() -> Ipv4Addr {
    ip("203.0.113.9")
}
