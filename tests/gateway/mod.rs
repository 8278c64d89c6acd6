//! A small gateway on memory ports: port 0 leads outside, port 1 into a VPC whose hosts leave by one EIP.

#![allow(dead_code, reason = "every test binary uses a part of this")]

pub mod fragile;

use std::sync::Arc;
use std::time::Duration;

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use natgate::base::time::Clock;
use natgate::base::{EipIndex, EntryId, GatewayIndex, InterfaceIndex, PortIndex, VpcIndex};
use natgate::nic::memory::{Far, Options, open};
use natgate::nic::{Mac, Pool};
use natgate::policy::gateway::{Limits, Meter};
use natgate::policy::snapshot::{Route, SnatTable, Topology, Vpc};
use natgate::policy::snat::PoolAddress;
use natgate::policy::{
    Allocation, Eip, Filtering, Gateway, Interface, Lpm, Mapping, PortRange, PortVlans, Prefix, Realm,
    Snapshot, SnatEntry, Timeouts,
};
use natgate::worker::Setup;

pub const OUTSIDE: usize = 0;
pub const INSIDE: usize = 1;
pub const ROUTER: u32 = 0xcb00_71fe;
pub const OUTSIDE_ADDRESS: u32 = 0xcb00_7101;
pub const EIP: u32 = 0xcb00_710a;
pub const INSIDE_ADDRESS: u32 = 0x0a00_0001;
pub const SERVER: u32 = 0x0808_0808;
pub const ROUTER_MAC: Mac = [6, 0, 0, 0, 0, 0xfe];

/// An address and a port.
pub type End = (u32, u16);

/// A private host, and its Ethernet address.
pub fn host(n: u8) -> (u32, Mac) {
    (0x0a00_0000 + u32::from(n), [6, 0, 0, 0, 1, n])
}

pub fn port_mac(port: usize) -> Mac {
    [2, 0, 0, 0, 0, port as u8]
}

fn interface(port: usize, address: u32, realm: Realm) -> Interface {
    Interface {
        port: PortIndex(port as u16),
        vlan: None,
        mac: port_mac(port),
        address,
        prefix: Prefix::of(address, 24),
        realm,
        mtu: 1500,
        tcp_mss: None,
    }
}

pub fn snapshot() -> Arc<Snapshot> {
    let vlans = |interface| {
        let mut vlans = PortVlans::default();
        vlans.attach(None, InterfaceIndex(interface));
        vlans
    };
    let on_link = |interface| Route { interface: InterfaceIndex(interface), next_hop: None };
    let mut topology = Topology {
        ports: vec![vlans(0), vlans(1)],
        interfaces: vec![
            interface(OUTSIDE, OUTSIDE_ADDRESS, Realm::Outside),
            interface(INSIDE, INSIDE_ADDRESS, Realm::Vpc(VpcIndex(0))),
        ],
        vpcs: vec![Vpc { cidr: Some(Prefix::of(INSIDE_ADDRESS, 24)), ..Vpc::default() }],
        ..Topology::default()
    };
    topology.vpcs[0].routes.insert(Prefix::of(INSIDE_ADDRESS, 24), on_link(1));
    topology.outside_routes.insert(Prefix::of(OUTSIDE_ADDRESS, 24), on_link(0));
    let default = Route { interface: InterfaceIndex(0), next_hop: Some(ROUTER) };
    topology.outside_routes.insert(Prefix::ALL, default);
    topology.public_ranges.insert(Prefix::of(EIP, 28), InterfaceIndex(0));
    let mut edit = Snapshot::default().edit();
    edit.set_topology(topology);
    edit.set_gateways(vec![Gateway {
        vpc: VpcIndex(0),
        limits: Limits::UNLIMITED,
        meter: Arc::new(Meter::default()),
    }]);
    let mut eip = Eip::new(EipIndex(0), EIP, InterfaceIndex(0));
    eip.gateway = Some(GatewayIndex(0));
    edit.put_eip(eip);
    let mut table = SnatTable::default();
    let entry = SnatEntry {
        id: EntryId(1),
        gateway: GatewayIndex(0),
        pool: Box::new([PoolAddress { index: EipIndex(0), address: EIP }]),
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::EndpointIndependent,
        ports: PortRange::ALL,
        allocation: Allocation::Ports,
        untranslated: Lpm::default(),
        timeouts: Timeouts::RFC,
        ftp: false,
        host_quota: u32::MAX,
    };
    table.insert(Prefix::of(INSIDE_ADDRESS, 24), Arc::new(entry));
    edit.set_snat(VpcIndex(0), table);
    edit.finish()
}

