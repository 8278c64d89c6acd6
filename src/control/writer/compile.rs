//! From changes of the inventory to the next snapshot, at the cost of what changed.
//!
//! An entry has its number, by which sessions know it, for as long as it is the same entry: for DNAT as long as its EIP,
//! protocol and first public port are the same, for SNAT as long as its source is.
//!
//! Which sessions are to be checked again [`Edit`] notes, where it takes what differs.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::Start;
use super::leaving::{self, Policies};
use super::touched::Touched;
use super::words::info;
use crate::base::{EntryId, GatewayIndex, VpcIndex};
use crate::config::{self, Compiler, Directory, Forward, Model, Name, PortFacts, host_of};
use crate::control::departures::{Departures, Said};
use crate::control::inventory::resource::{Dnat, Resource, Snat};
use crate::control::inventory::{Change, Id, Inventory, Kind};
use crate::policy::{
    Edit, Eip, HostForward, HostOneToOne, OneToOne, PoolAddress, PortForward, Prefix, Snapshot, SnatEntry,
};

/// What makes an entry the same one before and after a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Identity {
    Dnat(Id, u8, u16),
    Snat(Prefix),
}

fn identity(resource: &Resource) -> Option<Identity> {
    match resource {
        Resource::Dnat(entry) => {
            let (protocol, first) = entry.public_range().map_or((0, 0), |(p, range)| (p, range.first));
            Some(Identity::Dnat(entry.eip, protocol, first))
        }
        Resource::Snat(entry) => Some(Identity::Snat(entry.prefix)),
        _ => None,
    }
}

/// A snapshot that is to be published, and what it is called.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) snapshot: Arc<Snapshot>,
    /// The frame of ports, VPCs, gateways and plans, where it changed or EIPs came or went.
    pub(super) model: Option<Model>,
    pub(super) directory: Directory,
    /// What becomes of the sessions of entries that changed.
    pub(super) departures: Said,
    /// Numbers of entries as they were before.
    numbers: Vec<(Id, Option<EntryId>)>,
}

/// Compiles changes one after the other. Every snapshot that it makes is published or given back.
#[derive(Debug)]
pub(super) struct Incremental {
    compiler: Compiler,
    facts: Vec<PortFacts>,
    directory: Directory,
    numbers: HashMap<Id, EntryId>,
    next: u32,
    /// Names of VPCs, gateways and plans.
    names: HashMap<Id, Name>,
}
/// The name under which the compiler numbers a resource.
pub(super) fn name(id: Id) -> Result<Name, String> {
    Name::new(&id.to_string()).ok_or_else(|| format!("{id} is no name"))
}

impl Incremental {
    pub(super) fn new(facts: Vec<PortFacts>) -> Self {
        Self {
            compiler: Compiler::new(),
            facts,
            directory: Directory::default(),
            numbers: HashMap::new(),
            next: 0,
            names: HashMap::new(),
        }
    }

    /// The first snapshot, of all resources.
    ///
    /// # Errors
    /// Numbers are used up, or an interface does not fit its port.
    pub(super) fn start(&mut self, inventory: &Inventory, all: &[Change]) -> Result<Start, String> {
        let model = frame(inventory)?;
        let mut edit = Snapshot::default().edit();
        self.compiler.frame(&model, &self.facts, &mut edit).map_err(|errors| errors.to_string())?;
        let compiled =
            self.compile(inventory, all, (&Policies::new(), &Departures::new()), &edit.finish())?;
        self.adopt(&compiled.directory);
        let model = compiled.model.unwrap_or(model);
        Ok(Start { snapshot: compiled.snapshot, model, directory: compiled.directory })
    }

    /// The snapshot of an inventory after changes that it already has.
    ///
    /// # Errors
    /// Numbers are used up; nothing has changed then.
    pub(super) fn compile(
        &mut self,
        inventory: &Inventory,
        changes: &[Change],
        (policies, departures): (&Policies, &Departures),
        previous: &Snapshot,
    ) -> Result<Compiled, String> {
        let mut numbers = Vec::new();
        let compiled =
            self.compile_noting(inventory, changes, (policies, departures), previous, &mut numbers);
        match compiled {
            Ok((snapshot, model, directory, departures)) => {
                Ok(Compiled { snapshot, model, directory, departures, numbers })
            }
            Err(reason) => {
                self.restore(numbers);
                Err(reason)
            }
        }
    }

    /// Takes a snapshot back that is not published.
    pub(super) fn give_back(&mut self, compiled: Compiled) {
        self.restore(compiled.numbers);
    }

