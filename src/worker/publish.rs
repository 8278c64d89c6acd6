//! How a new configuration reaches the workers, and when the one before may go.
//!
//! Management swaps one pointer. At its next batch boundary each worker notices that with one relaxed load, takes the
//! new snapshot and acknowledges its generation; until then it works with the one before, which stays whole. A worker
//! only ever lowers a snapshot's reference count and never to zero, because the publisher keeps a reference of its own
//! to every snapshot that a worker may still see. So it is always management that frees memory.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::base::time::Clock;
use crate::base::{Generation, Moment, WorkerIndex};
use crate::policy::Snapshot;
use crate::worker::desk::Desk;

/// Some workers did not acknowledge a published configuration in time. It is published all the same: they take it as
/// soon as they come to a batch boundary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration {generation} is not yet in force on workers {workers:?}")]
pub struct Lagging {
    /// The published configuration.
    pub generation: Generation,
    /// The workers that still work with an older one.
    pub workers: Vec<WorkerIndex>,
}

/// The least time from one publication to the next. The first batch under a new configuration reads lines that no cache has
/// yet; like this, fewer than one in a hundred batches are such, however many changes there are. A change that comes alone
/// does not wait.
pub const GAP: Duration = Duration::from_millis(2);

/// The publishing side.
#[derive(Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<Snapshot>>,
    /// Snapshots that were replaced and that a worker may still see.
    replaced: Vec<Arc<Snapshot>>,
    desks: Vec<Arc<Desk>>,
    clock: Clock,
    /// When a configuration was last published; the start counts as none.
    last: Option<Moment>,
}

/// The reading side, one a worker.
pub(super) type Reader = arc_swap::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>;

impl Publisher {
    pub(super) fn new(first: Arc<Snapshot>, desks: &[Arc<Desk>]) -> Self {
        Self {
            current: Arc::new(ArcSwap::new(first)),
            replaced: Vec::new(),
            desks: desks.to_vec(),
            clock: Clock::start(),
            last: None,
        }
    }

    pub(super) fn reader(&self) -> Reader {
        arc_swap::Cache::new(Arc::clone(&self.current))
    }

    /// The configuration published last.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Publishes a configuration, [`GAP`] after the one before, and waits until all workers work with it, at most for
    /// `patience`.
    ///
    /// # Errors
    /// The workers that did not acknowledge it in time.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>, patience: Duration) -> Result<(), Lagging> {
        let due = self.last.map_or(Duration::ZERO, |last| (last + GAP).since(self.clock.now()));
        std::thread::sleep(due);
        self.announce(snapshot);
        let start = self.clock.now();
        self.last = Some(start);
        while self.lagging().next().is_some() && self.clock.now().since(start) < patience {
            std::thread::sleep(Duration::from_micros(20));
        }
        self.collect();
        let workers: Vec<_> = self.lagging().collect();
        if workers.is_empty() {
            return Ok(());
        }
        Err(Lagging { generation: self.current.load().generation(), workers })
    }

    /// Publishes a configuration and does not wait.
    pub(super) fn announce(&mut self, snapshot: Arc<Snapshot>) {
        self.replaced.push(self.current.swap(snapshot));
        for desk in &self.desks {
            desk.doorbell.ring();
        }
        self.collect();
    }

    /// Frees what no worker can see any more.
    pub(super) fn collect(&mut self) {
        // The current snapshot is the only one that a worker can newly take, so a count of one stays one.
        self.replaced.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// Workers that work with an older configuration than the current one.
    pub(super) fn lagging(&self) -> impl Iterator<Item = WorkerIndex> {
        let generation = self.current.load().generation();
        let workers = self.desks.iter().enumerate();
        workers
            .filter(move |(_, desk)| desk.acknowledged() < generation)
            .map(|(index, _)| WorkerIndex(index as u16))
    }
}
