//! All resources become what a file says, in one transaction; on trial where that is asked for.
//!
//! An apply on trial is taken back when its time is up, unless it is confirmed. What leads back is stored in the same transaction
//! as the apply, so that a gateway that was killed meanwhile goes back, too: at its start, if the time is up by then. Until it is
//! confirmed or taken back nothing else is changed: going back would take other changes along, or break on them.

use std::sync::PoisonError;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::difference::differences;
use super::leaving::{self, Policies};
use super::{Batch, Compiled, Work, record, refused};
use crate::base::Moment;
use crate::base::time::Clock;
use crate::config::Code;
use crate::control::inventory::plan::Objection;
use crate::control::inventory::{Change, Id, Inventory, Refusal};
use crate::control::protocol::{
    Applied, ApplyRequest, Fault, FaultCode, Finding, Json, LONGEST_TRIAL, Unconfirmed,
};
use crate::control::store::{AuditRecord, Pending, Transaction};
use crate::control::time::{self, now};

/// Time until a failed return is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// Who takes back what nobody confirmed, in the audit log.
const NOBODY: &str = "natgate (not confirmed)";

/// An apply that waits to be confirmed.
#[derive(Debug)]
pub(super) struct Trial {
    stored: Stored,
    /// The changes that lead back, or why there is no way.
    back: Result<Vec<Change>, String>,
    clock: Clock,
    due: Moment,
}

/// What the store keeps of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    who: String,
    /// When it is taken back, in seconds since 1970.
    until: u64,
    /// Resources as they were before; those that are new were none.
    before: Vec<(Id, Option<Value>)>,
}

impl Trial {
    /// The one of changes that are about to be made.
    fn new(who: &str, seconds: u32, now: u64, inventory: &Inventory, changes: &[Change]) -> Self {
        let before = changes.iter().map(|change| {
            let before = change.before.as_ref();
            (change.id, before.map(|resource| inventory.specify(resource).to_value()))
        });
        let back = changes.iter().rev().map(|change| {
            let Change { id, before, after } = change.clone();
            Change { id, before: after, after: before }
        });
        let stored =
            Stored { who: who.to_owned(), until: now + u64::from(seconds), before: before.collect() };
        Self::due_in(u64::from(seconds), stored, Ok(back.collect()))
    }

    /// The one that a store holds. The clock on the wall tells how much of its time is left.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn stored(value: Value, inventory: &Inventory) -> Result<Self, String> {
        let stored: Stored = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let back = inventory.plan_back(stored.before.iter().cloned());
        let back = back.map_err(|(id, refusal)| format!("{id}: {refusal}"));
        let left = stored.until.saturating_sub(now()).min(u64::from(LONGEST_TRIAL));
        Ok(Self::due_in(left, stored, back))
    }

    /// What the store is to keep.
    fn pending(&self) -> Result<Pending, Fault> {
        let value = serde_json::to_value(&self.stored);
        value.map(Pending::Set).map_err(|error| Fault::new(FaultCode::Failed, error.to_string()))
    }

    fn due_in(seconds: u64, stored: Stored, back: Result<Vec<Change>, String>) -> Self {
        let clock = Clock::start();
        let due = clock.now() + Duration::from_secs(seconds);
        Self { stored, back, clock, due }
    }

    pub(super) fn unconfirmed(&self) -> Unconfirmed {
        Unconfirmed {
            who: self.stored.who.clone(),
            until: time::format(self.stored.until),
            changes: self.stored.before.len() as u64,
        }
    }

    /// Why nothing else is changed.
    pub(super) fn refuses(&self) -> Fault {
        let Unconfirmed { who, until, .. } = self.unconfirmed();
        let refusal = Refusal::new(Code::Unconfirmed, "").rule(format!(
            "an apply of {who} waits until {until} to be confirmed; nothing else is changed meanwhile"
        ));
        refused(refusal.hint("natgate confirm keeps it, natgate rollback takes it back at once"))
    }
}

impl Work {
    /// Makes all resources what a file says.
    pub(super) fn apply(&mut self, who: &str, request: &ApplyRequest) -> Result<Applied, Fault> {
        if let Some(trial) = self.trial.as_ref().filter(|_| !request.dry_run) {
            return Err(trial.refuses());
        }
        let generation = self.outlet.current().generation().0;
        if let Some(shown) = request.generation.filter(|shown| *shown != generation) {
            let refusal = Refusal::new(Code::Outdated, "generation").value(shown);
            let refusal = refusal.hint(format!("generation {generation} is in force by now: look again"));
            return Err(refused(refusal));
        }
        if let Some(seconds) = request.confirm_seconds.filter(|s| !(1..=LONGEST_TRIAL).contains(s)) {
            let refusal = Refusal::new(Code::OutOfRange, "confirm_seconds").value(seconds);
            return Err(refused(refusal.hint(format!("choose 1 to {LONGEST_TRIAL} seconds"))));
        }
        let now = now();
        let rng = &mut self.rng;
        let planned = self.next.plan(&request.document, now, &mut || rng.next_u64());
        let changes = planned.map_err(|objections| objected(&objections))?;
        leaving::judge_plan(&self.departures, &changes, request.sessions)?;
        let told = differences(&self.next, &changes);
        let seconds = request.confirm_seconds;
        let trial = seconds.map(|seconds| Trial::new(who, seconds, now, &self.next, &changes));
        if request.dry_run || changes.is_empty() {
            return Ok(Applied { generation, dry_run: request.dry_run, changes: told, unconfirmed: None });
        }
        let pending = trial.as_ref().map_or(Ok(Pending::Unchanged), Trial::pending)?;
        let policies = leaving::policies(request.sessions, 0..changes.len(), self.departures.now());
        let made = self.make_all((who, "apply"), changes, policies, pending);
        if made.is_ok() {
            self.set_trial(trial);
        }
        let generation = self.publish(made)?;
        let unconfirmed = self.trial.as_ref().map(Trial::unconfirmed);
        let changes = told.len();
        log::info!("{who} applied a file: {changes} changes, in force as generation {generation}");
        Ok(Applied { generation, dry_run: false, changes: told, unconfirmed })
    }

