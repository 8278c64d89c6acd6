//! All resources of a gateway by their identifiers, and every rule between them.
//!
//! A change is judged and made at the cost of its own size, whatever the inventory holds: each rule asks an index. All
//! changes go through one step, `set`, which keeps the indexes and can be undone; what changed is told as
//! [`Change`]s, from which everything else follows: what is stored, what is audited, what is compiled.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`id`] | identifiers and kinds |
//! | [`spec`] | resources as they are written |
//! | [`resource`] | resources as they are judged and kept |
//! | [`refusal`] | why a request is refused |
//! | `judge` | from a specification to a resource: the rules |
//! | `write` | from a resource to its specification |
//! | `change` | creating, updating, deleting, undoing |
//! | [`document`] | all resources as one file |
//! | [`plan`] | what a file changes |
//! | `index` | the indexes |
//! | `grouped` | what most of them are made of |

mod change;
pub mod document;
mod grouped;
pub mod id;
mod index;
mod judge;
pub mod plan;
pub mod refusal;
pub mod resource;
pub mod spec;
mod write;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

pub use change::Change;
pub use document::Document;
pub use id::{Id, Kind};
pub use refusal::Refusal;
pub use resource::Resource;
pub use spec::Spec;

use crate::base::PortIndex;
use crate::config::{Model, Name, Vlan};
use crate::policy::{Lpm, Prefix};
use grouped::Grouped;
use index::Ranges;

/// All resources, and the indexes that rules ask. A copy shares the resources.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// Ports, outside interfaces, quotas and timeouts of the configuration file.
    settings: Model,
    /// The largest IP packet of each port, in bytes.
    mtus: Vec<u16>,
    resources: HashMap<Id, Arc<Resource>>,
    /// Their identifiers.
    order: BTreeSet<Id>,
    names: Grouped<(Kind, Name), Id, ()>,
    /// Who refers to a resource, by its kind.
    references: Grouped<(Id, Kind), Id, ()>,
    /// EIPs by address.
    addresses: HashMap<Ipv4Addr, Id>,
    /// Public ports of an EIP and protocol number.
    public: Ranges<(Id, u8)>,
    /// Private ports of a gateway's private host and protocol number.
    private: Ranges<(Id, Ipv4Addr, u8)>,
    /// The any-port entry of an EIP.
    any_port: HashMap<Id, Id>,
    /// The any-port entry of a gateway's private host.
    private_any: HashMap<(Id, Ipv4Addr), Id>,
    /// DNAT entries by VPC and private host.
    hosts: Grouped<(Id, Ipv4Addr), Id, ()>,
    /// SNAT entries by VPC and source.
    sources: HashMap<(Id, Prefix), Id>,
    /// vSwitches by VPC and first address; they do not overlap.
    cidrs: BTreeMap<(Id, u32), Id>,
    /// vSwitches by port and VLAN.
    links: HashMap<(PortIndex, Option<Vlan>), Id>,
    /// The outside interface of each public range, by its position in the file.
    public_ranges: Lpm<usize>,
    /// Own addresses and next hops on the Internet side.
    outside_addresses: HashSet<Ipv4Addr>,
    /// Where the search for a free EIP goes on.
    next_address: u32,
    /// EIPs in SNAT pools, and how many workers have room for.
    pooled: usize,
    pool_room: usize,
}

impl Inventory {
    /// An empty inventory. `mtus` are the largest IP packets of the ports, in the file's order.
    pub fn new(settings: Model, mtus: Vec<u16>) -> Self {
        let outside = settings.outside();
        let ranges = outside.iter().enumerate();
        let public_ranges =
            ranges.flat_map(|(i, outside)| outside.public.iter().map(move |range| (*range, i))).collect();
        let outside_addresses = outside
            .iter()
            .flat_map(|outside| {
                let hops = outside.routes.iter().map(|route| route.via);
                std::iter::once(outside.link.address).chain(outside.gateway).chain(hops)
            })
            .collect();
        Self {
            settings,
            mtus,
            resources: HashMap::new(),
            order: BTreeSet::new(),
            names: Grouped::default(),
            references: Grouped::default(),
            addresses: HashMap::new(),
            public: Ranges::default(),
            private: Ranges::default(),
            any_port: HashMap::new(),
            private_any: HashMap::new(),
            hosts: Grouped::default(),
            sources: HashMap::new(),
            cidrs: BTreeMap::new(),
            links: HashMap::new(),
            public_ranges,
            outside_addresses,
            next_address: 0,
            pooled: 0,
            pool_room: usize::MAX,
        }
    }

