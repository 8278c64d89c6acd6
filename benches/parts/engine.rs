//! The whole engine: packets of sessions that are there, and packets that make one.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use natgate::base::time::Clock;
use natgate::base::{Checksum, Moment, PortIndex, Rng};
use natgate::nat::{BATCH, Output, Verdict};
use natgate::speed::frames::Frames;
use natgate::speed::setup::Bed;
use natgate::speed::{Plan, Scenario};
use natgate::wire::Packet;

use crate::allocations;

const BUFFER: usize = 2048;
const HEAD: usize = 256;
const SESSIONS: usize = 65_536;

/// An engine and a batch of frames.
struct Engine {
    bed: Bed,
    frames: Frames,
    memory: Vec<u8>,
    out: Output,
    clock: Clock,
    now: Moment,
    /// Packets until all sessions are let expire, where each packet makes one.
    room: Option<usize>,
}

impl Engine {
    fn new(scenario: Scenario) -> Self {
        let plan = Plan { scenario, sessions: SESSIONS, ..Plan::default() };
        let mut engine = Self {
            bed: Bed::new(&plan, 1).expect("memory"),
            frames: Frames::new(&plan, Rng::from_seed(1)),
            memory: vec![0; BATCH * BUFFER],
            out: Output::default(),
            clock: Clock::start(),
            now: Moment::from_secs(1),
            room: (scenario == Scenario::NewSession).then_some(SESSIONS),
        };
        // Hit scenarios find their sessions; for the other one the memory was touched before.
        for batch in 0..SESSIONS / BATCH {
            engine.batch(|frames, n, frame| frames.write((batch * BATCH + n) as u32, false, 60, frame));
        }
        if engine.room.is_some() {
            engine.expire();
        }
        engine
    }

    /// Processes one batch and says how long that took.
    fn batch(
        &mut self,
        mut write: impl FnMut(&mut Frames, usize, &mut [u8]) -> (u16, PortIndex),
    ) -> Duration {
        let Self { bed, frames, memory, out, clock, now, .. } = self;
        let mut packets = arrayvec::ArrayVec::<Packet<'_>, BATCH>::new();
        for (n, buffer) in memory.chunks_exact_mut(BUFFER).enumerate() {
            let (len, port) = write(frames, n, &mut buffer[HEAD..]);
            packets.push(Packet::new(buffer, HEAD, len.into(), port, Checksum::Unverified));
        }
        *now = *now + Duration::from_micros(20);
        let start = clock.now();
        bed.engine.process(&mut packets, &bed.snapshot, *now, out);
        let took = clock.now().since(start);
        assert!(out.verdicts.iter().all(|verdict| matches!(verdict, Verdict::Send { .. })), "a drop");
        took
    }

    fn next(&mut self) -> Duration {
        match &mut self.room {
            Some(0) => {
                self.expire();
                self.room = Some(SESSIONS);
            }
            Some(_) => {}
            None => self.bed.confirm_neighbours(self.now, &mut self.out),
        }
        if let Some(room) = &mut self.room {
            *room -= BATCH;
        }
        self.batch(|frames, _, frame| frames.write_next(frame))
    }

    fn expire(&mut self) {
        self.now = self.now + Duration::from_hours(48);
        while self.bed.engine.occupancy().sessions > 0 {
            self.now = self.now + Duration::from_millis(100);
            self.bed.engine.process(&mut [], &self.bed.snapshot, self.now, &mut self.out);
        }
        self.bed.confirm_neighbours(self.now, &mut self.out);
        self.frames.restart();
    }
}

pub fn all(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(BATCH as u64));
    let paths = [
        ("fast path, snat", Scenario::Snat),
        ("fast path, dnat by port", Scenario::DnatPort),
        ("fast path, dnat any port", Scenario::DnatAny),
        ("hairpin", Scenario::Hairpin),
        ("slow path, new snat session", Scenario::NewSession),
    ];
    for (name, scenario) in paths {
        let mut engine = Engine::new(scenario);
        assert_eq!(allocations::report(name, || engine.next()), 0, "the packet path allocates");
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| (0..iterations).map(|_| engine.next()).sum());
        });
    }
    group.finish();
}
