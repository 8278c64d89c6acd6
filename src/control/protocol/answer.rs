//! What the gateway answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::control::access::Role;
use crate::control::inventory::{Refusal, Spec};
use crate::control::protocol::{Applied, Changed, MeteredHour, Unconfirmed, Usage};

/// An answer line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Reload`](super::Request::Reload).
    Reload(Reloaded),
    /// To [`Request::Status`](super::Request::Status).
    Status(Box<Status>),
    /// To [`Request::Stats`](super::Request::Stats).
    Stats(Box<Stats>),
    /// One of many to [`Request::Usage`](super::Request::Usage).
    Usage(Box<Usage>),
    /// One of many to [`Request::Metering`](super::Request::Metering).
    Metered(Box<MeteredHour>),
    /// One of many to [`Request::Sessions`](super::Request::Sessions).
    Session(Box<Session>),
    /// To [`Request::Kill`](super::Request::Kill).
    Killed(Killed),
    /// One of many to [`Request::Watch`](super::Request::Watch): as it stands in the session log.
    Event(serde_json::Value),
    /// One of many to [`Request::Who`](super::Request::Who).
    Owner(Box<Owner>),
    /// One of many to [`Request::Trace`](super::Request::Trace).
    Trace(Box<Trace>),
    /// One of many to [`Request::Capture`](super::Request::Capture).
    Captured(Box<Captured>),
    /// To [`Request::Explain`](super::Request::Explain).
    Explanation(Box<Explanation>),
    /// One of many to [`Request::Resources`](super::Request::Resources).
    Resource(serde_json::Value),
    /// To [`Request::Change`](super::Request::Change).
    Changed(Box<Changed>),
    /// One of many to [`Request::Export`](super::Request::Export), those first that others refer to.
    Exported(Box<Spec>),
    /// To [`Request::Apply`](super::Request::Apply), [`Request::Confirm`](super::Request::Confirm) and
    /// [`Request::RollBack`](super::Request::RollBack).
    Applied(Box<Applied>),
    /// One of many to [`Request::Audit`](super::Request::Audit).
    Audit(serde_json::Value),
    /// One of many to [`Request::Keys`](super::Request::Keys), and to [`Request::DeleteKey`](super::Request::DeleteKey).
    Key(Key),
    /// To [`Request::CreateKey`](super::Request::CreateKey).
    KeyCreated(KeyCreated),
    /// Everything was said: the last line.
    End(End),
    /// It went wrong: the last line.
    Error(Fault),
}

/// An API key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Key {
    /// Its identifier.
    pub id: String,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What its owner may do.
    pub role: Role,
    /// When it was made, in UTC.
    pub created_at: String,
}

/// A new key. This is the only answer that tells its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeyCreated {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// What its owner sends: `Authorization: Bearer SECRET`.
    pub secret: String,
}

/// The last line of a good answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// Items found (listed or, where asked, only counted).
    pub count: u64,
    /// Whether there may be more: the limit was reached or the time was up.
    pub truncated: bool,
    /// Rows that may stand for one session of another row, see [`Session::workers`].
    #[serde(skip_serializing_if = "is_zero")]
    pub unmerged: u64,
    /// Frames of a capture that nobody will see: they came faster than they were read.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: u64,
}

/// A captured frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The port that it came in on or left by.
    pub port: String,
    /// Whether it left.
    pub outbound: bool,
    /// Nanoseconds since 1970, UTC.
    pub at_unix_nanoseconds: u64,
    /// Its length in bytes.
    pub length: u32,
    /// Its first bytes, in hexadecimal.
    pub bytes: String,
    /// What became of it.
    pub comment: String,
    /// Frames that were lost since the one before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The kind of an error, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultCode {
    /// The request cannot be understood or breaks a rule.
    BadRequest,
    /// Another version of the protocol is spoken.
    Version,
    /// The request line is longer than [`MAX_REQUEST`](super::MAX_REQUEST).
    TooLong,
    /// The request did not come in time.
    TimedOut,
    /// All management connections are taken.
    Busy,
    /// The peer may not manage this gateway.
    NotPermitted,
    /// The configuration file has errors; nothing was changed.
    Configuration,
    /// The request breaks a rule; nothing was changed.
    Refused,
    /// The change needs a restart; nothing was changed.
    NeedsRestart,
    /// The change is published but a worker has not confirmed it.
    NotInForce,
    /// The gateway is stopping, or a worker does not answer.
    Unavailable,
    /// Anything else.
    Failed,
}

