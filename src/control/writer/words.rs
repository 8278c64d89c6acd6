//! Entries in words: what sessions, counters and differences call them.

use super::compile::name;
use crate::config::{EntryInfo, EntryKind, Forward, Name};
use crate::control::inventory::resource::{Dnat, Resource, Snat};

/// What an entry is to people.
pub(super) fn info(resource: &Resource) -> Result<EntryInfo, String> {
    let label = resource.meta().name.as_ref().map_or_else(|| resource.id().to_string(), Name::to_string);
    Ok(match resource {
        Resource::Snat(entry) => EntryInfo {
            kind: EntryKind::Snat,
            name: label,
            gateway: name(entry.gateway)?,
            summary: snat_summary(entry),
        },
        Resource::Dnat(entry) => EntryInfo {
            kind: EntryKind::Dnat,
            name: label,
            gateway: name(entry.gateway)?,
            summary: dnat_summary(entry),
        },
        other => return Err(format!("{} is no entry", other.id())),
    })
}

/// What an SNAT entry does, in a line.
pub(super) fn snat_summary(entry: &Snat) -> String {
    let eips: Vec<_> = entry.eips.iter().map(|(_, address)| address.to_string()).collect();
    format!("{} -> {}", entry.prefix, eips.join(", "))
}

/// What a DNAT entry does, in a line.
pub(super) fn dnat_summary(entry: &Dnat) -> String {
    let Forward::Ports { protocol, public, private_first } = entry.forward else {
        return format!("{} -> {}", entry.address, entry.private_ip);
    };
    let ports = |first: u16, last: u16| {
        if first == last { first.to_string() } else { format!("{first}/{last}") }
    };
    let private = ports(private_first, private_first + (public.last - public.first));
    let public = ports(public.first, public.last);
    format!("{}:{public} {protocol} -> {}:{private}", entry.address, entry.private_ip)
}
