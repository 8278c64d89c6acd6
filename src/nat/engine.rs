//! The engine of one worker.

use std::io;

use crate::base::{DropReason, Moment, Rng, WorkerIndex};
use crate::nat::{Counters, NeighbourFact, Output, Verdict};
use crate::policy::Snapshot;
use crate::wire::Packet;

/// What an engine is made with. Nothing in it changes while it lives.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The worker it belongs to.
    pub worker: WorkerIndex,
    /// Number of workers: ports and private hosts are divided among them.
    pub workers: u16,
    /// Sessions that it has room for.
    pub sessions: usize,
    /// Neighbours that it has room for.
    pub neighbours: usize,
    /// Where its random numbers come from.
    pub rng: Rng,
}

/// The engine of one worker: sessions, ports, neighbours, counters. It does no I/O and reads no clock.
#[derive(Debug)]
pub struct Engine {
    counters: Counters,
}

impl Engine {
    /// An engine with all its memory.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(_config: EngineConfig) -> io::Result<Self> {
        Ok(Self { counters: Counters::default() })
    }

    /// Decides what becomes of each packet of a batch (at most [`BATCH`](crate::nat::BATCH)) and rewrites it.
    ///
    /// `out` is cleared first and then holds one verdict a packet, frames to send besides, and facts for the other
    /// workers. An empty batch is welcome: timers run all the same.
    pub fn process(
        &mut self,
        batch: &mut [Packet<'_>],
        _snapshot: &Snapshot,
        _now: Moment,
        out: &mut Output,
    ) {
        out.clear();
        for _ in batch.iter() {
            self.counters.received += 1;
            self.counters.drop(DropReason::NotOurs);
            out.verdicts.push(Verdict::Drop(DropReason::NotOurs));
        }
    }

    /// Takes over what another worker learned of a neighbour.
    pub fn learn(&mut self, _fact: NeighbourFact, _snapshot: &Snapshot, _now: Moment, out: &mut Output) {
        out.clear();
    }

    /// Counts a frame that the engine had given the verdict to send or to hand over, and that found no room.
    pub fn undo(&mut self, verdict: Verdict, reason: DropReason) {
        match verdict {
            Verdict::Send { .. } => self.counters.forwarded -= 1,
            Verdict::Hand { .. } => self.counters.handed -= 1,
            Verdict::Consumed | Verdict::Held | Verdict::Drop(_) => return,
        }
        self.counters.drop(reason);
    }

    /// Its counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
