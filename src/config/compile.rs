//! From a model to the snapshot that workers read, changing only what changed.
//!
//! # Numbers
//!
//! Sessions live longer than configurations, and speak of EIPs, entries, gateways and VPCs by number. So a number that
//! was given to one resource is never given to another while the process lives:
//!
//! - VPCs and gateways have theirs by name, EIPs by address. One that comes back finds its old number, and a gateway its
//!   meter, on which sessions of before may still count.
//! - An entry has its number for as long as it is configured. It is the same entry as long as its gateway and, for DNAT,
//!   its EIP, protocol and first public port, for SNAT its source are the same. One that comes back is a new one.
//!
//! Interfaces are the exception: no session knows them, and what a worker has learned of neighbours it forgets when the
//! interface of a number becomes another. So the number of one that is gone goes to the next that comes.
//!
//! Numbers are never used up in practice (65,535 VPC names, four thousand million entries); if they are, the compiler says so and the
//! configuration in force stays.
//!
//! # Which sessions are checked again
//!
//! A session asks when its EIP last changed. Besides the EIPs that changed themselves, those are touched whose sessions may
//! now belong elsewhere: the pools, old and new, of an SNAT entry that was added, changed or removed; the pool of the
//! entry that its sources were covered by before; and the pool that a private host used before it got a DNAT entry.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};

use super::diff::interface_name;
use super::directory::{Directory, EntryInfo, EntryKind};
use super::error::{Code, Error, Errors};
use super::model::{Dnat, Forward, Link, Model, Outside, Snat, Vpc};
use super::words::{Name, Vlan};
use crate::base::{EipIndex, EntryId, GatewayIndex, InterfaceIndex, PortIndex, VpcIndex};
use crate::policy::persist::Map;
use crate::policy::snapshot::SnatTable;
use crate::policy::{
    Edit, Eip, Gateway, Host, HostForward, HostOneToOne, Interface, Meter, OneToOne, PoolAddress,
    PortForward, PortVlans, Prefix, Realm, Rivals, Route, Snapshot, SnatEntry, Topology,
};

/// What an opened port says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Largest IP packet that it carries, in bytes.
    pub mtu: u16,
}

/// Numbers by key, given in order and never given again.
#[derive(Clone, Debug)]
struct Numbers<K> {
    known: HashMap<K, u32>,
    most: u32,
}

impl<K: Eq + Hash + Clone> Numbers<K> {
    fn new(most: u32) -> Self {
        Self { known: HashMap::new(), most }
    }

    /// The key's number; the next one if it has none.
    fn number(&mut self, key: &K) -> Option<u32> {
        if let Some(number) = self.known.get(key) {
            return Some(*number);
        }
        let next = u32::try_from(self.known.len()).ok().filter(|next| *next < self.most)?;
        self.known.insert(key.clone(), next);
        Some(next)
    }

    /// The number of a key that has one.
    fn get(&self, key: &K) -> u32 {
        self.known.get(key).copied().unwrap_or(u32::MAX)
    }

    /// The keys by number.
    fn keys(&self) -> Vec<K> {
        let mut keys: Vec<(&K, &u32)> = self.known.iter().collect();
        keys.sort_unstable_by_key(|(_, number)| **number);
        keys.into_iter().map(|(key, _)| key.clone()).collect()
    }

    fn len(&self) -> usize {
        self.known.len()
    }
}

/// What makes an entry the same one in two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum EntryKey {
    Dnat { gateway: GatewayIndex, eip: u32, protocol: u8, first: u16 },
    Snat { gateway: GatewayIndex, source: Prefix },
}

/// Compiles models into snapshots, one after the other, and keeps the numbers of all that was ever configured. Every
/// snapshot that it makes is to be published, and to be given back as `previous` the next time.
#[derive(Clone, Debug)]
pub struct Compiler {
    interfaces: HashMap<InterfaceKey, InterfaceIndex>,
    vpcs: Numbers<Name>,
    gateways: Numbers<Name>,
    /// By gateway number, those that are gone included: their sessions still count out.
    compiled_gateways: Vec<Gateway>,
    eips: Numbers<u32>,
    entries: HashMap<EntryKey, EntryId>,
    next_entry: u32,
    directory: Arc<Directory>,
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

impl Compiler {
    /// A compiler that has given no number yet.
    pub fn new() -> Self {
        Self {
            interfaces: HashMap::new(),
            // As a tenant a VPC has the number after its own.
            vpcs: Numbers::new(u32::from(u16::MAX)),
            gateways: Numbers::new(u32::MAX),
            compiled_gateways: Vec::new(),
            eips: Numbers::new(u32::MAX),
            entries: HashMap::new(),
            next_entry: 0,
            directory: Arc::default(),
        }
    }