    /// What the configuration file says.
    pub fn settings(&self) -> &Model {
        &self.settings
    }

    /// A resource.
    pub fn get(&self, id: Id) -> Option<&Arc<Resource>> {
        self.resources.get(&id)
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// All resources, those that are referred to before those that refer to them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Resource>> {
        self.order.iter().filter_map(|id| self.get(*id))
    }

    /// The resources of a kind behind an identifier, in order.
    pub fn after(&self, kind: Kind, id: Option<Id>) -> impl Iterator<Item = &Arc<Resource>> {
        use std::ops::Bound::{Excluded, Included};
        let from = id.map_or(Included(Id::first(kind)), Excluded);
        self.order.range((from, Included(Id::last(kind)))).filter_map(|id| self.get(*id))
    }

    /// The resources of a kind that refer to a resource, in order.
    pub fn referring(&self, target: Id, kind: Kind) -> impl Iterator<Item = Id> {
        self.references.range(&(target, kind), Id::first(kind)..=Id::last(kind)).map(|(id, ())| id)
    }

    /// The resources of a kind that have a name, in order.
    fn named(&self, kind: Kind, name: &str) -> impl Iterator<Item = Id> {
        let named = |name| self.names.range(&(kind, name), Id::first(kind)..=Id::last(kind));
        Name::new(name).map(named).into_iter().flatten().map(|(id, ())| id)
    }

    /// The DNAT entries of a private host.
    pub fn of_host(&self, vpc: Id, host: Ipv4Addr) -> impl Iterator<Item = &resource::Dnat> {
        let all = Id::first(Kind::Dnat)..=Id::last(Kind::Dnat);
        self.hosts.range(&(vpc, host), all).filter_map(|(id, ())| self.dnat(id))
    }

    fn count(&self, target: Id, kind: Kind) -> u32 {
        self.references.len(&(target, kind)) as u32
    }

    /// A VPC.
    pub fn vpc(&self, id: Id) -> Option<&resource::Vpc> {
        match &**self.get(id)? {
            Resource::Vpc(vpc) => Some(vpc),
            _ => None,
        }
    }

    /// A vSwitch.
    pub fn vswitch(&self, id: Id) -> Option<&resource::VSwitch> {
        match &**self.get(id)? {
            Resource::VSwitch(vswitch) => Some(vswitch),
            _ => None,
        }
    }

    /// A gateway.
    pub fn gateway(&self, id: Id) -> Option<&resource::Gateway> {
        match &**self.get(id)? {
            Resource::Gateway(gateway) => Some(gateway),
            _ => None,
        }
    }

    /// A bandwidth plan.
    pub fn bandwidth_plan(&self, id: Id) -> Option<&resource::Plan> {
        match &**self.get(id)? {
            Resource::Plan(plan) => Some(plan),
            _ => None,
        }
    }

    /// An EIP.
    pub fn eip(&self, id: Id) -> Option<&resource::Eip> {
        match &**self.get(id)? {
            Resource::Eip(eip) => Some(eip),
            _ => None,
        }
    }

    /// A DNAT entry.
    pub fn dnat(&self, id: Id) -> Option<&resource::Dnat> {
        self.get(id)?.as_dnat()
    }

    /// A SNAT entry.
    pub fn snat(&self, id: Id) -> Option<&resource::Snat> {
        match &**self.get(id)? {
            Resource::Snat(entry) => Some(entry),
            _ => None,
        }
    }

    /// The EIP of an address.
    pub fn eip_at(&self, address: Ipv4Addr) -> Option<&resource::Eip> {
        self.eip(*self.addresses.get(&address)?)
    }

    /// The SNAT entry of a source.
    pub fn snat_of(&self, vpc: Id, source: Prefix) -> Option<&resource::Snat> {
        self.snat(*self.sources.get(&(vpc, source))?)
    }

    /// Limits the EIPs in SNAT pools to what workers have room for.
    pub fn set_pool_room(&mut self, room: usize) {
        self.pool_room = room;
    }

    /// How many EIPs stand in SNAT pools.
    pub fn pooled(&self) -> usize {
        self.pooled
    }

    /// The outside interface from whose public range an address is, by its position in the file.
    pub fn outside_of(&self, address: Ipv4Addr) -> Option<usize> {
        self.public_ranges.lookup(address.into()).copied()
    }

    /// The vSwitches of a VPC.
    pub fn vswitches_of(&self, vpc: Id) -> impl Iterator<Item = &resource::VSwitch> {
        self.cidrs.range((vpc, 0)..=(vpc, u32::MAX)).filter_map(|(_, id)| self.vswitch(*id))
    }
}
