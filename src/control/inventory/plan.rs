//! What a file makes of an inventory: the changes that lead from all that is there to all that the file says.
//!
//! The file's resources become an inventory of their own, in two rounds: first each beside those that it may refer to, so that
//! references find their targets; then each beside all others, so that every rule holds in the end, whatever way leads there. Two
//! entries may so change their ports with each other, and an EIP go to another gateway together with its entries.

use std::collections::HashMap;
use std::sync::Arc;

use hashbrown::HashSet;
use serde_json::Value;

use super::document::Document;
use super::id::{Id, Kind};
use super::judge::{Beside, Case};
use super::resource::Resource;
use super::spec::Spec;
use super::{Change, Inventory, Refusal};
use crate::config::Code;
use crate::control::time;
use crate::policy::PortRange;

/// What a file may not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// The resource in the file, such as `dnat[2]`.
    pub item: String,
    /// The rule that it breaks. Resources in the way are named by their places in the file.
    pub refusal: Refusal,
}

/// A resource of a file.
struct Item {
    id: Id,
    spec: Spec,
    place: String,
}

impl Inventory {
    /// The changes that make this inventory what a file says, each resource once; nothing is changed. `new` gives numbers for
    /// identifiers of new resources, `now` is in seconds since 1970.
    ///
    /// A resource without an identifier is one that is there already if it has the same address (an EIP), the same CIDR of a VPC (a
    /// vSwitch), the same EIP, protocol and first public port (a DNAT entry) or the same source (an SNAT entry); else if it alone has
    /// the same name.
    ///
    /// # Errors
    /// All that is wrong with the resources of the first kind of which one is wrong by itself; else all that is wrong with them
    /// together.
    pub fn plan(
        &self,
        document: &Document,
        now: u64,
        new: &mut dyn FnMut() -> u64,
    ) -> Result<Vec<Change>, Vec<Objection>> {
        if document.version != Document::VERSION {
            let refusal = Refusal::new(Code::InvalidChoice, "version").value(document.version);
            let refusal = refusal.hint(format!("this natgate reads version {}", Document::VERSION));
            return Err(vec![Objection { item: String::new(), refusal }]);
        }
        let mut next = self.bare();
        let mut items: Vec<Item> = Vec::with_capacity(document.len());
        for kind in Kind::ALL {
            let first = items.len();
            items.extend(self.identify(&next, kind, document.of(kind), new)?);
            let mut objections = Vec::new();
            for item in &items[first..] {
                match self.begin(&next, item, now) {
                    Ok(resource) => drop(next.set(item.id, Some(&Arc::new(resource)))),
                    Err(refusal) => objections.push(Objection { item: item.place.clone(), refusal }),
                }
            }
            if !objections.is_empty() {
                return Err(in_words(objections, &items));
            }
        }
        let mut objections = Vec::new();
        for item in &items {
            let before = self.get(item.id).map(|before| &**before);
            let created = next.get(item.id).map_or(now, |resource| resource.meta().created);
            let case = Case { id: item.id, created, before, beside: Beside::All };
            if let Err(refusal) = next.judge(&item.spec, case) {
                objections.push(Objection { item: item.place.clone(), refusal });
            }
        }
        for gateway in self.protected().filter(|id| next.get(*id).is_none()) {
            let refusal = Refusal::new(Code::DeletionProtected, "id").value(gateway);
            let refusal = refusal.hint("keep it, or set deletion_protection to false first");
            objections.push(Objection { item: "gateway".to_owned(), refusal });
        }
        if objections.is_empty() { Ok(self.difference(&next)) } else { Err(in_words(objections, &items)) }
    }

    /// The changes that lead back to what some resources were, under the settings of today; nothing is changed.
    ///
    /// # Errors
    /// The first that cannot be what it was.
    pub fn plan_back(
        &self,
        before: impl IntoIterator<Item = (Id, Option<Value>)>,
    ) -> Result<Vec<Change>, (Id, Refusal)> {
        let before: HashMap<Id, Option<Value>> = before.into_iter().collect();
        let mut next = self.bare();
        let mut changed: Vec<_> = before.iter().collect();
        changed.sort_unstable_by_key(|(id, _)| **id);
        let mut changed = changed.into_iter().peekable();
        for kind in Kind::ALL {
            for resource in self.after(kind, None).filter(|resource| !before.contains_key(&resource.id())) {
                next.set(resource.id(), Some(resource));
            }
            while let Some((id, value)) = changed.next_if(|(id, _)| id.kind() == kind) {
                if let Some(value) = value {
                    next.restore(kind, value.clone()).map_err(|refusal| (*id, refusal))?;
                }
            }
        }
        Ok(self.difference(&next))
    }