    /// The names of what was compiled last.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// The snapshot of a model, made from the one before. `ports` are the facts of the model's ports, in order.
    ///
    /// # Errors
    /// An interface's MTU is above its port's, or numbers are used up. Nothing has changed then.
    pub fn compile(
        &mut self,
        model: &Model,
        ports: &[PortFacts],
        previous: &Snapshot,
    ) -> Result<Arc<Snapshot>, Errors> {
        check_ports(model, ports)?;
        let mut next = self.clone();
        next.number(model)?;
        let mut edit = previous.edit();
        next.topology(model, ports, &mut edit);
        next.gateways(model, &mut edit);
        next.dnat(model, previous, &mut edit);
        next.snat(model, previous, &mut edit);
        next.directory = Arc::new(next.names(model));
        *self = next;
        Ok(edit.finish())
    }

    /// Compiles ports, interfaces, VPCs and gateways alone, for a model whose EIPs and entries are compiled one by one.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn frame(&mut self, model: &Model, ports: &[PortFacts], edit: &mut Edit) -> Result<(), Errors> {
        check_ports(model, ports)?;
        let mut next = self.clone();
        next.number(model)?;
        next.topology(model, ports, edit);
        next.gateways(model, edit);
        next.directory = Arc::new(next.names(model));
        *self = next;
        Ok(())
    }

    /// The number of an EIP's address, given if it has none; none if all are used up.
    pub fn eip_index(&mut self, address: u32) -> Option<EipIndex> {
        let known = self.eips.len();
        let number = self.eips.number(&address)?;
        if number as usize == known {
            Arc::make_mut(&mut Arc::make_mut(&mut self.directory).eips).push(address.into());
        }
        Some(EipIndex(number))
    }

