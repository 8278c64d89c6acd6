//! The gateway's own benchmark: how fast the engine of one worker is on this machine, for users who size one.
//!
//! Frames are written into a ring of [`RING`] buffers, as a NIC would, and then taken off it in batches; only the
//! engine's time counts, from the frame's first byte to the finished frame with its verdict.

pub mod clock;
pub mod frames;
pub mod scenario;
pub mod setup;

use std::io;

use serde::Serialize;

use crate::base::hugepage::HugeSlice;
use crate::base::time::Clock;
use crate::base::{Checksum, Moment, PortIndex, Rng};
use crate::nat::{BATCH, Counters, Output, Verdict};
use crate::wire::Packet;
use crate::wire::bytes::{get_u16, get_u32};

use frames::Frames;
pub use scenario::Scenario;
use setup::Bed;

/// Buffers between the one who writes frames and the engine: what a NIC ring of 1024 descriptors holds.
pub const RING: usize = 1024;
/// Bytes of a buffer.
const BUFFER: usize = 2048;
/// Where a frame begins in its buffer.
const HEAD: usize = 256;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which traffic.
    pub scenario: Scenario,
    /// Sessions that are hit at random; in [`Scenario::NewSession`], sessions to make.
    pub sessions: usize,
    /// Bytes of a frame, without its checksum; ignored in [`Scenario::Imix`].
    pub packet_bytes: usize,
    /// Packets given to the engine at once, at most [`BATCH`].
    pub batch: usize,
    /// For how long.
    pub seconds: f64,
    /// Where random numbers come from.
    pub seed: u64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Which traffic.
    pub scenario: &'static str,
    /// Sessions that were hit.
    pub sessions: usize,
    /// Bytes of a frame, as an average.
    pub packet_bytes: usize,
    /// Packets given to the engine at once.
    pub batch: usize,
    /// Workers at the same time.
    pub workers: usize,
    /// Packets in all.
    pub packets: u64,
    /// Seconds that the engine took.
    pub seconds: f64,
    /// Million packets a second.
    pub mpps: f64,
    /// Gigabits of Ethernet frames a second.
    pub gbps: f64,
    /// Cycles of the time stamp counter a packet; zero where its rate is not known.
    pub cycles_per_packet: f64,
    /// Nanoseconds a packet.
    pub ns_per_packet: f64,
    /// Bytes of all tables for each session that they have room for.
    pub bytes_per_session: f64,
}

/// Runs one plan on one worker.
///
/// # Errors
/// The kernel's, when it gives no memory; an error that says so when traffic was not translated as it should be.
pub fn run(plan: &Plan) -> io::Result<Measured> {
    let batch = plan.batch.clamp(1, BATCH);
    let mut bed = Bed::new(plan)?;
    let mut frames = Frames::new(plan, Rng::from_seed(plan.seed));
    let mut memory: HugeSlice<u8> = HugeSlice::zeroed(RING * BUFFER)?;
    let mut out = Output::default();
    let clock = Clock::start();
    if plan.scenario != Scenario::NewSession {
        warm_up(&mut bed, &mut frames, &mut out)?;
    }
    let before = *bed.engine.counters();

    let mut total = Total::default();
    let limit = (plan.scenario == Scenario::NewSession).then_some(plan.sessions);
    // The last ring of new sessions must fit.
    let limit = limit.map(|limit| limit.saturating_sub(RING - 1));
    while total.nanos < (plan.seconds * 1e9) as u64
        && limit.is_none_or(|limit| (total.packets as usize) < limit)
    {
        let mut lens = [(0u16, PortIndex(0)); RING];
        for (n, (buffer, len)) in memory.chunks_exact_mut(BUFFER).zip(&mut lens).enumerate() {
            frames.answers = n / batch % 2 == 1;
            *len = frames.write_next(buffer.get_mut(HEAD..).unwrap_or_default());
        }
        let now = bed.now(&clock);
        let start = clock.now();
        process_ring(&mut bed, &mut memory, &lens, batch, now, &mut out);
        total.nanos += clock.now().since(start).as_nanos() as u64;
        total.packets += RING as u64;
        total.bytes += lens.iter().map(|(len, _)| u64::from(*len)).sum::<u64>();
    }
    check(plan, &before, bed.engine.counters(), total.packets)?;
    Ok(total.measured(plan, batch, bed.bytes_per_session()))
}