/// An error that says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The kind.
    pub code: FaultCode,
    /// The thing, its value and the rule that it breaks.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Every error of the configuration file, or of a file that is applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// The rule that a change of a resource breaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Box<Refusal>>,
}

impl Fault {
    /// An error with neither hint nor findings.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, findings: Vec::new(), refusal: None }
    }

    /// The gateway is stopping, and does no more.
    pub fn stopping() -> Self {
        Self::new(FaultCode::Unavailable, "the gateway is stopping")
    }

    /// With what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One error of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The stable name of the rule.
    pub code: String,
    /// The file.
    pub file: String,
    /// The line, from one, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The key with its table, such as `dnat[2].public_port`.
    pub key: String,
    /// The value as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The rule that it breaks.
    pub rule: String,
    /// What it conflicts with: key, name and line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl std::fmt::Display for Finding {
    /// As a compiler does: place first, then what and why, then what to do.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            f.write_str(&self.key)?;
            if let Some(value) = &self.value {
                write!(f, " = {value}")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{} [{}]", self.rule, self.code)?;
        if let Some(conflict) = &self.conflict {
            write!(f, "\n  conflicts with {conflict}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The generation in force.
    pub generation: u32,
    /// Whether nothing was applied because only a dry run was asked for.
    pub dry_run: bool,
    /// Differences between what ran and the file. Empty when there are none.
    pub changes: Vec<Change>,
}

/// The direction of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is different.
    Changed,
    /// It is gone.
    Removed,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The direction.
    pub change: ChangeKind,
    /// The kind of resource: `eip`, `dnat`, `vpc` and so on.
    pub resource: String,
    /// Its name.
    pub name: String,
    /// What is different about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

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

/// A live session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// `snat`, `snat-dependent` (endpoint-dependent mapping), `dnat-port` or `dnat-any`.
    pub kind: String,
    /// `tcp`, `udp`, `icmp` or a number.
    pub protocol: String,
    /// The private address and port (or ICMP identifier).
    pub inside: String,
    /// The EIP and the port (or identifier) on it.
    pub external: String,
    /// The peer.
    pub peer: String,
    /// What is known of the connection.
    pub state: String,
    /// The entry that made it.
    pub entry: String,
    /// Its gateway.
    pub gateway: String,
    /// Its VPC.
    pub vpc: String,
    /// Bytes of IP packets from the private host.
    pub bytes_out: u64,
    /// Bytes of IP packets to the private host.
    pub bytes_in: u64,
    /// Seconds since it began.
    pub age_seconds: f64,
    /// Seconds since its last packet.
    pub idle_seconds: f64,
    /// Seconds until it ends if nothing more comes.
    pub expires_seconds: f64,
    /// The workers that know it. A DNAT flow needs no owner, so each of its directions may be seen by another worker; the
    /// listing joins the two rows while it has room to remember, and says in [`End::unmerged`] how many rows came after.
    pub workers: Vec<u16>,
}

/// Sessions that were ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Killed {
    /// How many. A DNAT flow whose directions two workers see counts at each.
    pub ended: u64,
}

/// A session that had an external address and port, or a private host that had a block of ports with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Owner {
    /// The private address and port; of a block the address alone.
    pub inside: String,
    /// The VPC of the private address.
    pub vpc: String,
    /// Whom it spoke to; of a block, which ports it has.
    pub peer: String,
    /// When it began, in UTC, to a tenth of a second; `computed` where the host follows from the present configuration alone.
    pub began_at: String,
    /// When it ended; absent if it lives, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// The gateway.
    pub gateway: String,
    /// The entry that made it.
    pub entry: String,
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

/// What one stage decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The stage.
    pub stage: String,
    /// Its decision, for people.
    pub decision: String,
}

/// What became of a traced packet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The worker that had it.
    pub worker: u16,
    /// Seconds since the gateway started.
    pub at_seconds: f64,
    /// The port that it came in on.
    pub port: String,
    /// The packet as received.
    pub packet: String,
    /// What each stage decided, in order.
    pub steps: Vec<Step>,
    /// What became of it.
    pub verdict: String,
}

/// What would happen to a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The packet as understood.
    pub packet: String,
    /// The side that it comes from: `outside` or `vpc NAME`.
    pub from: String,
    /// What each stage would decide, in order.
    pub steps: Vec<Step>,
    /// What would become of it.
    pub verdict: String,
    /// The packet as it would leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub becomes: Option<String>,
    /// The entry that decides, as `dnat NAME` or `snat NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
}
