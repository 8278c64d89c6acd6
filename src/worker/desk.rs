//! What one worker shares with everybody else: all of it atomics and bounded queues.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use crate::base::{Generation, WorkerIndex};
use crate::worker::idle::Doorbell;
use crate::worker::mailbox::Mailbox;
use crate::worker::stats::Board;

/// A worker died and works again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "worker {worker} died: {message}; it works again after {} ms, with {sessions} sessions lost and {frames} packets dropped. \
     This is a defect of natgate: please report it", took.as_millis()
)]
pub struct Incident {
    /// The worker.
    pub worker: WorkerIndex,
    /// Its last words.
    pub message: String,
    /// Sessions that were lost.
    pub sessions: u64,
    /// Packets that were lost.
    pub frames: u64,
    /// How long its queues were not polled.
    pub took: Duration,
}

/// How a worker fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Times that it died and was started anew.
    pub restarts: u64,
    /// Sessions that were lost then.
    pub sessions_lost: u64,
    /// Times that it stood still for longer than it may.
    pub stalls: u64,
}

/// Where management and other workers meet a worker.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) doorbell: Doorbell,
    pub(super) board: Board,
    pub(super) mailbox: Mailbox,
    acknowledged: CachePadded<AtomicU32>,
    stop: AtomicBool,
    finished: AtomicBool,
    died: OnceLock<String>,
    restarts: AtomicU64,
    sessions_lost: AtomicU64,
    stalls: AtomicU64,
    incidents: Mutex<Vec<Incident>>,
}

impl Desk {
    pub(super) fn new(ports: usize) -> std::io::Result<Self> {
        Ok(Self {
            doorbell: Doorbell::new()?,
            board: Board::new(ports),
            mailbox: Mailbox::new(),
            acknowledged: CachePadded::new(AtomicU32::new(0)),
            stop: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            died: OnceLock::new(),
            restarts: AtomicU64::new(0),
            sessions_lost: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            incidents: Mutex::new(Vec::new()),
        })
    }

    /// The worker says that it will never look at an older configuration again.
    pub(super) fn acknowledge(&self, generation: Generation) {
        self.acknowledged.store(generation.0, Ordering::Release);
    }

    /// The configuration that the worker works with.
    pub(super) fn acknowledged(&self) -> Generation {
        Generation(self.acknowledged.load(Ordering::Acquire))
    }

    /// Asks the worker to stop.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.doorbell.ring();
    }

    /// Whether the worker is to stop.
    #[inline]
    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Notes whether all that the worker's ports will ever receive has come to its end.
    pub(super) fn finish(&self, finished: bool) {
        self.finished.store(finished, Ordering::Release);
    }

    /// Whether the worker's ports will never receive again, and nothing waits for it.
    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Notes that the worker died, with its last words.
    pub(super) fn mourn(&self, message: &str) {
        // A worker dies once.
        let _ = self.died.set(message.to_owned());
    }

    /// Notes that the worker died and works again.
    pub(super) fn note(&self, incident: Incident) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        self.sessions_lost.fetch_add(incident.sessions, Ordering::Relaxed);
        self.incidents.lock().unwrap_or_else(PoisonError::into_inner).push(incident);
    }

    /// What was noted since this was asked last.
    pub(super) fn incidents(&self) -> Vec<Incident> {
        std::mem::take(&mut *self.incidents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that the worker stands still.
    pub(super) fn stalled(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn health(&self) -> Health {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Health {
            restarts: of(&self.restarts),
            sessions_lost: of(&self.sessions_lost),
            stalls: of(&self.stalls),
        }
    }

    /// The last words of a worker that died.
    pub(super) fn last_words(&self) -> Option<&str> {
        self.died.get().map(String::as_str)
    }
}