    /// Goes on from a snapshot that is published.
    pub(super) fn adopt(&mut self, directory: &Directory) {
        self.directory = directory.clone();
    }

    fn restore(&mut self, numbers: Vec<(Id, Option<EntryId>)>) {
        for (id, number) in numbers.into_iter().rev() {
            match number {
                Some(number) => self.numbers.insert(id, number),
                None => self.numbers.remove(&id),
            };
        }
    }

    #[allow(clippy::type_complexity, reason = "the parts of Compiled")]
    fn compile_noting(
        &mut self,
        inventory: &Inventory,
        changes: &[Change],
        (policies, departures): (&Policies, &Departures),
        previous: &Snapshot,
        noted: &mut Vec<(Id, Option<EntryId>)>,
    ) -> Result<(Arc<Snapshot>, Option<Model>, Directory, Said), String> {
        let touched = Touched::of(inventory, changes);
        let mut edit = previous.edit();
        let model = if touched.frame || touched.model { Some(frame(inventory)?) } else { None };
        if let Some(model) = model.as_ref().filter(|_| touched.frame) {
            self.compiler.frame(model, &self.facts, &mut edit).map_err(|errors| errors.to_string())?;
        }
        let mut directory = self.directory.clone();
        self.give_numbers(changes, noted, &mut directory)?;
        let earlier = noted.iter().filter_map(|(id, number)| Some((*id, (*number)?)));
        let earlier: HashMap<Id, EntryId> = earlier.collect();
        for (address, entries) in &touched.addresses {
            let known = previous.eip(u32::from(*address)).filter(|_| !touched.frame);
            match (known, entries) {
                (Some(known), Some(entries)) => {
                    edit.put_eip(self.patched(inventory, known, *address, entries, &earlier)?);
                }
                _ => self.eip(inventory, *address, &mut edit)?,
            }
        }
        for (vpc, host) in &touched.hosts {
            self.host(inventory, *vpc, *host, &mut edit)?;
        }
        for (vpc, sources) in &touched.sources {
            self.snat(inventory, *vpc, sources, previous, &mut edit)?;
        }
        let directory = directory.with_names_of(&self.compiler.directory());
        let departures = leaving::note(self, (changes, noted), policies, departures, previous, &mut edit);
        Ok((edit.finish(), model, directory, departures))
    }

    /// Numbers entries that are new or became others, and forgets those that are gone.
    fn give_numbers(
        &mut self,
        changes: &[Change],
        noted: &mut Vec<(Id, Option<EntryId>)>,
        directory: &mut Directory,
    ) -> Result<(), String> {
        for change in changes {
            let before = change.before.as_deref().and_then(identity);
            let after = change.after.as_deref().and_then(identity);
            if before.is_none() && after.is_none() {
                continue;
            }
            let old = self.numbers.get(&change.id).copied();
            if before != after {
                noted.push((change.id, old));
                if let Some(old) = old {
                    directory.set_entry(old, None);
                    self.numbers.remove(&change.id);
                }
                if after.is_some() {
                    let number = EntryId(self.next);
                    self.next = self
                        .next
                        .checked_add(1)
                        .ok_or("all numbers of entries were given; restart natgate")?;
                    self.numbers.insert(change.id, number);
                }
            }
            if let (Some(number), Some(resource)) = (self.numbers.get(&change.id), &change.after) {
                directory.set_entry(*number, Some(info(resource, |gateway| self.name(gateway))?));
            }
        }
        Ok(())
    }

    /// The number of an entry.
    pub(super) fn number(&self, id: Id) -> Option<EntryId> {
        self.numbers.get(&id).copied()
    }

