//! What a worker costs around its engine: the engine here does next to nothing.

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use natgate::base::time::Clock;
use natgate::base::{DropReason, Moment, PortIndex, WorkerIndex};
use natgate::nat::{Counters, EngineConfig, Estate, NeighbourFact, Output, Verdict};
use natgate::nic::memory::{Far, Options, open};
use natgate::nic::{BURST, Burst, Pool};
use natgate::policy::Snapshot;
use natgate::wire::{Arrival, Packet};
use natgate::worker::mailbox::Command;
use natgate::worker::{Gateway, Idle, Lockstep, OnDeath, Process, Setup, Threads};

/// Sends every packet out of port 1; with more than one worker only after it was handed to the next.
#[derive(Debug)]
struct Forward {
    counters: Counters,
    next: Option<WorkerIndex>,
}

impl Process for Forward {
    fn make(config: EngineConfig) -> io::Result<Self> {
        let next = WorkerIndex((config.worker.0 + 1) % config.workers);
        Ok(Self { counters: Counters::default(), next: (config.workers > 1).then_some(next) })
    }

    fn process(&mut self, batch: &mut [Packet<'_>], _: &Snapshot, _: Moment, out: &mut Output) {
        out.clear();
        for packet in batch {
            let verdict = match self.next {
                Some(to) if packet.arrival == Arrival::Wire => Verdict::Hand { to, arrival: Arrival::Handed },
                _ => Verdict::Send { port: PortIndex(1), head: packet.head as u16, len: packet.len as u16 },
            };
            out.verdicts.push(verdict);
        }
    }

    fn learn(&mut self, _: NeighbourFact, _: &Snapshot, _: Moment, out: &mut Output) {
        out.clear();
    }

    fn undo(&mut self, _: Verdict, _: DropReason) {}

    fn answer(&mut self, _: &mut Command, _: &Snapshot, _: Moment, _: &mut Output) -> bool {
        true
    }

    fn inherit(&mut self, _: Estate) {}

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

fn setup(workers: u16) -> (Setup, [Vec<Far>; 2]) {
    let pool = Pool::new(16384, 2048).unwrap();
    let port = |index| open(PortIndex(index), usize::from(workers), &pool, &Options::of(PortIndex(index)));
    let ((one, far_one), (other, far_other)) = (port(0), port(1));
    let setup = Setup {
        ports: vec![one, other],
        pool: Arc::clone(&pool),
        workers,
        sessions: 1024,
        neighbours: 64,
        snat_eips: 4,
        ring: natgate::worker::setup::RING,
        events: 0,
        seed: Some(1),
        snapshot: Arc::new(Snapshot::default()),
    };
    (setup, [far_one, far_other])
}

fn burst(far: &mut Far) -> Burst {
    std::iter::repeat_with(|| {
        let mut frame = far.cache().take().unwrap();
        assert!(frame.fill(&[0; 64]));
        frame
    })
    .take(BURST)
    .collect()
}

fn turns(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, workers) in [("forward", 1), ("hand over and forward", 2)] {
        let (setup, [mut inside, mut outside]) = setup(workers);
        let mut gateway = Lockstep::<Forward>::with_engine(setup).unwrap();
        let mut frames = burst(&mut inside[0]);
        // The last worker receives and hands over to the first, whose turn comes at the next step.
        let (from, mut now) = (usize::from(workers) - 1, Moment::from_secs(1));
        group.bench_function(name, |b| {
            b.iter(|| {
                now = now + Duration::from_micros(10);
                inside[from].send_burst(&mut frames);
                for _ in 0..workers {
                    gateway.step(now);
                }
                outside[0].receive_burst(&mut frames);
                assert_eq!(frames.len(), BURST);
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    let (setup, _far) = setup(1);
    let mut gateway = Lockstep::<Forward>::with_engine(setup).unwrap();
    let mut now = Moment::from_secs(1);
    group.bench_function("nothing to do", |b| {
        b.iter(|| {
            now = now + Duration::from_nanos(100);
            black_box(gateway.step(now))
        });
    });
    group.finish();
}

fn management(c: &mut Criterion) {
    let mut group = c.benchmark_group("management");
    for (name, idle) in [("polling", Idle::Poll), ("sleeping", Idle::Sleep)] {
        let (setup, _far) = setup(1);
        let threads = Threads { cores: None, idle, clock: Clock::start(), on_death: OnDeath::default() };
        let gateway = Gateway::launch_with::<Forward>(setup, threads).unwrap();
        group.bench_function(format!("publish to a {name} worker"), |b| {
            b.iter_batched(
                || gateway.snapshot().edit().finish(),
                |next| gateway.publish(next, Duration::from_secs(1)).unwrap(),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(format!("counters of a {name} worker"), |b| b.iter(|| gateway.totals()));
        drop(gateway.stop());
    }
    group.finish();
}

criterion_group!(benches, turns, management);
criterion_main!(benches);
