//! What changes of entries cost the packets: times of the engine's batches without changes, beside changes of a configuration that
//! the worker does not see (what another busy core costs it by the caches that they share), and under changes, in turns; and how
//! long a change takes from its making to the worker that works with it.
//!
//! Arguments, all optional: changes a second (10000), DNAT entries that are there (100000), sessions (65536).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hdrhistogram::Histogram;
use natgate::base::time::Clock;
use natgate::base::{Checksum, EipIndex, EntryId, GatewayIndex, InterfaceIndex, PortIndex, Rng, VpcIndex};
use natgate::nat::{BATCH, Output, Verdict};
use natgate::policy::{Edit, Eip, Host, HostForward, PortForward, Snapshot, Timeouts};
use natgate::speed::frames::Frames;
use natgate::speed::setup::{Bed, POOL, eip_address, host_address};
use natgate::speed::{Plan, Scenario};
use natgate::wire::{Packet, protocol};
use natgate::worker::publish::GAP;

const BUFFER: usize = 2048;
const HEAD: usize = 256;
const ROUNDS: usize = 8;
const ROUND: Duration = Duration::from_millis(500);
/// Time between two publications: changes that come in between go together.
const GROUP: Duration = GAP;
/// Entries on one EIP.
const ON_ONE: u32 = 50;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let (rate, entries, sessions) = (next(10_000)?, next(100_000)?, next(65_536)?);
    // As in a gateway: the worker has its core, and whoever changes entries another one.
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let pin_to = |core: usize| cores.get(core).map(|core| core_affinity::set_for_current(*core));
    pin_to(0);

    let plan = Plan { scenario: Scenario::Snat, sessions: sessions as usize, ..Plan::default() };
    let mut bed = Bed::new(&plan, 1)?;
    let mut edit = bed.snapshot.edit();
    (0..entries).step_by(ON_ONE as usize).for_each(|first| put(&mut edit, first, 80));
    bed.snapshot = edit.finish();
    let mut worker = Worker {
        frames: Frames::new(&plan, Rng::from_seed(1)),
        memory: vec![0; BATCH * BUFFER],
        out: Output::default(),
        clock: Clock::start(),
        bed,
    };
    for first in (0..sessions).step_by(BATCH) {
        worker.batch(Some(first))?;
    }

    let published = ArcSwap::from(Arc::clone(&worker.bed.snapshot));
    let made_at = AtomicU64::new(0);
    let unseen = ArcSwap::from(Arc::clone(&worker.bed.snapshot));
    let (mut quiet, mut shared) = (Histogram::new(3)?, Histogram::new(3)?);
    let mut beside = Beside { all: Histogram::new(3)?, first: Histogram::new(3)?, delay: Histogram::new(3)? };
    let mut changes = 0;
    for _ in 0..ROUNDS {
        worker.run(&mut quiet)?;
        for (configuration, is_seen) in [(&unseen, false), (&published, true)] {
            let (stop, clock, before) = (AtomicBool::new(false), worker.clock, changes);
            std::thread::scope(|scope| {
                let changer = scope.spawn(|| {
                    pin_to(1);
                    change(configuration, &made_at, &stop, clock, before, (rate, entries))
                });
                let ran = if is_seen {
                    worker.run_beside(&published, &mut beside, &made_at)
                } else {
                    worker.run(&mut shared)
                };
                stop.store(true, Ordering::Relaxed);
                changes = changer.join().unwrap_or(before);
                ran
            })?;
        }
    }
    let of = |times: &Histogram<u64>| {
        let [p50, p99] = [0.5, 0.99].map(|q| times.value_at_quantile(q) as f64 / 1e3);
        format!("p50 {p50:.2} us, p99 {p99:.2} us")
    };
    let seconds = 2.0 * ROUND.as_secs_f64() * ROUNDS as f64;
    println!("{entries} DNAT entries, {sessions} SNAT sessions, batches of {BATCH}");
    println!("without changes:              {}", of(&quiet));
    println!("beside changes of another's:  {}", of(&shared));
    println!("under {:7.0} changes a second: {}", f64::from(changes) / seconds, of(&beside.all));
    let share = beside.first.len() as f64 / beside.all.len() as f64;
    println!("first ones under a new configuration, {:.2} % of them: {}", share * 100.0, of(&beside.first));
    println!("from a change to the worker: {}", of(&beside.delay));
    Ok(())
}

/// A worker with nothing but its engine.
struct Worker {
    bed: Bed,
    frames: Frames,
    memory: Vec<u8>,
    out: Output,
    clock: Clock,
}

