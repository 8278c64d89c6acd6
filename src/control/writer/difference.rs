//! Changes of resources in words, as `natgate reload` says them.

use hashbrown::HashMap;
use serde_json::{Map, Value};

use super::words;
use crate::config::Name;
use crate::config::units::format_rate;
use crate::control::inventory::resource::Resource;
use crate::control::inventory::{self, Id, Inventory};
use crate::control::protocol::{Change, ChangeKind};

/// What follows from other values, or says nothing to people.
const UNTOLD: [&str; 7] = ["id", "status", "created_at", "dnat_table", "snat_table", "eip", "eips"];

/// Changes in words, whether the inventory has them already or not.
pub(super) fn differences(inventory: &Inventory, changes: &[inventory::Change]) -> Vec<Change> {
    let changed = changes.iter().filter_map(|change| {
        let resource = change.after.as_ref().or(change.before.as_ref())?;
        Some((change.id, &**resource))
    });
    let words = Words { inventory, changed: changed.collect() };
    changes.iter().map(|change| words.change(change)).collect()
}

struct Words<'a> {
    inventory: &'a Inventory,
    changed: HashMap<Id, &'a Resource>,
}

impl Words<'_> {
    fn change(&self, change: &inventory::Change) -> Change {
        let (kind, name, detail) = match (change.before.as_deref(), change.after.as_deref()) {
            (Some(before), Some(after)) => {
                (ChangeKind::Changed, label(before), self.difference(before, after))
            }
            (_, Some(after)) => (ChangeKind::Added, label(after), self.summary(after)),
            (Some(before), None) => (ChangeKind::Removed, label(before), self.summary(before)),
            (None, None) => (ChangeKind::Changed, change.id.to_string(), String::new()),
        };
        Change { change: kind, resource: change.id.kind().noun().to_owned(), name, detail }
    }

    /// What a resource is, in a few words.
    fn summary(&self, resource: &Resource) -> String {
        match resource {
            Resource::Vpc(vpc) => vpc.cidr.to_string(),
            Resource::VSwitch(vswitch) => format!("{} in {}", vswitch.cidr, self.name(vswitch.vpc)),
            Resource::Gateway(gateway) => {
                format!("in {}/{}", self.name(gateway.vpc), self.name(gateway.vswitch))
            }
            Resource::Plan(plan) => format_rate(plan.bandwidth),
            Resource::Eip(eip) => {
                let bound = |gateway| format!("bound to {}", self.name(gateway));
                eip.gateway.map_or_else(|| "not bound".to_owned(), bound)
            }
            Resource::Dnat(entry) => words::dnat(entry).to_string(),
            Resource::Snat(entry) => words::snat(entry).to_string(),
        }
    }

    /// The values that differ, before and after.
    fn difference(&self, before: &Resource, after: &Resource) -> String {
        let written = |resource| match self.inventory.specify(resource).to_value() {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        let (before, after) = (written(before), written(after));
        let gone = before.keys().filter(|key| !after.contains_key(*key));
        let keys = after.keys().chain(gone).filter(|key| !UNTOLD.contains(&key.as_str()));
        let differences = keys
            .filter(|key| before.get(*key) != after.get(*key))
            .map(|key| format!("{key} {} -> {}", self.text(before.get(key)), self.text(after.get(key))));
        differences.collect::<Vec<_>>().join("; ")
    }

    fn text(&self, value: Option<&Value>) -> String {
        match value {
            None => "none".to_owned(),
            Some(Value::String(text)) => {
                // A source may be a vSwitch: `vswitch:` and its identifier.
                let (prefix, id) = text.split_at(text.find(':').map_or(0, |colon| colon + 1));
                id.parse().map_or_else(|_| text.clone(), |id| format!("{prefix}{}", self.name(id)))
            }
            Some(Value::Array(items)) => {
                items.iter().map(|item| self.text(Some(item))).collect::<Vec<_>>().join(", ")
            }
            Some(Value::Object(fields)) => {
                let fields = fields.iter().map(|(key, value)| format!("{key}={}", self.text(Some(value))));
                fields.collect::<Vec<_>>().join(", ")
            }
            Some(other) => other.to_string(),
        }
    }

    fn name(&self, id: Id) -> String {
        let known = || self.inventory.get(id).map(|resource| &**resource);
        self.changed.get(&id).copied().or_else(known).map_or_else(|| id.to_string(), label)
    }
}

/// What people call a resource.
fn label(resource: &Resource) -> String {
    let name = || resource.meta().name.as_ref().map(Name::to_string);
    match resource {
        Resource::Eip(eip) => eip.address.to_string(),
        Resource::VSwitch(vswitch) => name().unwrap_or_else(|| vswitch.cidr.to_string()),
        Resource::Dnat(entry) => name().unwrap_or_else(|| words::dnat(entry).subject()),
        Resource::Snat(entry) => name().unwrap_or_else(|| entry.prefix.to_string()),
        Resource::Vpc(_) | Resource::Gateway(_) | Resource::Plan(_) => {
            name().unwrap_or_else(|| resource.id().to_string())
        }
    }
}
