//! An engine that dies of a packet, so that what becomes of its worker can be seen.

use std::io;

use natgate::base::{DropReason, Moment};
use natgate::nat::{Counters, Engine, EngineConfig, Estate, NeighbourFact, Output, Verdict};
use natgate::policy::Snapshot;
use natgate::wire::Packet;
use natgate::worker::Process;
use natgate::worker::mailbox::Command;

/// A UDP port at which the engine dies before it decides about the batch.
pub const BEFORE: u16 = 6666;
/// One at which it dies afterwards.
pub const AFTER: u16 = 6667;

/// The engine, with a defect.
#[derive(Debug)]
pub struct Fragile(Engine);

impl Process for Fragile {
    fn make(config: EngineConfig) -> io::Result<Self> {
        Engine::new(config).map(Self)
    }

    fn process(&mut self, batch: &mut [Packet<'_>], snapshot: &Snapshot, now: Moment, out: &mut Output) {
        let has = |batch: &[Packet<'_>], port: u16| {
            batch.iter().any(|packet| packet.frame().get(36..38) == Some(&port.to_be_bytes()))
        };
        assert!(!has(batch, BEFORE), "a defect before");
        let dies = has(batch, AFTER);
        Engine::process(&mut self.0, batch, snapshot, now, out);
        assert!(!dies, "a defect afterwards");
    }

    fn learn(&mut self, fact: NeighbourFact, snapshot: &Snapshot, now: Moment, out: &mut Output) {
        Engine::learn(&mut self.0, fact, snapshot, now, out);
    }

    fn undo(&mut self, verdict: Verdict, reason: DropReason) {
        Engine::undo(&mut self.0, verdict, reason);
    }

    fn answer(&mut self, command: &mut Command, snapshot: &Snapshot, now: Moment, out: &mut Output) -> bool {
        <Engine as Process>::answer(&mut self.0, command, snapshot, now, out)
    }

    fn counters(&self) -> &Counters {
        self.0.counters()
    }

    fn bequeath(&mut self, snapshot: &Snapshot) -> Estate {
        self.0.bequeath(snapshot)
    }

    fn inherit(&mut self, estate: Estate) {
        self.0.inherit(estate);
    }
}
