//! Elastic IPs and the DNAT entries on them, from the public side ([`Eip`]) and from the private side ([`Host`]).

use crate::base::{EipIndex, EntryId, GatewayIndex, InterfaceIndex, PlanIndex, VpcIndex};
use crate::policy::Timeouts;

/// An any-port DNAT entry (IP mapping) seen from its EIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneToOne {
    /// The entry.
    pub id: EntryId,
    /// The private host's VPC.
    pub vpc: VpcIndex,
    /// The private host.
    pub host: u32,
    /// Its timeouts.
    pub timeouts: Timeouts,
}

/// A DNAT entry by port or port range, seen from its EIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortForward {
    /// The entry.
    pub id: EntryId,
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// The first public port.
    pub first: u16,
    /// The last public port.
    pub last: u16,
    /// The private host's VPC.
    pub vpc: VpcIndex,
    /// The private host.
    pub host: u32,
    /// The private port that the first public port goes to; the others follow in order.
    pub host_first: u16,
    /// Its timeouts.
    pub timeouts: Timeouts,
}

/// An elastic IP bound to a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eip {
    /// Its slot, the same for as long as it is configured.
    pub index: EipIndex,
    /// Its address.
    pub address: u32,
    /// The gateway that it is bound to.
    pub gateway: Option<GatewayIndex>,
    /// The outside interface on which it is announced and answered.
    pub interface: InterfaceIndex,
    /// Whether the gateway answers echo requests to it where no any-port entry takes them.
    pub ping: bool,
    /// Its bandwidth limit in each direction, in bits a second: its own, or that of its plan.
    pub bandwidth: Option<u64>,
    /// The bandwidth plan whose limit it shares.
    pub plan: Option<PlanIndex>,
    /// Its any-port entry. If there is one, the other entries below are empty.
    pub any_port: Option<OneToOne>,
    /// Its entries by port, sorted by protocol and first port; no two share a port.
    forwards: Box<[PortForward]>,
}

impl Eip {
    /// An EIP without entries.
    pub fn new(index: EipIndex, address: u32, interface: InterfaceIndex) -> Self {
        Self {
            index,
            address,
            gateway: None,
            interface,
            ping: true,
            bandwidth: None,
            plan: None,
            any_port: None,
            forwards: Box::default(),
        }
    }

    /// Replaces the entries by port.
    pub fn set_forwards(&mut self, mut forwards: Vec<PortForward>) {
        forwards.sort_by_key(|f| (f.protocol, f.first));
        self.forwards = forwards.into_boxed_slice();
    }

    /// The same with other entries by port.
    pub fn with_forwards(&self, forwards: Vec<PortForward>) -> Self {
        let mut next = Self { forwards: Box::default(), ..*self };
        next.set_forwards(forwards);
        next
    }

    /// The entries by port.
    pub fn forwards(&self) -> &[PortForward] {
        &self.forwards
    }

    /// The entry that owns a public port.
    #[inline]
    pub fn forward(&self, protocol: u8, port: u16) -> Option<&PortForward> {
        let after = self.forwards.partition_point(|f| (f.protocol, f.first) <= (protocol, port));
        let forward = self.forwards.get(after.checked_sub(1)?)?;
        (forward.protocol == protocol && port <= forward.last).then_some(forward)
    }

    /// The public ports that DNAT entries own and SNAT must not take, of the 64 ports from `first` on, as bits.
    #[inline]
    pub fn reserved(&self, protocol: u8, first: u16) -> u64 {
        if self.forwards.is_empty() {
            return 0;
        }
        let last = first.saturating_add(63);
        let begin = self.forwards.partition_point(|f| (f.protocol, f.last) < (protocol, first));
        let here = self.forwards.iter().skip(begin);
        let here = here.take_while(|f| f.protocol == protocol && f.first <= last);
        here.fold(0, |bits, f| {
            let from = u32::from(f.first.max(first) - first);
            let to = u32::from(f.last.min(last) - first);
            bits | u64::MAX >> (63 - to) & u64::MAX << from
        })
    }
}

impl PortForward {
    /// The private port that a public port of this entry goes to.
    #[inline]
    pub fn host_port(&self, port: u16) -> u16 {
        self.host_first.wrapping_add(port.wrapping_sub(self.first))
    }
}

/// An any-port DNAT entry seen from its private host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOneToOne {
    /// The entry.
    pub id: EntryId,
    /// The EIP's slot.
    pub eip: EipIndex,
    /// The EIP.
    pub address: u32,
    /// Its timeouts.
    pub timeouts: Timeouts,
}

/// A DNAT entry by port or port range, seen from its private host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostForward {
    /// The entry.
    pub id: EntryId,
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// The first private port.
    pub first: u16,
    /// The last private port.
    pub last: u16,
    /// The EIP's slot.
    pub eip: EipIndex,
    /// The EIP.
    pub address: u32,
    /// The public port of the first private port.
    pub public_first: u16,
    /// Its timeouts.
    pub timeouts: Timeouts,
}

impl HostForward {
    /// The public port of a private port of this entry.
    #[inline]
    pub fn public_port(&self, port: u16) -> u16 {
        self.public_first.wrapping_add(port.wrapping_sub(self.first))
    }
}

