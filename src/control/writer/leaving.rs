//! What becomes of the sessions of entries that change or go.
//!
//! Sessions that a change leaves without an entry behind them end, unless the change says otherwise: they are kept, or drained, which is
//! kept until a deadline. Either is noted in the snapshot, where workers see it; here stands what has to be done later.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use hashbrown::HashMap;

use super::compile::Incremental;
use super::{Work, refused};
use crate::base::time::Clock;
use crate::base::{EipIndex, EntryId, Moment};
use crate::config::Code;
use crate::control::inventory::resource::Resource;
use crate::control::inventory::{Change, Id, Kind, Refusal};
use crate::control::protocol::{ChangeAction, ChangeRequest, Fault, FaultCode, LiveSessions, SessionPolicy};
use crate::policy::{Allocation, Edit, Leaving, Snapshot};

/// How long sessions are drained where a request does not say, and at most.
const DRAIN: u64 = 300;
const LONGEST: u64 = 30 * 24 * 3600;
/// How long workers look for sessions to reset: a review of all is over long before.
const RESETTING: Duration = Duration::from_mins(1);
/// How often it is looked which entries have no sessions left.
const PRUNING: Duration = Duration::from_mins(1);
/// Entries whose sessions are kept or drained at the same time, at most.
const MOST: usize = 100_000;

/// What becomes of the sessions of changed entries, where that was said, and when: by the place of the change in its batch.
pub(super) type Policies = HashMap<usize, (LiveSessions, Moment)>;

/// The same policy, if there is one, for the changes at these places.
pub(super) fn policies(sessions: Option<LiveSessions>, places: Range<usize>, now: Moment) -> Policies {
    sessions
        .into_iter()
        .flat_map(|sessions| places.clone().map(move |place| (place, (sessions, now))))
        .collect()
}

/// What is done with an entry's sessions next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing: they end by themselves.
    Nothing,
    /// They end, with resets or without.
    End { reset: bool },
    /// Those that were to be reset are.
    Forget,
}

/// An entry whose sessions outlive it, or its former state.
#[derive(Clone, Debug)]
pub(super) struct Departure {
    /// The EIPs that they are on.
    eips: Vec<EipIndex>,
    next: Next,
    due: Option<Moment>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Departures {
    of: HashMap<EntryId, Departure>,
    clock: Clock,
    pruned: Moment,
}

impl Departures {
    pub(super) fn new() -> Self {
        let clock = Clock::start();
        Self { of: HashMap::new(), clock, pruned: clock.now() }
    }

    /// Takes over what changes in force have brought; none for an entry whose sessions just end.
    pub(super) fn adopt(&mut self, departures: Vec<(EntryId, Option<Departure>)>) {
        for (entry, departure) in departures {
            match departure {
                Some(departure) => self.of.insert(entry, departure),
                None => self.of.remove(&entry),
            };
        }
    }

    /// Whether a request may say that about sessions.
    pub(super) fn judge(&self, kind: Kind, request: &ChangeRequest) -> Result<(), Fault> {
        let Some(sessions) = request.sessions else { return Ok(()) };
        if !matches!(kind, Kind::Dnat | Kind::Snat) || request.action == ChangeAction::Create {
            let message = format!("live_sessions = {}: not of this change", sessions.policy.name());
            let hint = "it goes with the update and the deletion of DNAT and SNAT entries";
            return Err(Fault::new(FaultCode::BadRequest, message).hint(hint));
        }
        self.judge_policy(sessions, 1)
    }

    /// Whether that may be said about the sessions of planned changes.
    pub(super) fn judge_plan(&self, changes: &[Change], sessions: Option<LiveSessions>) -> Result<(), Fault> {
        let Some(sessions) = sessions else { return Ok(()) };
        let is_entry = |change: &&Change| matches!(change.id.kind(), Kind::Dnat | Kind::Snat);
        let left = changes.iter().filter(is_entry).filter(|change| change.before.is_some()).count();
        self.judge_policy(sessions, left)?;
        judge_blocks(changes, Some(sessions)).map_err(refused)
    }

