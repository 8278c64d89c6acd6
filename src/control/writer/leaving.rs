//! What becomes of the sessions of entries that change or go in a store.

use std::ops::Range;

use hashbrown::HashMap;

use super::compile::Incremental;
use super::{Work, refused};
use crate::base::{EntryId, Moment};
use crate::config::Code;
use crate::control::departures::{Departures, Left, Said};
use crate::control::inventory::resource::Resource;
use crate::control::inventory::{Change, Id, Kind, Refusal};
use crate::control::protocol::{ChangeAction, ChangeRequest, Fault, FaultCode, LiveSessions, SessionPolicy};
use crate::policy::{Allocation, Edit, Snapshot};

/// What becomes of the sessions of changed entries, where that was said, and when: by the place of the change in its batch.
pub(super) type Policies = HashMap<usize, (LiveSessions, Moment)>;

/// The same policy, if there is one, for the changes at these places.
pub(super) fn policies(sessions: Option<LiveSessions>, places: Range<usize>, now: Moment) -> Policies {
    sessions
        .into_iter()
        .flat_map(|sessions| places.clone().map(move |place| (place, (sessions, now))))
        .collect()
}

/// Whether a request may say that about sessions.
pub(super) fn judge(departures: &Departures, kind: Kind, request: &ChangeRequest) -> Result<(), Fault> {
    let Some(sessions) = request.sessions else { return Ok(()) };
    if !matches!(kind, Kind::Dnat | Kind::Snat) || request.action == ChangeAction::Create {
        let message = format!("live_sessions = {}: not of this change", sessions.policy.name());
        let hint = "it goes with the update and the deletion of DNAT and SNAT entries";
        return Err(Fault::new(FaultCode::BadRequest, message).hint(hint));
    }
    departures.judge_policy(sessions, 1)
}

/// Whether that may be said about the sessions of planned changes.
pub(super) fn judge_plan(
    departures: &Departures,
    changes: &[Change],
    sessions: Option<LiveSessions>,
) -> Result<(), Fault> {
    let Some(sessions) = sessions else { return Ok(()) };
    let is_entry = |change: &&Change| matches!(change.id.kind(), Kind::Dnat | Kind::Snat);
    let left = changes.iter().filter(is_entry).filter(|change| change.before.is_some()).count();
    departures.judge_policy(sessions, left)?;
    judge_blocks(changes, Some(sessions)).map_err(refused)
}

/// Whether changes may keep or drain sessions: not those of an entry that gives out ports in blocks, as another entry, or none, would say
/// whose they are.
pub(super) fn judge_blocks(changes: &[Change], sessions: Option<LiveSessions>) -> Result<(), Refusal> {
    let Some(policy) = sessions.map(|sessions| sessions.policy).filter(|it| *it != SessionPolicy::Kill)
    else {
        return Ok(());
    };
    let is_in_blocks = |change: &Change| match change.before.as_deref() {
        Some(Resource::Snat(entry)) => entry.allocation != Allocation::Ports,
        _ => false,
    };
    if !changes.iter().any(is_in_blocks) {
        return Ok(());
    }
    let refusal = Refusal::new(Code::BlockSessions, "live_sessions").value(policy.name());
    Err(refusal.hint("leave it out, or kill them"))
}

/// Notes in the next snapshot what becomes of the sessions of changed entries.
pub(super) fn note(
    incremental: &Incremental,
    (changes, noted): (&[Change], &[(Id, Option<EntryId>)]),
    policies: &Policies,
    departures: &Departures,
    previous: &Snapshot,
    edit: &mut Edit,
) -> Said {
    let mut said = Said::new();
    if policies.is_empty() && departures.is_empty() {
        return said;
    }
    let earlier: HashMap<Id, EntryId> =
        noted.iter().rev().filter_map(|(id, number)| Some((*id, (*number)?))).collect();
    for (place, change) in changes.iter().enumerate() {
        let Some(before) = change.before.as_deref() else { continue };
        let addresses: Vec<_> = match before {
            Resource::Dnat(entry) => vec![entry.address],
            Resource::Snat(entry) => entry.eips.iter().map(|(_, address)| *address).collect(),
            _ => continue,
        };
        let Some(entry) = earlier.get(&change.id).copied().or_else(|| incremental.number(change.id)) else {
            continue;
        };
        let eips = addresses.into_iter().filter_map(|address| Some(previous.eip(address.into())?.index));
        let takes_sessions = takes_sessions(before, change.after.as_deref());
        let left = Left { entry, eips: eips.collect(), takes_sessions };
        departures.note(&left, policies.get(&place).copied(), &mut said, edit);
    }
    said
}

/// Whether a change of an entry may leave sessions without it behind them.
fn takes_sessions(before: &Resource, after: Option<&Resource>) -> bool {
    match (before, after) {
        (Resource::Dnat(before), Some(Resource::Dnat(after))) => {
            (before.eip, before.private_ip, before.forward) != (after.eip, after.private_ip, after.forward)
        }
        (Resource::Snat(before), Some(Resource::Snat(after))) => {
            (before.prefix, before.ports, before.allocation) != (after.prefix, after.ports, after.allocation)
                || !before.eips.iter().all(|eip| after.eips.contains(eip))
        }
        _ => true,
    }
}

impl Work {
    /// Ends sessions whose time is up.
    pub(super) fn look_at_departures(&mut self) {
        let outlet = &self.outlet;
        let next = self.departures.expire(|| outlet.current(), || outlet.entries_with_sessions());
        let Some(next) = next else { return };
        let directory = self.incremental.directory().clone();
        if let Err(fault) = self.outlet.publish(next, None, directory) {
            log::error!("ending drained sessions: {fault}");
        }
    }
}
