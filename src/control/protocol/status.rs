//! What runs, and how full it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Unconfirmed;

/// What runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Its process.
    pub process: u32,
    /// Seconds since it started.
    pub uptime_seconds: f64,
    /// The configuration file.
    pub config: String,
    /// The published generation.
    pub generation: u32,
    /// Ports in the order of the configuration.
    pub ports: Vec<PortStatus>,
    /// Workers.
    pub workers: Vec<WorkerStatus>,
    /// Sessions of all workers.
    pub sessions: Occupancy,
    /// Neighbours of all workers.
    pub neighbours: Occupancy,
    /// Memory of the packet pool and the session tables.
    pub memory: Vec<MemoryStatus>,
    /// SNAT sessions of each gateway.
    pub gateways: Vec<GatewayStatus>,
    /// External ports that SNAT has taken, by EIP and protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_ports: Vec<ExternalPorts>,
    /// Blocks of external ports that hosts have, by EIP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_blocks: Vec<PortBlocks>,
    /// Destinations to which nearly all ports of an EIP are in use, where an SNAT entry gives each destination ports of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crowded_destinations: Vec<CrowdedDestination>,
    /// What is logged of sessions, by place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub session_log: Vec<SessionLogTotals>,
    /// Resources by kind.
    pub resources: BTreeMap<String, u64>,
    /// The apply that waits to be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<Unconfirmed>,
}

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its device or file.
    pub device: String,
    /// The back end and the variant in force, and why.
    pub mode: String,
    /// Its Ethernet address.
    pub mac: String,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// One a worker.
    pub queues: usize,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number.
    pub worker: u16,
    /// The core that it is pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<usize>,
    /// The generation that it has confirmed.
    pub generation: u32,
    /// Whether it runs.
    pub alive: bool,
    /// Times that it died of a defect and was started anew.
    #[serde(default)]
    pub restarts: u64,
    /// Sessions that were lost then.
    #[serde(default)]
    pub sessions_lost: u64,
    /// Times that it stood still for longer than a second.
    #[serde(default)]
    pub stalls: u64,
    /// Its session table.
    pub sessions: Occupancy,
}

/// How full something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occupancy {
    /// In use.
    pub used: u64,
    /// Room for.
    pub capacity: u64,
}

/// A large piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStatus {
    /// What it holds.
    pub name: String,
    /// `huge` (explicit huge pages) or `transparent` (ordinary pages, huge ones asked for).
    pub pages: String,
    /// Bytes mapped.
    pub bytes: u64,
}

/// External ports that SNAT has taken on an EIP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExternalPorts {
    /// The EIP.
    pub eip: String,
    /// `tcp`, `udp`, `icmp` (its identifiers) or a number.
    pub protocol: String,
    /// Ports that are taken, over all workers.
    pub taken: u64,
    /// Ports that hosts can get: those from 1024 on, less those of DNAT entries.
    #[serde(default)]
    pub limit: u64,
    /// Seconds until all are taken if it goes on as in the last minute; absent where they do not grow more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_to_full: Option<f64>,
}

/// Blocks of external ports that private hosts have on an EIP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBlocks {
    /// The EIP.
    pub eip: String,
    /// Blocks that are given out, over all workers.
    pub taken: u64,
    /// Blocks that there are.
    pub limit: u64,
}

/// A destination to which nearly all ports of an EIP are in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrowdedDestination {
    /// The EIP.
    pub eip: String,
    /// `tcp`, `udp`, `icmp` or a number.
    pub protocol: String,
    /// The destination.
    pub peer: String,
    /// Ports that are in use towards it, over all workers.
    pub taken: u64,
    /// Ports that hosts can get.
    pub limit: u64,
}

/// A gateway's use of its specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Its name.
    pub name: String,
    /// SNAT sessions at the moment.
    pub snat_sessions: u64,
    /// SNAT sessions that its specification allows; none when it is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// What one place of the session log has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionLogTotals {
    /// `file`, `syslog`, `ipfix` or `index`.
    pub place: String,
    /// Lines that it has taken.
    pub written: u64,
    /// Lines that are missing there: it did not take them, or the workers' rings had no room.
    pub lost: u64,
}
