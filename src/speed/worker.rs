//! One worker of the benchmark: writes frames into its ring, and takes them off it in batches on its engine.

use std::io;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::base::hugepage::HugeSlice;
use crate::base::time::Clock;
use crate::base::{Checksum, DropReason, Moment, PortIndex, Rng};
use crate::nat::stage::Observer;
use crate::nat::{BATCH, Counters, Output, Verdict};
use crate::speed::frames::Frames;
use crate::speed::misses::Misses;
use crate::speed::setup::Bed;
use crate::speed::stages::{StageTimer, StageTimes};
use crate::speed::{FCS, Plan, RING, Scenario};
use crate::wire::Packet;
use crate::wire::bytes::{get_u16, get_u32};

/// Bytes of a buffer.
const BUFFER: usize = 2048;
/// Where a frame begins in its buffer.
const HEAD: usize = 256;

/// A length and the port it comes in on, for each frame of the ring.
type Lens = [(u16, PortIndex); RING];

/// What one worker did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    /// Packets.
    pub packets: u64,
    /// Nanoseconds that the engine took for them.
    pub nanos: u64,
    /// Bytes of their frames, checksums included.
    pub bytes: u64,
    /// Nanoseconds by stage, if that was asked for.
    pub stages: StageTimes,
    /// Cache misses, where the machine counts them.
    pub misses: Option<u64>,
    /// Bytes of all tables for each session that they have room for.
    pub bytes_per_session: f64,
}

/// A worker with its engine and its ring.
#[derive(Debug)]
pub struct Worker {
    plan: Plan,
    bed: Bed,
    frames: Frames,
    memory: HugeSlice<u8>,
    lens: Box<Lens>,
    out: Output,
    clock: Clock,
    /// How far the engine's time is ahead of the clock, so that sessions can be let expire.
    ahead: Duration,
}

impl Worker {
    /// A worker for a plan, with all sessions that the plan wants to be there.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory; an error that says so when a packet makes no session.
    pub fn new(plan: &Plan, seed: u64) -> io::Result<Self> {
        let mut worker = Self {
            plan: plan.clone(),
            bed: Bed::new(plan, seed)?,
            frames: Frames::new(plan, Rng::from_seed(seed)),
            memory: HugeSlice::zeroed(RING * BUFFER)?,
            lens: Box::new([(0, PortIndex(0)); RING]),
            out: Output::default(),
            clock: Clock::start(),
            ahead: Duration::ZERO,
        };
        if plan.scenario == Scenario::NewSession {
            // Memory that the measurement uses again is touched here.
            let mut total = Total::default();
            while (total.packets as usize) < worker.bed.new_sessions() {
                worker.ring(&mut total, &mut ());
            }
            worker.expire()?;
        } else {
            worker.make_sessions()?;
        }
        Ok(worker)
    }

    fn now(&self) -> Moment {
        self.clock.now() + self.ahead
    }

    /// Makes the sessions, and learns their external endpoints.
    fn make_sessions(&mut self) -> io::Result<()> {
        let mut external = Vec::new();
        let mut buffer = vec![0; BUFFER];
        for flow in 0..self.frames.flows() {
            let now = self.now();
            let (len, port) = self.frames.write(flow, false, 60, buffer.get_mut(HEAD..).unwrap_or_default());
            let packet = Packet::new(&mut buffer, HEAD, usize::from(len), port, Checksum::Unverified);
            self.bed.engine.process(&mut [packet], &self.bed.snapshot, now, &mut self.out);
            let verdict = self.out.verdicts.first();
            if !matches!(verdict, Some(Verdict::Send { .. })) {
                return Err(io::Error::other(format!("flow {flow} made no session: {verdict:?}")));
            }
            // SNAT: what it was sent with is what it is answered to.
            external.push((get_u32(&buffer, HEAD + 26), get_u16(&buffer, HEAD + 34 + self.frames.port_at())));
        }
        if self.frames.has_answers() {
            self.frames.external = external;
        }
        Ok(())
    }

    /// Lets all sessions expire, by time.
    fn expire(&mut self) -> io::Result<()> {
        self.ahead += Duration::from_hours(48);
        // A call ends a bounded number of sessions.
        for _ in 0..self.bed.engine.occupancy().sessions + 1000 {
            if self.bed.engine.occupancy().sessions == 0 {
                self.frames.restart();
                return Ok(());
            }
            self.ahead += Duration::from_millis(100);
            let now = self.now();
            self.bed.engine.process(&mut [], &self.bed.snapshot, now, &mut self.out);
        }
        Err(io::Error::other("sessions did not expire"))
    }

