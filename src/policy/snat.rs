//! SNAT entries: which EIPs a private source leaves with, and how.

use crate::base::{EipIndex, EntryId, GatewayIndex};
use crate::policy::{Allocation, Lpm, Timeouts};

/// How mappings are made (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mapping {
    /// One external port for an inside address and port, whatever the peer (RFC 4787 REQ-1).
    #[default]
    EndpointIndependent,
    /// One external port for each peer: up to 64k connections per EIP and destination.
    EndpointDependent,
}

/// Which peers may send to a mapping (RFC 4787 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Filtering {
    /// Anyone (RFC 6888 REQ-7).
    #[default]
    EndpointIndependent,
    /// Only addresses that the host has sent to.
    AddressDependent,
    /// Only addresses and ports that the host has sent to.
    AddressAndPortDependent,
}

/// An inclusive range of external ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// All ports but zero.
    pub const ALL: Self = Self { first: 1, last: u16::MAX };

    /// Whether `port` lies in it.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// One EIP of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolAddress {
    /// Its slot.
    pub index: EipIndex,
    /// Its address.
    pub address: u32,
}

/// A compiled SNAT entry.
#[derive(Clone, Debug, PartialEq)]
pub struct SnatEntry {
    /// The entry.
    pub id: EntryId,
    /// The gateway whose limits it counts against.
    pub gateway: GatewayIndex,
    /// The EIPs, at least one.
    pub pool: Box<[PoolAddress]>,
    /// How mappings are made.
    pub mapping: Mapping,
    /// Which peers may send to them.
    pub filtering: Filtering,
    /// External ports it may use.
    pub ports: PortRange,
    /// How private hosts come to them.
    pub allocation: Allocation,
    /// Whether FTP control connections of private clients are read.
    pub ftp: bool,
    /// Destinations that are not translated (RFC 6888 REQ-6).
    pub untranslated: Lpm<()>,
    /// Its timeouts.
    pub timeouts: Timeouts,
    /// Sessions that one private host may have (RFC 6888 REQ-4).
    pub host_quota: u32,
}

impl SnatEntry {
    /// The pool's member with this slot.
    pub fn member(&self, index: EipIndex) -> Option<PoolAddress> {
        self.pool.iter().copied().find(|member| member.index == index)
    }
}
