//! All workers in one thread, turn by turn, with time as an argument: the same packet path, made repeatable for tests
//! and simulation.

use std::sync::Arc;

use crate::base::{Generation, Moment, WorkerIndex};
use crate::nat::Engine;
use crate::nic::Pool;
use crate::policy::Snapshot;
use crate::worker::finish::{Final, Retired, conservation, finish};
use crate::worker::process::Process;
use crate::worker::setup::{LaunchError, Office, Seat, Setup};
use crate::worker::stats::WorkerTotals;
use crate::worker::turn::Worker;

/// A gateway whose workers take turns in the caller's thread.
#[derive(Debug)]
pub struct Lockstep<E = Engine> {
    workers: Vec<Worker<E>>,
    office: Office,
    now: Moment,
}

impl Lockstep {
    /// Makes the workers.
    ///
    /// # Errors
    /// When the parts do not fit together or memory is missing.
    pub fn new(setup: Setup) -> Result<Self, LaunchError> {
        Self::with_engine(setup)
    }
}

impl<E: Process> Lockstep<E> {
    /// Makes the workers with any engine.
    ///
    /// # Errors
    /// When the parts do not fit together or memory is missing.
    pub fn with_engine(setup: Setup) -> Result<Self, LaunchError> {
        let (seats, office) = setup.assemble()?;
        let workers = seats.into_iter().map(Seat::sit).collect::<Result<_, _>>()?;
        Ok(Self { workers, office, now: Moment::default() })
    }

    /// One turn of every worker, in their order. Says whether any had something to do.
    pub fn step(&mut self, now: Moment) -> bool {
        self.now = now;
        self.workers.iter_mut().fold(false, |busy, worker| worker.turn(now, true) | busy)
    }

    /// One turn of one worker; nothing happens if there is no such worker.
    pub fn step_one(&mut self, worker: WorkerIndex, now: Moment) -> bool {
        self.now = now;
        self.workers.get_mut(worker.index()).is_some_and(|worker| worker.turn(now, true))
    }

    /// Steps at the same moment until nobody has anything to do, at most `most` times; says how many steps it took.
    pub fn settle(&mut self, now: Moment, most: usize) -> usize {
        (0..most).take_while(|_| self.step(now)).count()
    }

    /// Publishes a configuration; each worker takes it at its next turn.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.office.publisher.announce(snapshot);
    }

    /// Frees configurations that no worker can see any more.
    pub fn collect(&mut self) {
        self.office.publisher.collect();
    }

    /// The configuration published last.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.office.publisher.current()
    }

    /// The configuration that each worker works with.
    pub fn acknowledged(&self) -> Vec<Generation> {
        self.office.desks.iter().map(|desk| desk.acknowledged()).collect()
    }

    /// What each worker has counted.
    pub fn totals(&self) -> Vec<WorkerTotals> {
        self.workers.iter().map(Worker::totals).collect()
    }

    /// Frames that wait in the rings between workers.
    pub fn waiting(&self) -> u64 {
        self.workers.iter().map(|worker| worker.path.links.waiting() as u64).sum()
    }

    /// Whether all ports have come to the end of what they replay, and nothing waits between workers.
    pub fn is_finished(&self) -> bool {
        self.workers.iter().all(|worker| worker.path.is_finished())
    }

    /// A worker's engine, to look at.
    pub fn engine(&self, worker: WorkerIndex) -> Option<&E> {
        self.workers.get(worker.index()).map(|worker| &worker.path.core.engine)
    }

    /// The pool of all buffers.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.office.pool
    }

    /// Checks that every frame so far had one end, or waits between two workers.
    ///
    /// # Errors
    /// What does not add up, in words.
    pub fn verify(&self) -> Result<(), String> {
        conservation(&self.totals(), self.waiting())
    }

    /// Drains the rings, closes the ports and gives all buffers back.
    pub fn finish(self) -> Final {
        let Self { workers, office, now } = self;
        let retired = workers.into_iter().map(|worker| Retired { worker, died: None }).collect();
        finish(retired, &office.pool, now)
    }
}
