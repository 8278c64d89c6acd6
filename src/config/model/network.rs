//! Ports, links, and the networks on both sides: interfaces, VPCs and vSwitches.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::base::PortIndex;
use crate::config::words::{Description, Name, Vlan};
use crate::policy::Prefix;

/// How a port receives and sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The best that works on the device.
    Auto {
        /// The network device.
        device: String,
        /// Whether AF_XDP, if chosen, leaves to the kernel what is not the gateway's.
        share: bool,
    },
    /// AF_XDP sockets.
    AfXdp {
        /// The network device.
        device: String,
        /// Whether to leave to the kernel what is not the gateway's.
        share: bool,
    },
    /// Packet sockets.
    AfPacket {
        /// The network device.
        device: String,
    },
    /// DPDK.
    Dpdk {
        /// The device as DPDK names it: a PCI address, or a virtual device with its arguments.
        device: String,
        /// Whether it delivers frames to any Ethernet address.
        promiscuous: bool,
    },
    /// DPDK, by capsule.
    Capsule {
        /// The device as DPDK names it.
        device: String,
    },
    /// Captures. At least one of the two is there.
    Pcap {
        /// Frames that arrive.
        replay: Option<PathBuf>,
        /// Where frames that leave are written.
        capture: Option<PathBuf>,
        /// The port's Ethernet address.
        mac: [u8; 6],
    },
}

impl Backend {
    /// The network device of the kernel's, if there is one.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Auto { device, .. } | Self::AfXdp { device, .. } | Self::AfPacket { device } => {
                Some(device)
            }
            Self::Dpdk { .. } | Self::Capsule { .. } | Self::Pcap { .. } => None,
        }
    }

    /// The device as DPDK names it, if it is one of DPDK's, by whichever way.
    pub fn dpdk_device(&self) -> Option<&str> {
        match self {
            Self::Dpdk { device, .. } | Self::Capsule { device } => Some(device),
            _ => None,
        }
    }
}

/// A NIC port. Its position in [`Model::ports`](super::Model::ports) is its [`PortIndex`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: Name,
    /// How it receives and sends.
    pub backend: Backend,
}

/// An interface on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The port.
    pub port: PortIndex,
    /// The VLAN, or none for untagged frames.
    pub vlan: Option<Vlan>,
    /// The gateway's own address.
    pub address: Ipv4Addr,
    /// Largest IP packet in bytes; none: what the port can.
    pub mtu: Option<u16>,
}

/// A route by a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// The destinations.
    pub to: Prefix,
    /// The next hop.
    pub via: Ipv4Addr,
}

/// An interface on the Internet side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Where it is.
    pub link: Link,
    /// The on-link prefix.
    pub prefix: Prefix,
    /// Next hop of the default route.
    pub gateway: Option<Ipv4Addr>,
    /// Further routes.
    pub routes: Vec<StaticRoute>,
    /// What SYN segments may announce across it.
    pub tcp_mss: Option<SegmentSize>,
    /// Ranges from which EIPs come.
    pub public: Vec<Prefix>,
}

/// The largest TCP segment size that may be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentSize {
    /// What fits into the MTU.
    Mtu,
    /// So many bytes.
    Bytes(u16),
}

/// A private network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpc {
    /// Its name, unique.
    pub name: Name,
    /// For people.
    pub description: Option<Description>,
    /// Its addresses.
    pub cidr: Prefix,
    /// Networks behind routers of its own.
    pub routes: Vec<StaticRoute>,
    /// Its vSwitches.
    pub vswitches: Vec<VSwitch>,
}

impl Vpc {
    /// The attached vSwitch on whose link an address is.
    pub fn link_of(&self, address: Ipv4Addr) -> Option<(&VSwitch, Link)> {
        self.vswitches
            .iter()
            .filter(|v| v.cidr.contains(address.into()))
            .find_map(|v| v.link.map(|link| (v, link)))
    }
}

/// A part of a VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VSwitch {
    /// Its name, unique in its VPC.
    pub name: Name,
    /// For people.
    pub description: Option<Description>,
    /// Its addresses.
    pub cidr: Prefix,
    /// Where it is attached; none: reached by a route of the VPC.
    pub link: Option<Link>,
}
