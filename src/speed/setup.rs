//! The gateway that is measured: one outside port, one VPC, entries enough for the plan, and an engine with its sessions.

use std::io;
use std::sync::Arc;

use crate::base::{
    EipIndex, EntryId, GatewayIndex, InterfaceIndex, Moment, PortIndex, Rng, VpcIndex, WorkerIndex,
};
use crate::nat::{Engine, EngineConfig, NeighbourFact, Output};
use crate::policy::{
    Allocation, Edit, Eip, Filtering, Gateway, Host, HostForward, HostOneToOne, Interface, Limits, Lpm,
    Mapping, OneToOne, PoolAddress, PortForward, PortRange, PortVlans, Prefix, Realm, Route, Snapshot,
    SnatEntry, Timeouts, Topology, Vpc,
};
use crate::speed::{Plan, RING, Scenario};
use crate::wire::protocol;

/// The gateway's MAC address on the outside.
pub const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The gateway's MAC address on the inside.
pub const INSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// MAC address of the routers on both sides.
pub const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];

const OUTSIDE: InterfaceIndex = InterfaceIndex(0);
const INSIDE: InterfaceIndex = InterfaceIndex(1);
/// The outside link 203.0.113.0/24, its router at .1, the gateway at .2.
const OUTSIDE_LINK: u32 = 0xcb00_7100;
/// The VPC 10.0.0.0/8; its hosts are behind a router at 10.255.255.254.
const VPC: u32 = 0x0a00_0000;
const INSIDE_LINK: u32 = 0x0aff_ff00;
/// EIPs are taken from 100.64.0.0 on.
const EIPS: u32 = 0x6440_0000;
/// Private hosts at the most.
const HOSTS: usize = 1_000_000;
/// EIPs of a SNAT pool.
pub const POOL: usize = 64;
/// DNAT entries of a plan that says nothing else.
pub const ENTRIES: usize = 1000;

/// EIP number `n`.
pub const fn eip_address(n: u32) -> u32 {
    EIPS + n
}

/// Private host number `n`.
pub const fn host_address(n: u32) -> u32 {
    VPC + 256 + n
}

/// Private hosts that a number of sessions is spread over.
pub fn hosts_for(sessions: usize) -> u32 {
    sessions.clamp(1, HOSTS) as u32
}

/// DNAT entries that a plan's sessions are spread over.
pub fn entries_for(plan: &Plan) -> u32 {
    plan.sessions.min(plan.entries).max(1) as u32
}

/// The gateway under test.
pub struct Bed {
    /// The engine.
    pub engine: Engine,
    /// Its configuration.
    pub snapshot: Arc<Snapshot>,
    new_sessions: usize,
}

impl std::fmt::Debug for Bed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bed").finish_non_exhaustive()
    }
}

impl Bed {
    /// A gateway for a plan, without sessions yet.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(plan: &Plan, seed: u64) -> io::Result<Self> {
        let snapshot = snapshot(plan);
        let new_sessions = plan.sessions.max(1).next_multiple_of(RING);
        // A hairpinned flow is two sessions.
        let per_flow = if plan.scenario == Scenario::Hairpin { 2 } else { 1 };
        let engine = Engine::new(EngineConfig {
            worker: WorkerIndex(0),
            workers: 1,
            sessions: new_sessions * per_flow,
            neighbours: 1024,
            snat_eips: POOL,
            distributions: std::sync::Arc::default(),
            rng: Rng::from_seed(seed),
        })?;
        let mut bed = Self { engine, snapshot, new_sessions };
        bed.confirm_neighbours(Moment::from_secs(1), &mut Output::default());
        Ok(bed)
    }

    /// Tells the engine that the routers on both sides are there, as they themselves would when asked.
    pub fn confirm_neighbours(&mut self, now: Moment, out: &mut Output) {
        for (interface, address) in [(OUTSIDE, OUTSIDE_LINK + 1), (INSIDE, INSIDE_LINK + 254)] {
            let fact = NeighbourFact { interface, address, mac: STATION };
            self.engine.learn(fact, &self.snapshot, now, out);
        }
    }

    /// New sessions that there is room for: whole rings of them.
    pub fn new_sessions(&self) -> usize {
        self.new_sessions
    }

    /// Bytes of all tables for each session that they have room for.
    pub fn bytes_per_session(&self) -> f64 {
        self.engine.memory().total() as f64 / self.engine.occupancy().session_capacity as f64
    }
}

