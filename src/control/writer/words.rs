//! Entries in words: what sessions, counters and differences call them.

use std::sync::Arc;

use crate::config::{Effect, EntryInfo, Name};
use crate::control::inventory::Id;
use crate::control::inventory::resource::{Dnat, Resource, Snat};

/// What an entry is to people.
///
/// # Errors
/// It is no entry, or its gateway has no name.
pub(super) fn info(
    resource: &Resource,
    name_of: impl FnOnce(Id) -> Result<Name, String>,
) -> Result<EntryInfo, String> {
    let name = resource.meta().name.as_ref();
    let name = name.map_or_else(|| resource.id().to_string().into(), |name| Arc::clone(name.shared()));
    let (gateway, effect) = match resource {
        Resource::Dnat(entry) => (entry.gateway, dnat(entry)),
        Resource::Snat(entry) => (entry.gateway, snat(entry)),
        other => return Err(format!("{} is no entry", other.id())),
    };
    Ok(EntryInfo { name, gateway: name_of(gateway)?, effect })
}

/// What a DNAT entry does.
pub(super) fn dnat(entry: &Dnat) -> Effect {
    Effect::Dnat { eip: entry.address, private_ip: entry.private_ip, forward: entry.forward }
}

/// What an SNAT entry does.
pub(super) fn snat(entry: &Snat) -> Effect {
    Effect::Snat { source: entry.prefix, eips: entry.eips.iter().map(|(_, address)| *address).collect() }
}
