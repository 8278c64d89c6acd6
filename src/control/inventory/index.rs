//! The indexes: each change of a resource takes its old self out of them and puts its new self in.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::id::Id;
use super::resource::{Dnat, Resource};
use super::{Inventory, Kind};
use crate::config::{Forward, Name};
use crate::policy::PortRange;

/// Ranges of ports that do not overlap, each with its owner, by what they belong to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ranges<K>(BTreeMap<(K, u16), (u16, Id)>);

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy> Ranges<K> {
    /// Who, besides `except`, has a port of this range.
    pub(super) fn owner(&self, key: K, range: PortRange, except: Id) -> Option<Id> {
        // Disjoint, so they end in the order in which they begin.
        let before = self.0.range((key, 0)..=(key, range.last)).rev();
        let others = before.filter(|(_, (_, owner))| *owner != except);
        others
            .map(|(_, (last, owner))| (*last, *owner))
            .next()
            .filter(|(last, _)| *last >= range.first)
            .map(|(_, id)| id)
    }

    fn put(&mut self, key: K, range: PortRange, owner: Id) {
        self.0.insert((key, range.first), (range.last, owner));
    }

    fn take(&mut self, key: K, range: PortRange) {
        self.0.remove(&(key, range.first));
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

/// The name of a resource, if another state of it has not the same.
fn new_name<'r>(resource: &'r Resource, other: Option<&Resource>) -> Option<&'r Name> {
    let known = other.and_then(|other| other.meta().name.as_ref());
    resource.meta().name.as_ref().filter(|name| Some(*name) != known)
}

/// What a resource refers to, and another state of it does not.
fn new_references(resource: &Resource, other: Option<&Resource>) -> impl Iterator<Item = Id> + use<> {
    let known = other.map(Resource::references).unwrap_or_default();
    resource.references().into_iter().filter(move |id| !known.contains(id))
}

impl Inventory {
    /// Makes a resource what it is to be, or nothing, and returns what it was. The one step by which anything changes;
    /// that the rules hold is the caller's matter.
    pub(super) fn set(&mut self, id: Id, after: Option<&Arc<Resource>>) -> Option<Arc<Resource>> {
        let before = match after {
            Some(resource) => self.resources.insert(id, Arc::clone(resource)),
            None => self.resources.remove(&id),
        };
        // Its name and what it refers to seldom change.
        if let Some(before) = &before {
            self.leave(before, after.map(|after| &**after));
        }
        if let Some(after) = after {
            self.enter(after, before.as_deref());
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

    /// Puts a resource in, besides what it has of what it was.
    fn enter(&mut self, resource: &Resource, before: Option<&Resource>) {
        let id = resource.id();
        if let Some(name) = new_name(resource, before) {
            self.names.entry((id.kind(), name.clone())).or_default().insert(id);
        }
        for target in new_references(resource, before) {
            if self.references.insert((target, id)) {
                let count = self.counts.entry((target, id.kind())).or_default();
                *count += 1;
                self.pooled += usize::from(is_pool(target, id) && *count == 1);
            }
        }
        match resource {
            Resource::Vpc(_) | Resource::Gateway(_) | Resource::Plan(_) => {}
            Resource::VSwitch(vswitch) => {
                self.cidrs.insert((vswitch.vpc, vswitch.cidr.address()), id);
                if let Some(link) = &vswitch.link {
                    self.links.insert((link.port, link.vlan), id);
                }
            }
            Resource::Eip(eip) => {
                self.addresses.insert(eip.address, id);
            }
            Resource::Dnat(entry) => {
                self.hosts.insert((entry.vpc, entry.private_ip, id));
                match (entry.public_range(), entry.private_range()) {
                    (Some((protocol, public)), Some((_, private))) => {
                        self.public.put((entry.eip, protocol), public, id);
                        self.private.put((entry.gateway, entry.private_ip, protocol), private, id);
                    }
                    _ => {
                        self.any_port.insert(entry.eip, id);
                        self.private_any.insert((entry.gateway, entry.private_ip), id);
                    }
                }
            }
            Resource::Snat(entry) => {
                self.sources.insert((entry.vpc, entry.prefix), id);
            }
        }
    }

    /// Takes a resource out, besides what it has of what it will be.
    fn leave(&mut self, resource: &Resource, after: Option<&Resource>) {
        let id = resource.id();
        if let Some(name) = new_name(resource, after) {
            let key = (id.kind(), name.clone());
            if let Some(ids) = self.names.get_mut(&key) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.names.remove(&key);
                }
            }
        }
        for target in new_references(resource, after) {
            if self.references.remove(&(target, id)) {
                let key = (target, id.kind());
                match self.counts.get_mut(&key) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => {
                        self.counts.remove(&key);
                        self.pooled -= usize::from(is_pool(target, id));
                    }
                }
            }
        }
        match resource {
            Resource::Vpc(_) | Resource::Gateway(_) | Resource::Plan(_) => {}
            Resource::VSwitch(vswitch) => {
                self.cidrs.remove(&(vswitch.vpc, vswitch.cidr.address()));
                if let Some(link) = &vswitch.link {
                    self.links.remove(&(link.port, link.vlan));
                }
            }
            Resource::Eip(eip) => {
                self.addresses.remove(&eip.address);
            }
            Resource::Dnat(entry) => {
                self.hosts.remove(&(entry.vpc, entry.private_ip, id));
                match (entry.public_range(), entry.private_range()) {
                    (Some((protocol, public)), Some((_, private))) => {
                        self.public.take((entry.eip, protocol), public);
                        self.private.take((entry.gateway, entry.private_ip, protocol), private);
                    }
                    _ => {
                        self.any_port.remove(&entry.eip);
                        self.private_any.remove(&(entry.gateway, entry.private_ip));
                    }
                }
            }
            Resource::Snat(entry) => {
                self.sources.remove(&(entry.vpc, entry.prefix));
            }
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
