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

impl Dnat {
    /// The public side: address, port or ports, protocol.
    pub fn public_side(&self) -> String {
        self.effect().subject()
    }

    /// The private side: address and port or ports.
    pub fn private_side(&self) -> String {
        Side::private(self.private_ip, self.forward).to_string()
    }

    /// What it does.
    pub fn effect(&self) -> Effect {
        Effect::Dnat { eip: self.eip, private_ip: self.private_ip, forward: self.forward }
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
    /// What it does.
    pub fn effect(&self) -> Effect {
        Effect::Snat { source: self.prefix, eips: self.eips.clone() }
    }

    /// Its name, or its source where it has none.
    pub fn label(&self) -> String {
        self.name.as_ref().map_or_else(|| self.source.to_string(), Name::to_string)
    }
}

/// What an entry does, told in a line: `203.0.113.16:80 TCP -> 10.0.1.10:8080`. It is kept as values, and written only for who asks: there
/// may be millions of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// That of a DNAT entry.
    Dnat {
        /// The EIP.
        eip: Ipv4Addr,
        /// The private host.
        private_ip: Ipv4Addr,
        /// What is forwarded.
        forward: Forward,
    },
    /// That of an SNAT entry.
    Snat {
        /// Whom it translates.
        source: Prefix,
        /// To what.
        eips: Vec<Ipv4Addr>,
    },
}

impl Effect {
    /// Whom it concerns: the public side of a DNAT entry, the source of an SNAT entry.
    pub fn subject(&self) -> String {
        match self {
            Self::Dnat { eip, forward, .. } => Side::public(*eip, *forward).to_string(),
            Self::Snat { source, .. } => source.to_string(),
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dnat { eip, private_ip, forward } => {
                write!(f, "{} -> {}", Side::public(*eip, *forward), Side::private(*private_ip, *forward))
            }
            Self::Snat { source, eips } => {
                write!(f, "{source} -> ")?;
                for (n, eip) in eips.iter().enumerate() {
                    write!(f, "{}{eip}", if n == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

/// One side of what a DNAT entry forwards.
struct Side {
    address: Ipv4Addr,
    ports: Option<PortRange>,
    protocol: Option<Transport>,
}

impl Side {
    fn public(address: Ipv4Addr, forward: Forward) -> Self {
        match forward {
            Forward::AnyPort => Self { address, ports: None, protocol: None },
            Forward::Ports { protocol, public, .. } => {
                Self { address, ports: Some(public), protocol: Some(protocol) }
            }
        }
    }

    fn private(address: Ipv4Addr, forward: Forward) -> Self {
        let ports = match forward {
            Forward::AnyPort => None,
            Forward::Ports { public, private_first: first, .. } => {
                Some(PortRange { first, last: first + (public.last - public.first) })
            }
        };
        Self { address, ports, protocol: None }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if let Some(PortRange { first, last }) = self.ports {
            write!(f, ":{first}")?;
            if last != first {
                write!(f, "/{last}")?;
            }
        }
        self.protocol.map_or(Ok(()), |protocol| write!(f, " {protocol}"))
    }
}