fn snapshot(plan: &Plan) -> Arc<Snapshot> {
    let mut edit = Snapshot::default().edit();
    edit.set_topology(topology());
    edit.set_gateways(vec![Gateway { vpc: VpcIndex(0), limits: Limits::UNLIMITED, meter: Arc::default() }]);
    let entries = entries_for(plan);
    match plan.scenario {
        Scenario::DnatAny => (0..entries).for_each(|n| put_any_port(&mut edit, n)),
        Scenario::DnatPort => (0..entries).for_each(|n| put_port(&mut edit, n)),
        Scenario::Hairpin => {
            put_pool(&mut edit);
            (POOL as u32..POOL as u32 + entries).for_each(|n| put_port(&mut edit, n));
        }
        Scenario::Snat | Scenario::NewSession | Scenario::Imix | Scenario::Icmp => put_pool(&mut edit),
    }
    edit.finish()
}

fn topology() -> Topology {
    let mut ports = [PortVlans::default(), PortVlans::default()];
    ports[0].attach(None, OUTSIDE);
    ports[1].attach(None, INSIDE);
    let link = |address: u32| Prefix::of(address, 24);
    let interface = |port: u16, mac, link: u32, host: u32, realm| Interface {
        port: PortIndex(port),
        vlan: None,
        mac,
        address: link + host,
        prefix: Prefix::of(link, 24),
        realm,
        mtu: 1500,
        tcp_mss: None,
    };
    let vpc = Prefix::of(VPC, 8);
    let route = |interface, next_hop| Route { interface, next_hop };
    Topology {
        ports: ports.into(),
        interfaces: vec![
            interface(0, OUTSIDE_MAC, OUTSIDE_LINK, 2, Realm::Outside),
            interface(1, INSIDE_MAC, INSIDE_LINK, 1, Realm::Vpc(VpcIndex(0))),
        ],
        vpcs: vec![Vpc {
            cidr: Some(vpc),
            routes: [(link(INSIDE_LINK), route(INSIDE, None)), (vpc, route(INSIDE, Some(INSIDE_LINK + 254)))]
                .into_iter()
                .collect(),
        }],
        outside_routes: [
            (link(OUTSIDE_LINK), route(OUTSIDE, None)),
            (Prefix::ALL, route(OUTSIDE, Some(OUTSIDE_LINK + 1))),
        ]
        .into_iter()
        .collect(),
        public_ranges: Lpm::default(),
    }
}

fn new_eip(n: u32) -> Eip {
    let mut eip = Eip::new(EipIndex(n), eip_address(n), OUTSIDE);
    eip.gateway = Some(GatewayIndex(0));
    eip
}

fn put_any_port(edit: &mut Edit, n: u32) {
    let (id, timeouts) = (EntryId(n), Timeouts::RFC);
    let mut eip = new_eip(n);
    eip.any_port = Some(OneToOne { id, vpc: VpcIndex(0), host: host_address(n), timeouts });
    let back = HostOneToOne { id, eip: eip.index, address: eip.address, timeouts };
    edit.put_eip(eip);
    edit.put_host(VpcIndex(0), host_address(n), Some(Host::new(Some(back), Vec::new())));
}

/// Public port of the DNAT entries.
pub const PUBLIC_PORT: u16 = 8000;
/// Private port of the DNAT entries.
pub const PRIVATE_PORT: u16 = 80;

fn put_port(edit: &mut Edit, n: u32) {
    let (id, timeouts) = (EntryId(n), Timeouts::RFC);
    let mut eip = new_eip(n);
    eip.set_forwards(vec![PortForward {
        id,
        protocol: protocol::UDP,
        first: PUBLIC_PORT,
        last: PUBLIC_PORT,
        vpc: VpcIndex(0),
        host: host_address(n),
        host_first: PRIVATE_PORT,
        timeouts,
    }]);
    let back = HostForward {
        id,
        protocol: protocol::UDP,
        first: PRIVATE_PORT,
        last: PRIVATE_PORT,
        eip: eip.index,
        address: eip.address,
        public_first: PUBLIC_PORT,
        timeouts,
    };
    edit.put_eip(eip);
    edit.put_host(VpcIndex(0), host_address(n), Some(Host::new(None, vec![back])));
}

fn put_pool(edit: &mut Edit) {
    let members = (0..POOL as u32).map(|n| {
        edit.put_eip(new_eip(n));
        PoolAddress { index: EipIndex(n), address: eip_address(n) }
    });
    let entry = SnatEntry {
        id: EntryId(u32::MAX - 1),
        gateway: GatewayIndex(0),
        pool: members.collect(),
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::EndpointIndependent,
        ftp: false,
        ports: PortRange { first: 1024, last: u16::MAX },
        allocation: Allocation::Ports,
        untranslated: Lpm::default(),
        timeouts: Timeouts::RFC,
        host_quota: u32::MAX,
    };
    edit.set_snat(VpcIndex(0), [(Prefix::of(VPC, 8), Arc::new(entry))].into_iter().collect());
}
