//! What the gateway answers.

use serde::{Deserialize, Serialize};

use crate::control::access::Role;
use crate::control::inventory::Spec;
use crate::control::protocol::{Applied, Changed, Fault, MeteredHour, Stats, Status, Usage};

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
    /// One of many to [`Request::Keys`](super::Request::Keys), and to [`Request::UpdateKey`](super::Request::UpdateKey) and
    /// [`Request::DeleteKey`](super::Request::DeleteKey).
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
