//! The one writer: takes queued changes, and makes each durable and in force before it is answered.
//!
//! Changes that wait are taken together (group commit). Each is judged by the inventory on top of the ones before it; those
//! that hold are compiled into one snapshot, written in one transaction, published once, and answered when every worker has
//! acknowledged the snapshot. Whatever fails before the transaction is on the disk is taken back: inventory, store and
//! snapshot never differ. Readers see a change only when it is on the disk, and never wait for the disk: the writer judges changes
//! in an inventory of its own, and brings them to theirs afterwards.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`Desk`] | where changes are asked for |
//! | `compile` | from changes to the next snapshot |
//! | `touched` | what of a snapshot changes concern |
//! | `apply` | all resources become what a file says, on trial where that is asked for |
//! | `difference`, `words` | changes and entries in words |
//! | `leaving` | what becomes of the sessions of entries that change or go |

mod apply;
mod compile;
mod desk;
mod difference;
mod leaving;
#[cfg(test)]
mod tests;
mod touched;
mod words;

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

use crate::base::EntryId;
use crate::base::rng::Rng;
use crate::config::{Code, Directory, Model, PortFacts};
use crate::control::departures::Departures;
use crate::control::inventory::{Change, Id, Inventory, Kind, Refusal};
use crate::control::protocol::{ChangeAction, ChangeRequest, Changed, Fault, FaultCode, Unconfirmed};
use crate::control::service::Waiting;
use crate::control::store::{AuditRecord, Pending, Store, StoreError, Transaction, Write};
use crate::control::time::now;
use crate::policy::Snapshot;
use apply::Trial;
use compile::{Compiled, Incremental};
pub use desk::Desk;
use desk::{Order, Queued};
use leaving::Policies;

/// Changes that one transaction takes at most.
const BATCH: usize = 1024;
/// How long an idempotency key stands for its request, in seconds.
const KEY_LIFE: u64 = 24 * 3600;
/// Idempotency keys that are remembered at most.
const KEYS: usize = 100_000;

/// Where snapshots go.
pub trait Outlet: Send + Sync {
    /// The snapshot in force.
    fn current(&self) -> Arc<Snapshot>;

    /// Publishes a snapshot and waits until all workers work with it.
    ///
    /// # Errors
    /// It is published, but a worker has not taken it in time, or something did not follow.
    fn publish(
        &self,
        snapshot: Arc<Snapshot>,
        model: Option<Model>,
        directory: Directory,
    ) -> Result<(), Fault>;

    /// Entries that have sessions, if that is known.
    fn entries_with_sessions(&self) -> Option<HashSet<EntryId>> {
        None
    }
}

/// A store's resources cannot become a gateway's.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store itself.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A resource of it breaks a rule, most likely because the configuration file changed.
    #[error(
        "store {path}: {id} cannot be restored: {refusal}; nothing was changed. If the configuration file was changed (ports, public ranges), change it back"
    )]
    Resource {
        /// The file of the store.
        path: String,
        /// The resource.
        id: String,
        /// The rule.
        refusal: Box<Refusal>,
    },
    /// It cannot be compiled.
    #[error("store {path}: {reason}")]
    Compile {
        /// The file of the store.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// Everything that the writer works with, before it is started.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
    inventory: Inventory,
    incremental: Incremental,
    remembered: HashMap<String, Remembered>,
    trial: Option<Trial>,
    rng: Rng,
}

/// The answer to a request with an idempotency key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Remembered {
    time: u64,
    request: ChangeRequest,
    answer: Changed,
}

/// What a ledger has at the start.
#[derive(Debug)]
pub struct Start {
    /// The first snapshot.
    pub snapshot: Arc<Snapshot>,
    /// Ports, VPCs, gateways and plans.
    pub model: Model,
    /// The names of it all.
    pub directory: Directory,
}