    /// Measures for as long as the plan says.
    ///
    /// # Errors
    /// When traffic was not translated as it should be.
    pub fn measure(&mut self) -> io::Result<Total> {
        let before = *self.bed.engine.counters();
        let limit = (self.plan.scenario == Scenario::NewSession).then(|| self.bed.new_sessions() as u64);
        let mut timer = self.plan.stages.then(|| StageTimer::new(self.clock));
        let mut misses = Misses::of_this_thread();
        let mut total = Total::default();
        while total.nanos < (self.plan.seconds * 1e9) as u64 {
            if limit.is_some_and(|limit| total.packets > 0 && total.packets % limit == 0) {
                self.expire()?;
            }
            match &mut timer {
                Some(timer) => self.ring(&mut total, &mut Observed { timer, misses: &mut misses }),
                None => self.ring(&mut total, &mut misses),
            }
        }
        self.check(&before, total.packets)?;
        total.stages = timer.map(|timer| timer.times()).unwrap_or_default();
        total.misses = misses.count();
        total.bytes_per_session = self.bed.bytes_per_session();
        Ok(total)
    }

    /// Fills the ring, and then takes all frames off it, batch by batch.
    fn ring(&mut self, total: &mut Total, watch: &mut impl Watch) {
        let batch = self.plan.batch.clamp(1, BATCH);
        for (n, (buffer, len)) in self.memory.chunks_exact_mut(BUFFER).zip(self.lens.iter_mut()).enumerate() {
            self.frames.answers = n / batch % 2 == 1;
            *len = self.frames.write_next(buffer.get_mut(HEAD..).unwrap_or_default());
        }
        let now = self.now();
        self.bed.confirm_neighbours(now, &mut self.out);
        watch.begin();
        let start = self.clock.now();
        for (memory, lens) in self.memory.chunks_mut(batch * BUFFER).zip(self.lens.chunks(batch)) {
            let mut packets = ArrayVec::<Packet<'_>, BATCH>::new();
            for (buffer, (len, port)) in memory.chunks_exact_mut(BUFFER).zip(lens) {
                packets.push(Packet::new(buffer, HEAD, usize::from(*len), *port, Checksum::Unverified));
            }
            watch.process(&mut self.bed, &mut packets, now, &mut self.out);
        }
        let nanos = self.clock.now().since(start).as_nanos() as u64;
        watch.end();
        total.nanos += nanos;
        total.packets += RING as u64;
        total.bytes += self.lens.iter().map(|(len, _)| u64::from(*len) + FCS as u64).sum::<u64>();
    }

    /// A benchmark that measures drops measures nothing.
    fn check(&self, before: &Counters, packets: u64) -> io::Result<()> {
        let after = self.bed.engine.counters();
        let forwarded = after.forwarded - before.forwarded;
        if forwarded == packets && after.balance() == 0 {
            return Ok(());
        }
        let reasons = DropReason::ALL.iter().zip(after.drops.iter().zip(&before.drops));
        let drops: Vec<String> = reasons
            .filter(|(_, (after, before))| after > before)
            .map(|(reason, (after, before))| format!("{} {reason}", after - before))
            .collect();
        Err(io::Error::other(format!(
            "{}: of {packets} packets {forwarded} were forwarded; drops: {}",
            self.plan.scenario.name(),
            drops.join(", ")
        )))
    }
}

/// What is watched beside the time of a whole ring.
trait Watch {
    /// The ring is full.
    fn begin(&mut self) {}

    /// One batch.
    fn process(&mut self, bed: &mut Bed, batch: &mut [Packet<'_>], now: Moment, out: &mut Output);

    /// The ring is empty.
    fn end(&mut self) {}
}

impl Watch for () {
    fn process(&mut self, bed: &mut Bed, batch: &mut [Packet<'_>], now: Moment, out: &mut Output) {
        bed.engine.process(batch, &bed.snapshot, now, out);
    }
}

impl Watch for Misses {
    fn begin(&mut self) {
        self.enable();
    }

    #[inline(always)]
    fn process(&mut self, bed: &mut Bed, batch: &mut [Packet<'_>], now: Moment, out: &mut Output) {
        bed.engine.process(batch, &bed.snapshot, now, out);
    }

    fn end(&mut self) {
        self.disable();
    }
}

/// Stages, too.
struct Observed<'a> {
    timer: &'a mut StageTimer,
    misses: &'a mut Misses,
}

impl Watch for Observed<'_> {
    fn begin(&mut self) {
        self.misses.enable();
    }

    fn process(&mut self, bed: &mut Bed, batch: &mut [Packet<'_>], now: Moment, out: &mut Output) {
        self.timer.restart();
        observe(bed, batch, now, out, self.timer);
    }

    fn end(&mut self) {
        self.misses.disable();
    }
}

#[inline(never)]
fn observe(
    bed: &mut Bed,
    batch: &mut [Packet<'_>],
    now: Moment,
    out: &mut Output,
    observer: &mut impl Observer,
) {
    bed.engine.process_observed(batch, &bed.snapshot, now, out, observer);
}
