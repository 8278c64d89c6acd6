//! One worker: its turn is the whole packet path, run to completion.
//!
//! ```text
//!            +- rings from other workers -+                       +-> tx burst of each port -> transmit
//! one turn:  |                            +-> batch -> Engine --- +-> ring to the session's owner
//!            +- each port's receive queue +                       +-> back to the pool
//! ```
//!
//! Nothing in a turn allocates, locks, logs or formats, and there is no system call but those of the ports.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::base::prefetch::prefetch;
use crate::base::{Checksum, DropReason, Generation, Moment, PortIndex, WorkerIndex};
use crate::nat::{BATCH, Emission, Exit, Output, Verdict};
use crate::nic::{BURST, Burst, Cache, Frame};
use crate::policy::Snapshot;
use crate::wire::{Arrival, Packet};
use crate::worker::desk::Desk;
use crate::worker::handoff::Links;
use crate::worker::idle::{BLIND_NAP, NAP};
use crate::worker::mailbox::Command;
use crate::worker::mailbox::Letter;
use crate::worker::port::{Core, Origin, WorkerPort};
use crate::worker::process::Process;
use crate::worker::publish::Reader;
use crate::worker::stats::{PERIOD, WorkerTotals};

const _: () = assert!(BURST == BATCH, "a burst is presented to the engine as one batch");

/// The engine's timers run at least so often, traffic or not.
const TIMERS: Duration = Duration::from_millis(1);
/// Facts about neighbours that a turn takes over at most.
const FACTS: usize = 32;
/// The queues' own counters cost a system call: they are read every so many periods.
const DEVICE_PERIODS: u32 = 10;

/// One worker.
#[derive(Debug)]
pub(super) struct Worker<E> {
    pub(super) index: WorkerIndex,
    pub(super) desk: Arc<Desk>,
    pub(super) path: Path<E>,
    reader: Reader,
    /// The command in work.
    letter: Option<Letter>,
    acknowledged: Option<Generation>,
    last_turn: Option<Moment>,
    last_busy: bool,
    next_report: Moment,
    periods: u32,
}

impl<E: Process> Worker<E> {
    pub(super) fn new(index: WorkerIndex, desk: Arc<Desk>, reader: Reader, path: Path<E>) -> Self {
        Self {
            index,
            desk,
            path,
            reader,
            letter: None,
            acknowledged: None,
            last_turn: None,
            last_busy: false,
            next_report: Moment::default(),
            periods: 0,
        }
    }

    /// One turn: takes what waits in the rings and, if `receive`, in the ports' queues, and brings it to its end. Says
    /// whether there was anything to do.
    pub(super) fn turn(&mut self, now: Moment, receive: bool) -> bool {
        self.account(now);
        let snapshot = self.reader.load();
        if self.acknowledged != Some(snapshot.generation()) {
            self.acknowledged = Some(snapshot.generation());
            self.desk.acknowledge(snapshot.generation());
        }
        let mut busy = self.path.turn(snapshot, now, receive);
        if self.letter.is_some() || !self.desk.mailbox.is_empty() {
            busy = true;
            self.letter = self.letter.take().or_else(|| self.desk.mailbox.take()).and_then(|mut letter| {
                if !self.path.answer(&mut letter.command, snapshot, now) {
                    return Some(letter);
                }
                self.desk.mailbox.reply(letter);
                None
            });
        }
        self.last_busy = busy;
        if now >= self.next_report {
            self.next_report = now + PERIOD;
            self.periods = self.periods.wrapping_add(1);
            self.path.look_around(self.periods.is_multiple_of(DEVICE_PERIODS));
            self.desk.finish(!busy && self.path.is_finished());
            self.report();
        }
        busy
    }

    /// Counts the time since the last turn by what that turn found.
    fn account(&mut self, now: Moment) {
        if let Some(last) = self.last_turn.replace(now) {
            let passed = now.since(last).as_nanos() as u64;
            let activity = &mut self.path.core.activity;
            if self.last_busy {
                activity.busy_turns += 1;
                activity.busy_nanos += passed;
            } else {
                activity.idle_turns += 1;
                activity.idle_nanos += passed;
            }
        }
    }

    /// The configuration that is in force.
    pub(super) fn snapshot(&mut self) -> Arc<Snapshot> {
        Arc::clone(self.reader.load())
    }

    /// Forgets what was in work.
    pub(super) fn forget(&mut self) {
        (self.letter, self.acknowledged, self.last_turn) = (None, None, None);
    }

    /// Copies the counters to where management reads them.
    pub(super) fn report(&self) {
        let Core { engine, activity, .. } = &self.path.core;
        self.desk.board.write(engine.counters(), activity, self.path.ports.iter().map(|port| &port.totals));
    }