    /// Whether that may be said about the sessions of so many entries.
    fn judge_policy(&self, sessions: LiveSessions, entries: usize) -> Result<(), Fault> {
        let LiveSessions { policy, drain_seconds, reset } = sessions;
        let refuse = |message: String, hint: &str| {
            Err(Fault::new(FaultCode::BadRequest, message).hint(hint.to_owned()))
        };
        if let Some(seconds) = drain_seconds
            && (policy != SessionPolicy::Drain || !(1..=LONGEST).contains(&seconds))
        {
            let hint = "1 to 2592000 seconds, and only where sessions are drained";
            return refuse(format!("drain_seconds = {seconds}"), hint);
        }
        if reset && policy == SessionPolicy::Keep {
            return refuse("reset = true: sessions that are kept are not reset".into(), "drain or kill them");
        }
        if policy != SessionPolicy::Kill && self.of.len() + entries > MOST {
            let hint = "drain with a short deadline, or wait until sessions have ended";
            return refuse(format!("the sessions of more than {MOST} entries would be kept"), hint);
        }
        Ok(())
    }
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
///
/// What a change says holds for the sessions that were kept or drained before, too. One that says nothing leaves them alone, unless it takes
/// sessions away from its entry: then they all end.
pub(super) fn note(
    incremental: &Incremental,
    (changes, noted): (&[Change], &[(Id, Option<EntryId>)]),
    policies: &Policies,
    departures: &Departures,
    previous: &Snapshot,
    edit: &mut Edit,
) -> Vec<(EntryId, Option<Departure>)> {
    if policies.is_empty() && departures.of.is_empty() {
        return Vec::new();
    }
    let earlier: HashMap<Id, EntryId> =
        noted.iter().rev().filter_map(|(id, number)| Some((*id, (*number)?))).collect();
    let mut said: HashMap<EntryId, Option<Departure>> = HashMap::new();
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
        let former = said.get(&entry).map_or_else(|| departures.of.get(&entry), Option::as_ref);
        let policy = policies.get(&place);
        if policy.is_none() && (former.is_none() || !takes_sessions(before, change.after.as_deref())) {
            continue;
        }
        let mut eips: BTreeSet<EipIndex> = former.iter().flat_map(|it| it.eips.iter().copied()).collect();
        for eip in &eips {
            edit.touch(*eip);
        }
        eips.extend(addresses.into_iter().filter_map(|address| Some(previous.eip(address.into())?.index)));
        let departure = policy.and_then(|(sessions, now)| {
            let (next, due) = match (sessions.policy, sessions.reset) {
                (SessionPolicy::Keep, _) => (Next::Nothing, None),
                (SessionPolicy::Drain, reset) => {
                    let time = Duration::from_secs(sessions.drain_seconds.unwrap_or(DRAIN));
                    (Next::End { reset }, Some(*now + time))
                }
                (SessionPolicy::Kill, true) => (Next::Forget, Some(*now + RESETTING)),
                (SessionPolicy::Kill, false) => return None,
            };
            Some(Departure { eips: eips.into_iter().collect(), next, due })
        });
        let leaving = departure.as_ref().map(|departure| match departure.next {
            Next::Nothing | Next::End { .. } => Leaving::Kept,
            Next::Forget => Leaving::Reset,
        });
        edit.set_leaving(entry, leaving);
        said.insert(entry, departure);
    }
    said.into_iter().collect()
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
    /// The time from which deadlines count.
    pub(super) fn moment(&self) -> Moment {
        self.departures.clock.now()
    }

    /// Ends sessions whose time is up, and forgets entries that have none left.
    pub(super) fn look_at_departures(&mut self) {
        if self.departures.of.is_empty() {
            return;
        }
        let now = self.moment();
        let mut due: Vec<EntryId> = Vec::new();
        if now.since(self.departures.pruned) >= PRUNING {
            self.departures.pruned = now;
            if let Some(live) = self.outlet.entries_with_sessions() {
                let kept = self.departures.of.iter().filter(|(_, departure)| departure.next == Next::Nothing);
                due.extend(kept.map(|(entry, _)| *entry).filter(|entry| !live.contains(entry)));
            }
        }
        let timely = self.departures.of.iter().filter(|(_, d)| d.due.is_some_and(|due| due <= now));
        due.extend(timely.map(|(entry, _)| *entry));
        if due.is_empty() {
            return;
        }
        let mut edit = self.outlet.current().edit();
        for entry in due {
            let Some(departure) = self.departures.of.remove(&entry) else { continue };
            if departure.next == (Next::End { reset: true }) {
                edit.set_leaving(entry, Some(Leaving::Reset));
                let next = Departure { next: Next::Forget, due: Some(now + RESETTING), ..departure.clone() };
                self.departures.of.insert(entry, next);
            } else {
                edit.set_leaving(entry, None);
            }
            departure.eips.iter().for_each(|eip| edit.touch(*eip));
        }
        let directory = self.incremental.directory().clone();
        if let Err(fault) = self.outlet.publish(edit.finish(), None, directory) {
            log::error!("ending drained sessions: {fault}");
        }
    }
}
