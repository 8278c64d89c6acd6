//! Which logical interface a frame belongs to.

use crate::base::{InterfaceIndex, PortIndex, VpcIndex};
use crate::policy::Prefix;

/// The side that an interface belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Realm {
    /// The Internet side.
    Outside,
    /// A VPC.
    Vpc(VpcIndex),
}

impl Realm {
    /// The realm as the tenant number in session keys: zero is the outside.
    #[inline]
    pub const fn tenant(self) -> u16 {
        match self {
            Self::Outside => 0,
            Self::Vpc(vpc) => vpc.0 + 1,
        }
    }

    /// The realm of a tenant number.
    #[inline]
    pub const fn of_tenant(tenant: u16) -> Self {
        match tenant {
            0 => Self::Outside,
            n => Self::Vpc(VpcIndex(n - 1)),
        }
    }
}

/// A port, or a VLAN of a port, with the gateway's own address on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The port.
    pub port: PortIndex,
    /// The VLAN, or none for untagged frames.
    pub vlan: Option<u16>,
    /// The gateway's Ethernet address on it.
    pub mac: [u8; 6],
    /// The gateway's own address.
    pub address: u32,
    /// The on-link prefix.
    pub prefix: Prefix,
    /// The side it belongs to.
    pub realm: Realm,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// The largest TCP segment size that a SYN may announce across it.
    pub tcp_mss: Option<u16>,
}

/// The interfaces of one port by VLAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortVlans {
    /// Position 0 stands for untagged and priority-tagged frames (IEEE 802.1Q §6.9), 1-4094 for a VLAN.
    interfaces: Box<[u16]>,
}

const NONE: u16 = u16::MAX;

impl Default for PortVlans {
    fn default() -> Self {
        Self { interfaces: vec![NONE; 4096].into_boxed_slice() }
    }
}

impl PortVlans {
    /// Attaches an interface to a VLAN, or to untagged frames.
    pub fn attach(&mut self, vlan: Option<u16>, interface: InterfaceIndex) {
        self.interfaces[usize::from(vlan.unwrap_or(0) & 0xfff)] = interface.0;
    }

    /// The interface of a frame with this VLAN identifier (0 when untagged).
    #[inline]
    pub fn interface(&self, vlan: u16) -> Option<InterfaceIndex> {
        let index = *self.interfaces.get(usize::from(vlan & 0xfff))?;
        (index != NONE).then_some(InterfaceIndex(index))
    }
}