impl Worker {
    /// One batch, of flows from a number on or at random; gives the nanoseconds that it took.
    fn batch(&mut self, first: Option<u32>) -> Result<u64, Error> {
        let mut lens = [(0, PortIndex(0)); BATCH];
        for (n, (buffer, len)) in (0..).zip(self.memory.chunks_exact_mut(BUFFER).zip(&mut lens)) {
            let frame = &mut buffer[HEAD..];
            *len = match first {
                Some(first) => self.frames.write(first + n, false, 60, frame),
                None => self.frames.write_next(frame),
            };
        }
        let buffers = self.memory.chunks_exact_mut(BUFFER).zip(lens);
        let mut packets: Vec<_> = buffers
            .map(|(buffer, (len, port))| Packet::new(buffer, HEAD, len.into(), port, Checksum::Unverified))
            .collect();
        let now = self.clock.now();
        self.bed.confirm_neighbours(now, &mut self.out);
        let start = self.clock.now();
        self.bed.engine.process(&mut packets, &self.bed.snapshot, now, &mut self.out);
        let nanos = self.clock.now().since(start).as_nanos() as u64;
        let sent = self.out.verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Send { .. })).count();
        if sent == BATCH { Ok(nanos) } else { Err("packets were dropped".into()) }
    }

    /// Batches for a round.
    fn run(&mut self, times: &mut Histogram<u64>) -> Result<(), Error> {
        let end = self.clock.now() + ROUND;
        while self.clock.now() < end {
            times.record(self.batch(None)?)?;
        }
        Ok(())
    }

    /// Batches for a round, under whatever is published.
    fn run_beside(
        &mut self,
        published: &ArcSwap<Snapshot>,
        times: &mut Beside,
        made_at: &AtomicU64,
    ) -> Result<(), Error> {
        let end = self.clock.now() + ROUND;
        while self.clock.now() < end {
            let now_in_force = published.load();
            let is_new = now_in_force.generation() != self.bed.snapshot.generation();
            if is_new {
                self.bed.snapshot = Arc::clone(&now_in_force);
                times.delay.record(self.clock.now().0.saturating_sub(made_at.load(Ordering::Relaxed)))?;
            }
            drop(now_in_force);
            let took = self.batch(None)?;
            times.all.record(took)?;
            if is_new {
                times.first.record(took)?;
            }
        }
        Ok(())
    }
}

/// Nanoseconds, beside changes.
struct Beside {
    /// Of batches.
    all: Histogram<u64>,
    /// Of those that are the first ones under a new configuration.
    first: Histogram<u64>,
    /// From a change to the worker that works with it.
    delay: Histogram<u64>,
}

/// Changes entries at a rate until it is to stop, each to another private port, one EIP after the other; gives how many were changed
/// with those before.
fn change(
    published: &ArcSwap<Snapshot>,
    made_at: &AtomicU64,
    stop: &AtomicBool,
    clock: Clock,
    mut done: u32,
    (rate, entries): (u32, u32),
) -> u32 {
    let each = (f64::from(rate) * GROUP.as_secs_f64()).ceil() as u32;
    let eips = entries.div_ceil(ON_ONE).max(1);
    let mut due = clock.now();
    // As in a gateway: whoever changes entries frees what no worker sees any more.
    let mut replaced = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut edit = published.load().edit();
        for n in done..done + each {
            put(&mut edit, n % eips * ON_ONE, 81 + (n / eips) as u16 % 2);
        }
        made_at.store(clock.now().0, Ordering::Relaxed);
        replaced.push(published.swap(edit.finish()));
        replaced.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        done += each;
        due = due + GROUP;
        std::thread::sleep(due.since(clock.now()));
    }
    done
}

/// The EIP of entries from `first` on, whose first one leads to a private port.
fn put(edit: &mut Edit, first: u32, private: u16) {
    let index = EipIndex(POOL as u32 + first / ON_ONE);
    let mut eip = Eip::new(index, eip_address(index.0), InterfaceIndex(0));
    eip.gateway = Some(GatewayIndex(0));
    let timeouts = Timeouts::RFC;
    let forwards = (first..first + ON_ONE).map(|n| PortForward {
        id: EntryId(n),
        protocol: protocol::TCP,
        first: 8000 + (n - first) as u16,
        last: 8000 + (n - first) as u16,
        vpc: VpcIndex(0),
        host: host_address(2_000_000 + n),
        host_first: if n == first { private } else { 80 },
        timeouts,
    });
    let forwards: Vec<_> = forwards.collect();
    for forward in forwards.iter().take(if private == 80 { forwards.len() } else { 1 }) {
        let back = HostForward {
            id: forward.id,
            protocol: forward.protocol,
            first: forward.host_first,
            last: forward.host_first,
            eip: index,
            address: eip.address,
            public_first: forward.first,
            timeouts,
        };
        edit.put_host(VpcIndex(0), forward.host, Some(Host::new(None, vec![back])));
    }
    eip.set_forwards(forwards);
    edit.put_eip(eip);
}
