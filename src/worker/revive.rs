//! A worker that died of a panic works on with a new engine.
//!
//! Its queues, rings and buffers are kept, so whatever arrives is polled again, and DNAT, which needs no session, goes on.
//! Its sessions, mappings and neighbours are lost with the engine. The books are closed first: each frame that the dead
//! engine had in hand ends as [`DropReason::WorkerDied`], and the counters go on from there.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::base::{DropReason, Moment, Rng};
use crate::nat::{Counters, EngineConfig, Estate};
use crate::worker::process::Process;
use crate::worker::turn::{Path, Worker};

/// An engine that takes next to no memory: it stands in while the large one is freed, so that both are never there at once.
const SMALL: (usize, usize, usize) = (1024, 64, 16);

/// What was lost with an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) sessions: u64,
    pub(super) frames: u64,
}

impl<E: Process> Worker<E> {
    /// Puts a new engine in place of the one that panicked.
    ///
    /// # Errors
    /// Why there is none, in words. The worker cannot go on then.
    pub(super) fn revive(&mut self, config: &EngineConfig) -> Result<Lost, String> {
        let snapshot = self.snapshot();
        let engine = &mut self.path.core.engine;
        // Its tables may be in any state: what a second panic leaves is its counters.
        let counters = *engine.counters();
        let estate = catch_unwind(AssertUnwindSafe(|| engine.bequeath(&snapshot)));
        let mut estate = estate.unwrap_or_else(|_| Estate::of(counters));
        let frames = self.path.close_books(&mut estate.counters);
        let lost = Lost { sessions: estate.sessions, frames };
        let made = catch_unwind(AssertUnwindSafe(|| {
            let (sessions, neighbours, snat_eips) = SMALL;
            let rng = Rng::from_system()?;
            let small = EngineConfig { sessions, neighbours, snat_eips, rng, ..config.clone() };
            self.path.core.engine = E::make(small)?;
            self.path.core.engine = E::make(EngineConfig { rng: Rng::from_system()?, ..config.clone() })?;
            Ok::<_, std::io::Error>(())
        }));
        // Whichever engine is there now owns the counters.
        self.path.core.engine.inherit(estate);
        self.forget();
        self.report();
        match made {
            Ok(Ok(())) => Ok(lost),
            Ok(Err(error)) => Err(format!("no memory for new tables: {error}")),
            Err(_) => Err("its tables cannot be given up".to_owned()),
        }
    }
}

impl<E: Process> Path<E> {
    /// Gives back what was in hand, and makes the counters say of each frame what became of it. Says how many were lost.
    fn close_books(&mut self, counters: &mut Counters) -> u64 {
        let before = counters.drops[DropReason::WorkerDied as usize];
        self.let_go();
        let lose = |counters: &mut Counters, count: u64| {
            counters.drops[DropReason::WorkerDied as usize] += count;
        };
        let (mut received, mut sent) = (0, 0);
        for port in &self.ports {
            received += port.totals.rx_packets;
            sent += port.totals.tx_packets;
        }
        counters.received = received;
        counters.taken_over = self.links.taken();
        // Decided, and not done: those that were to be sent or handed over, and those that the engine held.
        let forwarded = sent.saturating_sub(self.core.activity.own_sent);
        lose(counters, counters.forwarded.saturating_sub(forwarded));
        counters.forwarded = counters.forwarded.min(forwarded);
        let handed = self.links.handed();
        lose(counters, counters.handed.saturating_sub(handed));
        counters.handed = counters.handed.min(handed);
        lose(counters, counters.held);
        counters.held = 0;
        // And those that were not decided.
        lose(counters, u64::try_from(counters.balance()).unwrap_or(0));
        counters.drops[DropReason::WorkerDied as usize] - before
    }
}

/// How often a worker may die: past that something is wrong that a new engine does not mend.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    since: Moment,
    deaths: u32,
}

impl Patience {
    const SPAN: std::time::Duration = std::time::Duration::from_mins(1);
    const MOST: u32 = 100;

    /// Counts a death; says whether the worker may live again.
    pub(super) fn bears(&mut self, now: Moment) -> bool {
        if now.since(self.since) > Self::SPAN {
            *self = Self { since: now, deaths: 0 };
        }
        self.deaths += 1;
        self.deaths <= Self::MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_dies_again_and_again_is_given_up() {
        let mut patience = Patience::default();
        assert!((0..100).all(|n| patience.bears(Moment::from_millis(1000 + n))));
        assert!(!patience.bears(Moment::from_secs(30)));
        assert!(patience.bears(Moment::from_secs(62)));
    }
}
