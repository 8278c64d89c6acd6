//! What gateways and EIPs used, hour by hour.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Which hours to tell. Conditions that are given must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeteringRequest {
    /// Hours that begin at this time or later, in UTC; otherwise those of the last 24 hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Hours that begin before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Of this gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Of this EIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eip: Option<Ipv4Addr>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// What a gateway or an EIP used within an hour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MeteredHour {
    /// The beginning of the hour, in UTC.
    pub hour: String,
    /// `gateway` or `eip`.
    pub kind: String,
    /// Its name, in a store its identifier; of an EIP its address.
    pub name: String,
    /// The most sessions that began within a second, DNAT and SNAT.
    pub peak_new_sessions: u64,
    /// The most sessions at once.
    pub peak_sessions: u64,
    /// Bytes of IP packets to the Internet side.
    pub bytes_out: u64,
    /// Bytes of IP packets to the VPC side.
    pub bytes_in: u64,
    /// The largest of new sessions a second in thousands, sessions in tens of thousands, and GB (10⁹ bytes) out and in together.
    pub capacity_units: f64,
    /// Whether the hour is over.
    pub complete: bool,
}
