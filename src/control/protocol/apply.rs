//! Making all resources what a file says, on trial where that is asked for.

use serde::{Deserialize, Serialize};

use super::{Change, Document, LiveSessions};

/// All resources as they are to be, and how to go there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// What is to be; nothing else stays.
    pub document: Document,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Go back after so many seconds, unless it is confirmed by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u32>,
    /// Only if this generation is still in force: that of a dry run, so that nothing else happens than what it showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// What becomes of the live sessions that changed and removed entries leave behind; otherwise they end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<LiveSessions>,
}

/// The longest time that an apply waits for its confirmation, in seconds.
pub const LONGEST_TRIAL: u32 = 24 * 3600;

/// What was changed, durable and in force on all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Applied {
    /// The generation in force.
    pub generation: u32,
    /// Whether nothing was applied because only a dry run was asked for.
    #[serde(default)]
    pub dry_run: bool,
    /// Every resource that is added, changed or removed. Empty if nothing is.
    #[schema(value_type = Vec<Object>)]
    pub changes: Vec<Change>,
    /// What is still to be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<Unconfirmed>,
}

/// An apply that is taken back unless it is confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Unconfirmed {
    /// Who applied it.
    pub who: String,
    /// When it is taken back, in UTC.
    pub until: String,
    /// How many resources it changed.
    pub changes: u64,
}
