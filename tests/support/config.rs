//! A configuration as plain data: what the reference NAT reads, and what is compiled to a snapshot for the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use natgate::base::{EipIndex, EntryId, GatewayIndex, InterfaceIndex, PlanIndex, PortIndex, VpcIndex};
use natgate::policy::{
    Allocation, Eip, Filtering, Gateway, Host, HostForward, HostOneToOne, Interface, Leaving, Limits, Lpm,
    Mapping, Meter, OneToOne, PoolAddress, PortForward, PortRange, PortVlans, Prefix, Realm, Rivals, Route,
    Snapshot, SnatEntry, Timeouts, Topology, Vpc,
};

use super::codec::Mac;
use super::packet::ip;

/// Where a packet is: on the Internet side or in a VPC (by position in [`Config::vpcs`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    Outside,
    Vpc(usize),
}

impl Side {
    pub fn realm(self) -> Realm {
        match self {
            Self::Outside => Realm::Outside,
            Self::Vpc(vpc) => Realm::Vpc(VpcIndex(vpc as u16)),
        }
    }
}

/// One interface of the gateway: a port or a VLAN of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub port: u16,
    pub vlan: Option<u16>,
    /// The gateway's own address.
    pub address: Ipv4Addr,
    /// Length of the on-link prefix.
    pub len: u8,
    pub mtu: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub outside: Link,
    /// The default router on the Internet side.
    pub tcp_mss: Option<u16>,
    pub router: Ipv4Addr,
    /// From which EIPs come.
    pub public: Vec<Prefix>,
    pub vpcs: Vec<VpcConfig>,
    pub eips: Vec<EipConfig>,
    pub dnat: Vec<Dnat>,
    pub snat: Vec<Snat>,
    /// What becomes of sessions that no entry stands behind any more, if they do not just end.
    pub leaving: Option<Leaving>,
}

/// A VPC with its one vSwitch and its one gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct VpcConfig {
    pub cidr: Prefix,
    pub link: Link,
    pub limits: Limits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EipConfig {
    pub address: Ipv4Addr,
    pub ping: bool,
    /// Bits a second in each direction.
    pub bandwidth: Option<u64>,
    /// The plan whose limit that is.
    pub plan: Option<u32>,
}

/// The ports of a DNAT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    Any,
    Range { protocol: u8, public: u16, private: u16, count: u16 },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Dnat {
    pub eip: Ipv4Addr,
    pub vpc: usize,
    pub host: Ipv4Addr,
    pub ports: Ports,
    pub timeouts: Timeouts,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Snat {
    pub vpc: usize,
    pub source: Prefix,
    pub pool: Vec<Ipv4Addr>,
    pub mapping: Mapping,
    pub filtering: Filtering,
    pub ports: PortRange,
    pub allocation: Allocation,
    pub untranslated: Vec<Prefix>,
    pub timeouts: Timeouts,
    pub ftp: bool,
    pub host_quota: u32,
}

/// A prefix from its text.
pub fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').unwrap_or((text, "32"));
    Prefix::of(ip(address).into(), len.parse().expect("a prefix length"))
}

/// The public address of the gateway itself.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The default router.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

impl Config {
    /// One VPC, 10.0.0.0/16 on port 1, and nothing configured in it. The Internet is on port 0 behind 203.0.113.1; EIPs
    /// come from 203.0.113.16/28.
    pub fn new() -> Self {
        Self {
            outside: Link { port: 0, vlan: None, address: GATEWAY, len: 24, mtu: 1500 },
            tcp_mss: None,
            router: ROUTER,
            public: vec![prefix("203.0.113.16/28")],
            vpcs: vec![VpcConfig {
                cidr: prefix("10.0.0.0/16"),
                link: Link { port: 1, vlan: None, address: ip("10.0.0.1"), len: 16, mtu: 1500 },
                limits: Limits::UNLIMITED,
            }],
            eips: vec![],
            dnat: vec![],
            snat: vec![],
            leaving: None,
        }
    }

    /// Says what becomes of sessions that no entry stands behind any more.
    pub fn leaving(mut self, leaving: Leaving) -> Self {
        self.leaving = Some(leaving);
        self
    }