    /// Keeps what is on trial.
    pub(super) fn confirm(&mut self, who: &str) -> Result<Applied, Fault> {
        let trial = self.trial.as_ref().ok_or_else(none_waits)?;
        let note = AuditRecord {
            number: 0,
            time: now(),
            who: who.to_owned(),
            action: "confirm".to_owned(),
            id: "apply".to_owned(),
            before: None,
            after: Some(Json::of(&json!({ "by": trial.stored.who, "changes": trial.stored.before.len() }))),
        };
        let mut transaction =
            Transaction { notes: vec![note], pending: Pending::Cleared, ..Transaction::default() };
        let committed = self.store.commit(&mut transaction);
        committed.map_err(|error| Fault::new(FaultCode::Failed, format!("{error}; nothing was changed")))?;
        self.set_trial(None);
        Ok(Applied { generation: self.outlet.current().generation().0, ..Applied::default() })
    }

    /// Takes back what is on trial.
    pub(super) fn roll_back(&mut self, who: &str) -> Result<Applied, Fault> {
        let trial = self.trial.as_ref().ok_or_else(none_waits)?;
        let changes = trial.back.clone().map_err(|reason| {
            Fault::new(FaultCode::Failed, format!("the apply cannot be taken back: {reason}"))
                .hint("if the configuration file was changed, change it back and restart; or natgate confirm")
        })?;
        let told = differences(&self.next, &changes);
        let made = self.make_all((who, "rollback"), changes, Policies::new(), Pending::Cleared);
        if made.is_ok() {
            self.set_trial(None);
        }
        let generation = self.publish(made)?;
        log::info!("{who} took an apply back, in force as generation {generation}");
        Ok(Applied { generation, dry_run: false, changes: told, unconfirmed: None })
    }

    /// Takes back what nobody confirmed in time.
    pub(super) fn look_at_trial(&mut self) {
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.clock.now() >= trial.due) else { return };
        // If it goes wrong.
        trial.due = trial.clock.now() + AGAIN;
        let who = trial.stored.who.clone();
        log::warn!("the apply of {who} was not confirmed in time: it is taken back");
        if let Err(fault) = self.roll_back(NOBODY) {
            log::error!("taking the apply of {who} back: {fault}");
        }
    }

    fn set_trial(&mut self, trial: Option<Trial>) {
        let unconfirmed = trial.as_ref().map(Trial::unconfirmed);
        *self.unconfirmed.write().unwrap_or_else(PoisonError::into_inner) = unconfirmed;
        self.trial = trial;
    }

    /// Makes planned changes, all in one transaction.
    fn make_all(
        &mut self,
        (who, action): (&str, &str),
        changes: Vec<Change>,
        policies: Policies,
        pending: Pending,
    ) -> Result<Option<Compiled>, Fault> {
        self.next.make_all(&changes);
        let now = now();
        let audit = changes.iter().map(|change| record(&self.next, who, action, now, change)).collect();
        let mut batch = Batch { changes, audit, policies, pending, ..Batch::default() };
        self.make(&mut batch, Inventory::make_all)
    }
}

fn none_waits() -> Fault {
    refused(Refusal::new(Code::NotUnconfirmed, "").hint("natgate apply FILE --confirm 60s makes one"))
}

/// Why a file is refused.
fn objected(objections: &[Objection]) -> Fault {
    let key = |item: &str, parameter: &str| match (item, parameter) {
        ("", key) | (key, "") => key.to_owned(),
        (item, parameter) => format!("{item}.{parameter}"),
    };
    let findings = objections.iter().take(Refusal::SHOWN).map(|Objection { item, refusal }| Finding {
        code: refusal.code.name().to_owned(),
        file: "file".to_owned(),
        line: None,
        key: key(item, &refusal.parameter),
        value: refusal.value.as_deref().map(str::to_owned),
        rule: refusal.rule.to_string(),
        conflict: Some(refusal.conflicts.join(", ")).filter(|conflicts| !conflicts.is_empty()),
        hint: refusal.hint.as_deref().map(str::to_owned),
    });
    let count = match objections.len() {
        1 => "1 error".to_owned(),
        count => format!("{count} errors"),
    };
    let first = objections.first().map(|Objection { item, refusal }| {
        let parameter = key(item, &refusal.parameter).into();
        Box::new(Refusal { parameter, ..refusal.clone() })
    });
    let fault = Fault::new(FaultCode::Refused, format!("the file has {count}; nothing was changed"));
    Fault { findings: findings.collect(), refusal: first, ..fault }
}
