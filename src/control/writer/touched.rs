//! What of a snapshot changes of the inventory concern.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::config::Forward;
use crate::control::inventory::resource::Resource;
use crate::control::inventory::{Change, Id, Inventory, Kind};
use crate::policy::Prefix;

/// What a batch of changes concerns.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) frame: bool,
    /// EIPs or plans came or went.
    pub(super) model: bool,
    /// EIPs, and of those of which nothing else changed, their changed port forwards.
    pub(super) addresses: BTreeMap<Ipv4Addr, Option<BTreeSet<Id>>>,
    pub(super) hosts: BTreeSet<(Id, Ipv4Addr)>,
    pub(super) sources: BTreeMap<Id, BTreeSet<Prefix>>,
}

impl Touched {
    pub(super) fn of(inventory: &Inventory, changes: &[Change]) -> Self {
        let mut touched = Self::default();
        for change in changes {
            for resource in [&change.before, &change.after].into_iter().flatten() {
                touched.add(resource);
            }
            match change.id.kind() {
                Kind::Eip if change.before.is_some() != change.after.is_some() => touched.model = true,
                Kind::Plan => {
                    touched.model = true;
                    // The plan's limit stands in each of its EIPs.
                    let eips = inventory.referring(change.id, Kind::Eip).filter_map(|id| inventory.eip(id));
                    touched.addresses.extend(eips.map(|eip| (eip.address, None)));
                }
                _ => {}
            }
            if let (Some(Resource::Gateway(before)), Some(Resource::Gateway(after))) =
                (change.before.as_deref(), change.after.as_deref())
                && before.host_sessions != after.host_sessions
            {
                // The quota of a private host stands in each entry.
                let entries = inventory.referring(change.id, Kind::Snat);
                for entry in entries.filter_map(|id| inventory.snat(id)) {
                    touched.sources.entry(entry.vpc).or_default().insert(entry.prefix);
                }
            }
        }
        touched
    }

    fn add(&mut self, resource: &Resource) {
        match resource {
            Resource::Vpc(_) | Resource::VSwitch(_) | Resource::Gateway(_) => self.frame = true,
            Resource::Plan(_) => {}
            Resource::Eip(eip) => {
                self.addresses.insert(eip.address, None);
            }
            Resource::Dnat(entry) => {
                let entries = self.addresses.entry(entry.address).or_insert_with(|| Some(BTreeSet::new()));
                match entry.forward {
                    Forward::AnyPort => *entries = None,
                    Forward::Ports { .. } => {
                        if let Some(entries) = entries {
                            entries.insert(entry.meta.id);
                        }
                    }
                }
                self.hosts.insert((entry.vpc, entry.private_ip));
            }
            Resource::Snat(entry) => {
                self.sources.entry(entry.vpc).or_default().insert(entry.prefix);
            }
        }
    }
}
