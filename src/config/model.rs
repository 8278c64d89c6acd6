//! The validated configuration. A [`Model`] comes only out of [`parse`](super::parse) and [`load`](super::load), so who
//! has one knows that every rule holds: references lead somewhere, ranges have equal lengths, nothing overlaps.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::settings::{Api, Dpdk, Metering, Quotas, SessionLog, System, TimeoutOverrides};
use super::words::{Description, Name, Vlan};
use crate::base::PortIndex;
use crate::policy::{Allocation, Filtering, Limits, Mapping, PortRange, Prefix, Timeouts};

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

/// A NIC port. Its position in [`Model::ports`] is its [`PortIndex`].
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

/// What a gateway may have of SNAT sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Specification {
    /// No limit.
    #[default]
    Unlimited,
    /// 10,000 sessions, 1,000 new a second.
    Small,
    /// 50,000 sessions, 5,000 new a second.
    Middle,
    /// 200,000 sessions, 10,000 new a second.
    Large,
    /// 1,000,000 sessions, 50,000 new a second.
    XLarge1,
    /// 2,000,000 sessions and 100,000 new a second, or what was asked for.
    PayByLcu {
        /// Sessions, up to 10,000,000.
        sessions: u32,
        /// New sessions a second, up to 1,000,000.
        new_per_second: u32,
    },
}

impl Specification {
    /// Pay by capacity unit, without a request for more.
    pub const PAY_BY_LCU: Self = Self::PayByLcu { sessions: 2_000_000, new_per_second: 100_000 };

    /// Its limits.
    pub const fn limits(self) -> Limits {
        let (sessions, new_per_second) = match self {
            Self::Unlimited => return Limits::UNLIMITED,
            Self::Small => (10_000, 1_000),
            Self::Middle => (50_000, 5_000),
            Self::Large => (200_000, 10_000),
            Self::XLarge1 => (1_000_000, 50_000),
            Self::PayByLcu { sessions, new_per_second } => (sessions as u64, new_per_second as u64),
        };
        Limits { sessions, new_per_second }
    }
}

impl fmt::Display for Specification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("Unlimited"),
            Self::Small => f.write_str("Small"),
            Self::Middle => f.write_str("Middle"),
            Self::Large => f.write_str("Large"),
            Self::XLarge1 => f.write_str("XLarge.1"),
            Self::PayByLcu { sessions, new_per_second } => {
                write!(f, "PayByLcu ({sessions} sessions, {new_per_second} new a second)")
            }
        }
    }
}

/// A NAT gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its name, unique.
    pub name: Name,
    /// For people.
    pub description: Option<Description>,
    /// Its VPC.
    pub vpc: Name,
    /// Its vSwitch, one of the VPC's.
    pub vswitch: Name,
    /// Its limits.
    pub specification: Specification,
    /// SNAT sessions that one private host may have; none: no limit.
    pub host_sessions: Option<u32>,
    /// Whether a reload may not remove it.
    pub deletion_protection: bool,
}

/// A bandwidth limit that several EIPs share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name, unique.
    pub name: Name,
    /// For people.
    pub description: Option<Description>,
    /// The limit in each direction, in bits a second.
    pub bandwidth: u64,
}

/// An elastic IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eip {
    /// Its address, unique.
    pub address: Ipv4Addr,
    /// For people.
    pub name: Option<Name>,
    /// For people.
    pub description: Option<Description>,
    /// The gateway it is bound to.
    pub gateway: Option<Name>,
    /// Whether the gateway answers echo requests to it.
    pub ping: bool,
    /// Its bandwidth limit in each direction, in bits a second.
    pub bandwidth: Option<u64>,
    /// The bandwidth plan whose limit it shares.
    pub plan: Option<Name>,
    /// Position in [`Model::outside`] of the interface whose public range it comes from.
    pub outside: usize,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// What a DNAT entry forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forward {
    /// Everything: the EIP stands for the private host.
    AnyPort,
    /// Ports of one protocol; the private ports follow in order from `private_first`.
    Ports {
        /// The protocol.
        protocol: Transport,
        /// The public ports, never port 0.
        public: PortRange,
        /// The private port of the first public one.
        private_first: u16,
    },
}

/// A DNAT entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dnat {
    /// For people.
    pub name: Option<Name>,
    /// For people.
    pub description: Option<Description>,
    /// The gateway it belongs to.
    pub gateway: Name,
    /// The EIP, bound to that gateway.
    pub eip: Ipv4Addr,
    /// The private host, in the VPC of that gateway.
    pub private_ip: Ipv4Addr,
    /// What is forwarded.
    pub forward: Forward,
    /// Timeouts of its own.
    pub timeouts: TimeoutOverrides,
}

fn ports(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}/{last}") }
}

impl Dnat {
    /// The public side: address, port or ports, protocol.
    pub fn public_side(&self) -> String {
        match self.forward {
            Forward::AnyPort => self.eip.to_string(),
            Forward::Ports { protocol, public, .. } => {
                format!("{}:{} {protocol}", self.eip, ports(public.first, public.last))
            }
        }
    }

    /// The private side: address and port or ports.
    pub fn private_side(&self) -> String {
        match self.forward {
            Forward::AnyPort => self.private_ip.to_string(),
            Forward::Ports { public, private_first, .. } => {
                let last = private_first + (public.last - public.first);
                format!("{}:{}", self.private_ip, ports(private_first, last))
            }
        }
    }