impl Ledger {
    /// Reads a store, under the settings of the configuration file.
    ///
    /// # Errors
    /// The store does not fit the configuration file, or is damaged.
    pub fn load(store: Store, settings: Model, facts: Vec<PortFacts>) -> Result<(Self, Start), LoadError> {
        let path = || store.path().display().to_string();
        let contents = store.contents()?;
        let mtus = facts.iter().map(|facts| facts.mtu).collect();
        let room = settings.system().snat_eips;
        let mut inventory = Inventory::new(settings, mtus);
        let mut rows: Vec<(Kind, String, Vec<u8>)> = Vec::with_capacity(contents.resources.len());
        for (id, json) in contents.resources {
            let kind = id.parse::<Id>().map(Id::kind).map_err(|_| {
                let refusal = Refusal::new(Code::InvalidId, "id").value(&id);
                LoadError::Resource { path: path(), id: id.clone(), refusal: Box::new(refusal) }
            })?;
            rows.push((kind, id, json));
        }
        rows.sort_by_key(|(kind, ..)| *kind);
        let mut changes = Vec::with_capacity(rows.len());
        for (kind, id, json) in rows {
            let restored = inventory.restore_json(kind, &json);
            let restored = restored.map_err(|refusal| LoadError::Resource {
                path: path(),
                id,
                refusal: Box::new(refusal),
            })?;
            changes.push(Change { id: restored, before: None, after: inventory.get(restored).cloned() });
        }
        let mut incremental = Incremental::new(facts);
        let failed = |reason: String| LoadError::Compile { path: path(), reason };
        if inventory.pooled() > room {
            let pooled = inventory.pooled();
            return Err(failed(format!(
                "it has {pooled} EIPs in SNAT pools: raise snat_eips in [system] above {room}"
            )));
        }
        inventory.set_pool_room(room);
        let start = incremental.start(&inventory, &changes).map_err(failed)?;
        let now = now();
        let remembered = contents.answers.into_iter().filter_map(|(key, value)| {
            let remembered: Remembered = serde_json::from_value(value).ok()?;
            (remembered.time + KEY_LIFE > now).then_some((key, remembered))
        });
        let remembered = remembered.collect();
        let rng = Rng::from_system().map_err(|error| failed(format!("/dev/urandom: {error}")))?;
        let trial = contents.pending.map(|pending| Trial::stored(pending, &inventory));
        let trial = trial.transpose().map_err(|error| failed(format!("its unconfirmed apply: {error}")))?;
        Ok((Self { store, inventory, incremental, remembered, trial, rng }, start))
    }
}

/// The writer's thread. It ends when this is dropped; changes that wait then are not made.
#[derive(Debug)]
pub struct Writer {
    desk: Option<Desk>,
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts to write.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub fn start(ledger: Ledger, outlet: Arc<dyn Outlet>) -> std::io::Result<Self> {
        let Ledger { store, inventory, incremental, remembered, trial, rng } = ledger;
        let (queue, queued) = channel();
        let next = inventory.clone();
        let inventory = Arc::new(RwLock::new(inventory));
        let store = Arc::new(store);
        let unconfirmed = Arc::new(RwLock::new(trial.as_ref().map(Trial::unconfirmed)));
        let desk = Desk {
            queue,
            inventory: Arc::clone(&inventory),
            store: Arc::clone(&store),
            unconfirmed: Arc::clone(&unconfirmed),
        };
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let departures = Departures::new();
        let mut work = Work {
            next,
            inventory,
            store,
            incremental,
            remembered,
            trial,
            unconfirmed,
            departures,
            rng,
            outlet,
        };
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("writer".into()).spawn(move || work.run(&queued, &stopped))?;
        Ok(Self { desk: Some(desk), stop, thread: Some(thread) })
    }

