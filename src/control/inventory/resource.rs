//! Resources in which every rule holds that concerns them alone.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::id::{Id, Kind};
use crate::config::{Description, Forward, Link, Name, Specification, StaticRoute, TimeoutOverrides};
use crate::policy::{Allocation, Filtering, Mapping, PortRange, Prefix};

/// What every resource has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its identifier.
    pub id: Id,
    /// Its name; others may have the same.
    pub name: Option<Name>,
    /// For people.
    pub description: Option<Description>,
    /// For programs.
    pub tags: BTreeMap<String, String>,
    /// When it was created, in seconds since 1970.
    pub created: u64,
}

/// A private network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpc {
    /// What every resource has.
    pub meta: Meta,
    /// Its addresses. They do not change.
    pub cidr: Prefix,
    /// Networks behind routers of its own.
    pub routes: Vec<StaticRoute>,
}

/// A part of a VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VSwitch {
    /// What every resource has.
    pub meta: Meta,
    /// Its VPC. It does not change.
    pub vpc: Id,
    /// Its addresses. They do not change.
    pub cidr: Prefix,
    /// Where it is attached.
    pub link: Option<Link>,
}

/// A NAT gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// What every resource has.
    pub meta: Meta,
    /// Its VPC. It does not change.
    pub vpc: Id,
    /// Its vSwitch. It does not change.
    pub vswitch: Id,
    /// Its limits.
    pub specification: Specification,
    /// SNAT sessions that one private host may have; none: no limit.
    pub host_sessions: Option<u32>,
    /// Whether it is safe from deletion.
    pub deletion_protection: bool,
}

/// A bandwidth plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What every resource has.
    pub meta: Meta,
    /// The limit that its EIPs share in each direction, in bits a second.
    pub bandwidth: u64,
}

/// An elastic IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eip {
    /// What every resource has.
    pub meta: Meta,
    /// Its address. It does not change.
    pub address: Ipv4Addr,
    /// The gateway it is bound to.
    pub gateway: Option<Id>,
    /// Whether the gateway answers echo requests to it.
    pub ping: bool,
    /// Its own bandwidth limit in each direction, in bits a second.
    pub bandwidth: Option<u64>,
    /// The plan whose limit it shares.
    pub plan: Option<Id>,
}

/// A DNAT entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dnat {
    /// What every resource has.
    pub meta: Meta,
    /// Its gateway. It does not change.
    pub gateway: Id,
    /// The VPC of its gateway.
    pub vpc: Id,
    /// Its EIP.
    pub eip: Id,
    /// The address of its EIP.
    pub address: Ipv4Addr,
    /// The private host.
    pub private_ip: Ipv4Addr,
    /// What is forwarded.
    pub forward: Forward,
    /// Timeouts of its own.
    pub timeouts: TimeoutOverrides,
}

/// Whom a SNAT entry translates, as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// One private host.
    Host(Ipv4Addr),
    /// A range of private hosts.
    Cidr(Prefix),
    /// A vSwitch.
    VSwitch(Id),
    /// The whole VPC.
    Vpc,
}

/// A SNAT entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snat {
    /// What every resource has.
    pub meta: Meta,
    /// Its gateway. It does not change.
    pub gateway: Id,
    /// The VPC of its gateway.
    pub vpc: Id,
    /// Whom it translates.
    pub source: Source,
    /// The addresses of the source.
    pub prefix: Prefix,
    /// Its EIPs with their addresses, 1 to 64.
    pub eips: Vec<(Id, Ipv4Addr)>,
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

/// A resource of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A private network.
    Vpc(Vpc),
    /// A part of a private network.
    VSwitch(VSwitch),
    /// A NAT gateway.
    Gateway(Gateway),
    /// A bandwidth plan.
    Plan(Plan),
    /// An elastic IP.
    Eip(Eip),
    /// A DNAT entry.
    Dnat(Dnat),
    /// A SNAT entry.
    Snat(Snat),
}

impl Resource {
    /// What every resource has.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Vpc(r) => &r.meta,
            Self::VSwitch(r) => &r.meta,
            Self::Gateway(r) => &r.meta,
            Self::Plan(r) => &r.meta,
            Self::Eip(r) => &r.meta,
            Self::Dnat(r) => &r.meta,
            Self::Snat(r) => &r.meta,
        }
    }

    /// Its identifier.
    pub fn id(&self) -> Id {
        self.meta().id
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.id().kind()
    }

    /// The DNAT entry that it is.
    pub fn as_dnat(&self) -> Option<&Dnat> {
        match self {
            Self::Dnat(entry) => Some(entry),
            _ => None,
        }
    }

    /// The resources that it refers to, and that so cannot go before it. Each once.
    pub fn references(&self) -> Vec<Id> {
        match self {
            Self::Vpc(_) | Self::Plan(_) => Vec::new(),
            Self::VSwitch(r) => vec![r.vpc],
            Self::Gateway(r) => vec![r.vpc, r.vswitch],
            Self::Eip(r) => r.gateway.into_iter().chain(r.plan).collect(),
            Self::Dnat(r) => vec![r.gateway, r.eip],
            Self::Snat(r) => {
                let source = match r.source {
                    Source::VSwitch(id) => Some(id),
                    Source::Host(_) | Source::Cidr(_) | Source::Vpc => None,
                };
                let eips = r.eips.iter().map(|(id, _)| *id);
                std::iter::once(r.gateway).chain(source).chain(eips).collect()
            }
        }
    }
}
