//! What was counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Seconds since the gateway started: the base of rates.
    pub uptime_seconds: f64,
    /// All workers together.
    pub total: Counts,
    /// Each worker.
    pub workers: Vec<WorkerStats>,
    /// Each port.
    pub ports: Vec<PortStats>,
}

/// One worker's counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Its number.
    pub worker: u16,
    /// Its counters.
    #[serde(flatten)]
    pub counts: Counts,
    /// What it did with its time.
    pub activity: ActivityStats,
}

/// What a worker did with its time, and what it could not do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActivityStats {
    /// Seconds in turns of its loop that found something to do.
    pub busy_seconds: f64,
    /// Seconds in turns that found nothing, asleep or not.
    pub idle_seconds: f64,
    /// Times that it slept.
    pub sleeps: u64,
    /// Batches that held packets.
    pub batches: u64,
    /// Frames of the gateway's own making lost because no buffer was free.
    pub own_no_buffer: u64,
    /// Frames of the gateway's own making lost because a transmit queue was full.
    pub own_transmit_full: u64,
    /// Facts about neighbours that found no room on their way to another worker.
    pub facts_lost: u64,
    /// Frames from other workers that wait at the moment.
    pub waiting: u64,
    /// The most frames from other workers that were found waiting at once.
    pub waiting_most: u64,
}

/// Packets by what became of them. `received + taken_over` equals the sum of `forwarded`, `handed`, `consumed`, `held`
/// and `dropped`; `balance` is the difference and must be zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "documented at nat::Counters")]
pub struct Counts {
    pub received: u64,
    pub taken_over: u64,
    pub forwarded: u64,
    pub handed: u64,
    pub consumed: u64,
    pub held: u64,
    pub dropped: u64,
    pub balance: i64,
    pub originated: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
    pub sessions_created: u64,
    pub sessions_removed: u64,
    pub stateless: u64,
    pub displaced: u64,
    pub evicted: u64,
    pub ftp_rewritten: u64,
    pub ftp_unaltered: u64,
    /// Drops by reason, every reason.
    pub drops: BTreeMap<String, u64>,
}

/// One port's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortStats {
    /// Its name.
    pub name: String,
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames that the device or the kernel dropped before the gateway could receive them.
    pub rx_missed: u64,
    /// Received frames that were refused.
    pub rx_errors: u64,
    /// Frames that the device or the kernel refused to send.
    pub tx_errors: u64,
    /// The speed of its link in Mbit/s, zero while it is down; absent where the device does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_mbps: Option<u32>,
    /// The device's own counters that are not zero, by its own names; those of DPDK's extended statistics.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub device: BTreeMap<String, u64>,
}