    /// Where changes are asked for.
    pub fn desk(&self) -> Option<Desk> {
        self.desk.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.desk = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The fault of a refusal.
pub fn refused(refusal: Refusal) -> Fault {
    let hint = refusal.hint.as_deref().map(str::to_owned);
    let message = refusal.to_string();
    Fault { hint, refusal: Some(Box::new(refusal)), ..Fault::new(FaultCode::Refused, message) }
}

struct Work {
    /// With the changes that are being made.
    next: Inventory,
    /// What readers see: with those that are on the disk.
    inventory: Arc<RwLock<Inventory>>,
    store: Arc<Store>,
    incremental: Incremental,
    remembered: HashMap<String, Remembered>,
    /// The apply that waits to be confirmed, and what others see of it.
    trial: Option<Trial>,
    unconfirmed: Arc<RwLock<Option<Unconfirmed>>>,
    departures: Departures,
    rng: Rng,
    outlet: Arc<dyn Outlet>,
}

/// The changes of one transaction.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    audit: Vec<AuditRecord>,
    /// Idempotency keys that are new.
    keys: Vec<String>,
    /// Who is to be answered, and what if all goes well.
    answers: Vec<(Waiting<Changed>, Changed)>,
    policies: Policies,
    /// What becomes of the apply that waits to be confirmed.
    pending: Pending,
}

impl Work {
    fn run(&mut self, queued: &Receiver<Queued>, stop: &std::sync::atomic::AtomicBool) {
        // What was taken off the queue behind changes, and is none.
        let mut held = None;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            self.look_at_trial();
            self.look_at_departures();
            let next = match held.take() {
                Some(held) => Ok(held),
                None => queued.recv_timeout(Duration::from_millis(50)),
            };
            let Queued { who, order } = match next {
                Ok(next) => next,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match order {
                Order::Change(request, answer) => {
                    let more = std::iter::from_fn(|| match queued.try_recv().ok()? {
                        Queued { who, order: Order::Change(request, answer) } => Some((who, request, answer)),
                        other => {
                            held = Some(other);
                            None
                        }
                    });
                    self.batch(std::iter::once((who, request, answer)).chain(more).take(BATCH));
                }
                Order::Apply(request, answer) => answer(self.apply(&who, &request)),
                Order::Confirm(answer) => answer(self.confirm(&who)),
                Order::RollBack(answer) => answer(self.roll_back(&who)),
            }
        }
    }

    /// Makes changes together, and answers all of them.
    fn batch(&mut self, queued: impl Iterator<Item = (String, ChangeRequest, Waiting<Changed>)>) {
        let now = now();
        let mut batch = Batch::default();
        for (who, request, answer) in queued {
            match self.judge(&who, request, now, &mut batch) {
                Ok(changed) => batch.answers.push((answer, changed)),
                Err(fault) => answer(Err(fault)),
            }
        }
        let made = if batch.changes.is_empty() { Ok(None) } else { self.make(&mut batch, Inventory::follow) };
        let outcome = self.publish(made);
        for (answer, mut changed) in batch.answers {
            answer(outcome.clone().map(|generation| {
                changed.generation = generation;
                changed
            }));
        }
    }

    /// Brings what was made into force; returns its generation.
    fn publish(&self, made: Result<Option<Compiled>, Fault>) -> Result<u32, Fault> {
        let Some(Compiled { snapshot, model, directory, .. }) = made? else {
            return Ok(self.outlet.current().generation().0);
        };
        let generation = snapshot.generation().0;
        self.outlet.publish(snapshot, model, directory)?;
        Ok(generation)
    }

    /// Judges one request and makes its changes in the inventory.
    fn judge(
        &mut self,
        who: &str,
        request: ChangeRequest,
        now: u64,
        batch: &mut Batch,
    ) -> Result<Changed, Fault> {
        let key = request.idempotency_key.clone().map(|key| (format!("{who} {key}"), key));
        if let Some((key, given)) = &key {
            let well_formed = (1..=128).contains(&given.len()) && given.bytes().all(|b| b.is_ascii_graphic());
            let known = self.remembered.get(key).filter(|known| known.time + KEY_LIFE > now);
            match known {
                Some(known) if known.request == request => {
                    return Ok(Changed { replayed: true, ..known.answer.clone() });
                }
                None if well_formed => {}
                _ => {
                    let refusal = Refusal::new(Code::IdempotencyKey, "idempotency_key").value(given);
                    return Err(refused(refusal.hint("use a new key for another request")));
                }
            }
        }
        if let Some(trial) = &self.trial {
            return Err(trial.refuses());
        }
        if let Some(kind) = Kind::of(&request.kind) {
            leaving::judge(&self.departures, kind, &request)?;
        }
        let changes = self.change(&request, now).map_err(refused)?;
        if let Err(refusal) = leaving::judge_blocks(&changes, request.sessions) {
            self.next.undo(&changes);
            return Err(refused(refusal));
        }
        let first = batch.changes.len();
        let places = first..first + changes.len();
        batch.policies.extend(leaving::policies(request.sessions, places, self.departures.now()));
        let action = request.action.name();
        batch.audit.extend(changes.iter().map(|change| record(&self.next, who, action, now, change)));
        let resource = match request.action {
            ChangeAction::Create | ChangeAction::Update => {
                batch.audit.last().and_then(|record| record.after.clone())
            }
            ChangeAction::Delete => None,
        };
        let deleted = changes.iter().filter(|change| change.after.is_none());
        let deleted = deleted.map(|change| change.id.to_string()).collect();
        let changed = Changed { generation: 0, replayed: false, resource, deleted };
        batch.changes.extend(changes);
        if let Some((key, _)) = key {
            let remembered = Remembered { time: now, request, answer: changed.clone() };
            self.remembered.insert(key.clone(), remembered);
            batch.keys.push(key);
        }
        Ok(changed)
    }

