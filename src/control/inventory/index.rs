//! The indexes: each change of a resource takes its old self out of them and puts its new self in.

use std::hash::Hash;
use std::net::Ipv4Addr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::grouped::Grouped;
use super::id::Id;
use super::resource::{Dnat, Resource};
use super::{Inventory, Kind};
use crate::config::Forward;
use crate::policy::PortRange;

/// Ranges of ports that do not overlap, each with its owner, by what they belong to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ranges<G: Hash + Eq>(Grouped<G, u16, (u16, Id)>);

impl<G: Hash + Eq> Default for Ranges<G> {
    fn default() -> Self {
        Self(Grouped::default())
    }
}

impl<G: Hash + Eq> Ranges<G> {
    /// Who, besides `except`, has a port of this range.
    pub(super) fn owner(&self, group: &G, range: PortRange, except: Id) -> Option<Id> {
        // Disjoint, so they end in the order in which they begin.
        let before = self.0.range(group, 0..=range.last).rev();
        let nearest = before.map(|(_, owned)| owned).find(|(_, owner)| *owner != except);
        nearest.filter(|(last, _)| *last >= range.first).map(|(_, owner)| owner)
    }

    fn note(&mut self, group: G, range: PortRange, owner: Option<Id>) {
        self.0.note(group, range.first, owner.map(|owner| (range.last, owner)));
    }
}

impl Dnat {
    /// The private ports of an entry by port.
    pub fn private_range(&self) -> Option<(u8, PortRange)> {
        match self.forward {
            Forward::AnyPort => None,
            Forward::Ports { protocol, public, private_first } => {
                let last = private_first + (public.last - public.first);
                Some((protocol.number(), PortRange { first: private_first, last }))
            }
        }
    }

    /// The public ports of an entry by port.
    pub fn public_range(&self) -> Option<(u8, PortRange)> {
        match self.forward {
            Forward::AnyPort => None,
            Forward::Ports { protocol, public, .. } => Some((protocol.number(), public)),
        }
    }
}

/// Whether it is by standing in a pool that one refers to the other.
fn is_pool(target: Id, by: Id) -> bool {
    (target.kind(), by.kind()) == (Kind::Eip, Kind::Snat)
}

/// What a state has, unless the other one has the same.
fn own<'s, S: ?Sized, T: PartialEq>(
    state: &'s S,
    other: Option<&'s S>,
    of: impl Fn(&'s S) -> T,
) -> Option<T> {
    let has = of(state);
    (other.map(of).as_ref() != Some(&has)).then_some(has)
}

/// Puts a value in, or takes it out.
fn note<K: Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

impl Inventory {
    /// Makes a resource what it is to be, or nothing, and returns what it was. The one step by which anything changes;
    /// that the rules hold is the caller's matter.
    pub(super) fn set(&mut self, id: Id, after: Option<&Arc<Resource>>) -> Option<Arc<Resource>> {
        let before = match after {
            Some(resource) => self.resources.insert(id, Arc::clone(resource)),
            None => self.resources.remove(&id),
        };
        if before.is_some() != after.is_some() {
            if after.is_some() {
                self.order.insert(id);
            } else {
                self.order.remove(&id);
            }
        }
        if let Some(before) = &before {
            self.index(before, after.map(|after| &**after), false);
        }
        if let Some(after) = after {
            self.index(after, before.as_deref(), true);
        }
        before
    }

    /// The same for several that change together, of which each may take what another leaves.
    pub(super) fn set_all<'r>(
        &mut self,
        changes: impl Iterator<Item = (Id, Option<&'r Arc<Resource>>)> + Clone,
    ) {
        for (id, _) in changes.clone() {
            self.set(id, None);
        }
        for (id, after) in changes {
            if after.is_some() {
                self.set(id, after);
            }
        }
    }

    /// Puts a resource into the indexes, or takes it out; nothing is done where another state of it, which goes or comes with this
    /// step, has the same: most changes concern few indexes.
    fn index(&mut self, resource: &Resource, other: Option<&Resource>, enters: bool) {
        let id = resource.id();
        let (owner, member) = (enters.then_some(id), enters.then_some(()));
        if let Some(name) = own(resource, other, |resource| resource.meta().name.as_ref()).flatten() {
            self.names.note((id.kind(), name.clone()), id, member);
        }
        let of_other = other.map(Resource::references).unwrap_or_default();
        for target in resource.references().into_iter().filter(|target| !of_other.contains(target)) {
            let first_or_last = self.references.note((target, id.kind()), id, member);
            if first_or_last && is_pool(target, id) {
                self.pooled = if enters { self.pooled + 1 } else { self.pooled - 1 };
            }
        }
        match resource {
            Resource::Vpc(_) | Resource::Gateway(_) | Resource::Plan(_) => {}
            Resource::VSwitch(vswitch) => {
                let start = (vswitch.vpc, vswitch.cidr.address());
                match owner {
                    Some(id) => self.cidrs.insert(start, id),
                    None => self.cidrs.remove(&start),
                };
                if let Some(link) = &vswitch.link {
                    note(&mut self.links, (link.port, link.vlan), owner);
                }
            }
            Resource::Eip(eip) => note(&mut self.addresses, eip.address, owner),
            Resource::Dnat(entry) => {
                let other = other.and_then(Resource::as_dnat);
                if let Some(host) = own(entry, other, |entry| (entry.vpc, entry.private_ip)) {
                    self.hosts.note(host, id, member);
                }
                match own(entry, other, |entry| (entry.eip, entry.public_range())) {
                    Some((eip, Some((protocol, ports)))) => self.public.note((eip, protocol), ports, owner),
                    Some((eip, None)) => note(&mut self.any_port, eip, owner),
                    None => {}
                }
                let private = |entry: &Dnat| ((entry.gateway, entry.private_ip), entry.private_range());
                match own(entry, other, private) {
                    Some(((gateway, host), Some((protocol, ports)))) => {
                        self.private.note((gateway, host, protocol), ports, owner);
                    }
                    Some((host, None)) => note(&mut self.private_any, host, owner),
                    None => {}
                }
            }
            Resource::Snat(entry) => note(&mut self.sources, (entry.vpc, entry.prefix), owner),
        }
    }

    /// A free address of the public ranges. It goes through them in turn, so that a released address rests.
    pub(super) fn free_address(&self) -> Option<Ipv4Addr> {
        let free = |address: u32| {
            let address = Ipv4Addr::from(address);
            !self.addresses.contains_key(&address)
                && !self.outside_addresses.contains(&address)
                && !self.is_outside_edge(address)
        };
        let ranges: Vec<_> = self.public_ranges.iter().map(|(range, _)| range).collect();
        let later = ranges.iter().filter(|range| range.last() >= self.next_address);
        let later = later.flat_map(|range| range.address().max(self.next_address)..=range.last());
        let all = ranges.iter().flat_map(|range| range.address()..=range.last());
        later.chain(all).find(|address| free(*address)).map(Ipv4Addr::from)
    }

    /// Whether an address is the network or broadcast address of an outside link.
    pub(super) fn is_outside_edge(&self, address: Ipv4Addr) -> bool {
        let outside = self.settings.outside();
        outside.iter().any(|outside| crate::config::validate::is_edge(outside.prefix, address.into()))
    }

    /// The resource of a kind that refers to another, besides `except`.
    pub(super) fn another(&self, target: Id, kind: Kind, except: Id) -> Option<Id> {
        self.referring(target, kind).find(|id| *id != except)
    }
}
