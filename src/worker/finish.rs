//! The end of a gateway: the rings are drained, the ports closed, and the accounts looked at.

use std::io;

use crate::base::{Moment, PortIndex, WorkerIndex};
use crate::nic::Pool;
use crate::worker::process::Process;
use crate::worker::stats::WorkerTotals;
use crate::worker::turn::Worker;

/// A worker's thread ended by a panic: a defect of the program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {worker} died: {message}")]
pub struct Died {
    /// The worker.
    pub worker: WorkerIndex,
    /// What it said.
    pub message: String,
}

/// What is left of a gateway that has stopped.
#[derive(Debug)]
pub struct Final {
    /// What each worker counted.
    pub workers: Vec<WorkerTotals>,
    /// Buffers that did not come back to the pool, of all that it has.
    pub missing_slots: usize,
    /// Queues that could not be left as they were found.
    pub unclosed: Vec<(WorkerIndex, PortIndex, io::Error)>,
    /// Workers that had died.
    pub died: Vec<Died>,
}

impl Final {
    /// Checks that every frame had one end and every buffer came back.
    ///
    /// # Errors
    /// What does not add up, in words.
    pub fn verify(&self) -> Result<(), String> {
        conservation(&self.workers, 0)?;
        if self.missing_slots != 0 {
            return Err(format!("{} buffers did not come back to the pool", self.missing_slots));
        }
        Ok(())
    }
}

/// A worker whose thread has ended, and how.
#[derive(Debug)]
pub(super) struct Retired<E> {
    pub(super) worker: Worker<E>,
    pub(super) died: Option<Died>,
}

/// A frame is handed over twice at most, so a few rounds drain all rings; more than these would be a defect.
const ROUNDS: usize = 10_000;

/// Drains and closes workers, none of which runs any more.
pub(super) fn finish<E: Process>(mut retired: Vec<Retired<E>>, pool: &Pool, now: Moment) -> Final {
    let mut sound: Vec<&mut Worker<E>> =
        retired.iter_mut().filter(|r| r.died.is_none()).map(|r| &mut r.worker).collect();
    for _ in 0..ROUNDS {
        if sound.iter().all(|worker| worker.path.links.is_quiet()) {
            break;
        }
        for worker in &mut sound {
            worker.turn(now, false);
        }
    }
    let mut ending =
        Final { workers: Vec::new(), missing_slots: pool.slots(), unclosed: Vec::new(), died: Vec::new() };
    let mut free = 0;
    for Retired { worker, died } in &mut retired {
        if died.is_some() {
            // It had them in hand.
            worker.path.let_go();
        }
        let failed = worker.path.close();
        ending.unclosed.extend(failed.into_iter().map(|(port, error)| (worker.index, port, error)));
        worker.path.links.abandon(&mut worker.path.core.cache);
        worker.report();
        ending.workers.push(worker.totals());
        ending.died.extend(died.take());
        free += worker.path.core.cache.len();
    }
    // Other holders of caches, as test hosts are, count what they hold themselves.
    ending.missing_slots = pool.slots().saturating_sub(free + pool.spare_slots());
    ending
}

/// The law of conservation over all workers: `waiting` frames lie in the rings between them.
///
/// # Errors
/// What does not add up, in words.
pub fn conservation(workers: &[WorkerTotals], waiting: u64) -> Result<(), String> {
    let equal = |what: &str, left: u64, right: u64| {
        if left == right { Ok(()) } else { Err(format!("{what}: {left} against {right}")) }
    };
    for (index, WorkerTotals { counters, activity, ports }) in workers.iter().enumerate() {
        let balance = counters.balance();
        if balance != 0 {
            return Err(format!("worker {index}: {balance} more frames came than ended: {counters:?}"));
        }
        let (received, sent) =
            ports.iter().fold((0, 0), |(rx, tx), port| (rx + port.rx_packets, tx + port.tx_packets));
        equal(&format!("worker {index}: received by ports and by the engine"), received, counters.received)?;
        let meant = counters.forwarded + activity.own_sent;
        equal(&format!("worker {index}: sent by ports and by the engine"), sent, meant)?;
    }
    let handed = workers.iter().map(|w| w.counters.handed).sum();
    let taken_over: u64 = workers.iter().map(|w| w.counters.taken_over).sum();
    equal("handed over and taken over", handed, taken_over + waiting)
}