    /// Adds a VPC with the same private addresses, on VLAN `vlan` of port 1.
    pub fn vpc(mut self, vlan: u16) -> Self {
        let mut vpc = self.vpcs[0].clone();
        vpc.link.vlan = Some(vlan);
        self.vpcs.push(vpc);
        self
    }

    pub fn eip(mut self, address: &str) -> Self {
        let address = ip(address);
        if self.eips.iter().all(|eip| eip.address != address) {
            self.eips.push(EipConfig { address, ping: true, bandwidth: None, plan: None });
        }
        self
    }

    /// Adds an any-port DNAT entry.
    pub fn any_port(mut self, eip: &str, host: &str) -> Self {
        self = self.eip(eip);
        let (eip, host) = (ip(eip), ip(host));
        self.dnat.push(Dnat { eip, vpc: 0, host, ports: Ports::Any, timeouts: Timeouts::RFC });
        self
    }

    /// Adds a DNAT entry by port or by a range of `count` ports.
    pub fn forward(mut self, protocol: u8, eip: (&str, u16), host: (&str, u16), count: u16) -> Self {
        self = self.eip(eip.0);
        let ports = Ports::Range { protocol, public: eip.1, private: host.1, count };
        self.dnat.push(Dnat { eip: ip(eip.0), vpc: 0, host: ip(host.0), ports, timeouts: Timeouts::RFC });
        self
    }

    /// Adds a SNAT entry with default settings.
    pub fn snat(mut self, source: &str, pool: &[&str]) -> Self {
        for eip in pool {
            self = self.eip(eip);
        }
        self.snat.push(Snat {
            vpc: 0,
            source: prefix(source),
            pool: pool.iter().map(|eip| ip(eip)).collect(),
            mapping: Mapping::default(),
            filtering: Filtering::default(),
            ports: PortRange { first: 1024, last: 65535 },
            allocation: Allocation::Ports,
            untranslated: vec![],
            timeouts: Timeouts::RFC,
            ftp: false,
            host_quota: u32::MAX,
        });
        self
    }

    /// Changes the SNAT entry added last.
    pub fn snat_with(mut self, change: impl FnOnce(&mut Snat)) -> Self {
        change(self.snat.last_mut().expect("a SNAT entry"));
        self
    }

    /// All interfaces: the outside first, then one for each VPC.
    pub fn links(&self) -> impl Iterator<Item = (Side, &Link)> {
        let vpcs = self.vpcs.iter().enumerate().map(|(i, vpc)| (Side::Vpc(i), &vpc.link));
        std::iter::once((Side::Outside, &self.outside)).chain(vpcs)
    }

    pub fn link(&self, side: Side) -> &Link {
        match side {
            Side::Outside => &self.outside,
            Side::Vpc(vpc) => &self.vpcs[vpc].link,
        }
    }

    /// The interface on which a frame of this port and VLAN travels.
    pub fn side_of(&self, port: u16, vlan: Option<u16>) -> Option<Side> {
        self.links().find(|(_, link)| link.port == port && link.vlan == vlan).map(|(side, _)| side)
    }

    pub fn is_eip(&self, address: Ipv4Addr) -> bool {
        self.eips.iter().any(|eip| eip.address == address)
    }

    /// Who has to be asked on the link to reach an address.
    pub fn next_hop(&self, side: Side, address: Ipv4Addr) -> Ipv4Addr {
        let link = self.link(side);
        let on_link = Prefix::of(link.address.into(), link.len).contains(address.into());
        if on_link || side != Side::Outside { address } else { self.router }
    }
}

/// The gateway's Ethernet address on an interface.
pub fn gateway_mac(side: Side) -> Mac {
    let last = match side {
        Side::Outside => 0,
        Side::Vpc(vpc) => 1 + vpc as u8,
    };
    [0x02, 0, 0x5e, 0, 0, last]
}

/// The Ethernet address of a host of the test network.
pub fn host_mac(side: Side, address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    let tag = match side {
        Side::Outside => 0x02,
        Side::Vpc(vpc) => 0x06 + 4 * vpc as u8,
    };
    [tag, 0x11, a, b, c, d]
}