    fn change(&mut self, request: &ChangeRequest, now: u64) -> Result<Vec<Change>, Refusal> {
        let inventory = &mut self.next;
        let kind = Kind::of(&request.kind).ok_or_else(|| {
            let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.noun()).collect();
            Refusal::new(Code::InvalidChoice, "kind").value(&request.kind).hint(known.join(", "))
        })?;
        let id = |inventory: &Inventory| {
            let text = request.id.as_deref().ok_or_else(|| Refusal::new(Code::MissingKey, "id"))?;
            inventory.resolve(kind, "id", text)
        };
        match request.action {
            ChangeAction::Create => {
                let mut id = Id::new(kind, self.rng.next_u64());
                while inventory.get(id).is_some() {
                    id = Id::new(kind, self.rng.next_u64());
                }
                inventory.create(request.body.clone(), id, now).map(|change| vec![change])
            }
            ChangeAction::Update => {
                let id = id(inventory)?;
                inventory.update(id, &request.body).map(|change| vec![change])
            }
            ChangeAction::Delete => {
                let id = id(inventory)?;
                inventory.delete(id, request.force)
            }
        }
    }

    /// Compiles and stores a batch, and shows it to readers with `show`; or takes all of it back.
    fn make(
        &mut self,
        batch: &mut Batch,
        show: fn(&mut Inventory, &[Change]),
    ) -> Result<Option<Compiled>, Fault> {
        let previous = self.outlet.current();
        let said = (&batch.policies, &self.departures);
        let compiled = match self.incremental.compile(&self.next, &batch.changes, said, &previous) {
            Ok(compiled) => compiled,
            Err(reason) => {
                self.take_back(batch);
                return Err(Fault::new(FaultCode::Failed, format!("{reason}; nothing was changed")));
            }
        };
        let mut answers: Vec<Write> = Vec::new();
        if self.remembered.len() > KEYS {
            let dead: Vec<_> = self.remembered.iter().map(|(key, known)| (known.time, key.clone())).collect();
            for key in oldest(dead, KEYS / 2) {
                self.remembered.remove(&key);
                answers.push(Write { key, value: None });
            }
        }
        for key in &batch.keys {
            let value = self.remembered.get(key).and_then(|known| serde_json::to_value(known).ok());
            answers.push(Write { key: key.clone(), value });
        }
        let mut transaction = Transaction {
            answers,
            audit: std::mem::take(&mut batch.audit),
            pending: std::mem::take(&mut batch.pending),
            ..Transaction::default()
        };
        if let Err(error) = self.store.commit(&mut transaction) {
            self.incremental.give_back(compiled);
            self.take_back(batch);
            log::error!("{error}");
            return Err(Fault::new(FaultCode::Failed, format!("{error}; nothing was changed")));
        }
        show(&mut self.inventory.write().unwrap_or_else(PoisonError::into_inner), &batch.changes);
        self.incremental.adopt(&compiled.directory);
        let mut compiled = compiled;
        self.departures.adopt(std::mem::take(&mut compiled.departures));
        Ok(Some(compiled))
    }

    fn take_back(&mut self, batch: &Batch) {
        self.next.undo(&batch.changes);
        for key in &batch.keys {
            self.remembered.remove(key);
        }
    }
}

/// What stands in the audit log about a change.
fn record(inventory: &Inventory, who: &str, action: &str, now: u64, change: &Change) -> AuditRecord {
    let written = |side: &Option<Arc<_>>| side.as_ref().map(|resource| inventory.specify(resource).to_json());
    AuditRecord {
        number: 0,
        time: now,
        who: who.to_owned(),
        action: action.to_owned(),
        id: change.id.to_string(),
        before: written(&change.before),
        after: written(&change.after),
    }
}

/// All but the newest `most` of some keys with their times.
fn oldest(mut keys: Vec<(u64, String)>, most: usize) -> Vec<String> {
    keys.sort_unstable();
    let count = keys.len().saturating_sub(most);
    keys.into_iter().take(count).map(|(_, key)| key).collect()
}
