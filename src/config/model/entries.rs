//! DNAT and SNAT entries.

use std::fmt;
use std::net::Ipv4Addr;

use crate::config::settings::TimeoutOverrides;
use crate::config::words::{Description, Name};
use crate::policy::{Allocation, Filtering, Mapping, PortRange, Prefix};

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