/// Compiles configurations one after the other, each to a snapshot that shares what did not change.
#[derive(Debug, Default)]
pub struct Compiler {
    current: Option<Config>,
    snapshot: Arc<Snapshot>,
    slots: BTreeMap<Ipv4Addr, EipIndex>,
    free_slots: BTreeSet<EipIndex>,
    entries: Vec<String>,
    meters: Vec<Arc<Meter>>,
}

impl Compiler {
    /// The snapshot of `config`.
    pub fn compile(&mut self, config: &Config) -> Arc<Snapshot> {
        let old = self.current.replace(config.clone());
        let mut edit = self.snapshot.edit();
        edit.set_topology(topology(config));
        self.meters.resize_with(config.vpcs.len(), Arc::default);
        let gateways = config.vpcs.iter().enumerate().map(|(i, vpc)| Gateway {
            vpc: VpcIndex(i as u16),
            limits: vpc.limits,
            meter: Arc::clone(&self.meters[i]),
        });
        edit.set_gateways(gateways.collect());

        for old_eip in old.iter().flat_map(|old| &old.eips) {
            if !config.is_eip(old_eip.address) {
                edit.remove_eip(old_eip.address.into());
                self.free_slots.extend(self.slots.remove(&old_eip.address));
            }
        }
        for eip in &config.eips {
            let next = EipIndex(self.slots.len() as u32);
            let free = || self.free_slots.pop_first().unwrap_or(next);
            self.slots.entry(eip.address).or_insert_with(free);
            edit.put_eip(self.eip(config, eip));
        }

        let no_dnat = vec![];
        let old_dnat = old.as_ref().map_or(&no_dnat, |old| &old.dnat);
        let hosts: BTreeSet<_> = old_dnat.iter().chain(&config.dnat).map(|d| (d.vpc, d.host)).collect();
        for (vpc, host) in hosts {
            edit.put_host(VpcIndex(vpc as u16), host.into(), self.host(config, vpc, host));
        }

        for vpc in 0..config.vpcs.len() {
            let of_vpc = config.snat.iter().filter(|entry| entry.vpc == vpc);
            let table = of_vpc.map(|entry| (entry.source, Arc::new(self.snat_entry(entry)))).collect();
            edit.set_snat(VpcIndex(vpc as u16), table);
        }
        let before = old.as_ref().and_then(|old| old.leaving);
        if before != config.leaving {
            config.eips.iter().for_each(|eip| edit.touch(self.slots[&eip.address]));
        }
        for entry in 1..=self.entries.len() {
            edit.set_leaving(EntryId(entry as u32), config.leaving);
        }
        self.snapshot = edit.finish();
        Arc::clone(&self.snapshot)
    }

    /// A number for an entry, the same as long as the entry is the same.
    fn entry_id(&mut self, entry: String) -> EntryId {
        let at = self.entries.iter().position(|known| *known == entry).unwrap_or_else(|| {
            self.entries.push(entry);
            self.entries.len() - 1
        });
        EntryId(at as u32 + 1)
    }

    fn eip(&mut self, config: &Config, eip: &EipConfig) -> Eip {
        let mut compiled = Eip::new(self.slots[&eip.address], eip.address.into(), InterfaceIndex(0));
        compiled.ping = eip.ping;
        compiled.bandwidth = eip.bandwidth;
        compiled.plan = eip.plan.map(PlanIndex);
        let mut forwards = vec![];
        for entry in config.dnat.iter().filter(|d| d.eip == eip.address) {
            compiled.gateway = Some(GatewayIndex(entry.vpc as u32));
            let id = self.entry_id(dnat_key(entry));
            let vpc = VpcIndex(entry.vpc as u16);
            let (host, timeouts) = (entry.host.into(), entry.timeouts);
            match entry.ports {
                Ports::Any => compiled.any_port = Some(OneToOne { id, vpc, host, timeouts }),
                Ports::Range { protocol, public: first, private: host_first, count } => {
                    let last = first + (count - 1);
                    forwards.push(PortForward { id, protocol, first, last, vpc, host, host_first, timeouts });
                }
            }
        }
        if let Some(entry) = config.snat.iter().find(|s| s.pool.contains(&eip.address)) {
            compiled.gateway = Some(GatewayIndex(entry.vpc as u32));
        }
        compiled.set_forwards(forwards);
        compiled
    }