/// Makes the sessions, and learns their external endpoints.
fn warm_up(bed: &mut Bed, frames: &mut Frames, out: &mut Output) -> io::Result<()> {
    let mut external = Vec::new();
    let mut buffer = vec![0; BUFFER];
    let now = Moment::from_secs(1);
    for flow in 0..frames.flows() {
        let (len, port) = frames.write(flow, false, 60, buffer.get_mut(HEAD..).unwrap_or_default());
        let packet = Packet::new(&mut buffer, HEAD, usize::from(len), port, Checksum::Unverified);
        bed.engine.process(&mut [packet], &bed.snapshot, now, out);
        if !matches!(out.verdicts.first(), Some(Verdict::Send { .. })) {
            return Err(io::Error::other(format!("flow {flow} made no session: {:?}", out.verdicts.first())));
        }
        // SNAT: what it was sent with is what it is answered to.
        external.push((get_u32(&buffer, HEAD + 26), get_u16(&buffer, HEAD + 34 + frames.port_at())));
    }
    if frames.has_answers() {
        frames.external = external;
    }
    Ok(())
}

/// Takes all frames off the ring, batch by batch.
fn process_ring(
    bed: &mut Bed,
    memory: &mut [u8],
    lens: &[(u16, PortIndex); RING],
    batch: usize,
    now: Moment,
    out: &mut Output,
) {
    for (memory, lens) in memory.chunks_mut(batch * BUFFER).zip(lens.chunks(batch)) {
        let mut packets = arrayvec::ArrayVec::<Packet<'_>, BATCH>::new();
        for (buffer, (len, port)) in memory.chunks_exact_mut(BUFFER).zip(lens) {
            packets.push(Packet::new(buffer, HEAD, usize::from(*len), *port, Checksum::Unverified));
        }
        bed.engine.process(&mut packets, &bed.snapshot, now, out);
    }
}

#[derive(Default)]
struct Total {
    packets: u64,
    nanos: u64,
    bytes: u64,
}

impl Total {
    fn measured(&self, plan: &Plan, batch: usize, bytes_per_session: f64) -> Measured {
        let seconds = self.nanos as f64 / 1e9;
        let packets = self.packets as f64;
        Measured {
            scenario: plan.scenario.name(),
            sessions: plan.sessions,
            packet_bytes: (self.bytes / self.packets.max(1)) as usize,
            batch,
            workers: 1,
            packets: self.packets,
            seconds,
            mpps: packets / seconds / 1e6,
            gbps: self.bytes as f64 * 8.0 / seconds / 1e9,
            cycles_per_packet: clock::tsc_hertz().map_or(0.0, |hertz| seconds * hertz / packets),
            ns_per_packet: self.nanos as f64 / packets,
            bytes_per_session,
        }
    }
}

/// A benchmark that measures drops measures nothing.
fn check(plan: &Plan, before: &Counters, after: &Counters, packets: u64) -> io::Result<()> {
    let forwarded = after.forwarded - before.forwarded;
    if forwarded == packets && after.balance() == 0 {
        return Ok(());
    }
    let reasons = crate::base::DropReason::ALL.iter().zip(after.drops.iter().zip(&before.drops));
    let drops: Vec<String> = reasons
        .filter(|(_, (after, before))| after > before)
        .map(|(reason, (after, before))| format!("{} {reason}", after - before))
        .collect();
    Err(io::Error::other(format!(
        "{}: of {packets} packets {forwarded} were forwarded; drops: {}",
        plan.scenario.name(),
        drops.join(", ")
    )))
}
