//! Which number each resource has.

use std::hash::Hash;
use std::sync::Arc;

use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};

use super::{Compiler, keyed_links};
use crate::base::{EipIndex, EntryId, GatewayIndex, InterfaceIndex, PlanIndex, PortIndex, VpcIndex};
use crate::config::directory::EntryKind;
use crate::config::error::{Code, Errors};
use crate::config::model::{Dnat, Forward, Link, Model, Snat};
use crate::config::words::{Name, Vlan};
use crate::policy::{Allocation, PortRange, Prefix};

/// Numbers by key, given in order and never given again.
#[derive(Clone, Debug)]
pub(super) struct Numbers<K> {
    known: HashMap<K, u32>,
    most: u32,
}

impl<K: Eq + Hash + Clone> Numbers<K> {
    pub(super) fn new(most: u32) -> Self {
        Self { known: HashMap::new(), most }
    }

    /// The key's number; the next one if it has none.
    pub(super) fn number(&mut self, key: &K) -> Option<u32> {
        if let Some(number) = self.known.get(key) {
            return Some(*number);
        }
        let next = u32::try_from(self.known.len()).ok().filter(|next| *next < self.most)?;
        self.known.insert(key.clone(), next);
        Some(next)
    }

    /// The number of a key that has one.
    pub(super) fn get(&self, key: &K) -> u32 {
        self.known.get(key).copied().unwrap_or(u32::MAX)
    }

    /// The keys by number.
    pub(super) fn keys(&self) -> Vec<K> {
        let mut keys: Vec<(&K, &u32)> = self.known.iter().collect();
        keys.sort_unstable_by_key(|(_, number)| **number);
        keys.into_iter().map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

/// What makes an entry the same one in two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum EntryKey {
    Dnat {
        gateway: GatewayIndex,
        eip: u32,
        protocol: u8,
        first: u16,
    },
    /// Under another layout of blocks it is another entry, so that no session of the one before lies across them.
    Snat {
        gateway: GatewayIndex,
        source: Prefix,
        blocks: Option<(Allocation, PortRange)>,
    },
}

/// What makes an interface the same one in two models.
pub(super) type InterfaceKey = (PortIndex, Option<Vlan>);

fn interface_key(link: &Link) -> InterfaceKey {
    (link.port, link.vlan)
}

impl Compiler {
    /// The number of an EIP's address, given if it has none; none if all are used up.
    pub fn eip_index(&mut self, address: u32) -> Option<EipIndex> {
        let known = self.eips.len();
        let number = self.eips.number(&address)?;
        if number as usize == known {
            Arc::make_mut(&mut Arc::make_mut(&mut self.directory).eips).push(address.into());
        }
        Some(EipIndex(number))
    }

    /// The number of a bandwidth plan, given if it has none; none if all are used up.
    pub fn plan_index(&mut self, name: &Name) -> Option<PlanIndex> {
        self.plans.number(name).map(PlanIndex)
    }

    /// Gives every resource its number.
    pub(super) fn number(&mut self, model: &Model) -> Result<(), Errors> {
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
        for plan in model.plans() {
            self.plans.number(&plan.name).ok_or_else(|| exhausted("plan", plan.name.to_string()))?;
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
    pub(in crate::config) fn use_up_entries(&mut self) {
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

    pub(super) fn dnat_key(&self, entry: &Dnat) -> EntryKey {
        let (protocol, first) = match entry.forward {
            Forward::AnyPort => (0, 0),
            Forward::Ports { protocol, public, .. } => (protocol.number(), public.first),
        };
        EntryKey::Dnat { gateway: self.gateway_index(&entry.gateway), eip: entry.eip.into(), protocol, first }
    }

    pub(super) fn snat_key(&self, entry: &Snat) -> EntryKey {
        let (gateway, source) = (self.gateway_index(&entry.gateway), entry.prefix);
        let blocks = (entry.allocation != Allocation::Ports).then_some((entry.allocation, entry.ports));
        EntryKey::Snat { gateway, source, blocks }
    }

    pub(super) fn entry_id(&self, key: EntryKey) -> EntryId {
        self.entries.get(&key).copied().unwrap_or(EntryId(u32::MAX))
    }

    /// One more than the highest number of an interface.
    pub(super) fn interface_slots(&self) -> usize {
        self.interfaces.values().map(|index| index.index() + 1).max().unwrap_or(0)
    }
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