    fn host(&mut self, config: &Config, vpc: usize, host: Ipv4Addr) -> Option<Host> {
        let (mut any_port, mut forwards, mut rivals) = (None, Vec::<HostForward>::new(), vec![]);
        for entry in config.dnat.iter().filter(|d| (d.vpc, d.host) == (vpc, host)) {
            let id = self.entry_id(dnat_key(entry));
            let (eip, address, timeouts) = (self.slots[&entry.eip], entry.eip.into(), entry.timeouts);
            match entry.ports {
                Ports::Any => any_port = Some(HostOneToOne { id, eip, address, timeouts }),
                Ports::Range { protocol, public: public_first, private: first, count } => {
                    let last = first + (count - 1);
                    // The host answers by the first of the entries that lead to a port, unless a session says otherwise.
                    let rival = forwards
                        .iter()
                        .find(|f| f.protocol == protocol && first <= f.last && f.first <= last);
                    if let Some(rival) = rival {
                        assert!(rival.first <= first && last <= rival.last, "entries that overlap in part");
                        rivals.push((protocol, first, last));
                        continue;
                    }
                    forwards.push(HostForward {
                        id,
                        protocol,
                        first,
                        last,
                        eip,
                        address,
                        public_first,
                        timeouts,
                    });
                }
            }
        }
        let rivals = Rivals { any_port: false, ports: rivals.into() };
        (any_port.is_some() || !forwards.is_empty())
            .then(|| Host::new(any_port, forwards).with_rivals(rivals))
    }

    fn snat_entry(&mut self, entry: &Snat) -> SnatEntry {
        let member =
            |address: &Ipv4Addr| PoolAddress { index: self.slots[address], address: (*address).into() };
        let pool = entry.pool.iter().map(member).collect();
        SnatEntry {
            id: self.entry_id(format!("snat {} {} {:?}", entry.vpc, entry.source, entry.allocation)),
            gateway: GatewayIndex(entry.vpc as u32),
            pool,
            mapping: entry.mapping,
            filtering: entry.filtering,
            ports: entry.ports,
            allocation: entry.allocation,
            untranslated: entry.untranslated.iter().map(|prefix| (*prefix, ())).collect(),
            timeouts: entry.timeouts,
            ftp: entry.ftp,
            host_quota: entry.host_quota,
        }
    }
}

fn dnat_key(entry: &Dnat) -> String {
    format!("dnat {} {} {} {:?}", entry.eip, entry.vpc, entry.host, entry.ports)
}

fn topology(config: &Config) -> Topology {
    let ports = config.links().map(|(_, link)| link.port).max().unwrap_or(0) + 1;
    let mut topology =
        Topology { ports: vec![PortVlans::default(); usize::from(ports)], ..Topology::default() };
    for (at, (side, link)) in config.links().enumerate() {
        let index = InterfaceIndex(at as u16);
        topology.ports[usize::from(link.port)].attach(link.vlan, index);
        let on_link = Prefix::of(link.address.into(), link.len);
        topology.interfaces.push(Interface {
            port: PortIndex(link.port),
            vlan: link.vlan,
            mac: gateway_mac(side),
            address: link.address.into(),
            prefix: on_link,
            realm: side.realm(),
            mtu: link.mtu,
            tcp_mss: config.tcp_mss.filter(|_| side == Side::Outside),
        });
        let direct = Route { interface: index, next_hop: None };
        match side {
            Side::Outside => {
                topology.outside_routes.insert(on_link, direct);
                let default = Route { interface: index, next_hop: Some(config.router.into()) };
                topology.outside_routes.insert(Prefix::ALL, default);
                topology.public_ranges = config.public.iter().map(|range| (*range, index)).collect();
            }
            Side::Vpc(vpc) => topology
                .vpcs
                .push(Vpc { cidr: Some(config.vpcs[vpc].cidr), routes: Lpm::from_iter([(on_link, direct)]) }),
        }
    }
    topology
}