    /// The names of all that is in force.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    fn number_of(&self, id: Id) -> EntryId {
        self.numbers.get(&id).copied().unwrap_or(EntryId(u32::MAX))
    }

    /// The name of a VPC, gateway or plan. Every entry asks for some, so they are written once.
    fn name(&mut self, id: Id) -> Result<Name, String> {
        if let Some(known) = self.names.get(&id) {
            return Ok(known.clone());
        }
        let name = name(id)?;
        self.names.insert(id, name.clone());
        Ok(name)
    }

    fn vpc_index(&mut self, id: Id) -> Result<VpcIndex, String> {
        let name = self.name(id)?;
        Ok(self.compiler.vpc_index(&name))
    }

    fn gateway_index(&mut self, id: Id) -> Result<GatewayIndex, String> {
        let name = self.name(id)?;
        Ok(self.compiler.gateway_index(&name))
    }

    /// An EIP of which some port forwards changed, and nothing else: it may have thousands of them.
    fn patched(
        &mut self,
        inventory: &Inventory,
        known: &Eip,
        address: Ipv4Addr,
        entries: &BTreeSet<Id>,
        earlier: &HashMap<Id, EntryId>,
    ) -> Result<Eip, String> {
        let earlier = entries.iter().filter_map(|id| earlier.get(id).copied());
        let mut stale: Vec<EntryId> = earlier.chain(entries.iter().map(|id| self.number_of(*id))).collect();
        stale.sort_unstable();
        let mut forwards = Vec::with_capacity(known.forwards().len() + entries.len());
        let others = known.forwards().iter().filter(|forward| stale.binary_search(&forward.id).is_err());
        forwards.extend(others.copied());
        for entry in entries.iter().filter_map(|id| inventory.dnat(*id)) {
            if entry.address == address {
                let vpc = self.vpc_index(entry.vpc)?;
                forwards.extend(self.port_forward(inventory, entry, vpc));
            }
        }
        Ok(known.with_forwards(forwards))
    }

    /// An entry by ports, compiled.
    fn port_forward(&self, inventory: &Inventory, entry: &Dnat, vpc: VpcIndex) -> Option<PortForward> {
        let Forward::Ports { protocol, public, private_first } = entry.forward else { return None };
        Some(PortForward {
            id: self.number_of(entry.meta.id),
            protocol: protocol.number(),
            first: public.first,
            last: public.last,
            vpc,
            host: u32::from(entry.private_ip),
            host_first: private_first,
            timeouts: entry.timeouts.over(inventory.settings().timeouts()),
        })
    }

    fn eip(&mut self, inventory: &Inventory, address: Ipv4Addr, edit: &mut Edit) -> Result<(), String> {
        let number = u32::from(address);
        let Some(eip) = inventory.eip_at(address) else {
            edit.remove_eip(number);
            return Ok(());
        };
        let outside = inventory.outside_of(address).and_then(|at| inventory.settings().outside().get(at));
        let outside = outside.ok_or_else(|| format!("{address} is in no public range"))?;
        let index =
            self.compiler.eip_index(number).ok_or("all numbers of EIPs were given; restart natgate")?;
        let mut compiled = Eip::new(index, number, self.compiler.interface_index(&outside.link));
        compiled.gateway = eip.gateway.map(|gateway| self.gateway_index(gateway)).transpose()?;
        compiled.ping = eip.ping;
        compiled.bandwidth = eip.bandwidth;
        if let Some(plan) = eip.plan.and_then(|plan| inventory.bandwidth_plan(plan)) {
            let name = self.name(plan.meta.id)?;
            let index = self.compiler.plan_index(&name);
            compiled.plan = Some(index.ok_or("all numbers of plans were given; restart natgate")?);
            compiled.bandwidth = Some(plan.bandwidth);
        }
        let mut forwards = Vec::new();
        // All entries of an EIP are those of its gateway.
        let vpc = eip.gateway.and_then(|gateway| inventory.gateway(gateway)).map(|gateway| gateway.vpc);
        let vpc = vpc.map_or(Ok(VpcIndex(u16::MAX)), |vpc| self.vpc_index(vpc))?;
        let entries = inventory.referring(eip.meta.id, Kind::Dnat);
        for entry in entries.filter_map(|id| inventory.dnat(id)) {
            match self.port_forward(inventory, entry, vpc) {
                Some(forward) => forwards.push(forward),
                None => {
                    let id = self.number_of(entry.meta.id);
                    let timeouts = entry.timeouts.over(inventory.settings().timeouts());
                    let host = u32::from(entry.private_ip);
                    compiled.any_port = Some(OneToOne { id, vpc, host, timeouts });
                }
            }
        }
        compiled.set_forwards(forwards);
        edit.put_eip(compiled);
        Ok(())
    }

    fn host(
        &mut self,
        inventory: &Inventory,
        vpc: Id,
        host: Ipv4Addr,
        edit: &mut Edit,
    ) -> Result<(), String> {
        let (index, number) = (self.vpc_index(vpc)?, u32::from(host));
        let (mut any_port, mut by_port) = (Vec::new(), Vec::new());
        for entry in inventory.of_host(vpc, host) {
            let (id, address) = (self.number_of(entry.meta.id), u32::from(entry.address));
            let timeouts = entry.timeouts.over(inventory.settings().timeouts());
            let eip =
                self.compiler.eip_index(address).ok_or("all numbers of EIPs were given; restart natgate")?;
            match (entry.public_range(), entry.private_range()) {
                (Some((protocol, public)), Some((_, private))) => by_port.push(HostForward {
                    id,
                    protocol,
                    first: private.first,
                    last: private.last,
                    eip,
                    address,
                    public_first: public.first,
                    timeouts,
                }),
                _ => any_port.push(HostOneToOne { id, eip, address, timeouts }),
            }
        }
        if any_port.is_empty() && by_port.is_empty() {
            edit.put_host(index, number, None);
            return Ok(());
        }
        edit.put_host(index, number, Some(host_of(any_port, by_port)));
        Ok(())
    }

    fn snat(
        &mut self,
        inventory: &Inventory,
        vpc: Id,
        sources: &BTreeSet<Prefix>,
        previous: &Snapshot,
        edit: &mut Edit,
    ) -> Result<(), String> {
        let index = self.vpc_index(vpc)?;
        let old = previous.snat_table(index).cloned().unwrap_or_default();
        let mut entries: Vec<(Prefix, Arc<SnatEntry>)> = old
            .iter()
            .filter(|(prefix, _)| !sources.contains(prefix))
            .map(|(prefix, entry)| (prefix, Arc::clone(entry)))
            .collect();
        for prefix in sources {
            let before = old.exact(*prefix);
            let after = inventory.snat_of(vpc, *prefix).map(|entry| self.snat_entry(inventory, entry));
            let after = after.transpose()?;
            match (before, after) {
                (Some(before), Some(after)) if **before == after => {
                    entries.push((*prefix, Arc::clone(before)));
                }
                (_, after) => entries.extend(after.map(|after| (*prefix, Arc::new(after)))),
            }
        }
        edit.set_snat(index, entries.into_iter().collect());
        Ok(())
    }

    fn snat_entry(&mut self, inventory: &Inventory, entry: &Snat) -> Result<SnatEntry, String> {
        let mut pool = Vec::with_capacity(entry.eips.len());
        for (_, address) in &entry.eips {
            let address = u32::from(*address);
            let index =
                self.compiler.eip_index(address).ok_or("all numbers of EIPs were given; restart natgate")?;
            pool.push(PoolAddress { index, address });
        }
        let gateway = inventory.gateway(entry.gateway);
        Ok(SnatEntry {
            id: self.number_of(entry.meta.id),
            gateway: self.gateway_index(entry.gateway)?,
            pool: pool.into(),
            mapping: entry.mapping,
            filtering: entry.filtering,
            ports: entry.ports,
            allocation: entry.allocation,
            ftp: entry.ftp,
            untranslated: entry.untranslated.iter().map(|prefix| (*prefix, ())).collect(),
            timeouts: entry.timeouts.over(inventory.settings().timeouts()),
            host_quota: gateway.and_then(|gateway| gateway.host_sessions).unwrap_or(u32::MAX),
        })
    }
}