    /// Makes planned changes.
    pub fn make_all(&mut self, changes: &[Change]) {
        self.set_all(changes.iter().map(|change| (change.id, change.after.as_ref())));
    }

    /// An empty one under the same settings.
    fn bare(&self) -> Self {
        let mut bare = Self::new(self.settings.clone(), self.mtus.clone());
        bare.pool_room = self.pool_room;
        bare
    }

    fn protected(&self) -> impl Iterator<Item = Id> {
        let gateways = self.after(Kind::Gateway, None).map(|gateway| gateway.id());
        gateways.filter(|id| self.gateway(*id).is_some_and(|gateway| gateway.deletion_protection))
    }

    /// From this inventory to another: what is new or other in the order of references, then what goes, against that order.
    fn difference(&self, next: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for after in next.iter() {
            let before = self.get(after.id());
            if before.is_none_or(|before| before != after) {
                changes.push(Change {
                    id: after.id(),
                    before: before.cloned(),
                    after: Some(Arc::clone(after)),
                });
            }
        }
        let gone = self.iter().rev().filter(|before| next.get(before.id()).is_none());
        changes.extend(gone.map(|before| Change {
            id: before.id(),
            before: Some(Arc::clone(before)),
            after: None,
        }));
        changes
    }

    /// Which resource each of a file is: the one of its identifier, one that is there already, or a new one.
    fn identify(
        &self,
        next: &Self,
        kind: Kind,
        specs: Vec<Spec>,
        new: &mut dyn FnMut() -> u64,
    ) -> Result<Vec<Item>, Vec<Objection>> {
        let mut taken = HashSet::new();
        let mut ids = Vec::with_capacity(specs.len());
        let mut objections = Vec::new();
        let place = |index: usize| format!("{kind}[{index}]");
        for (index, spec) in specs.iter().enumerate() {
            let Some(text) = spec.identity().0 else {
                ids.push(None);
                continue;
            };
            let id = text.parse::<Id>().ok().filter(|id| id.kind() == kind);
            let refusal = Refusal::new(Code::InvalidId, "id").value(text);
            match id {
                Some(id) if taken.insert(id) => {}
                Some(_) => {
                    let refusal = refusal.rule("an identifier stands for one resource of a file");
                    objections.push(Objection { item: place(index), refusal });
                }
                None => {
                    let hint = "leave it out for a new resource, and natgate gives one";
                    objections.push(Objection { item: place(index), refusal: refusal.hint(hint) });
                }
            }
            ids.push(id);
        }
        let mut provisional = || {
            std::iter::repeat_with(|| Id::new(kind, new()))
                .find(|id| self.get(*id).is_none() && next.get(*id).is_none())
                .unwrap_or(Id::last(kind))
        };
        // What it is in the network goes before what it is called.
        for (id, spec) in ids.iter_mut().zip(&specs).filter(|(id, _)| id.is_none()) {
            let case = Case { id: provisional(), created: 0, before: None, beside: Beside::Earlier };
            let twin = next.judge(spec, case).ok().and_then(|resource| self.twin(&resource));
            *id = twin.filter(|twin| taken.insert(*twin));
        }
        let mut named: HashMap<&str, u32> = HashMap::new();
        for name in specs.iter().filter_map(Spec::name) {
            *named.entry(name).or_default() += 1;
        }
        for (index, (id, spec)) in ids.iter_mut().zip(&specs).enumerate().filter(|(_, (id, _))| id.is_none())
        {
            match self.namesake(spec, &named) {
                Ok(namesake) => *id = namesake.filter(|namesake| taken.insert(*namesake)),
                Err(refusal) => objections.push(Objection { item: place(index), refusal }),
            }
        }
        if !objections.is_empty() {
            return Err(objections);
        }
        let items = ids.into_iter().zip(specs).enumerate();
        Ok(items
            .map(|(index, (id, spec))| {
                let id = id.unwrap_or_else(|| {
                    std::iter::repeat_with(&mut provisional)
                        .find(|id| taken.insert(*id))
                        .unwrap_or(Id::last(kind))
                });
                Item { id, spec, place: place(index) }
            })
            .collect())
    }

