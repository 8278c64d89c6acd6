//! What one worker shares with everybody else: all of it atomics and bounded queues.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crossbeam::utils::CachePadded;

use crate::base::Generation;
use crate::worker::idle::Doorbell;
use crate::worker::mailbox::Mailbox;
use crate::worker::stats::Board;

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

    /// The last words of a worker that died.
    pub(super) fn last_words(&self) -> Option<&str> {
        self.died.get().map(String::as_str)
    }
}
