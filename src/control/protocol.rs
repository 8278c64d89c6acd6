//! What goes over the management socket: one request line, then answer lines up to an end or an error. Server and
//! client share these types; the forms of `--json` are the same.
//!
//! ```text
//! > {"version":1,"request":{"sessions":{"protocol":"tcp","limit":2}}}
//! < {"session":{"kind":"snat","protocol":"tcp", ...}}
//! < {"session":{"kind":"snat","protocol":"tcp", ...}}
//! < {"end":{"count":2,"truncated":true}}
//! ```
//!
//! Requests are read strictly: a field that is not known is an error, because a filter that is silently ignored would
//! show too much. Answers are read leniently, so that a later gateway may tell more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::control::address::{AddressFilter, Protocol};
use crate::control::describe::PacketDescription;
use crate::control::inventory::Refusal;

/// The protocol's version. A gateway answers requests of its own version only.
pub const VERSION: u32 = 1;

/// The longest request line in bytes, with its line feed.
pub const MAX_REQUEST: usize = 64 * 1024;

/// A request line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked.
    pub request: Request,
}

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Apply the changed configuration file.
    Reload(ReloadRequest),
    /// What runs.
    Status,
    /// All counters.
    Stats,
    /// Live sessions.
    Sessions(SessionsRequest),
    /// What the stages decide about the next packets.
    Trace(TraceRequest),
    /// What would happen to a packet.
    Explain(PacketDescription),
    /// Resources of a kind, or one of them.
    Resources(ResourcesRequest),
    /// Create, update or delete a resource.
    Change(Box<ChangeRequest>),
    /// Who changed what.
    Audit(AuditRequest),
}

/// Which resources to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesRequest {
    /// The kind: `vpc`, `vswitch`, `gateway`, `eip`, `dnat` or `snat`.
    pub kind: String,
    /// The one of this identifier, name or address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Those behind this identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// What is done to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeAction {
    /// It is made.
    Create,
    /// Some of its values change.
    Update,
    /// It goes.
    Delete,
}

impl ChangeAction {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// A change of one resource, and of what goes with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeRequest {
    /// What is done.
    pub action: ChangeAction,
    /// The kind: `vpc`, `vswitch`, `gateway`, `eip`, `dnat` or `snat`.
    pub kind: String,
    /// Which one, by identifier, name or address; not when it is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its values; when it is updated, those that change, and null for those that go (RFC 7396).
    #[serde(default)]
    pub body: serde_json::Value,
    /// Whether what uses a deleted resource goes with it.
    #[serde(default)]
    pub force: bool,
    /// A repetition with the same key is answered, and not made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// A change is durable and in force on all workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// The generation of the configuration that brought it.
    pub generation: u32,
    /// Whether an earlier request with the same idempotency key made it.
    #[serde(default)]
    pub replayed: bool,
    /// The resource as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<serde_json::Value>,
    /// What is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<String>,
}

/// Which audit records to show, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditRequest {
    /// Those before this number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// How to reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReloadRequest {
    /// Only say what would change.
    pub dry_run: bool,
}

/// The side of a session that an entry of one table made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum KindFilter {
    /// Sessions of SNAT entries.
    Snat,
    /// Sessions of DNAT entries, by port or any-port.
    Dnat,
}

/// Which sessions to list. Conditions that are given must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionsRequest {
    /// The IP protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The private address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<AddressFilter>,
    /// The EIP and the port on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eip: Option<AddressFilter>,
    /// The peer's address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<AddressFilter>,
    /// The entry that made it, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Its gateway, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Its VPC, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// The table of its entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<KindFilter>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Only count them.
    pub count: bool,
}

/// Which packets to trace. Conditions that are given must all hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The IP protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The source as received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<AddressFilter>,
    /// The destination as received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<AddressFilter>,
    /// Either end as received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<AddressFilter>,
    /// The port that it came in on, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Only packets that are dropped.
    #[serde(default)]
    pub dropped: bool,
    /// How many packets to show.
    pub packets: u32,
    /// How long to wait for them, in seconds.
    pub timeout_seconds: f64,
}

/// An answer line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Reload`].
    Reload(Reloaded),
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Stats`].
    Stats(Box<Stats>),
    /// One of many to [`Request::Sessions`].
    Session(Box<Session>),
    /// One of many to [`Request::Trace`].
    Trace(Box<Trace>),
    /// To [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// One of many to [`Request::Resources`].
    Resource(serde_json::Value),
    /// To [`Request::Change`].
    Changed(Box<Changed>),
    /// One of many to [`Request::Audit`].
    Audit(serde_json::Value),
    /// Everything was said: the last line.
    End(End),
    /// It went wrong: the last line.
    Error(Fault),
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
    /// The request line is longer than [`MAX_REQUEST`].
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
    /// Every error of the configuration file.
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

    /// With what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One error of the configuration file.
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
    /// Resources by kind.
    pub resources: BTreeMap<String, u64>,
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
