//! What gateways, EIPs, entries and private hosts have carried.

use serde::{Deserialize, Serialize};

/// What usage is told by.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum UsageBy {
    /// NAT gateways.
    Gateway,
    /// Elastic IPs.
    Eip,
    /// DNAT and SNAT entries.
    Entry,
    /// Private hosts.
    Host,
}

impl UsageBy {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Eip => "eip",
            Self::Entry => "entry",
            Self::Host => "host",
        }
    }
}

/// Whose usage to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UsageRequest {
    /// By what, those with the most sessions first. Otherwise of gateways, EIPs and entries, in the order of their numbers, and of the
    /// private hosts that carry most of late, the busiest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<UsageBy>,
    /// At most so many of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// What one of them has carried since the gateway started or it was made; a private host, since it is among those that carry most
/// (each worker counts 2048 of them). Of other hosts, the bytes of their live sessions are told, and no packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// What it is.
    pub by: UsageBy,
    /// Its name or address.
    pub name: String,
    /// The table of an entry: `dnat` or `snat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The gateway of an entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The VPC of a private host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// Sessions at the moment, DNAT and SNAT. A DNAT flow whose directions two workers see has one at each. SNAT alone where private
    /// hosts are told together with the others.
    pub sessions: u64,
    /// Sessions that began; not told of private hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions_created: Option<u64>,
    /// Bytes of IP packets to the Internet side.
    pub bytes_out: u64,
    /// Bytes of IP packets to the VPC side.
    pub bytes_in: u64,
    /// IP packets to the Internet side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_out: Option<u64>,
    /// IP packets to the VPC side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_in: Option<u64>,
    /// Packets that were refused an SNAT session, by the reason of their drop; not told of private hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// Packets that were refused an SNAT session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Refused {
    /// The gateway's specification allows no more sessions.
    pub session_limit: u64,
    /// It allows no more new sessions this second.
    pub session_rate_limit: u64,
    /// The private host's quota is reached.
    pub host_quota: u64,
    /// No external port was free.
    pub ports_exhausted: u64,
}

impl Refused {
    /// Reasons with their counts.
    pub fn by_reason(&self) -> [(&'static str, u64); 4] {
        [
            ("session-limit", self.session_limit),
            ("session-rate-limit", self.session_rate_limit),
            ("host-quota", self.host_quota),
            ("ports-exhausted", self.ports_exhausted),
        ]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_reason().into_iter().map(|(_, count)| count).sum()
    }
}
