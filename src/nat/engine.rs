//! The engine of one worker, and the way of a batch through it.
//!
//! ```text
//! parse ----> probe ----> decide, packet by packet, in order
//! headers,    the index   +- a session:     hit      -> check, count, rewrite        (flow.rs)
//! key, hash,  bucket;     +- none:          miss     -> an entry? make a session     (inward.rs, outward.rs)
//! prefetch    prefetch    +- ARP, echo to itself:    -> answer                       (local.rs)
//! the bucket  the session +- ICMP error:             -> translate what it quotes     (icmp_error.rs)
//!                         +- fragment:               -> by its datagram's first one  (fragments.rs)
//! ```
//!
//! Each stage runs over the whole batch before the next begins, so that the cache misses of all packets overlap.

use std::io;

use arrayvec::ArrayVec;
use rtrb::Producer;

use crate::base::hugepage::Pages;
use crate::base::{Checksum, DropReason, Generation, InterfaceIndex, Moment, Rng, Tick, WorkerIndex};
use crate::nat::capture::Capture;
use crate::nat::events::{Ending, Event, Events};
use crate::nat::ftp::Ftp;
use crate::nat::half_open::HalfOpen;
use crate::nat::hosts::{HostKey, Hosts};
use crate::nat::identification::Identifications;
use crate::nat::key::Hasher;
use crate::nat::kill::Resets;
use crate::nat::lane::{Ingress, Lane, Next};
use crate::nat::local::{Announcer, ErrorBudget};
use crate::nat::mappings::Mappings;
use crate::nat::neighbours::{Adjacency, Neighbours};
use crate::nat::ports::blocks::PortBlocks;
use crate::nat::ports::{Distributions, Ports};
use crate::nat::prospect::Prospect;
use crate::nat::reassembly::Fragments;
use crate::nat::review::Doubt;
use crate::nat::session::Session;
use crate::nat::stage::{Observer, Stage};
use crate::nat::table::SessionTable;
use crate::nat::talkers::Talkers;
use crate::nat::tcp;
use crate::nat::trace::Trace;
use crate::nat::usage::Usages;
use crate::nat::{BATCH, Counters, NeighbourFact, Output, Verdict};
use crate::policy::{Realm, Snapshot, Touched};
use crate::wire::ethernet::{self, Link};
use crate::wire::{Arrival, Packet, Transport, rewrite};

/// What an engine is made with. Nothing in it changes while it lives.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The worker it belongs to.
    pub worker: WorkerIndex,
    /// Number of workers, at least one: ports and private hosts are divided among them.
    pub workers: u16,
    /// Sessions that it has room for.
    pub sessions: usize,
    /// Neighbours that it has room for.
    pub neighbours: usize,
    /// EIPs in SNAT pools that it has room for. Memory is touched only for those in use.
    pub snat_eips: usize,
    /// How ports distribute what they receive, where that is known: external ports are chosen so that answers come to this
    /// worker's queue. Empty where that is of no use.
    pub distributions: Distributions,
    /// Where its random numbers come from.
    pub rng: Rng,
}

/// The engine of one worker: sessions, ports, neighbours, counters. It does no I/O and reads no clock.
#[derive(Debug)]
pub struct Engine {
    pub(super) worker: WorkerIndex,
    pub(super) workers: u16,
    pub(super) sessions: SessionTable,
    pub(super) half_open: HalfOpen,
    pub(super) mappings: Mappings,
    pub(super) hosts: Hosts,
    pub(super) ftp: Ftp,
    pub(super) ports: Ports,
    pub(super) port_blocks: PortBlocks,
    pub(super) fragments: Fragments,
    pub(super) identifications: Identifications,
    pub(super) neighbours: Neighbours,
    pub(super) counters: Counters,
    pub(super) usages: Usages,
    pub(super) talkers: Talkers,
    pub(super) errors: ErrorBudget,
    pub(super) trace: Trace,
    pub(super) capture: Option<Box<Capture>>,
    pub(super) events: Events,
    announcer: Announcer,
    pub(super) doubt: Doubt,
    pub(super) resets: Resets,
    /// One lane a packet; taken out while a batch is processed.
    lanes: Vec<Lane>,
    /// What the packets of a batch that may make SNAT sessions will need.
    pub(super) prospects: Box<ArrayVec<Prospect, BATCH>>,
    generation: Generation,
    topology: Generation,
}

