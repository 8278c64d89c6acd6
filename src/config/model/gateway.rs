//! Gateways, and the EIPs and bandwidth plans they serve.

use std::fmt;
use std::net::Ipv4Addr;

use crate::config::words::{Description, Name};
use crate::policy::Limits;

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
    /// Position in [`Model::outside`](super::Model::outside) of the interface whose public range it comes from.
    pub outside: usize,
}
