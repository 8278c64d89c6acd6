//! Names for the numbers that workers speak in.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::Serialize;

use super::model::Effect;
use super::words::Name;
use crate::base::{EipIndex, EntryId, GatewayIndex, InterfaceIndex, PortIndex, VpcIndex};
use crate::policy::persist::Map;

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A DNAT entry.
    Dnat,
    /// An SNAT entry.
    Snat,
}

impl EntryKind {
    /// The kind as it is written in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dnat => "dnat",
            Self::Snat => "snat",
        }
    }
}

/// What an entry is to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryInfo {
    /// Its name; where it has none, its public side, its source or its identifier.
    pub name: Arc<str>,
    /// The gateway it belongs to.
    pub gateway: Name,
    /// What it does.
    pub effect: Effect,
}

impl EntryInfo {
    /// Its kind.
    pub fn kind(&self) -> EntryKind {
        match self.effect {
            Effect::Dnat { .. } => EntryKind::Dnat,
            Effect::Snat { .. } => EntryKind::Snat,
        }
    }
}

/// The names of all resources by the numbers that snapshots, sessions and counters have for them.
///
/// VPCs, gateways and EIPs that are gone keep their names, as their numbers are not given to others; interfaces and
/// entries that are gone are forgotten.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub(super) ports: Arc<[Name]>,
    pub(super) interfaces: Arc<[String]>,
    pub(super) vpcs: Arc<[Name]>,
    pub(super) gateways: Arc<[Name]>,
    pub(super) eips: Arc<Vec<Ipv4Addr>>,
    pub(super) entries: Map<Arc<EntryInfo>>,
}

impl Directory {
    /// The name of a port.
    pub fn port(&self, index: PortIndex) -> Option<&str> {
        self.ports.get(index.index()).map(Name::as_str)
    }

    /// The name of an interface: its port's, and its VLAN if it has one, as in `wan.100`.
    pub fn interface(&self, index: InterfaceIndex) -> Option<&str> {
        self.interfaces.get(index.index()).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// The name of a VPC.
    pub fn vpc(&self, index: VpcIndex) -> Option<&str> {
        self.vpcs.get(index.index()).map(Name::as_str)
    }

    /// The VPC of a name.
    pub fn vpc_named(&self, name: &str) -> Option<VpcIndex> {
        self.vpcs.iter().position(|vpc| vpc.as_str() == name).map(|i| VpcIndex(i as u16))
    }

    /// The name of a gateway.
    pub fn gateway(&self, index: GatewayIndex) -> Option<&str> {
        self.gateways.get(index.index()).map(Name::as_str)
    }

    /// The gateway of a name.
    pub fn gateway_named(&self, name: &str) -> Option<GatewayIndex> {
        self.gateways.iter().position(|gateway| gateway.as_str() == name).map(|i| GatewayIndex(i as u32))
    }

    /// The address of an EIP.
    pub fn eip(&self, index: EipIndex) -> Option<Ipv4Addr> {
        self.eips.get(index.index()).copied()
    }

    /// An entry.
    pub fn entry(&self, id: EntryId) -> Option<&EntryInfo> {
        self.entries.get(u64::from(id.0)).map(|info| &**info)
    }

    /// Notes what an entry is, or that it is gone. A copy of the directory costs little and does not see it.
    pub fn set_entry(&mut self, id: EntryId, info: Option<EntryInfo>) {
        match info {
            Some(info) => self.entries.insert(u64::from(id.0), Arc::new(info)),
            None => self.entries.remove(u64::from(id.0)),
        };
    }

    /// Has the other names of a configuration, and keeps the entries.
    pub fn with_names_of(self, other: &Self) -> Self {
        Self { entries: self.entries, ..other.clone() }
    }

    /// All entries, in no particular order.
    pub fn entries(&self) -> impl Iterator<Item = (EntryId, &EntryInfo)> {
        self.entries.iter().map(|(id, info)| (EntryId(id as u32), &**info))
    }
}