/// What is the same for all packets of a batch.
pub(super) struct Context<'a> {
    pub snapshot: &'a Snapshot,
    pub now: Moment,
    pub tick: Tick,
    pub out: &'a mut Output,
    /// Whether any EIP has a bandwidth limit.
    pub is_limited: bool,
    /// The next hop that was looked up last, with its interface and address: many new flows share one.
    pub last_way: Option<(Adjacency, (InterfaceIndex, u32))>,
}

impl<'a> Context<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, now: Moment, out: &'a mut Output) -> Self {
        let is_limited = snapshot.has_limiters();
        Self { snapshot, now, tick: now.tick(), out, is_limited, last_way: None }
    }
}

/// Session slots that one batch looks at for expiry, and sessions that it ends at the most.
const SWEEP_SLOTS: usize = 4096;
const SWEEP_ENDS: usize = 64;

impl Engine {
    /// An engine with all its memory.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(config: EngineConfig) -> io::Result<Self> {
        let EngineConfig { worker, workers, sessions, neighbours, snat_eips, distributions, mut rng } =
            config;
        let workers = workers.max(1);
        let hasher = Hasher::new(&mut rng);
        Ok(Self {
            worker,
            workers,
            sessions: SessionTable::new(sessions, hasher)?,
            half_open: HalfOpen::new(sessions)?,
            mappings: Mappings::new(sessions, hasher)?,
            hosts: Hosts::new(sessions, hasher)?,
            ftp: Ftp::new(sessions)?,
            identifications: Identifications::new(worker, workers, &mut rng),
            ports: Ports::new(snat_eips, worker, workers, distributions, rng)?,
            port_blocks: PortBlocks::new(snat_eips)?,
            fragments: Fragments::new(hasher),
            neighbours: Neighbours::new(neighbours, hasher)?,
            counters: Counters::default(),
            usages: Usages::new()?,
            talkers: Talkers::default(),
            errors: ErrorBudget::default(),
            trace: Trace::default(),
            capture: None,
            events: Events::default(),
            announcer: Announcer::default(),
            doubt: Doubt::default(),
            resets: Resets::new(),
            lanes: vec![Lane::default(); BATCH],
            prospects: Box::default(),
            generation: Generation(0),
            topology: Generation(0),
        })
    }

    /// Decides what becomes of each packet of a batch (at most [`BATCH`]) and rewrites it.
    ///
    /// `out` is cleared first and then holds one verdict a packet, frames to send besides, and facts for the other
    /// workers. An empty batch is welcome: timers run all the same.
    pub fn process(&mut self, batch: &mut [Packet<'_>], snapshot: &Snapshot, now: Moment, out: &mut Output) {
        self.process_observed(batch, snapshot, now, out, &mut ());
    }

    /// The same, with somebody who is told after each stage.
    #[inline(always)]
    pub fn process_observed(
        &mut self,
        batch: &mut [Packet<'_>],
        snapshot: &Snapshot,
        now: Moment,
        out: &mut Output,
        observer: &mut impl Observer,
    ) {
        out.clear();
        let cx = &mut Context::new(snapshot, now, out);
        self.follow(cx);
        self.events.at(now);

        let mut all = std::mem::take(&mut self.lanes);
        let lanes = all.get_mut(..batch.len()).unwrap_or_default();
        self.parse_batch(batch, lanes, snapshot);
        observer.passed(Stage::Parse);
        if self.probe_batch(lanes) > 0 {
            self.prefetch_misses(lanes, snapshot);
        }
        observer.passed(Stage::Probe);
        if self.trace.is_armed() || self.capture.is_some() {
            self.decide_batch_traced(batch, lanes, cx);
        } else {
            self.decide_batch(batch, lanes, cx);
        }
        self.lanes = all;
        observer.passed(Stage::Decide);
        self.housekeeping(cx, batch.is_empty());
        if self.capture.is_some() {
            self.capture_emissions(cx.out, now);
        }
        observer.passed(Stage::Timers);
    }

    // Each stage is a function by itself, so that what its loop needs stays in registers.

    /// First stage: headers, keys, and the index buckets on their way.
    #[inline(never)]
    fn parse_batch(&mut self, batch: &mut [Packet<'_>], lanes: &mut [Lane], snapshot: &Snapshot) {
        let mut ingress = Ingress::default();
        // Most are from a port: those that are not are taken out again one by one.
        self.counters.received += lanes.len() as u64;
        for (packet, lane) in batch.iter_mut().zip(lanes) {
            lane.frame = packet.head as u16;
            lane.arrival = packet.arrival;
            let parsed = if packet.arrival == Arrival::Wire {
                self.parse::<true>(packet, snapshot, &mut ingress, lane)
            } else {
                self.parse_again(packet, snapshot, &mut ingress, lane)
            };
            lane.next = parsed.unwrap_or_else(Next::Drop);
        }
    }

    /// Second stage: the slots where the sessions probably are, and these on their way. Says how many have none.
    #[inline(never)]
    fn probe_batch(&self, lanes: &mut [Lane]) -> usize {
        let mut misses = 0;
        for lane in lanes {
            lane.candidate = self.sessions.prefetch_session(lane.hash);
            lane.prospect = Lane::NO_PROSPECT;
            misses += usize::from(lane.candidate == SessionTable::NO_SLOT);
        }
        misses
    }

    /// Third stage: what becomes of each packet.
    #[inline(never)]
    fn decide_batch(&mut self, batch: &mut [Packet<'_>], lanes: &[Lane], cx: &mut Context<'_>) {
        for (packet, lane) in batch.iter_mut().zip(lanes) {
            let is_plain = lane.next == Next::Plain;
            let sent = if is_plain { self.fast(packet, lane, lane.candidate, cx) } else { None };
            let verdict = match sent {
                Some(sent) => {
                    self.counters.forwarded += 1;
                    sent
                }
                None => self.decide_and_count(packet, lane, cx),
            };
            // The caller's batch is no longer than the list of verdicts.
            let _ = cx.out.verdicts.try_push(verdict);
        }
    }

    /// The same while somebody traces: nothing takes the fast path.
    #[cold]
    fn decide_batch_traced(&mut self, batch: &mut [Packet<'_>], lanes: &[Lane], cx: &mut Context<'_>) {
        for (packet, lane) in batch.iter_mut().zip(lanes) {
            let verdict = self.decide_traced(packet, lane, cx);
            self.count(verdict);
            let _ = cx.out.verdicts.try_push(verdict);
        }
    }

    /// A packet that another worker received: parsed as any other, and counted otherwise.
    #[cold]
    fn parse_again(
        &mut self,
        packet: &mut Packet<'_>,
        snapshot: &Snapshot,
        ingress: &mut Ingress,
        lane: &mut Lane,
    ) -> Result<Next, DropReason> {
        self.counters.received -= 1;
        self.counters.taken_over += 1;
        self.parse::<false>(packet, snapshot, ingress, lane)
    }

    /// One packet's headers, its key, and the index bucket on its way.
    #[inline(always)]
    fn parse<const FROM_WIRE: bool>(
        &self,
        packet: &mut Packet<'_>,
        snapshot: &Snapshot,
        ingress: &mut Ingress,
        lane: &mut Lane,
    ) -> Result<Next, DropReason> {
        let link = Link::parse(packet.frame())?;
        if !ingress.is_of(packet.port, link.vlan) {
            *ingress = Ingress::find(snapshot, packet.port, link.vlan).ok_or(DropReason::UnknownVlan)?;
        }
        lane.interface = ingress.interface;
        lane.is_group = link.destination != ingress.mac;
        if lane.is_group || link.ether_type != ethernet::IPV4 {
            return Self::parse_unusual(packet, lane);
        }
        let end = packet.head + packet.len;
        let bytes = packet.buffer.get_mut(..end).ok_or(DropReason::FrameTooShort)?;
        let datagram = &mut lane.datagram;
        datagram.parse_into(bytes, packet.head + link.len)?;
        match packet.checksum {
            Checksum::Unverified | Checksum::Verified => {}
            Checksum::Partial => rewrite::finish_checksum(bytes, datagram, true),
            Checksum::MaybePartial => rewrite::finish_checksum(bytes, datagram, false),
        }
        let is_turned = !FROM_WIRE && packet.arrival == Arrival::Hairpin;
        lane.tenant = if is_turned { Realm::Outside.tenant() } else { ingress.tenant };
        if !datagram.makes_flows() {
            return match datagram.transport {
                Transport::IcmpError => Ok(Next::IcmpError),
                Transport::LaterFragment => Ok(Next::LaterFragment),
                _ => Err(DropReason::IcmpType),
            };
        }
        let is_plain = !datagram.is_fragment() && !datagram.has_options() && datagram.ttl > 1 && !is_turned;
        lane.hash = self.sessions.hash(&lane.key());
        self.sessions.prefetch_bucket(lane.hash);
        Ok(if is_plain { Next::Plain } else { Next::Flow })
    }

    /// A frame that is not IPv4 to the interface's own Ethernet address.
    #[cold]
    fn parse_unusual(packet: &Packet<'_>, lane: &mut Lane) -> Result<Next, DropReason> {
        let link = Link::parse(packet.frame())?;
        if lane.is_group && !link.is_group() {
            return Err(DropReason::OtherStation);
        }
        let l3 = packet.head + link.len;
        match link.ether_type {
            ethernet::ARP => {
                lane.datagram.l3 = l3 as u16;
                Ok(Next::Arp)
            }
            ethernet::IPV4 => {
                let bytes = packet.buffer.get(..packet.head + packet.len).ok_or(DropReason::FrameTooShort)?;
                lane.datagram.parse_into(bytes, l3)?;
                Err(DropReason::LinkBroadcast)
            }
            _ => Err(DropReason::EtherType),
        }
    }

    /// What becomes of one packet that is not for the fast path.
    #[inline(never)]
    fn decide_and_count(&mut self, packet: &mut Packet<'_>, lane: &Lane, cx: &mut Context<'_>) -> Verdict {
        let verdict = self.decide(packet, lane, cx);
        self.count(verdict);
        verdict
    }

    /// The same, uncounted.
    pub(super) fn decide(&mut self, packet: &mut Packet<'_>, lane: &Lane, cx: &mut Context<'_>) -> Verdict {
        match lane.next {
            Next::Flow if lane.datagram.is_fragment() => self.first_fragment(packet, lane, cx),
            Next::Plain | Next::Flow => self.flow(packet, lane, cx),
            Next::Drop(reason) => Verdict::Drop(reason),
            Next::IcmpError => self.icmp_error(packet, lane, cx),
            Next::LaterFragment => self.later_fragment(packet, lane, cx),
            Next::Arp => self.arp(packet, lane, cx),
        }
    }

    pub(super) fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Send { .. } => self.counters.forwarded += 1,
            Verdict::Hand { .. } => self.counters.handed += 1,
            Verdict::Consumed => self.counters.consumed += 1,
            Verdict::Held => self.counters.held += 1,
            Verdict::Drop(reason) => self.counters.drop(reason),
        }
    }

    /// Takes note of a new configuration.
    pub(super) fn follow(&mut self, cx: &mut Context<'_>) {
        let generation = cx.snapshot.generation();
        if generation == self.generation {
            return;
        }
        if cx.snapshot.topology_changed() > self.topology || self.generation == Generation(0) {
            self.neighbours.follow(cx.snapshot, &mut self.counters);
            self.topology = cx.snapshot.topology_changed();
        }
        if !self.sessions.is_empty() {
            let (hosts, usages) = (&self.hosts, &self.usages);
            let has_sessions = |touched| match touched {
                Touched::Eip(index) => usages.may_have_sessions(index),
                Touched::Host(vpc, address) => {
                    let tenant = Realm::Vpc(vpc).tenant();
                    hosts.find(&hosts.hashed(HostKey { tenant, address })).is_some()
                }
            };
            self.doubt.follow(self.generation, cx.snapshot, has_sessions);
        }
        self.ports.reconfigured();
        self.generation = generation;
    }

    /// What time brings: expiry, review, ARP timers, announcements. Bounded work.
    fn housekeeping(&mut self, cx: &mut Context<'_>, is_idle: bool) {
        let mut budget = SWEEP_SLOTS;
        for _ in 0..SWEEP_ENDS {
            let Some(slot) = self.sessions.next_expired(cx.tick, &mut budget) else { break };
            let wants_resets =
                |session: &Session| session.is_reset_at_expiry() && tcp::is_established(session.tcp);
            if let Some(session) = self.sessions.session(slot).copied().filter(wants_resets) {
                self.reset_both(&session, cx);
            }
            self.close(slot, cx.snapshot, Ending::Expired);
        }
        self.stop_expecting(cx.tick);
        self.review(cx.snapshot, is_idle);
        self.send_resets(cx);
        self.events.settle();
        self.fragments.tick(cx.tick, &mut self.counters);
        self.neighbours.tick(cx.tick, cx.out, &mut self.counters);
        if self.worker == WorkerIndex(0) {
            self.announcer.tick(cx, &mut self.counters);
        }
    }

    /// Takes over what another worker learned of a neighbour.
    pub fn learn(&mut self, fact: NeighbourFact, snapshot: &Snapshot, now: Moment, out: &mut Output) {
        out.clear();
        let cx = &mut Context::new(snapshot, now, out);
        self.follow(cx);
        self.neighbours.learn(fact, true, cx.tick, cx.out, &mut self.counters);
        if self.capture.is_some() {
            self.capture_emissions(cx.out, now);
        }
    }

    /// From now on tells of sessions that begin and end.
    pub fn tell(&mut self, ring: Producer<Event>) {
        self.events.start(ring);
    }

    /// From now on tells somebody who watches of sessions that begin and end, or nobody any more; gives back the ring before.
    pub fn watch(&mut self, ring: Option<Producer<Event>>) -> Option<Producer<Event>> {
        self.events.watch(ring)
    }

    /// Counts a frame that the engine had given the verdict to send or to hand over, and that found no room.
    pub fn undo(&mut self, verdict: Verdict, reason: DropReason) {
        match verdict {
            Verdict::Send { .. } => self.counters.forwarded -= 1,
            Verdict::Hand { .. } => self.counters.handed -= 1,
            Verdict::Consumed | Verdict::Held | Verdict::Drop(_) => return,
        }
        self.counters.drop(reason);
    }

    /// Its counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Memory of all its tables that grow with sessions or EIPs. It asks the kernel which pages are in use, so it is
    /// not for a worker at work.
    pub fn memory(&self) -> Memory {
        Memory {
            sessions: self.sessions.bytes(),
            peers: self.sessions.peers_in_use(),
            half_open: self.half_open.bytes_in_use(),
            mappings: self.mappings.bytes(),
            hosts: self.hosts.bytes(),
            ports: self.ports.bytes_in_use() + self.port_blocks.bytes_in_use(),
            usages: self.usages.bytes_in_use(),
        }
    }

    /// Sizes and occupancy of its tables.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            sessions: self.sessions.len(),
            session_capacity: self.sessions.capacity(),
            mappings: self.mappings.len(),
            hosts: self.hosts.len(),
            neighbours: self.neighbours.len(),
            bytes: self.sessions.bytes() + self.mappings.bytes() + self.hosts.bytes(),
            pages: self.sessions.pages(),
        }
    }
}

/// Memory of an engine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Sessions, their records and deadlines, and the index over both directions.
    pub sessions: usize,
    /// The index of sessions by mapping and peer, as far as it is in use.
    pub peers: usize,
    /// The list of half-open TCP connections, as far as it is in use.
    pub half_open: usize,
    /// Mappings and their index.
    pub mappings: usize,
    /// Private hosts and their index.
    pub hosts: usize,
    /// External ports, and blocks of them, of the EIPs in use.
    pub ports: usize,
    /// What gateways, EIPs and entries have carried, as far as there are any.
    pub usages: usize,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> usize {
        let Self { sessions, peers, half_open, mappings, hosts, ports, usages } = self;
        sessions + peers + half_open + mappings + hosts + ports + usages
    }
}

/// Sizes and occupancy of an engine's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Sessions.
    pub sessions: usize,
    /// Sessions that there is room for.
    pub session_capacity: usize,
    /// Endpoint-independent mappings.
    pub mappings: usize,
    /// Private hosts with SNAT sessions.
    pub hosts: usize,
    /// Neighbours, known or asked for.
    pub neighbours: usize,
    /// Bytes of the tables of sessions, mappings and hosts.
    pub bytes: usize,
    /// The pages under the session table.
    pub pages: Pages,
}