    /// What it does, in a line.
    pub fn summary(&self) -> String {
        format!("{} -> {}", self.public_side(), self.private_side())
    }

    /// Its name, or what it forwards where it has none.
    pub fn label(&self) -> String {
        self.name.as_ref().map_or_else(|| self.public_side(), Name::to_string)
    }
}

/// What an SNAT entry translates, as it was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One private host.
    Host(Ipv4Addr),
    /// A range of private hosts.
    Cidr(Prefix),
    /// A vSwitch of the gateway's VPC.
    VSwitch(Name),
    /// The whole VPC.
    Vpc,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => host.fmt(f),
            Self::Cidr(prefix) => prefix.fmt(f),
            Self::VSwitch(name) => write!(f, "vswitch:{name}"),
            Self::Vpc => f.write_str("vpc"),
        }
    }
}

/// An SNAT entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snat {
    /// For people.
    pub name: Option<Name>,
    /// For people.
    pub description: Option<Description>,
    /// The gateway it belongs to.
    pub gateway: Name,
    /// Whom it translates.
    pub source: Source,
    /// The addresses of the source.
    pub prefix: Prefix,
    /// The EIPs, 1 to 64, bound to the gateway.
    pub eips: Vec<Ipv4Addr>,
    /// How mappings are made.
    pub mapping: Mapping,
    /// Which peers may send to them.
    pub filtering: Filtering,
    /// External ports it may use.
    pub ports: PortRange,
    /// How private hosts come to them.
    pub allocation: Allocation,
    /// Whether it is an application-level gateway for FTP.
    pub ftp: bool,
    /// Destinations that it does not translate, in order.
    pub untranslated: Vec<Prefix>,
    /// Timeouts of its own.
    pub timeouts: TimeoutOverrides,
}

impl Snat {
    /// What it does, in a line.
    pub fn summary(&self) -> String {
        let eips: Vec<String> = self.eips.iter().map(Ipv4Addr::to_string).collect();
        format!("{} -> {}", self.prefix, eips.join(", "))
    }

    /// Its name, or its source where it has none.
    pub fn label(&self) -> String {
        self.name.as_ref().map_or_else(|| self.source.to_string(), Name::to_string)
    }
}

/// Where in the file the parts stand that later checks speak of.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub(super) file: String,
    pub(super) lines: HashMap<String, u32>,
}

/// A configuration in which every rule holds.
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) places: Places,
    pub(super) system: System,
    pub(super) timeouts: Timeouts,
    pub(super) quotas: Quotas,
    pub(super) store: Option<PathBuf>,
    pub(super) api: Api,
    pub(super) session_log: Option<SessionLog>,
    pub(super) metering: Option<Metering>,
    pub(super) dpdk: Dpdk,
    pub(super) ports: Vec<Port>,
    pub(super) outside: Vec<Outside>,
    pub(super) vpcs: Vec<Vpc>,
    pub(super) gateways: Vec<Gateway>,
    pub(super) plans: Vec<Plan>,
    pub(super) eips: Vec<Eip>,
    pub(super) dnat: Vec<Dnat>,
    pub(super) snat: Vec<Snat>,
}

impl Model {
    /// The file it was read from.
    pub fn file(&self) -> &str {
        &self.places.file
    }

    /// What the process takes of the machine.
    pub fn system(&self) -> &System {
        &self.system
    }

    /// The timeouts where an entry has none of its own.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// How many resources there may be.
    pub fn quotas(&self) -> Quotas {
        self.quotas
    }

    /// Where resources are kept when they do not stand in the file.
    pub fn store(&self) -> Option<&Path> {
        self.store.as_deref()
    }

    /// Where the HTTP API is served.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Where sessions are logged.
    pub fn session_log(&self) -> Option<&SessionLog> {
        self.session_log.as_ref()
    }

    /// Where it is kept what gateways and EIPs used.
    pub fn metering(&self) -> Option<&Metering> {
        self.metering.as_ref()
    }

    /// How DPDK is started, if a port needs it.
    pub fn dpdk(&self) -> &Dpdk {
        &self.dpdk
    }

    /// The same settings with resources that do not stand in the file; EIPs and entries are left out. The caller vouches for the rules between them.
    pub fn with_resources(&self, vpcs: Vec<Vpc>, gateways: Vec<Gateway>, plans: Vec<Plan>) -> Self {
        Self {
            places: self.places.clone(),
            system: self.system.clone(),
            timeouts: self.timeouts,
            quotas: self.quotas,
            store: self.store.clone(),
            api: self.api.clone(),
            session_log: self.session_log.clone(),
            metering: self.metering.clone(),
            dpdk: self.dpdk.clone(),
            ports: self.ports.clone(),
            outside: self.outside.clone(),
            vpcs,
            gateways,
            plans,
            eips: Vec::new(),
            dnat: Vec::new(),
            snat: Vec::new(),
        }
    }

    /// The ports, by [`PortIndex`]. Not empty.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// The interfaces on the Internet side.
    pub fn outside(&self) -> &[Outside] {
        &self.outside
    }

    /// The VPCs.
    pub fn vpcs(&self) -> &[Vpc] {
        &self.vpcs
    }

    /// The gateways.
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// The bandwidth plans.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// The EIPs.
    pub fn eips(&self) -> &[Eip] {
        &self.eips
    }

    /// The DNAT entries.
    pub fn dnat(&self) -> &[Dnat] {
        &self.dnat
    }

    /// The SNAT entries.
    pub fn snat(&self) -> &[Snat] {
        &self.snat
    }
}