    /// The resource that has here what another would have.
    fn twin(&self, resource: &Resource) -> Option<Id> {
        match resource {
            Resource::Vpc(_) | Resource::Gateway(_) | Resource::Plan(_) => None,
            Resource::VSwitch(vswitch) => {
                let id = self.cidrs.get(&(vswitch.vpc, vswitch.cidr.address())).copied();
                id.filter(|id| self.vswitch(*id).is_some_and(|other| other.cidr == vswitch.cidr))
            }
            Resource::Eip(eip) => self.addresses.get(&eip.address).copied(),
            Resource::Dnat(entry) => {
                let id = match entry.public_range() {
                    None => self.any_port.get(&entry.eip).copied(),
                    Some((protocol, PortRange { first, .. })) => {
                        let range = PortRange { first, last: first };
                        let id = self.public.owner(&(entry.eip, protocol), range, entry.meta.id);
                        let first_of = |id| self.dnat(id)?.public_range().map(|(_, range)| range.first);
                        id.filter(|id| first_of(*id) == Some(first))
                    }
                };
                id.filter(|id| self.dnat(*id).is_some_and(|other| other.gateway == entry.gateway))
            }
            Resource::Snat(entry) => {
                let id = self.sources.get(&(entry.vpc, entry.prefix)).copied();
                id.filter(|id| self.snat(*id).is_some_and(|other| other.gateway == entry.gateway))
            }
        }
    }

    /// The one resource of a name, where the file has one of that name, too. VPCs, gateways and plans have nothing else by which they
    /// are known, and so need one.
    fn namesake(&self, spec: &Spec, named: &HashMap<&str, u32>) -> Result<Option<Id>, Refusal> {
        let kind = spec.kind();
        let is_known_by_name = matches!(kind, Kind::Vpc | Kind::Gateway | Kind::Plan);
        let Some(name) = spec.name() else {
            let hint = "give it a name, or the id of the one that it is";
            return if is_known_by_name {
                Err(Refusal::new(Code::MissingKey, "name").hint(hint))
            } else {
                Ok(None)
            };
        };
        // What may be known by a name has to keep what cannot change.
        if matches!(kind, Kind::VSwitch | Kind::Eip) {
            return Ok(None);
        }
        let known: Vec<Id> = self.named(kind, name).collect();
        let is_alone = named.get(name) == Some(&1);
        match known.as_slice() {
            _ if !is_alone && !is_known_by_name => Ok(None),
            [id] if is_alone => Ok(Some(*id)),
            [] if is_alone => Ok(None),
            _ if !is_known_by_name => Ok(None),
            _ => {
                let refusal = Refusal::new(Code::AmbiguousName, "name").value(name);
                let refusal = refusal.hint("say with id which one it is");
                Err(known.iter().fold(refusal, Refusal::conflict))
            }
        }
    }

    /// The first round for a resource of a file.
    fn begin(&self, next: &Self, item: &Item, now: u64) -> Result<Resource, Refusal> {
        if let Some(given) = Document::superfluous(&item.spec) {
            return Err(Refusal::new(Code::ReadOnly, given)
                .rule("this follows from the rest of the file")
                .hint("leave it out"));
        }
        if let Spec::Eip(eip) = &item.spec
            && eip.address.is_none()
        {
            return Err(Refusal::new(Code::MissingKey, "address")
                .hint("a file says which; natgate eip create takes a free one"));
        }
        let before = self.get(item.id).map(|before| &**before);
        let text = item.spec.identity().1;
        let said = text.map(|text| {
            let refusal = || Refusal::new(Code::InvalidChoice, "created_at").value(text);
            time::parse(text).ok_or_else(|| refusal().rule("a time is written as 2026-01-31T12:00:00Z"))
        });
        let created = match (before.map(|before| before.meta().created), said.transpose()?) {
            (Some(known), Some(said)) if known != said => {
                let refusal = Refusal::new(Code::ReadOnly, "created_at").value(time::format(said));
                return Err(refusal.hint(format!("it was created at {}", time::format(known))));
            }
            (known, said) => known.or(said).unwrap_or(now),
        };
        let case = Case { id: item.id, created, before, beside: Beside::Earlier };
        next.judge(&item.spec, case)
    }
}

/// Names resources by their places in the file, because identifiers of new ones are not known to anybody.
fn in_words(mut objections: Vec<Objection>, items: &[Item]) -> Vec<Objection> {
    let places: HashMap<Id, &Item> = items.iter().map(|item| (item.id, item)).collect();
    let name = |text: &str| -> Option<String> {
        let item = places.get(&text.parse::<Id>().ok()?)?;
        let name = item.spec.name().map_or_else(String::new, |name| format!(" \"{name}\""));
        Some(format!("{}{name}", item.place))
    };
    let words = |text: &str| -> String {
        let words: Vec<_> =
            text.split(' ').map(|word| name(word).unwrap_or_else(|| word.to_owned())).collect();
        words.join(" ")
    };
    for Objection { refusal, .. } in &mut objections {
        for conflict in &mut refusal.conflicts {
            *conflict = words(conflict);
        }
        refusal.value = refusal.value.take().map(|value| words(&value).into());
        refusal.hint = refusal.hint.take().map(|hint| words(&hint).into());
    }
    objections
}