    /// Sleeps until there is something to do, or for a short while.
    pub(super) fn sleep(&mut self) {
        self.path.core.activity.sleeps += 1;
        self.report();
        let (path, reader, desk) = (&self.path, &mut self.reader, &self.desk);
        let acknowledged = self.acknowledged;
        let queues = || path.ports.iter().map(|port| port.queue.wait_fd());
        let most = if queues().all(|fd| fd.is_some()) { NAP } else { BLIND_NAP };
        desk.doorbell.sleep(queues().flatten(), most, || {
            desk.stopping()
                || !path.links.is_quiet()
                || !desk.mailbox.is_empty()
                || Some(reader.load().generation()) != acknowledged
        });
    }

    /// A copy of all counters as they are now.
    pub(super) fn totals(&self) -> WorkerTotals {
        WorkerTotals {
            counters: *self.path.core.engine.counters(),
            activity: self.path.core.activity,
            ports: self.path.ports.iter().map(|port| port.totals).collect(),
        }
    }
}

/// The packet path of one worker.
#[derive(Debug)]
pub(super) struct Path<E> {
    pub(super) core: Core<E>,
    pub(super) ports: Vec<WorkerPort>,
    pub(super) links: Links,
    burst: Burst,
    /// How the frames of the burst came, where that is not from a port.
    arrivals: ArrayVec<Arrival, BURST>,
    out: Output,
    last_batch: Moment,
}

impl<E: Process> Path<E> {
    pub(super) fn new(core: Core<E>, ports: Vec<WorkerPort>, links: Links) -> Self {
        Self {
            core,
            ports,
            links,
            burst: Burst::new(),
            arrivals: ArrayVec::new(),
            out: Output::default(),
            last_batch: Moment::default(),
        }
    }

    fn turn(&mut self, snapshot: &Snapshot, now: Moment, receive: bool) -> bool {
        let mut busy = false;
        for _ in 0..FACTS {
            let Some(fact) = self.links.fact() else { break };
            busy = true;
            self.core.engine.learn(fact, snapshot, now, &mut self.out);
            self.emit();
        }
        // What others have handed over is older than what waits in the queues.
        self.links.take(&mut self.burst, &mut self.arrivals);
        busy |= self.batch(snapshot, now);
        self.arrivals.clear();
        for index in 0..self.ports.len() {
            if receive {
                self.ports[index].receive(&mut self.core.cache, &mut self.burst);
                busy |= self.batch(snapshot, now);
            }
        }
        if !busy && now.since(self.last_batch) >= TIMERS {
            self.process(snapshot, now);
            self.emit();
        }
        for port in self.ports.iter_mut().filter(|port| port.is_waiting()) {
            port.flush(&mut self.core);
        }
        if self.core.cache.is_empty() {
            self.reclaim();
        }
        busy
    }

    /// Brings the frames of the burst to their end; says whether there were any.
    #[inline]
    fn batch(&mut self, snapshot: &Snapshot, now: Moment) -> bool {
        if self.burst.is_empty() {
            return false;
        }
        self.core.activity.batch(self.burst.len());
        self.process(snapshot, now);
        self.settle();
        self.emit();
        for &fact in &self.out.facts {
            self.core.activity.facts_lost += self.links.tell(fact);
        }
        self.links.call();
        true
    }

    /// Puts the burst before the engine.
    #[inline]
    fn process(&mut self, snapshot: &Snapshot, now: Moment) {
        self.last_batch = now;
        let mut packets = ArrayVec::<Packet<'_>, BATCH>::new();
        for (n, frame) in self.burst.iter_mut().enumerate() {
            let (head, len, port, checksum) = (frame.head(), frame.len(), frame.port, frame.checksum);
            let arrival = self.arrivals.get(n).copied().unwrap_or_default();
            let packet = Packet::new(frame.slot_bytes_mut(), head, len, port, checksum).arrived(arrival);
            if let Some(first) = packet.frame().first() {
                prefetch(first);
            }
            packets.push(packet);
        }
        self.core.engine.process(&mut packets, snapshot, now, &mut self.out);
    }

    /// Applies the verdicts.
    #[inline]
    fn settle(&mut self) {
        let Self { core, ports, links, burst, arrivals, out, .. } = self;
        for (n, mut frame) in burst.drain(..).enumerate() {
            match out.verdicts.get(n) {
                Some(&Verdict::Send { port, head, len }) => {
                    frame.set_bounds(usize::from(head), usize::from(len));
                    if let Some(port) = ports.get_mut(port.index()) {
                        port.send(frame, Origin::Forwarded, core);
                    } else {
                        core.lose(port, frame.len(), Origin::Forwarded, DropReason::NoRoute);
                        core.cache.give(frame);
                    }
                }
                Some(&Verdict::Hand { to, arrival }) => {
                    // What was unfinished is finished: the owner must not do it again.
                    frame.checksum = Checksum::Unverified;
                    let before = arrivals.get(n).copied().unwrap_or_default();
                    let refused = if links.reaches(to) && steps(arrival) > steps(before) {
                        links.hand(to, frame, arrival).map_err(|frame| (frame, DropReason::HandoffFull))
                    } else {
                        Err((frame, DropReason::HairpinLoop))
                    };
                    if let Err((frame, reason)) = refused {
                        core.engine.undo(Verdict::Hand { to, arrival }, reason);
                        core.cache.give(frame);
                    }
                }
                Some(Verdict::Consumed | Verdict::Held | Verdict::Drop(_)) | None => core.cache.give(frame),
            }
        }
    }

