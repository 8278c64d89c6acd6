//! Resources that live in a store: changing them, showing them, and taking their snapshots over.

use std::ops::ControlFlow;
use std::sync::Arc;

use hashbrown::HashSet;

use crate::base::EntryId;
use crate::config::{Code, Directory, Model};
use crate::control::inventory::{Id, Kind, Refusal};
use crate::control::keys::Keys;
use crate::control::manager::reload::PATIENCE;
use crate::control::manager::{Manager, View};
use crate::control::protocol::{
    Applied, ApplyRequest, AuditRequest, ChangeRequest, Changed, End, Fault, FaultCode, ResourcesRequest,
    Spec, Unconfirmed,
};
use crate::control::service::Waiting;
use crate::control::time;
use crate::control::writer::{Desk, Outlet, refused};
use crate::nat::UsageKind;
use crate::policy::Snapshot;

/// Resources that are copied at once, and so the longest that a reader keeps the writer waiting.
const PAGE: usize = 500;

impl Manager {
    /// Has resources changed at this desk, and keys made, from now on.
    ///
    /// # Errors
    /// The store's keys cannot be read.
    pub fn attach(&self, desk: Desk) -> Result<(), String> {
        // There is one writer, attached once at the start.
        let _ = self.keys.set(Keys::load(desk.clone())?);
        let _ = self.desk.set(desk);
        Ok(())
    }

    /// The API keys.
    pub(super) fn keys(&self) -> Result<&Keys, Fault> {
        self.keys.get().ok_or_else(|| {
            Fault::new(FaultCode::BadRequest, "API keys are kept in a store, and this gateway has none")
                .hint("give its configuration file a [store]")
        })
    }

    fn desk(&self) -> Result<&Desk, Fault> {
        self.desk.get().ok_or_else(|| {
            Fault::new(FaultCode::BadRequest, "this gateway's resources stand in its configuration file")
                .hint("change the file and reload it; or give it a [store], then requests can change them")
        })
    }

    /// What the directory calls a VPC or gateway that a request names: where resources live in a store, its identifier.
    ///
    /// # Errors
    /// There is none of that identifier or name, or there are several.
    pub(super) fn called(&self, kind: Kind, parameter: &str, text: &str) -> Result<String, Fault> {
        let Some(desk) = self.desk.get() else { return Ok(text.to_owned()) };
        let found = desk.read(|inventory| inventory.resolve(kind, parameter, text));
        found.map(|id| id.to_string()).map_err(refused)
    }

    /// Makes a change; returns when it is durable and in force on all workers.
    ///
    /// # Errors
    /// The rule that it breaks, or what state it is in.
    pub fn change(&self, who: &str, request: ChangeRequest) -> Result<Changed, Fault> {
        self.desk()?.change(who, request)
    }

    /// Begins a change and does not wait: `answer` is told what [`change`](Self::change) returns.
    ///
    /// # Errors
    /// It was not begun.
    pub fn begin_change(
        &self,
        who: &str,
        request: ChangeRequest,
        answer: Waiting<Changed>,
    ) -> Result<(), Fault> {
        self.desk()?.begin(who, request, answer)
    }

    /// Shows resources one after the other, until `each` has enough. A long list is read in pages between changes.
    ///
    /// # Errors
    /// The one that is asked for is not there.
    pub fn resources(
        &self,
        request: &ResourcesRequest,
        each: &mut dyn FnMut(serde_json::Value) -> ControlFlow<()>,
    ) -> Result<End, Fault> {
        let desk = self.desk()?;
        let kind = Kind::of(&request.kind)
            .ok_or_else(|| refused(Refusal::new(Code::InvalidChoice, "kind").value(&request.kind)))?;
        if let Some(id) = &request.id {
            let shown = desk.read(|inventory| {
                let id = inventory.resolve(kind, "id", id)?;
                Ok(inventory.get(id).map(|resource| inventory.specify(resource).to_value()))
            });
            let shown = shown.map_err(refused)?;
            return Ok(match shown.map(each) {
                Some(_) => End { count: 1, ..End::default() },
                None => End::default(),
            });
        }
        let after = request.after.as_deref().map(|text| {
            let id = text.parse::<Id>().ok().filter(|id| id.kind() == kind);
            id.ok_or_else(|| refused(Refusal::new(Code::InvalidId, "after").value(text)))
        });
        let mut after = after.transpose()?;
        let most = request.limit.unwrap_or(u64::MAX);
        let mut end = End::default();
        loop {
            let wanted = PAGE.min(usize::try_from(most - end.count).unwrap_or(PAGE));
            let (page, last, more) = desk.read(|inventory| {
                let mut rest = inventory.after(kind, after);
                let page: Vec<_> = rest.by_ref().take(wanted).collect();
                let last = page.last().map(|resource| resource.id());
                let page: Vec<_> = page.iter().map(|r| inventory.specify(r).to_value()).collect();
                (page, last, rest.next().is_some())
            });
            for resource in page {
                end.count += 1;
                if each(resource).is_break() {
                    return Ok(End { truncated: true, ..end });
                }
            }
            after = last.or(after);
            if !more || end.count >= most {
                return Ok(End { truncated: more, ..end });
            }
        }
    }

