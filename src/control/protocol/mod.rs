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

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::control::address::{AddressFilter, Protocol};
use crate::control::describe::PacketDescription;

mod answer;
mod apply;
mod fault;
mod json;
mod metering;
mod stats;
mod status;
mod usage;

pub use crate::control::inventory::{Document, Spec};
pub use answer::*;
pub use apply::*;
pub use fault::*;
pub use json::Json;
pub use metering::*;
pub use stats::*;
pub use status::*;
pub use usage::*;

/// The protocol's version. A gateway answers requests of its own version only.
pub const VERSION: u32 = 1;

/// The longest request line in bytes, with its line feed: room for a file with some hundred thousand entries. Only the users who
/// may stop the gateway can send one.
pub const MAX_REQUEST: usize = 64 * 1024 * 1024;

/// A request line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// [`VERSION`].
    pub version: u32,
    /// The secret of the API key as whose owner it is asked; otherwise as the user of the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
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
    /// What gateways, EIPs, entries and private hosts have carried.
    Usage(UsageRequest),
    /// What gateways and EIPs used, hour by hour.
    Metering(MeteringRequest),
    /// Live sessions.
    Sessions(SessionsRequest),
    /// End sessions.
    Kill(KillRequest),
    /// Sessions that begin and end from now on.
    Watch(WatchRequest),
    /// Who had an external address and port at a time.
    Who(WhoRequest),
    /// What the stages decide about the next packets.
    Trace(TraceRequest),
    /// The next frames, with what becomes of each.
    Capture(CaptureRequest),
    /// What would happen to a packet.
    Explain(PacketDescription),
    /// Resources of a kind, or one of them.
    Resources(ResourcesRequest),
    /// Create, update or delete a resource.
    Change(Box<ChangeRequest>),
    /// All resources, as they are at one moment.
    Export,
    /// Make all resources what a file says.
    Apply(Box<ApplyRequest>),
    /// Keep what the last apply made.
    Confirm,
    /// Go back behind the last apply, which is not confirmed.
    RollBack,
    /// Who changed what.
    Audit(AuditRequest),
    /// All API keys.
    Keys,
    /// Make an API key.
    CreateKey(CreateKey),
    /// Change the name or the role of an API key.
    UpdateKey {
        /// Its identifier or name.
        id: String,
        /// What of it.
        values: KeyValues,
    },
    /// Delete the API key of this identifier or name.
    DeleteKey(String),
}

/// A key that is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What of a key changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeyValues {
    /// `viewer`, `operator` or `admin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// A name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
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
    /// What becomes of the live sessions that an updated or deleted entry leaves behind; otherwise they end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<LiveSessions>,
}

/// What becomes of live sessions that a change leaves without an entry behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveSessions {
    /// What.
    pub policy: SessionPolicy,
    /// How long they are drained, in seconds; otherwise 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,
    /// Send TCP resets to both ends when they end by this.
    #[serde(default)]
    pub reset: bool,
}

/// What becomes of live sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SessionPolicy {
    /// They go on until they end by themselves; new ones are not made.
    Keep,
    /// The same, until a deadline; then they end.
    Drain,
    /// They end now.
    Kill,
}

impl SessionPolicy {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drain => "drain",
            Self::Kill => "kill",
        }
    }
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
    pub resource: Option<Json>,
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
    /// What becomes of the live sessions that changed and removed entries leave behind; otherwise they end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<LiveSessions>,
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

impl SessionsRequest {
    /// Whether no condition is given, so that it means all sessions.
    pub fn is_of_all(&self) -> bool {
        *self == Self { limit: self.limit, count: self.count, ..Self::default() }
    }
}

/// Which sessions to end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KillRequest {
    /// Those of these conditions; without any, only if `all` says so.
    pub sessions: SessionsRequest,
    /// Send TCP resets to both ends.
    pub reset: bool,
    /// All sessions.
    pub all: bool,
}

/// Which sessions to watch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchRequest {
    /// Those of these conditions.
    pub sessions: SessionsRequest,
    /// End after so many events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// End after so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
}

/// Whose external address and port is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhoRequest {
    /// The EIP.
    pub address: Ipv4Addr,
    /// The port, or ICMP identifier; zero where the protocol has none.
    #[serde(default)]
    pub port: u16,
    /// The IP protocol.
    pub protocol: Protocol,
    /// When, in UTC; now if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
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

/// Which frames to capture. Conditions that are given must all hold, for the packet as it came or as it left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureRequest {
    /// The port that it comes in on or leaves by, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The IP protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Either end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<AddressFilter>,
    /// An EIP at either end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eip: Option<Ipv4Addr>,
    /// Only packets that are dropped.
    pub dropped: bool,
    /// Bytes of each frame that are wanted, at most; all if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snap_length: Option<u32>,
    /// How many frames; as many as come if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// For how long, in seconds; until the client goes if it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}