    /// Sends the frames that the engine puts out besides those of the burst, or hands them over.
    #[inline]
    fn emit(&mut self) {
        for (Emission { port, exit, .. }, bytes) in self.out.emissions() {
            let origin = match exit {
                Exit::Own => Origin::Own,
                Exit::Forwarded => Origin::Forwarded,
                Exit::Handed { to, arrival } => {
                    let lost = match filled(&mut self.core.cache, bytes) {
                        Some(mut frame) => {
                            frame.port = port;
                            let refused = self.links.hand(to, frame, arrival).err();
                            refused.map(|frame| {
                                self.core.cache.give(frame);
                                DropReason::HandoffFull
                            })
                        }
                        None => Some(DropReason::NoBuffer),
                    };
                    if let Some(reason) = lost {
                        self.core.engine.undo(Verdict::Hand { to, arrival }, reason);
                    }
                    continue;
                }
            };
            let Some(to) = self.ports.get_mut(port.index()) else {
                self.core.lose(port, bytes.len(), origin, DropReason::NoRoute);
                continue;
            };
            match filled(&mut self.core.cache, bytes) {
                Some(frame) => to.send(frame, origin, &mut self.core),
                None => self.core.lose(port, bytes.len(), origin, DropReason::NoBuffer),
            }
        }
    }

    /// Does a piece of the work on a command.
    fn answer(&mut self, command: &mut Command, snapshot: &Snapshot, now: Moment) -> bool {
        self.out.clear();
        let is_done = self.core.engine.answer(command, snapshot, now, &mut self.out);
        self.emit();
        is_done
    }

    /// Gives back the frames that are in hand.
    pub(super) fn let_go(&mut self) {
        let Self { core, ports, burst, arrivals, out, .. } = self;
        burst.drain(..).for_each(|frame| core.cache.give(frame));
        arrivals.clear();
        out.clear();
        for port in ports {
            port.let_go(&mut core.cache, &mut core.activity);
        }
    }

    /// Refreshes what is measured at moments and not counted.
    fn look_around(&mut self, devices: bool) {
        self.reclaim();
        let waiting = self.links.waiting() as u64;
        let activity = &mut self.core.activity;
        activity.waiting = waiting;
        activity.waiting_most = activity.waiting_most.max(waiting);
        activity.free_slots = self.core.cache.len() as u64;
        if devices {
            self.ports.iter_mut().for_each(WorkerPort::count);
        }
    }

    /// Whether nothing will ever be received again, and nothing waits.
    pub(super) fn is_finished(&self) -> bool {
        self.links.is_quiet() && self.ports.iter().all(|port| port.queue.finished())
    }

    /// Takes back buffers of frames that have left.
    fn reclaim(&mut self) {
        for port in &mut self.ports {
            port.reclaim(&mut self.core.cache);
        }
    }

    /// Closes all queues after a last attempt to send what waits; says which could not be left as they were found.
    pub(super) fn close(&mut self) -> Vec<(PortIndex, io::Error)> {
        let mut failed = Vec::new();
        for (index, port) in self.ports.iter_mut().enumerate() {
            port.flush(&mut self.core);
            port.count();
            if let Err(error) = port.queue.close(&mut self.core.cache) {
                failed.push((PortIndex(index as u16), error));
            }
        }
        failed
    }
}

/// A packet is handed over at most to where the fragments of its datagram meet, from there to its session's owner, and
/// from there to the owner of the EIP that it turns round at: each arrival is a step further, none is made twice, so no packet goes in circles.
const fn steps(arrival: Arrival) -> u8 {
    match arrival {
        Arrival::Wire => 0,
        Arrival::Fragment => 1,
        Arrival::Handed => 2,
        Arrival::Hairpin => 3,
    }
}

/// A frame with these bytes, or none: no buffer is free, or none is large enough.
#[inline]
fn filled(cache: &mut Cache, bytes: &[u8]) -> Option<Frame> {
    let mut frame = cache.take()?;
    if frame.fill(bytes) {
        return Some(frame);
    }
    cache.give(frame);
    None
}
