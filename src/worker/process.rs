//! What a worker asks of an engine: [`Engine`]'s own methods, as a trait, so that the loop can be measured and tested
//! with engines that do as they are told.

use std::io;

use rtrb::Producer;

use crate::base::{DropReason, Moment};
use crate::nat::{Counters, Engine, EngineConfig, Estate, Event, NeighbourFact, Output, Verdict};
use crate::policy::Snapshot;
use crate::wire::Packet;
use crate::worker::mailbox::{self, Command};

/// An engine as a worker sees it. The methods are those of [`Engine`].
pub trait Process: Sized + Send + 'static {
    /// Makes it, on the core of its worker.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    fn make(config: EngineConfig) -> io::Result<Self>;
    /// Decides what becomes of each packet: exactly one verdict a packet.
    fn process(&mut self, batch: &mut [Packet<'_>], snapshot: &Snapshot, now: Moment, out: &mut Output);
    /// Takes over what another worker learned of a neighbour.
    fn learn(&mut self, fact: NeighbourFact, snapshot: &Snapshot, now: Moment, out: &mut Output);
    /// Counts a frame that was to be sent or handed over and found no room.
    fn undo(&mut self, verdict: Verdict, reason: DropReason);
    /// Does a bounded piece of the work on what management asks, and puts out frames if it takes some; says whether it is answered.
    fn answer(&mut self, command: &mut Command, snapshot: &Snapshot, now: Moment, out: &mut Output) -> bool;
    /// Its counters.
    fn counters(&self) -> &Counters;
    /// From now on it tells of sessions that begin and end, if it has any.
    fn tell(&mut self, _ring: Producer<Event>) {}
    /// It has died: what it leaves behind.
    fn bequeath(&mut self, _snapshot: &Snapshot) -> Estate {
        Estate::of(*self.counters())
    }
    /// Goes on where another one ended.
    fn inherit(&mut self, estate: Estate);
}

impl Process for Engine {
    fn make(config: EngineConfig) -> io::Result<Self> {
        Engine::new(config)
    }

    #[inline]
    fn process(&mut self, batch: &mut [Packet<'_>], snapshot: &Snapshot, now: Moment, out: &mut Output) {
        Engine::process(self, batch, snapshot, now, out);
    }

    #[inline]
    fn learn(&mut self, fact: NeighbourFact, snapshot: &Snapshot, now: Moment, out: &mut Output) {
        Engine::learn(self, fact, snapshot, now, out);
    }

    fn undo(&mut self, verdict: Verdict, reason: DropReason) {
        Engine::undo(self, verdict, reason);
    }

    fn answer(&mut self, command: &mut Command, snapshot: &Snapshot, now: Moment, out: &mut Output) -> bool {
        mailbox::answer(self, command, snapshot, now, out)
    }

    fn counters(&self) -> &Counters {
        Engine::counters(self)
    }

    fn tell(&mut self, ring: Producer<Event>) {
        Engine::tell(self, ring);
    }

    fn bequeath(&mut self, snapshot: &Snapshot) -> Estate {
        Engine::bequeath(self, snapshot)
    }

    fn inherit(&mut self, estate: Estate) {
        Engine::inherit(self, estate);
    }
}