/// The DNAT entries of one private host, for the way back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its any-port entry.
    pub any_port: Option<HostOneToOne>,
    /// Its entries by port, sorted by protocol and first private port. Each private port is in one of them.
    forwards: Box<[HostForward]>,
    rivals: Rivals,
}

/// Entries of further gateways that lead to the same private host, and that it does not answer by unless a session says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rivals {
    /// Whether there is another any-port entry.
    pub any_port: bool,
    /// Protocols and private ports (first and last) with another entry by port.
    pub ports: Box<[(u8, u16, u16)]>,
}

impl Host {
    /// A private host with these entries.
    pub fn new(any_port: Option<HostOneToOne>, mut forwards: Vec<HostForward>) -> Self {
        forwards.sort_by_key(|f| (f.protocol, f.first, f.address));
        Self { any_port, forwards: forwards.into_boxed_slice(), rivals: Rivals::default() }
    }

    /// With entries that compete with these.
    pub fn with_rivals(self, rivals: Rivals) -> Self {
        Self { rivals, ..self }
    }

    /// Whether more than one entry leads to a private port, so that only a session knows by which one it answers.
    pub fn is_contested(&self, protocol: u8, port: u16) -> bool {
        match (self.forward(protocol, port), self.any_port) {
            (Some(_), Some(_)) => true,
            (Some(_), None) => self
                .rivals
                .ports
                .iter()
                .any(|&(p, first, last)| p == protocol && (first..=last).contains(&port)),
            (None, Some(_)) => self.rivals.any_port,
            (None, None) => false,
        }
    }

    /// Whether it has an entry for private ports for which another state of it has none.
    pub fn answers_more_than(&self, other: &Self) -> bool {
        let gains = |f: &HostForward| {
            let mut next = u32::from(f.first);
            while next <= f.last.into()
                && let Some(known) = other.forward(f.protocol, next as u16)
            {
                next = u32::from(known.last) + 1;
            }
            next <= f.last.into()
        };
        self.any_port.is_some() && other.any_port.is_none() || self.forwards.iter().any(gains)
    }

    /// The entries by port.
    pub fn forwards(&self) -> &[HostForward] {
        &self.forwards
    }

    /// The entry that owns a private port.
    #[inline]
    pub fn forward(&self, protocol: u8, port: u16) -> Option<&HostForward> {
        let after = self.forwards.partition_point(|f| (f.protocol, f.first) <= (protocol, port));
        let forward = self.forwards.get(after.checked_sub(1)?)?;
        (forward.protocol == protocol && port <= forward.last).then_some(forward)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::{EipIndex, EntryId};
    use crate::wire::protocol::{TCP, UDP};

    proptest! {
        #[test]
        fn what_entries_own_is_reserved(mut edges in prop::collection::btree_set(any::<u16>(), 0..12), word in 0u16..1024) {
            if edges.len() % 2 == 1 {
                edges.pop_last();
            }
            let edges: Vec<_> = edges.into_iter().collect();
            let mut eip = Eip::new(EipIndex(1), 1, InterfaceIndex(0));
            let forward = |(n, pair): (usize, &[u16; 2])| PortForward {
                id: EntryId(n as u32),
                protocol: if n % 3 == 0 { UDP } else { TCP },
                first: pair[0],
                last: pair[1],
                vpc: VpcIndex(0),
                host: 1,
                host_first: pair[0],
                timeouts: Timeouts::default(),
            };
            let (pairs, _) = edges.as_chunks::<2>();
            eip.set_forwards(pairs.iter().enumerate().map(forward).collect());
            let near = edges.iter().map(|edge| edge >> 6);
            for word in near.chain([word]) {
                for protocol in [TCP, UDP] {
                    let expected = (0..64).filter(|bit| eip.forward(protocol, word << 6 | bit).is_some());
                    let expected = expected.fold(0u64, |bits, bit| bits | 1 << bit);
                    prop_assert_eq!(eip.reserved(protocol, word << 6), expected);
                }
            }
        }
    }

    #[test]
    fn a_private_port_with_several_entries_is_contested() {
        let timeouts = Timeouts::default();
        let any = HostOneToOne { id: EntryId(1), eip: EipIndex(1), address: 1, timeouts };
        let forward = HostForward {
            id: EntryId(2),
            protocol: TCP,
            first: 80,
            last: 89,
            eip: EipIndex(2),
            address: 2,
            public_first: 8080,
            timeouts,
        };
        let by_port = Host::new(None, vec![forward]);
        assert!(!by_port.is_contested(TCP, 80));
        let both = Host::new(Some(any), vec![forward]);
        assert!(both.is_contested(TCP, 80) && !both.is_contested(UDP, 80) && !both.is_contested(TCP, 90));
        let rivals = Rivals { any_port: true, ports: Box::new([(TCP, 85, 89)]) };
        let by_port = by_port.with_rivals(rivals.clone());
        assert!(
            !by_port.is_contested(TCP, 84) && by_port.is_contested(TCP, 85) && !by_port.is_contested(UDP, 85)
        );
        let any = Host::new(Some(any), Vec::new()).with_rivals(rivals);
        assert!(any.is_contested(UDP, 1) && any.is_contested(1, 0));
        assert!(!Host::default().is_contested(TCP, 85));
    }
}
