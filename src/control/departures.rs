//! Sessions that outlive the entries that they are of.
//!
//! Sessions that a change leaves without an entry behind them end, unless the change says otherwise: they are kept, or drained, which is
//! kept until a deadline. Either is noted in the snapshot, where workers see it; here stands what has to be done later. Whoever makes
//! changes has one of these, be it the writer of a store or the reload of a configuration file.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};

use crate::base::time::Clock;
use crate::base::{EipIndex, EntryId, Moment};
use crate::control::protocol::{Fault, FaultCode, LiveSessions, SessionPolicy};
use crate::policy::{Edit, Leaving, Snapshot};

/// How long sessions are drained where a request does not say, and at most.
const DRAIN: u64 = 300;
const LONGEST: u64 = 30 * 24 * 3600;
/// How long workers look for sessions to reset: a review of all is over long before.
const RESETTING: Duration = Duration::from_mins(1);
/// How often it is looked which entries have no sessions left.
const PRUNING: Duration = Duration::from_mins(1);
/// Entries whose sessions are kept or drained at the same time, at most.
const MOST: usize = 100_000;

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
pub struct Departure {
    /// The EIPs that they are on.
    eips: Vec<EipIndex>,
    next: Next,
    due: Option<Moment>,
}

/// What becomes of entries' sessions from a change on; none where they just end.
pub type Said = HashMap<EntryId, Option<Departure>>;

/// An entry that a change makes another, or takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its number before.
    pub entry: EntryId,
    /// The EIPs that it had before.
    pub eips: Vec<EipIndex>,
    /// Whether the change may leave sessions without it behind them.
    pub takes_sessions: bool,
}

/// All entries whose sessions outlive them.
#[derive(Debug)]
pub struct Departures {
    of: HashMap<EntryId, Departure>,
    clock: Clock,
    pruned: Moment,
}

impl Default for Departures {
    fn default() -> Self {
        Self::new()
    }
}

impl Departures {
    /// None.
    pub fn new() -> Self {
        let clock = Clock::start();
        Self { of: HashMap::new(), clock, pruned: clock.now() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// The time from which deadlines count.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Whether that may be said about the sessions of so many entries.
    ///
    /// # Errors
    /// What does not go together, or is too much.
    pub fn judge_policy(&self, sessions: LiveSessions, entries: usize) -> Result<(), Fault> {
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

    /// Notes in the next snapshot what becomes of the sessions of an entry that a change leaves, and in `said` what has to be done later.
    ///
    /// What a change says holds for the sessions that were kept or drained before, too. One that says nothing leaves them alone, unless
    /// it takes sessions away from its entry: then they all end.
    pub fn note(
        &self,
        left: &Left,
        policy: Option<(LiveSessions, Moment)>,
        said: &mut Said,
        edit: &mut Edit,
    ) {
        let entry = left.entry;
        let former = said.get(&entry).map_or_else(|| self.of.get(&entry), Option::as_ref);
        if policy.is_none() && (former.is_none() || !left.takes_sessions) {
            return;
        }
        let mut eips: BTreeSet<EipIndex> = former.iter().flat_map(|it| it.eips.iter().copied()).collect();
        for eip in &eips {
            edit.touch(*eip);
        }
        eips.extend(&left.eips);
        let departure = policy.and_then(|(sessions, now)| {
            let (next, due) = match (sessions.policy, sessions.reset) {
                (SessionPolicy::Keep, _) => (Next::Nothing, None),
                (SessionPolicy::Drain, reset) => {
                    let time = Duration::from_secs(sessions.drain_seconds.unwrap_or(DRAIN));
                    (Next::End { reset }, Some(now + time))
                }
                (SessionPolicy::Kill, true) => (Next::Forget, Some(now + RESETTING)),
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

    /// Takes over what changes in force have brought.
    pub fn adopt(&mut self, said: Said) {
        for (entry, departure) in said {
            match departure {
                Some(departure) => self.of.insert(entry, departure),
                None => self.of.remove(&entry),
            };
        }
    }

    /// The snapshot to be published in which sessions end whose time is up, if there are any. Entries that have none left are forgotten:
    /// `live` tells those that have some, where that is known.
    pub fn expire(
        &mut self,
        current: impl FnOnce() -> Arc<Snapshot>,
        live: impl FnOnce() -> Option<HashSet<EntryId>>,
    ) -> Option<Arc<Snapshot>> {
        if self.of.is_empty() {
            return None;
        }
        let now = self.now();
        let mut due: Vec<EntryId> = Vec::new();
        if now.since(self.pruned) >= PRUNING {
            self.pruned = now;
            if let Some(live) = live() {
                let kept = self.of.iter().filter(|(_, departure)| departure.next == Next::Nothing);
                due.extend(kept.map(|(entry, _)| *entry).filter(|entry| !live.contains(entry)));
            }
        }
        let timely = self.of.iter().filter(|(_, departure)| departure.due.is_some_and(|due| due <= now));
        due.extend(timely.map(|(entry, _)| *entry));
        if due.is_empty() {
            return None;
        }
        let mut edit = current().edit();
        for entry in due {
            let Some(departure) = self.of.remove(&entry) else { continue };
            if departure.next == (Next::End { reset: true }) {
                edit.set_leaving(entry, Some(Leaving::Reset));
                let next = Departure { next: Next::Forget, due: Some(now + RESETTING), ..departure.clone() };
                self.of.insert(entry, next);
            } else {
                edit.set_leaving(entry, None);
            }
            departure.eips.iter().for_each(|eip| edit.touch(*eip));
        }
        Some(edit.finish())
    }
}