/// The parts of a gateway with this many workers, and the far ends of its ports' queues: by port, then by worker.
pub fn setup(workers: u16, sessions: usize) -> (Setup, [Vec<Far>; 2]) {
    let pool = Pool::new(16384, 2048).unwrap();
    let port = |index: usize| {
        let index = PortIndex(index as u16);
        open(index, usize::from(workers), &pool, &Options::of(index))
    };
    let ((outside, out), (inside, into)) = (port(OUTSIDE), port(INSIDE));
    let setup = Setup {
        ports: vec![outside, inside],
        pool: Arc::clone(&pool),
        workers,
        sessions,
        neighbours: 1024,
        snat_eips: 4,
        ring: natgate::worker::setup::RING,
        events: 0,
        seed: Some(7),
        snapshot: snapshot(),
    };
    (setup, [out, into])
}

/// An ARP request for an address of the gateway: it tells the gateway where the sender is.
pub fn arp(sender: (u32, Mac), target: u32) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(sender.1);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(sender.1);
    frame.extend(sender.0.to_be_bytes());
    frame.extend([0; 6]);
    frame.extend(target.to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// A UDP datagram in a frame to the gateway.
pub fn udp(from: Mac, port: usize, source: End, destination: End) -> Vec<u8> {
    let payload = [0x55; 26];
    let builder = PacketBuilder::ethernet2(from, port_mac(port))
        .ipv4(source.0.to_be_bytes(), destination.0.to_be_bytes(), 64)
        .udp(source.1, destination.1);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, &payload).unwrap();
    frame
}

/// The ends of a UDP datagram whose checksums are right; `None` for any other frame.
pub fn ends(frame: &[u8]) -> Option<(End, End)> {
    let headers = PacketHeaders::from_ethernet_slice(frame).ok()?;
    let (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Udp(udp))) = (headers.net, headers.transport)
    else {
        return None;
    };
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    let checksum = udp.calc_checksum_ipv4(&ip, headers.payload.slice()).unwrap();
    assert_eq!(udp.checksum, checksum);
    Some((
        (u32::from_be_bytes(ip.source), udp.source_port),
        (u32::from_be_bytes(ip.destination), udp.destination_port),
    ))
}

/// All UDP datagrams that came out of a port, by the worker that sent them.
pub fn datagrams(far: &mut [Far]) -> Vec<(usize, End, End)> {
    let mut all = Vec::new();
    for (worker, far) in far.iter_mut().enumerate() {
        while let Some(frame) = far.receive() {
            all.extend(ends(&frame).map(|(source, destination)| (worker, source, destination)));
        }
    }
    all
}

/// Buffers that the test's ends of the wires hold, in their caches and as frames that came out.
pub fn held(far: &mut [Vec<Far>; 2]) -> usize {
    let mut count = 0;
    for far in far.iter_mut().flatten() {
        count += far.cache().len();
        while let Some(frame) = far.receive_frame() {
            far.cache().give(frame);
            count += 1;
        }
    }
    count
}

/// Waits until it is so; fails after five seconds.
pub fn wait(what: &str, mut so: impl FnMut() -> bool) {
    let clock = Clock::start();
    let start = clock.now();
    while !so() {
        assert!(clock.now().since(start) < Duration::from_secs(5), "waited in vain: {what}");
        std::thread::sleep(Duration::from_micros(100));
    }
}
