//! The gateway's own benchmark: how fast the engine of a worker is on this machine, for users who size one.
//!
//! Frames are written into a ring of [`RING`] buffers, as a NIC would, and then taken off it in batches; only the
//! engine's time counts, from the frame's first byte to the finished frame with its verdict. Several workers each have
//! their own engine, ring and sessions, as in a gateway, and start together.

pub mod clock;
pub mod floor;
pub mod frames;
pub mod misses;
pub mod picker;
pub mod reference;
pub mod scenario;
pub mod setup;
pub mod stages;
pub mod worker;

use std::io;
use std::sync::Barrier;

use core_affinity::CoreId;
use serde::Serialize;

use crate::nat::BATCH;

pub use scenario::Scenario;
use stages::StageTimes;
use worker::{Total, Worker};

/// Buffers between the one who writes frames and the engine: what a NIC ring of 1024 descriptors holds.
pub const RING: usize = 1024;
/// Bytes of a frame's checksum, which counts for its size on the wire but is never in memory.
pub const FCS: usize = 4;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which traffic.
    pub scenario: Scenario,
    /// Sessions of each worker that are hit at random; in [`Scenario::NewSession`], sessions that each makes before
    /// all are let expire.
    pub sessions: usize,
    /// DNAT entries at the most.
    pub entries: usize,
    /// Bytes of a frame, its checksum included (64 to 1518, as RFC 2544 counts); ignored in [`Scenario::Imix`].
    pub packet_bytes: usize,
    /// Packets given to the engine at once, at most [`BATCH`].
    pub batch: usize,
    /// Workers at the same time, each on its own core.
    pub workers: usize,
    /// For how long.
    pub seconds: f64,
    /// Whether to time the stages, too. That costs a reading of the clock for each stage and batch.
    pub stages: bool,
    /// Where random numbers come from.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            scenario: Scenario::Snat,
            sessions: 65_536,
            entries: setup::ENTRIES,
            packet_bytes: 64,
            batch: BATCH,
            workers: 1,
            seconds: 1.0,
            stages: false,
            seed: 1,
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Which traffic.
    pub scenario: &'static str,
    /// Sessions of each worker that were hit.
    pub sessions: usize,
    /// Bytes of a frame, its checksum included, as an average.
    pub packet_bytes: usize,
    /// Packets given to the engine at once.
    pub batch: usize,
    /// Workers at the same time.
    pub workers: usize,
    /// Packets of all workers.
    pub packets: u64,
    /// Seconds that the engines took, as an average of workers.
    pub seconds: f64,
    /// Million packets a second, of all workers.
    pub mpps: f64,
    /// Gigabits of Ethernet frames a second, of all workers.
    pub gbps: f64,
    /// Cycles of the time stamp counter that a worker spends on a packet; zero where the counter's rate is not known.
    pub cycles_per_packet: f64,
    /// Nanoseconds that a worker spends on a packet.
    pub ns_per_packet: f64,
    /// Bytes of all tables for each session that they have room for.
    pub bytes_per_session: f64,
}

/// What was measured, and what was watched besides.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was measured.
    pub measured: Measured,
    /// Nanoseconds a packet by stage, in the order of [`Stage::ALL`](crate::nat::stage::Stage::ALL), if asked for.
    pub stages: Option<[f64; 4]>,
    /// Cache misses a packet, where the machine counts them.
    pub misses: Option<f64>,
}

/// Runs one plan.
///
/// # Errors
/// More workers than cores; the kernel's, when it gives no memory; an error that says so when traffic was not translated
/// as it should be.
pub fn run(plan: &Plan) -> io::Result<Outcome> {
    let workers = plan.workers.max(1);
    let cores = cores(workers)?;
    let start = Barrier::new(workers);
    let totals: io::Result<Vec<Total>> = std::thread::scope(|scope| {
        let start = &start;
        let threads: Vec<_> = (0u64..)
            .zip(cores)
            .map(|(n, core)| scope.spawn(move || run_worker(plan, n, core, start)))
            .collect();
        let ended = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a worker of the benchmark panicked")))
        });
        ended.collect()
    });
    Ok(outcome(plan, &totals?))
}

/// Nanoseconds in cycles of the time stamp counter; zero where its rate is not known.
fn cycles(nanos: f64) -> f64 {
    clock::tsc_hertz().map_or(0.0, |hertz| nanos * hertz / 1e9)
}