    /// Gives every resource its number.
    fn number(&mut self, model: &Model) -> Result<(), Errors> {
        let exhausted = |kind: &str, name: String| -> Errors {
            let hint = "restart natgate to number anew";
            model.fault(Code::Exhausted, format!("{kind} \"{name}\""), None, hint).into()
        };
        self.interfaces = renumber(&self.interfaces, keyed_links(model).map(|(_, link)| interface_key(link)));
        for vpc in model.vpcs() {
            self.vpcs.number(&vpc.name).ok_or_else(|| exhausted("vpc", vpc.name.to_string()))?;
        }
        for gateway in model.gateways() {
            self.gateways
                .number(&gateway.name)
                .ok_or_else(|| exhausted("gateway", gateway.name.to_string()))?;
        }
        for eip in model.eips() {
            self.eips.number(&eip.address.into()).ok_or_else(|| exhausted("eip", eip.address.to_string()))?;
        }
        let keys = model.dnat().iter().map(|entry| (self.dnat_key(entry), EntryKind::Dnat));
        let keys = keys.chain(model.snat().iter().map(|entry| (self.snat_key(entry), EntryKind::Snat)));
        let mut entries = HashMap::with_capacity(model.dnat().len() + model.snat().len());
        let mut next_entry = self.next_entry;
        for (key, kind) in keys {
            let known = self.entries.get(&key).copied();
            let id = known.unwrap_or(EntryId(next_entry));
            if known.is_none() {
                next_entry =
                    next_entry.checked_add(1).ok_or_else(|| exhausted(kind.name(), id.to_string()))?;
            }
            entries.insert(key, id);
        }
        self.entries = entries;
        self.next_entry = next_entry;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn use_up_entries(&mut self) {
        self.next_entry = u32::MAX;
    }

    /// The number of a VPC that was compiled.
    pub fn vpc_index(&self, name: &Name) -> VpcIndex {
        VpcIndex(self.vpcs.get(name) as u16)
    }

    /// The number of a gateway that was compiled.
    pub fn gateway_index(&self, name: &Name) -> GatewayIndex {
        GatewayIndex(self.gateways.get(name))
    }

    /// The number of an interface that was compiled.
    pub fn interface_index(&self, link: &Link) -> InterfaceIndex {
        self.interfaces.get(&interface_key(link)).copied().unwrap_or(InterfaceIndex(u16::MAX))
    }

    fn dnat_key(&self, entry: &Dnat) -> EntryKey {
        let (protocol, first) = match entry.forward {
            Forward::AnyPort => (0, 0),
            Forward::Ports { protocol, public, .. } => (protocol.number(), public.first),
        };
        EntryKey::Dnat { gateway: self.gateway_index(&entry.gateway), eip: entry.eip.into(), protocol, first }
    }

    fn snat_key(&self, entry: &Snat) -> EntryKey {
        EntryKey::Snat { gateway: self.gateway_index(&entry.gateway), source: entry.prefix }
    }

    fn entry_id(&self, key: EntryKey) -> EntryId {
        self.entries.get(&key).copied().unwrap_or(EntryId(u32::MAX))
    }

    /// One more than the highest number of an interface.
    fn interface_slots(&self) -> usize {
        self.interfaces.values().map(|index| index.index() + 1).max().unwrap_or(0)
    }

    fn topology(&self, model: &Model, ports: &[PortFacts], edit: &mut Edit) {
        let mut interfaces: Vec<Option<Interface>> = vec![None; self.interface_slots()];
        let mut topology = Topology {
            ports: vec![PortVlans::default(); ports.len()],
            vpcs: vec![crate::policy::Vpc::default(); self.vpcs.len()],
            ..Topology::default()
        };
        let mut add = |link: &Link, prefix: Prefix, realm: Realm, vlans: &mut [PortVlans]| {
            let index = self.interface_index(link);
            let vlan = link.vlan.map(Vlan::get);
            let facts = ports[link.port.index()];
            vlans[link.port.index()].attach(vlan, index);
            interfaces[index.index()] = Some(Interface {
                port: link.port,
                vlan,
                mac: facts.mac,
                address: link.address.into(),
                prefix,
                realm,
                mtu: link.mtu.unwrap_or(facts.mtu),
            });
            index
        };
        for outside in model.outside() {
            let Outside { link, prefix, gateway, routes, public } = outside;
            let interface = add(link, *prefix, Realm::Outside, &mut topology.ports);
            topology.outside_routes.insert(*prefix, Route { interface, next_hop: None });
            let by_hop = routes.iter().map(|route| (route.to, route.via));
            for (to, via) in by_hop.chain(gateway.map(|gateway| (Prefix::ALL, gateway))) {
                topology.outside_routes.insert(to, Route { interface, next_hop: Some(via.into()) });
            }
            for range in public {
                topology.public_ranges.insert(*range, interface);
            }
        }
        for vpc in model.vpcs() {
            let index = self.vpc_index(&vpc.name);
            let compiled = &mut topology.vpcs[index.index()];
            compiled.cidr = Some(vpc.cidr);
            for (vswitch, link) in vpc.vswitches.iter().filter_map(|v| Some((v, v.link.as_ref()?))) {
                let interface = add(link, vswitch.cidr, Realm::Vpc(index), &mut topology.ports);
                compiled.routes.insert(vswitch.cidr, Route { interface, next_hop: None });
            }
            for route in &vpc.routes {
                let Some((_, link)) = vpc.link_of(route.via) else { continue };
                let interface = self.interface_index(&link);
                compiled.routes.insert(route.to, Route { interface, next_hop: Some(route.via.into()) });
            }
        }
        // A place that is free until the next interface comes holds a copy of one that is there: no frame and no route
        // leads to it.
        if let Some(stand_in) = interfaces.iter().flatten().next().cloned() {
            let filled = interfaces.into_iter().map(|i| i.unwrap_or_else(|| stand_in.clone()));
            topology.interfaces = filled.collect();
        }
        if *edit.snapshot().topology() != topology {
            edit.set_topology(topology);
        }
    }

    fn gateways(&mut self, model: &Model, edit: &mut Edit) {
        let mut changed = edit.snapshot().gateway(GatewayIndex(0)).is_none() && !model.gateways().is_empty();
        for gateway in model.gateways() {
            let index = self.gateway_index(&gateway.name).index();
            let (vpc, limits) = (self.vpc_index(&gateway.vpc), gateway.specification.limits());
            let fresh = || Gateway { vpc, limits, meter: Arc::new(Meter::default()) };
            if self.compiled_gateways.len() <= index {
                self.compiled_gateways.resize_with(index + 1, fresh);
                changed = true;
            }
            let compiled = &mut self.compiled_gateways[index];
            if (compiled.vpc, compiled.limits) != (vpc, limits) {
                (compiled.vpc, compiled.limits) = (vpc, limits);
                changed = true;
            }
        }
        if changed {
            edit.set_gateways(self.compiled_gateways.clone());
        }
    }

    /// EIPs with their DNAT entries, and private hosts with theirs.
    fn dnat(&self, model: &Model, previous: &Snapshot, edit: &mut Edit) {
        let vpcs = gateway_vpcs(model, |vpc| self.vpc_index(&vpc.name));
        let mut any_port: HashMap<u32, OneToOne> = HashMap::new();
        let mut forwards: HashMap<u32, Vec<PortForward>> = HashMap::new();
        let mut hosts: HashMap<(VpcIndex, u32), (Vec<HostOneToOne>, Vec<HostForward>)> = HashMap::new();
        for entry in model.dnat() {
            let Some(vpc) = vpcs.get(&entry.gateway).copied() else { continue };
            let (id, timeouts) = (self.entry_id(self.dnat_key(entry)), entry.timeouts.over(model.timeouts()));
            let (address, host) = (u32::from(entry.eip), u32::from(entry.private_ip));
            let eip = EipIndex(self.eips.get(&address));
            let (of_host, by_port) = hosts.entry((vpc, host)).or_default();
            match entry.forward {
                Forward::AnyPort => {
                    any_port.insert(address, OneToOne { id, vpc, host, timeouts });
                    of_host.push(HostOneToOne { id, eip, address, timeouts });
                }
                Forward::Ports { protocol, public, private_first } => {
                    let (first, last, protocol) = (public.first, public.last, protocol.number());
                    forwards.entry(address).or_default().push(PortForward {
                        id,
                        protocol,
                        first,
                        last,
                        vpc,
                        host,
                        host_first: private_first,
                        timeouts,
                    });
                    by_port.push(HostForward {
                        id,
                        protocol,
                        first: private_first,
                        last: private_first + (last - first),
                        eip,
                        address,
                        public_first: first,
                        timeouts,
                    });
                }
            }
        }
        for old in previous.eips() {
            let of_any = old.any_port.iter().map(|entry| (entry.vpc, entry.host));
            for (vpc, host) in of_any.chain(old.forwards().iter().map(|entry| (entry.vpc, entry.host))) {
                if !hosts.contains_key(&(vpc, host)) {
                    edit.put_host(vpc, host, None);
                }
            }
        }
        for ((vpc, host), (any_port, by_port)) in hosts {
            edit.put_host(vpc, host, Some(host_of(any_port, by_port)));
        }
        let mut kept: HashSet<u32> = HashSet::with_capacity(model.eips().len());
        for eip in model.eips() {
            let address = u32::from(eip.address);
            kept.insert(address);
            let outside = &model.outside()[eip.outside];
            let index = EipIndex(self.eips.get(&address));
            let mut compiled = Eip::new(index, address, self.interface_index(&outside.link));
            compiled.gateway = eip.gateway.as_ref().map(|gateway| self.gateway_index(gateway));
            compiled.ping = eip.ping;
            compiled.bandwidth = eip.bandwidth;
            compiled.any_port = any_port.remove(&address);
            compiled.set_forwards(forwards.remove(&address).unwrap_or_default());
            edit.put_eip(compiled);
        }
        for old in previous.eips().filter(|old| !kept.contains(&old.address)) {
            edit.remove_eip(old.address);
        }
    }

    fn snat(&self, model: &Model, previous: &Snapshot, edit: &mut Edit) {
        let vpcs = gateway_vpcs(model, |vpc| self.vpc_index(&vpc.name));
        let quotas: HashMap<&Name, u32> =
            model.gateways().iter().map(|g| (&g.name, g.host_sessions.unwrap_or(u32::MAX))).collect();
        let mut tables: Vec<Vec<_>> = vec![Vec::new(); self.vpcs.len()];
        for entry in model.snat() {
            let Some(vpc) = vpcs.get(&entry.gateway).copied() else { continue };
            let pool = entry.eips.iter().map(|eip| {
                let address = u32::from(*eip);
                PoolAddress { index: EipIndex(self.eips.get(&address)), address }
            });
            let compiled = SnatEntry {
                id: self.entry_id(self.snat_key(entry)),
                gateway: self.gateway_index(&entry.gateway),
                pool: pool.collect(),
                mapping: entry.mapping,
                filtering: entry.filtering,
                ports: entry.ports,
                untranslated: entry.untranslated.iter().map(|prefix| (*prefix, ())).collect(),
                timeouts: entry.timeouts.over(model.timeouts()),
                host_quota: quotas.get(&entry.gateway).copied().unwrap_or(u32::MAX),
            };
            tables[vpc.index()].push((entry.prefix, Arc::new(compiled)));
        }
        for (i, entries) in tables.into_iter().enumerate() {
            let mut table: SnatTable = entries.into_iter().collect();
            let vpc = VpcIndex(i as u16);
            let old = previous.snat_table(vpc).cloned().unwrap_or_default();
            if *old == table {
                continue;
            }
            for (prefix, entry) in old.iter() {
                if table.exact(prefix) != Some(entry) {
                    touch_pool(entry, edit);
                }
            }
            for (prefix, entry) in table.iter_mut() {
                match old.exact(prefix) {
                    Some(same) if same == entry => *entry = Arc::clone(same),
                    Some(_) => touch_pool(entry, edit),
                    None => {
                        touch_pool(entry, edit);
                        let wider = (0..prefix.len()).rev().map(|len| Prefix::of(prefix.address(), len));
                        if let Some(before) = wider.into_iter().find_map(|wider| old.exact(wider)) {
                            touch_pool(before, edit);
                        }
                    }
                }
            }
            edit.set_snat(vpc, table);
        }
    }

    fn names(&self, model: &Model) -> Directory {
        let dnat = model.dnat().iter().map(|entry| {
            let info = EntryInfo {
                kind: EntryKind::Dnat,
                name: entry.label(),
                gateway: entry.gateway.clone(),
                summary: entry.summary(),
            };
            (self.entry_id(self.dnat_key(entry)), info)
        });
        let snat = model.snat().iter().map(|entry| {
            let info = EntryInfo {
                kind: EntryKind::Snat,
                name: entry.label(),
                gateway: entry.gateway.clone(),
                summary: entry.summary(),
            };
            (self.entry_id(self.snat_key(entry)), info)
        });
        let mut entries = Map::default();
        for (id, info) in dnat.chain(snat) {
            entries.insert(u64::from(id.0), Arc::new(info));
        }
        let mut interfaces = vec![String::new(); self.interface_slots()];
        for (_, link) in keyed_links(model) {
            interfaces[self.interface_index(link).index()] = interface_name(model, link);
        }
        Directory {
            ports: model.ports().iter().map(|port| port.name.clone()).collect(),
            interfaces,
            vpcs: self.vpcs.keys(),
            gateways: self.gateways.keys(),
            eips: Arc::new(self.eips.keys().into_iter().map(Into::into).collect()),
            entries,
        }
    }
}

fn touch_pool(entry: &SnatEntry, edit: &mut Edit) {
    entry.pool.iter().for_each(|member| edit.touch(member.index));
}

/// What makes an interface the same one in two models.
type InterfaceKey = (PortIndex, Option<Vlan>);

fn interface_key(link: &Link) -> InterfaceKey {
    (link.port, link.vlan)
}

/// All interfaces with the key of the table that declares them.
fn keyed_links(model: &Model) -> impl Iterator<Item = (String, &Link)> {
    let outside = model.outside().iter().enumerate().map(|(i, o)| (format!("outside[{i}]"), &o.link));
    let vswitches = model.vpcs().iter().enumerate().flat_map(|(i, vpc)| {
        let all = vpc.vswitches.iter().enumerate();
        all.filter_map(move |(j, v)| Some((format!("vpc[{i}].vswitch[{j}]"), v.link.as_ref()?)))
    });
    outside.chain(vswitches)
}

/// Numbers for interfaces: each keeps its own, new ones get the lowest that are free.
fn renumber(
    old: &HashMap<InterfaceKey, InterfaceIndex>,
    keys: impl Iterator<Item = InterfaceKey>,
) -> HashMap<InterfaceKey, InterfaceIndex> {
    let keys: Vec<InterfaceKey> = keys.collect();
    let mut numbers: HashMap<InterfaceKey, InterfaceIndex> =
        keys.iter().filter_map(|key| Some((*key, *old.get(key)?))).collect();
    let taken: HashSet<InterfaceIndex> = numbers.values().copied().collect();
    let mut free = (0..u16::MAX).map(InterfaceIndex).filter(|index| !taken.contains(index));
    for key in keys {
        if let Entry::Vacant(vacant) = numbers.entry(key)
            && let Some(index) = free.next()
        {
            vacant.insert(index);
        }
    }
    numbers
}

/// The VPC of each gateway.
fn gateway_vpcs(model: &Model, index: impl Fn(&Vpc) -> VpcIndex) -> HashMap<&Name, VpcIndex> {
    let by_name: HashMap<&Name, VpcIndex> = model.vpcs().iter().map(|vpc| (&vpc.name, index(vpc))).collect();
    model.gateways().iter().filter_map(|g| Some((&g.name, by_name.get(&g.vpc).copied()?))).collect()
}

fn check_ports(model: &Model, ports: &[PortFacts]) -> Result<(), Errors> {
    let mut errors: Vec<Error> = Vec::new();
    if ports.len() != model.ports().len() {
        let hint = format!("{} were opened", ports.len());
        errors.push(model.fault(Code::PortCount, "port".to_owned(), None, &hint));
        return Errors::of(errors);
    }
    for (key, link) in keyed_links(model) {
        let most = ports[link.port.index()].mtu;
        if let Some(mtu) = link.mtu.filter(|mtu| *mtu > most) {
            let name = &model.ports()[link.port.index()].name;
            let hint = format!("port \"{name}\" carries {most} bytes");
            errors.push(model.fault(Code::MtuAbovePort, format!("{key}.mtu"), Some(mtu.to_string()), &hint));
        }
    }
    Errors::of(errors)
}

/// A private host with all entries that lead to it. Where gateways of one VPC compete for it, the lowest EIP wins.
pub fn host_of(any_port: Vec<HostOneToOne>, by_port: Vec<HostForward>) -> Host {
    let rivals = Rivals { any_port: any_port.len() > 1, ports: overlaps(&by_port) };
    let any_port = any_port.into_iter().min_by_key(|entry| entry.address);
    Host::new(any_port, disjoint(by_port)).with_rivals(rivals)
}

/// Protocols and private ports of one host that more than one entry leads to.
fn overlaps(forwards: &[HostForward]) -> Box<[(u8, u16, u16)]> {
    let mut ranges: Vec<_> = forwards.iter().map(|f| (f.protocol, f.first, f.last)).collect();
    ranges.sort_unstable();
    let mut found = Vec::new();
    let mut before: Option<(u8, u16)> = None;
    for (protocol, first, last) in ranges {
        let reached = before.filter(|(p, _)| *p == protocol).map(|(_, reached)| reached);
        if let Some(reached) = reached.filter(|reached| *reached >= first) {
            found.push((protocol, first, last.min(reached)));
        }
        before = Some((protocol, reached.unwrap_or(last).max(last)));
    }
    found.into()
}

/// The private ports of one host without overlaps, so that each has one owner. Within a gateway they have none; where
/// gateways of one VPC compete for a port, the lowest EIP wins.
fn disjoint(mut forwards: Vec<HostForward>) -> Vec<HostForward> {
    forwards.sort_by_key(|f| (f.protocol, f.first));
    if forwards.windows(2).all(|w| w[0].protocol != w[1].protocol || w[0].last < w[1].first) {
        return forwards;
    }
    forwards.sort_by_key(|f| (f.address, f.protocol, f.first));
    let mut taken: BTreeMap<(u8, u16), u16> = BTreeMap::new();
    let mut pieces = Vec::with_capacity(forwards.len());
    for forward in forwards {
        let (protocol, first, last) = (forward.protocol, forward.first, forward.last);
        let before = taken.range(..(protocol, first)).next_back().filter(|((p, _), _)| *p == protocol);
        let within = taken.range((protocol, first)..=(protocol, last));
        let covered: Vec<(u16, u16)> = before.into_iter().chain(within).map(|((_, a), b)| (*a, *b)).collect();
        let mut free = u32::from(first);
        let end = u32::from(last) + 1;
        let mut gaps = Vec::new();
        for (a, b) in covered {
            if free < u32::from(a) {
                gaps.push((free, u32::from(a)));
            }
            free = free.max(u32::from(b) + 1);
        }
        if free < end {
            gaps.push((free, end));
        }
        for (a, b) in gaps {
            let (a, b) = (a as u16, (b - 1) as u16);
            taken.insert((protocol, a), b);
            pieces.push(HostForward {
                first: a,
                last: b,
                public_first: forward.public_first + (a - first),
                ..forward
            });
        }
    }
    pieces
}