/// Ports, VPCs, gateways and plans as the configuration knows them, under their identifiers. EIPs are not among them: there may be a
/// hundred thousand, and who wants to know them asks the snapshot.
pub(super) fn frame(inventory: &Inventory) -> Result<Model, String> {
    let (mut vpcs, mut gateways, mut plans) = (Vec::new(), Vec::new(), Vec::new());
    let kinds = [Kind::Vpc, Kind::Gateway, Kind::Plan];
    for resource in kinds.into_iter().flat_map(|kind| inventory.after(kind, None)) {
        let id = name(resource.id())?;
        let description = resource.meta().description.clone();
        match &**resource {
            Resource::Vpc(vpc) => {
                let mut vswitches = Vec::new();
                for vswitch in inventory.vswitches_of(vpc.meta.id) {
                    vswitches.push(config::VSwitch {
                        name: name(vswitch.meta.id)?,
                        description: vswitch.meta.description.clone(),
                        cidr: vswitch.cidr,
                        link: vswitch.link,
                    });
                }
                let (cidr, routes) = (vpc.cidr, vpc.routes.clone());
                vpcs.push(config::Vpc { name: id, description, cidr, routes, vswitches });
            }
            Resource::Gateway(gateway) => gateways.push(config::Gateway {
                name: id,
                description,
                vpc: name(gateway.vpc)?,
                vswitch: name(gateway.vswitch)?,
                specification: gateway.specification,
                host_sessions: gateway.host_sessions,
                deletion_protection: gateway.deletion_protection,
            }),
            Resource::Plan(plan) => {
                plans.push(config::Plan { name: id, description, bandwidth: plan.bandwidth });
            }
            Resource::VSwitch(_) | Resource::Eip(_) | Resource::Dnat(_) | Resource::Snat(_) => {}
        }
    }
    Ok(inventory.settings().with_resources(vpcs, gateways, plans))
}
