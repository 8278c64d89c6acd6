//! How private hosts come to the external ports of an SNAT entry: port by port, or in blocks of neighbouring ports that belong to one host
//! (RFC 6888 §4, RFC 6431), given out as they are needed or computed from the host's address (RFC 7422).

use crate::base::owner::{owner_of_host, owner_of_port};
use crate::policy::{Eip, PoolAddress, PortRange, Prefix, Snapshot, SnatEntry};

/// How private hosts come to external ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Allocation {
    /// Each mapping takes a port of its own.
    #[default]
    Ports,
    /// A host gets a block when it has its first mapping and another when that is full, and keeps them while it has sessions.
    Blocks {
        /// Ports of a block.
        size: u16,
        /// Blocks that a host may have.
        per_host: u8,
    },
    /// Each address of the source has one block, which follows from the address alone.
    Deterministic {
        /// Ports of a block.
        size: u16,
        /// The source.
        source: Prefix,
    },
}

impl Allocation {
    /// Ports of a block, if ports are given out in blocks.
    pub const fn block_size(self) -> Option<u16> {
        match self {
            Self::Ports => None,
            Self::Blocks { size, .. } | Self::Deterministic { size, .. } => Some(size),
        }
    }
}

/// The blocks of each EIP of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The first port of the first block.
    first: u16,
    /// Ports of a block.
    size: u16,
    /// How many there are.
    pub count: u16,
}

impl Blocks {
    /// As many blocks as fit into a range of ports.
    pub const fn of(ports: PortRange, size: u16) -> Self {
        let all = ports.last as u32 + 1 - ports.first as u32;
        let count = match size {
            0 => 0,
            size => (all / size as u32) as u16,
        };
        Self { first: ports.first, size, count }
    }

    /// The ports of a block.
    pub const fn range(self, number: u16) -> PortRange {
        let first = self.first.wrapping_add(number.wrapping_mul(self.size));
        PortRange { first, last: first.wrapping_add(self.size.wrapping_sub(1)) }
    }

    /// The block in which a port lies.
    pub fn number(self, port: u16) -> Option<u16> {
        let number = port.checked_sub(self.first)?.checked_div(self.size)?;
        (number < self.count).then_some(number)
    }

    /// Whether these ports are one of the blocks.
    pub fn has(self, ports: PortRange) -> bool {
        self.number(ports.first).is_some_and(|number| self.range(number) == ports)
    }
}

impl SnatEntry {
    /// The blocks of each EIP, if ports are given out in blocks.
    pub fn blocks(&self) -> Option<Blocks> {
        Some(Blocks::of(self.ports, self.allocation.block_size()?))
    }

    /// The EIP and the ports that a host has by its address alone.
    pub fn fixed(&self, host: u32) -> Option<(PoolAddress, PortRange)> {
        let Allocation::Deterministic { size, source } = self.allocation else { return None };
        let blocks = Blocks::of(self.ports, size);
        let place = host.checked_sub(source.address()).filter(|_| source.contains(host))?;
        let count = u32::from(blocks.count);
        let member = self.pool.get(place.checked_div(count)? as usize)?;
        Some((*member, blocks.range((place % count) as u16)))
    }

    /// The host that has a port of an EIP by its address alone.
    pub fn fixed_host(&self, external: u32, port: u16) -> Option<u32> {
        let Allocation::Deterministic { size, source } = self.allocation else { return None };
        let blocks = Blocks::of(self.ports, size);
        let member = self.pool.iter().position(|member| member.address == external)?;
        let place = member as u64 * u64::from(blocks.count) + u64::from(blocks.number(port)?);
        let host = u32::try_from(u64::from(source.address()) + place).ok()?;
        source.contains(host).then_some(host)
    }

    /// Whether a mapping of a host to an external endpoint is one that this entry would make.
    pub fn may_map(&self, host: u32, external: (u32, u16)) -> bool {
        match self.allocation {
            Allocation::Ports | Allocation::Blocks { .. } => self.ports.contains(external.1),
            Allocation::Deterministic { .. } => self
                .fixed(host)
                .is_some_and(|(member, ports)| member.address == external.0 && ports.contains(external.1)),
        }
    }
}

impl Snapshot {
    /// The entry that gives out ports of an EIP in blocks: it is the only one with that EIP.
    pub fn block_entry(&self, eip: &Eip) -> Option<&SnatEntry> {
        if !self.has_blocks {
            return None;
        }
        let gateway = self.gateway(eip.gateway?)?;
        self.blocks.get(gateway.vpc.index())?.get(&eip.address).map(|entry| &**entry)
    }

    /// Whether any entry gives out ports in blocks.
    pub fn has_blocks(&self) -> bool {
        self.has_blocks
    }

    /// The worker that owns a port of an EIP: for a block it is one for all of its ports.
    pub fn owner_of_port(&self, eip: &Eip, port: u16, workers: u16) -> u16 {
        if workers == 1 {
            return 0;
        }
        let of_block = || {
            let entry = self.block_entry(eip)?;
            match entry.allocation {
                Allocation::Deterministic { .. } => {
                    entry.fixed_host(eip.address, port).map(|host| owner_of_host(host, workers))
                }
                _ => entry.blocks()?.number(port).map(|number| number % workers),
            }
        };
        of_block().unwrap_or_else(|| owner_of_port(port, workers))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::{EipIndex, EntryId, GatewayIndex};
    use crate::policy::{Filtering, Lpm, Mapping, Timeouts};

    proptest! {
        #[test]
        fn hosts_and_blocks_follow_from_each_other(
            first in 1u16..60_000, span in 64u16..5000, size in 64u16..600, eips in 1u32..5, len in 24u8..=32,
        ) {
            let ports = PortRange { first, last: first.saturating_add(span) };
            let pool = (0..eips).map(|n| PoolAddress { index: EipIndex(n), address: 0xcb00_7110 + n });
            let source = Prefix::of(0x0a00_0100, len);
            let entry = SnatEntry {
                id: EntryId(1),
                gateway: GatewayIndex(0),
                pool: pool.collect(),
                mapping: Mapping::EndpointIndependent,
                filtering: Filtering::EndpointIndependent,
                ftp: false,
                ports,
                allocation: Allocation::Deterministic { size, source },
                untranslated: Lpm::default(),
                timeouts: Timeouts::RFC,
                host_quota: u32::MAX,
            };
            let room = u64::from(entry.blocks().unwrap().count) * u64::from(eips);
            let mut seen = std::collections::BTreeSet::new();
            for (place, host) in (source.address()..=source.last()).enumerate() {
                let fixed = entry.fixed(host);
                prop_assert_eq!(fixed.is_some(), (place as u64) < room);
                let Some((member, range)) = fixed else { continue };
                prop_assert!(ports.contains(range.first) && ports.contains(range.last));
                prop_assert_eq!(range.last - range.first + 1, size);
                prop_assert!(seen.insert((member.address, range.first)));
                for port in [range.first, range.last] {
                    prop_assert_eq!(entry.fixed_host(member.address, port), Some(host));
                    prop_assert!(entry.may_map(host, (member.address, port)));
                }
                prop_assert!(!entry.may_map(host, (member.address, range.last.wrapping_add(1))));
            }
            prop_assert_eq!(entry.fixed(source.address().wrapping_sub(1)), None);
        }
    }
}