    /// Shows all resources as they are at one moment, those first that others refer to, until `each` has enough.
    ///
    /// # Errors
    /// There is no store.
    pub fn export(&self, each: &mut dyn FnMut(Spec) -> ControlFlow<()>) -> Result<End, Fault> {
        let desk = self.desk()?;
        let all: Vec<_> = desk.read(|inventory| inventory.iter().cloned().collect());
        let mut end = End::default();
        for page in all.chunks(PAGE) {
            let specs: Vec<_> =
                desk.read(|inventory| page.iter().map(|resource| inventory.specify(resource)).collect());
            for spec in specs {
                end.count += 1;
                if each(spec).is_break() {
                    return Ok(End { truncated: true, ..end });
                }
            }
        }
        Ok(end)
    }

    /// Makes all resources what a file says; returns when that is durable and in force on all workers.
    ///
    /// # Errors
    /// All rules that the file breaks, or what state it is in.
    pub fn apply_all(&self, who: &str, request: ApplyRequest) -> Result<Applied, Fault> {
        self.desk()?.apply(who, request)
    }

    /// Keeps what the last apply made.
    ///
    /// # Errors
    /// None waits to be confirmed.
    pub fn confirm(&self, who: &str) -> Result<Applied, Fault> {
        self.desk()?.confirm(who)
    }

    /// Goes back behind the last apply.
    ///
    /// # Errors
    /// None waits to be confirmed.
    pub fn roll_back(&self, who: &str) -> Result<Applied, Fault> {
        self.desk()?.roll_back(who)
    }

    /// The apply that waits to be confirmed.
    pub(super) fn unconfirmed(&self) -> Option<Unconfirmed> {
        self.desk.get()?.unconfirmed()
    }

    /// Shows audit records, the newest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn audit(&self, request: &AuditRequest) -> Result<Vec<serde_json::Value>, Fault> {
        let most = request.limit.unwrap_or(100).min(10_000) as usize;
        let records = self.desk()?.audit(request.before, most);
        let records = records.map_err(|error| Fault::new(FaultCode::Failed, error.to_string()))?;
        let shown = records.iter().filter_map(|record| {
            let mut shown = serde_json::to_value(record).ok()?;
            shown.as_object_mut()?.insert("at".to_owned(), time::format(record.time).into());
            Some(shown)
        });
        Ok(shown.collect())
    }
}

impl Outlet for Manager {
    fn entries_with_sessions(&self) -> Option<HashSet<EntryId>> {
        let totals = self.totals_of(UsageKind::Entry).ok()?;
        let live = totals.into_iter().filter(|(_, total)| total.sessions > 0);
        Some(live.map(|(index, _)| EntryId(index)).collect())
    }

    fn current(&self) -> Arc<Snapshot> {
        self.running.snapshot()
    }

    fn publish(
        &self,
        snapshot: Arc<Snapshot>,
        model: Option<Model>,
        directory: Directory,
    ) -> Result<(), Fault> {
        let frame = model.map(Arc::new);
        let model = frame.clone().unwrap_or_else(|| Arc::clone(&self.view().model));
        // Names first: what workers speak of must have one.
        let next = Arc::new(View { model, directory: Arc::new(directory) });
        self.view.replace(next);
        self.running.publish(Arc::clone(&snapshot), PATIENCE).map_err(|lagging| {
            Fault::new(FaultCode::NotInForce, format!("{lagging}, although it is stored and published"))
                .hint("they take it as soon as they can; natgate status shows when")
        })?;
        frame.map_or(Ok(()), |model| self.observer.in_force(&model, &snapshot)).map_err(|reason| {
            Fault::new(
                FaultCode::NotInForce,
                format!("it is stored and all workers work with it, but {reason}"),
            )
        })
    }
}
