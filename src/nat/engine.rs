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

use rtrb::Producer;

use crate::base::hugepage::Pages;
use crate::base::{Checksum, DropReason, Generation, InterfaceIndex, Moment, Rng, Tick, WorkerIndex};
use crate::nat::events::{Ending, Event, Events};
use crate::nat::hosts::Hosts;
use crate::nat::identification::Identifications;
use crate::nat::key::Hasher;
use crate::nat::lane::{Ingress, Lane, Next};
use crate::nat::local::{Announcer, ErrorBudget};
use crate::nat::mappings::Mappings;
use crate::nat::neighbours::{Adjacency, Neighbours};
use crate::nat::ports::Ports;
use crate::nat::reassembly::Fragments;
use crate::nat::review::Review;
use crate::nat::stage::{Observer, Stage};
use crate::nat::table::SessionTable;
use crate::nat::trace::Trace;
use crate::nat::{BATCH, Counters, NeighbourFact, Output, Verdict};
use crate::policy::{Realm, Snapshot};
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
    /// Where its random numbers come from.
    pub rng: Rng,
}

/// The engine of one worker: sessions, ports, neighbours, counters. It does no I/O and reads no clock.
#[derive(Debug)]
pub struct Engine {
    pub(super) worker: WorkerIndex,
    pub(super) workers: u16,
    pub(super) sessions: SessionTable,
    pub(super) mappings: Mappings,
    pub(super) hosts: Hosts,
    pub(super) ports: Ports,
    pub(super) fragments: Fragments,
    pub(super) identifications: Identifications,
    pub(super) neighbours: Neighbours,
    pub(super) counters: Counters,
    pub(super) errors: ErrorBudget,
    pub(super) trace: Trace,
    pub(super) events: Events,
    announcer: Announcer,
    pub(super) review: Review,
    /// One lane a packet; taken out while a batch is processed.
    lanes: Vec<Lane>,
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
    fn new(snapshot: &'a Snapshot, now: Moment, out: &'a mut Output) -> Self {
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
        let EngineConfig { worker, workers, sessions, neighbours, snat_eips, mut rng } = config;
        let workers = workers.max(1);
        let hasher = Hasher::new(&mut rng);
        Ok(Self {
            worker,
            workers,
            sessions: SessionTable::new(sessions, hasher)?,
            mappings: Mappings::new(sessions, hasher)?,
            hosts: Hosts::new(sessions, hasher)?,
            identifications: Identifications::new(worker, workers, &mut rng),
            ports: Ports::new(snat_eips, worker, workers, rng)?,
            fragments: Fragments::new(hasher),
            neighbours: Neighbours::new(neighbours, hasher)?,
            counters: Counters::default(),
            errors: ErrorBudget::default(),
            trace: Trace::default(),
            events: Events::default(),
            announcer: Announcer::default(),
            review: Review::default(),
            lanes: vec![Lane::default(); BATCH],
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

        let mut lanes = std::mem::take(&mut self.lanes);
        let mut ingress = Ingress::default();
        // Most are from a port: those that are not are taken out again one by one.
        self.counters.received += batch.len().min(lanes.len()) as u64;
        for (packet, lane) in batch.iter_mut().zip(&mut lanes) {
            self.parse(packet, snapshot, &mut ingress, lane);
        }
        observer.passed(Stage::Parse);
        let mut misses = 0;
        for lane in lanes.iter_mut().take(batch.len()) {
            lane.candidate = self.sessions.prefetch_session(lane.hash);
            lane.offer = None;
            misses += usize::from(lane.candidate == SessionTable::NO_SLOT);
        }
        if misses > 0 {
            self.prefetch_misses(lanes.get_mut(..batch.len()).unwrap_or_default(), snapshot);
        }
        observer.passed(Stage::Probe);
        let is_traced = self.trace.is_armed();
        for (packet, lane) in batch.iter_mut().zip(&lanes) {
            let verdict = if !is_traced
                && lane.next == Next::Flow
                && let Some(sent) = self.fast(packet, lane, cx)
            {
                self.counters.forwarded += 1;
                sent
            } else {
                let verdict = if is_traced {
                    self.decide_traced(packet, lane, cx)
                } else {
                    self.decide(packet, lane, cx)
                };
                self.count(verdict);
                verdict
            };
            // The caller's batch is no longer than the list of verdicts.
            let _ = cx.out.verdicts.try_push(verdict);
        }
        self.lanes = lanes;
        observer.passed(Stage::Decide);
        self.housekeeping(cx);
        observer.passed(Stage::Timers);
    }

    /// First stage: one packet's headers, its key, and the index bucket on its way.
    #[inline(always)]
    fn parse(
        &mut self,
        packet: &mut Packet<'_>,
        snapshot: &Snapshot,
        ingress: &mut Ingress,
        lane: &mut Lane,
    ) {
        if packet.arrival != Arrival::Wire {
            self.counters.received -= 1;
            self.counters.taken_over += 1;
        }
        lane.frame = packet.head as u16;
        lane.arrival = packet.arrival;
        lane.next = match self.parse_frame(packet, snapshot, ingress, lane) {
            Ok(next) => next,
            Err(reason) => Next::Drop(reason),
        };
    }

    #[inline(always)]
    fn parse_frame(
        &mut self,
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
            return Self::parse_unusual(packet, link, lane);
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
        let outside = Realm::Outside.tenant();
        let tenant = if packet.arrival == Arrival::Hairpin { outside } else { ingress.tenant };
        lane.tenant = tenant;
        if !datagram.makes_flows() {
            return match datagram.transport {
                Transport::IcmpError => Ok(Next::IcmpError),
                Transport::LaterFragment => Ok(Next::LaterFragment),
                _ => Err(DropReason::IcmpType),
            };
        }
        lane.hash = self.sessions.hash(&lane.key());
        self.sessions.prefetch_bucket(lane.hash);
        Ok(Next::Flow)
    }

    /// A frame that is not IPv4 to the interface's own Ethernet address.
    #[cold]
    fn parse_unusual(packet: &Packet<'_>, link: Link, lane: &mut Lane) -> Result<Next, DropReason> {
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

    /// Last stage: what becomes of one packet that is not for the fast path.
    #[inline(never)]
    pub(super) fn decide(&mut self, packet: &mut Packet<'_>, lane: &Lane, cx: &mut Context<'_>) -> Verdict {
        match lane.next {
            Next::Flow if lane.datagram.is_fragment() => self.first_fragment(packet, lane, cx),
            Next::Flow => self.flow(packet, lane, cx),
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
    fn follow(&mut self, cx: &mut Context<'_>) {
        let generation = cx.snapshot.generation();
        if generation == self.generation {
            return;
        }
        if cx.snapshot.topology_changed() > self.topology || self.generation == Generation(0) {
            self.neighbours.follow(cx.snapshot, &mut self.counters);
            self.topology = cx.snapshot.topology_changed();
        }
        self.generation = generation;
    }

    /// What time brings: expiry, review, ARP timers, announcements. Bounded work.
    fn housekeeping(&mut self, cx: &mut Context<'_>) {
        let mut budget = SWEEP_SLOTS;
        for _ in 0..SWEEP_ENDS {
            let Some(slot) = self.sessions.next_expired(cx.tick, &mut budget) else { break };
            self.close(slot, cx.snapshot, Ending::Expired);
        }
        self.review(cx.snapshot);
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
    }

    /// From now on tells of sessions that begin and end.
    pub fn tell(&mut self, ring: Producer<Event>) {
        self.events.start(ring);
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
            mappings: self.mappings.bytes(),
            hosts: self.hosts.bytes(),
            ports: self.ports.bytes_in_use(),
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
    /// Mappings and their index.
    pub mappings: usize,
    /// Private hosts and their index.
    pub hosts: usize,
    /// External ports of the EIPs in use.
    pub ports: usize,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.sessions + self.peers + self.mappings + self.hosts + self.ports
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
