//! The validated configuration. A [`Model`] comes only out of [`parse`](super::parse) and [`load`](super::load), so who
//! has one knows that every rule holds: references lead somewhere, ranges have equal lengths, nothing overlaps.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::units::format_duration;
use crate::base::{PortIndex, Tick};
use crate::policy::{Filtering, Limits, Mapping, PortRange, Prefix, Timeouts};

/// The name of a resource: 2-128 characters; letters, digits, `.`, `_`, `-`; starts with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name, if it is one.
    pub fn new(text: &str) -> Option<Self> {
        let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let well_formed = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(usual);
        (well_formed && (2..=128).contains(&text.len())).then(|| Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A description: 2-256 characters, no web address at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description(Box<str>);

impl Description {
    /// The description, if it is one.
    pub fn new(text: &str) -> Option<Self> {
        let web = text.starts_with("http://") || text.starts_with("https://");
        (!web && (2..=256).contains(&text.chars().count())).then(|| Self(text.into()))
    }

    /// The description as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An 802.1Q VLAN identifier, 1-4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vlan(u16);

impl Vlan {
    /// The identifier, if it is one.
    pub const fn new(id: u16) -> Option<Self> {
        if id >= 1 && id <= 4094 { Some(Self(id)) } else { None }
    }

    /// The identifier as a number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// How many workers there are, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// One per core, less the first.
    #[default]
    PerCore,
    /// This many.
    Count(u16),
    /// One on each of these cores, in worker order. Not empty.
    Cores(Vec<usize>),
}

impl Workers {
    /// How many workers that makes on a machine with this many cores.
    pub fn count(&self, cores: usize) -> usize {
        match self {
            Self::PerCore => cores.saturating_sub(1).clamp(1, 256),
            Self::Count(count) => usize::from(*count),
            Self::Cores(cores) => cores.len(),
        }
    }
}

/// What a worker without traffic does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: the shortest delay, a core at full load.
    Poll,
    /// Sleeps until a frame comes.
    Sleep,
}

/// What the process takes of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Workers and their cores.
    pub workers: Workers,
    /// Sessions over all workers.
    pub sessions: usize,
    /// Neighbours that each worker has room for.
    pub neighbours: usize,
    /// Packet buffers over all ports and workers; none: as the ports need.
    pub buffers: Option<usize>,
    /// Bytes of a packet buffer: a power of two from 2048 to 65536.
    pub buffer_size: usize,
    /// What an idle worker does; none: as the back ends need.
    pub idle: Option<Idle>,
    /// The management socket.
    pub control: PathBuf,
    /// What is logged.
    pub log: log::LevelFilter,
}

impl Default for System {
    fn default() -> Self {
        Self {
            workers: Workers::default(),
            sessions: 1 << 20,
            neighbours: 1 << 14,
            buffers: None,
            buffer_size: 2048,
            idle: None,
            control: PathBuf::from("/run/natgate/natgate.sock"),
            log: log::LevelFilter::Info,
        }
    }
}

/// How many resources there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// DNAT entries of a gateway.
    pub dnat_entries_per_gateway: u32,
    /// SNAT entries of a gateway.
    pub snat_entries_per_gateway: u32,
    /// EIPs of a gateway.
    pub eips_per_gateway: u32,
    /// Gateways of a VPC.
    pub gateways_per_vpc: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            dnat_entries_per_gateway: 100,
            snat_entries_per_gateway: 40,
            eips_per_gateway: 20,
            gateways_per_vpc: 5,
        }
    }
}

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
    /// The network device, if there is one.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Auto { device, .. } | Self::AfXdp { device, .. } | Self::AfPacket { device } => {
                Some(device)
            }
            Self::Pcap { .. } => None,
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
    /// Ranges from which EIPs come.
    pub public: Vec<Prefix>,
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

/// Timeouts that replace others where they are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeoutOverrides {
    /// Established TCP connections.
    pub tcp_established: Option<Duration>,
    /// TCP connections that are opening, closing or were reset.
    pub tcp_transitory: Option<Duration>,
    /// UDP.
    pub udp: Option<Duration>,
    /// ICMP queries.
    pub icmp: Option<Duration>,
    /// Other protocols.
    pub other: Option<Duration>,
}

impl TimeoutOverrides {
    /// Every value of a profile.
    pub(crate) fn all(timeouts: Timeouts) -> Self {
        let duration = |ticks: u32| Some(Duration::from_nanos(u64::from(ticks) * Tick::NANOS));
        Self {
            tcp_established: duration(timeouts.tcp_established),
            tcp_transitory: duration(timeouts.tcp_transitory),
            udp: duration(timeouts.udp),
            icmp: duration(timeouts.icmp),
            other: duration(timeouts.other),
        }
    }

    /// These, and where one is not given, that of `base`.
    pub(crate) fn or(self, base: Self) -> Self {
        Self {
            tcp_established: self.tcp_established.or(base.tcp_established),
            tcp_transitory: self.tcp_transitory.or(base.tcp_transitory),
            udp: self.udp.or(base.udp),
            icmp: self.icmp.or(base.icmp),
            other: self.other.or(base.other),
        }
    }

    /// `base` with these in place.
    pub fn over(self, base: Timeouts) -> Timeouts {
        let ticks = |own: Option<Duration>, base: u32| own.map_or(base, Tick::ticks);
        Timeouts {
            tcp_established: ticks(self.tcp_established, base.tcp_established),
            tcp_transitory: ticks(self.tcp_transitory, base.tcp_transitory),
            udp: ticks(self.udp, base.udp),
            icmp: ticks(self.icmp, base.icmp),
            other: ticks(self.other, base.other),
        }
    }
}

impl fmt::Display for TimeoutOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("tcp_established", self.tcp_established),
            ("tcp_transitory", self.tcp_transitory),
            ("udp", self.udp),
            ("icmp", self.icmp),
            ("other", self.other),
        ];
        let given: Vec<String> = all
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key} {}", format_duration(value?))))
            .collect();
        f.write_str(&given.join(", "))
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
    pub(super) ports: Vec<Port>,
    pub(super) outside: Vec<Outside>,
    pub(super) vpcs: Vec<Vpc>,
    pub(super) gateways: Vec<Gateway>,
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
