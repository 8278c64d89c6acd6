//! Where the writer is asked for changes, and what it keeps is read.

use std::sync::mpsc::{RecvTimeoutError, Sender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;

use crate::control::inventory::Inventory;
use crate::control::protocol::{
    Applied, ApplyRequest, ChangeRequest, Changed, Fault, FaultCode, Unconfirmed,
};
use crate::control::service::Waiting;
use crate::control::store::{AuditRecord, Store, StoreError, Transaction};

/// Time that a change waits for its answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time that a file waits, which may change a hundred thousand entries and more.
const LONG_PATIENCE: Duration = Duration::from_mins(5);

/// What waits for the writer, and who asked for it.
pub(super) struct Queued {
    pub(super) who: String,
    pub(super) order: Order,
}

/// What is asked of the writer, and who waits for the answer.
pub(super) enum Order {
    Change(ChangeRequest, Waiting<Changed>),
    Apply(ApplyRequest, Waiting<Applied>),
    Confirm(Waiting<Applied>),
    RollBack(Waiting<Applied>),
}

/// What is asked of the writer, and what is read beside it.
#[derive(Clone, Debug)]
pub struct Desk {
    pub(super) queue: Sender<Queued>,
    pub(super) inventory: Arc<RwLock<Inventory>>,
    pub(super) store: Arc<Store>,
    pub(super) unconfirmed: Arc<RwLock<Option<Unconfirmed>>>,
}

impl Desk {
    /// Queues a change and waits until it is durable and in force on all workers. `who` is written into the audit record.
    ///
    /// # Errors
    /// The rule that it breaks, and nothing was changed; or what state it is in.
    pub fn change(&self, who: &str, request: ChangeRequest) -> Result<Changed, Fault> {
        self.order(who, PATIENCE, |answer| Order::Change(request, answer))
    }

    /// Queues a change and does not wait: `answer` is told what [`change`](Self::change) returns.
    ///
    /// # Errors
    /// It was not queued.
    pub fn begin(&self, who: &str, request: ChangeRequest, answer: Waiting<Changed>) -> Result<(), Fault> {
        self.queue(who, Order::Change(request, answer))
    }

    /// Makes all resources what a file says, or tells what that would change.
    ///
    /// # Errors
    /// All rules that the file breaks, and nothing was changed; or what state it is in.
    pub fn apply(&self, who: &str, request: ApplyRequest) -> Result<Applied, Fault> {
        self.order(who, LONG_PATIENCE, |answer| Order::Apply(request, answer))
    }

    /// Keeps what the last apply made.
    ///
    /// # Errors
    /// None waits to be confirmed.
    pub fn confirm(&self, who: &str) -> Result<Applied, Fault> {
        self.order(who, LONG_PATIENCE, Order::Confirm)
    }

    /// Goes back behind the last apply.
    ///
    /// # Errors
    /// None waits to be confirmed.
    pub fn roll_back(&self, who: &str) -> Result<Applied, Fault> {
        self.order(who, LONG_PATIENCE, Order::RollBack)
    }

    /// The apply that waits to be confirmed.
    pub fn unconfirmed(&self) -> Option<Unconfirmed> {
        self.unconfirmed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn queue(&self, who: &str, order: Order) -> Result<(), Fault> {
        self.queue.send(Queued { who: who.to_owned(), order }).map_err(|_| Fault::stopping())
    }

    fn order<T: Send + 'static>(
        &self,
        who: &str,
        patience: Duration,
        order: impl FnOnce(Waiting<T>) -> Order,
    ) -> Result<T, Fault> {
        let (answer, answered) = sync_channel(1);
        // Whoever has gone meanwhile has no use for an answer.
        self.queue(who, order(Box::new(move |answered| drop(answer.send(answered)))))?;
        match answered.recv_timeout(patience) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(Fault::stopping()),
            Err(RecvTimeoutError::Timeout) => Err(Fault::new(
                FaultCode::NotInForce,
                format!("the change was not made within {} s; it may still be", patience.as_secs()),
            )
            .hint("look whether it is there; a repetition with the same idempotency key makes it once")),
        }
    }

    /// Reads resources that are on the disk. Whoever reads keeps the writer waiting: take a page and go.
    pub fn read<T>(&self, read: impl FnOnce(&Inventory) -> T) -> T {
        read(&self.inventory.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// API keys as they are stored, by identifier.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn keys(&self) -> Result<Vec<(String, Value)>, StoreError> {
        self.store.keys()
    }

    /// Writes what concerns no resource.
    ///
    /// # Errors
    /// Nothing was written.
    pub fn commit(&self, transaction: &mut Transaction) -> Result<(), StoreError> {
        self.store.commit(transaction)
    }

    /// Audit records before a number, the newest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<AuditRecord>, StoreError> {
        self.store.audit(before, most)
    }
}