/// A core for each worker; none where the system does not say which there are.
fn cores(workers: usize) -> io::Result<Vec<Option<CoreId>>> {
    match core_affinity::get_core_ids() {
        Some(all) if all.len() < workers => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{workers} workers need as many cores, and there are {}", all.len()),
        )),
        Some(all) => Ok(all.into_iter().take(workers).map(Some).collect()),
        None => Ok(vec![None; workers]),
    }
}

fn run_worker(plan: &Plan, n: u64, core: Option<CoreId>, start: &Barrier) -> io::Result<Total> {
    if let Some(core) = core {
        // Where pinning is refused the scheduler decides; the measurement is only less steady.
        core_affinity::set_for_current(core);
    }
    let worker = Worker::new(plan, plan.seed.wrapping_add(n));
    // Also one that has failed is waited for.
    start.wait();
    worker?.measure()
}

fn outcome(plan: &Plan, totals: &[Total]) -> Outcome {
    let sum = |of: fn(&Total) -> u64| totals.iter().map(of).sum::<u64>();
    let (packets, nanos, bytes) = (sum(|t| t.packets), sum(|t| t.nanos), sum(|t| t.bytes));
    let seconds = nanos as f64 / 1e9 / totals.len().max(1) as f64;
    let ns_per_packet = nanos as f64 / packets.max(1) as f64;
    let measured = Measured {
        scenario: plan.scenario.name(),
        sessions: plan.sessions,
        packet_bytes: (bytes / packets.max(1)) as usize,
        batch: plan.batch.clamp(1, BATCH),
        workers: totals.len(),
        packets,
        seconds,
        mpps: packets as f64 / seconds / 1e6,
        gbps: bytes as f64 * 8.0 / seconds / 1e9,
        cycles_per_packet: cycles(ns_per_packet),
        ns_per_packet,
        bytes_per_session: totals.iter().map(|t| t.bytes_per_session).sum::<f64>()
            / totals.len().max(1) as f64,
    };
    let stages = plan.stages.then(|| {
        let times = totals.iter().fold(StageTimes::default(), |sum, total| {
            std::array::from_fn(|stage| sum[stage] + total.stages[stage])
        });
        times.map(|time| time as f64 / packets.max(1) as f64)
    });
    let misses = totals.iter().map(|total| total.misses).sum::<Option<u64>>();
    Outcome { measured, stages, misses: misses.map(|misses| misses as f64 / packets.max(1) as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(scenario: Scenario) -> Plan {
        Plan { scenario, sessions: 3000, seconds: 0.002, ..Plan::default() }
    }

    /// Every scenario's packets are forwarded, all of them: the benchmark itself sees to that.
    #[test]
    fn every_scenario_runs() {
        for scenario in Scenario::ALL {
            let Outcome { measured, stages, .. } = run(&plan(scenario)).unwrap();
            assert_eq!((measured.scenario, measured.sessions), (scenario.name(), 3000));
            assert!(measured.packets >= RING as u64 && measured.seconds >= 0.002, "{measured:?}");
            let expected = if scenario == Scenario::Imix { 330..390 } else { 64..65 };
            assert!(expected.contains(&measured.packet_bytes), "{measured:?}");
            assert!(measured.bytes_per_session > 100.0, "{measured:?}");
            assert!(stages.is_none());
        }
    }

    #[test]
    fn small_plans_and_small_batches_run() {
        for (sessions, batch) in [(1, 1), (1, 256), (1000, 4), (1500, 7)] {
            for scenario in [Scenario::NewSession, Scenario::Snat, Scenario::Hairpin] {
                let plan = Plan { sessions, batch, ..plan(scenario) };
                let measured = run(&plan).unwrap().measured;
                assert_eq!((measured.sessions, measured.batch), (sessions, batch));
            }
        }
    }

    #[test]
    fn stages_are_parts_of_the_whole() {
        let outcome = run(&Plan { stages: true, ..plan(Scenario::Snat) }).unwrap();
        let stages = outcome.stages.unwrap();
        let (sum, whole) = (stages.iter().sum::<f64>(), outcome.measured.ns_per_packet);
        assert!(stages.iter().all(|time| *time > 0.0) && sum <= whole, "{stages:?} of {whole} ns");
    }

    #[test]
    fn workers_add_up() {
        let cores = core_affinity::get_core_ids().map_or(1, |cores| cores.len());
        let measured = run(&Plan { workers: cores, ..plan(Scenario::DnatAny) }).unwrap().measured;
        assert_eq!(measured.workers, cores);
        assert!(measured.packets >= (cores * RING) as u64);
        let error = run(&Plan { workers: 5000, ..plan(Scenario::Snat) }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
