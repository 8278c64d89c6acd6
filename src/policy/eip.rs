//! Elastic IPs and the DNAT entries on them, from the public side ([`Eip`]) and from the private side ([`Host`]).

use crate::base::{EipIndex, EntryId, GatewayIndex, InterfaceIndex, VpcIndex};
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
    /// Its any-port entry. If there is one, the other entries below are empty.
    pub any_port: Option<OneToOne>,
    /// Its entries by port, sorted by protocol and first port.
    forwards: Box<[PortForward]>,
    /// Ports of TCP and of UDP that DNAT entries own and SNAT must not take.
    reserved: Option<Box<Reserved>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reserved {
    tcp: PortSet,
    udp: PortSet,
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
            any_port: None,
            forwards: Box::default(),
            reserved: None,
        }
    }

    /// Replaces the entries by port.
    pub fn set_forwards(&mut self, mut forwards: Vec<PortForward>) {
        forwards.sort_by_key(|f| (f.protocol, f.first));
        self.reserved = (!forwards.is_empty()).then(|| {
            let mut reserved = Box::new(Reserved { tcp: PortSet::default(), udp: PortSet::default() });
            for forward in &forwards {
                let set = if forward.protocol == TCP { &mut reserved.tcp } else { &mut reserved.udp };
                (forward.first..=forward.last).for_each(|port| set.insert(port));
            }
            reserved
        });
        self.forwards = forwards.into_boxed_slice();
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

    /// The public ports of a protocol that DNAT entries own.
    pub fn reserved(&self, protocol: u8) -> Option<&PortSet> {
        let reserved = self.reserved.as_ref()?;
        match protocol {
            TCP => Some(&reserved.tcp),
            UDP => Some(&reserved.udp),
            _ => None,
        }
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

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A set of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet(Box<[u64; 1024]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(Box::new([0; 1024]))
    }
}

impl PortSet {
    /// Adds a port.
    pub fn insert(&mut self, port: u16) {
        self.0[usize::from(port >> 6)] |= 1 << (port & 63);
    }

    /// Whether a port is in the set.
    #[inline]
    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port >> 6)] >> (port & 63) & 1 == 1
    }

    /// The set as words of 64 ports.
    #[inline]
    pub fn words(&self) -> &[u64; 1024] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{EipIndex, EntryId};

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
