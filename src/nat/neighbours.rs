//! Neighbours: the Ethernet addresses of next hops, and the packets that wait for one (RFC 826, RFC 1122 §2.3.2).
//!
//! A session keeps an [`Adjacency`]: the number of a [`NextHop`], which is a finished link header. A slot that is freed and
//! used again gets a new number, so an old one is noticed and resolved anew.

use std::io;
use std::time::Duration;

use arrayvec::ArrayVec;
use zerocopy::FromZeros;

use crate::base::hugepage::HugeSlice;
use crate::base::{DropReason, InterfaceIndex, PortIndex, Tick};
use crate::nat::index::Index;
use crate::nat::key::Hasher;
use crate::nat::{Counters, Exit, NeighbourFact, Output};
use crate::policy::{Interface, Snapshot};
use crate::wire::arp::Arp;
use crate::wire::bytes::put;
use crate::wire::ethernet::{self, LinkHeader};

/// After this time without a sign of life a neighbour is asked whether it is still there.
const CONFIRM: u32 = Tick::ticks(Duration::from_secs(30));
/// Between two questions.
const RETRY: u32 = Tick::ticks(Duration::from_secs(1));
/// Questions without an answer before a neighbour counts as gone.
const TRIES: u8 = 3;
/// How long an address that does not answer is not asked again.
const SILENCE: u32 = Tick::ticks(Duration::from_secs(3));
/// Packets that may wait for one neighbour (RFC 1122 §2.3.2.2: at least one): a first window of TCP (RFC 6928) and
/// some more.
const WAITING_EACH: usize = 16;
/// The same while half of the room is taken, so that silent neighbours leave some for others.
const WAITING_EACH_CROWDED: usize = 4;
/// Packets that may wait in all.
const WAITING: usize = 256;
/// The largest packet that may wait.
const WAITING_BYTES: usize = 9216;
/// Slots that one batch looks at.
const SWEEP: usize = 64;

/// The number of a next hop: 20 bits of slot and 12 bits of version. Zero is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
#[repr(transparent)]
pub struct Adjacency(u32);

impl Adjacency {
    /// Not resolved.
    pub const NONE: Self = Self(0);
    /// Back inside: the packet turns round in the gateway (RFC 4787 REQ-9).
    pub const HAIRPIN: Self = Self(u32::MAX);

    const SLOT_BITS: u32 = 20;
    /// The most slots there can be.
    const MAX_SLOTS: usize = (1 << Self::SLOT_BITS) - 1;

    const fn slot(self) -> usize {
        (self.0 & ((1 << Self::SLOT_BITS) - 1)) as usize
    }

    const fn of_slot(slot: usize) -> Self {
        Self(1 << Self::SLOT_BITS | slot as u32)
    }

    /// The next version of the same slot; never zero.
    const fn next(self) -> Self {
        let next = self.0.wrapping_add(1 << Self::SLOT_BITS);
        if next >> Self::SLOT_BITS == 0 { Self::of_slot(self.slot()) } else { Self(next) }
    }
}

/// A finished link header and where it leads: what the fast path needs to send.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(32))]
pub struct NextHop {
    /// Its present number.
    number: Adjacency,
    /// The header at the end of the room for the longest one, so that it can be copied at a fixed length.
    header: LinkHeader,
    header_len: u8,
    /// Whether the Ethernet address is known.
    is_ready: u8,
    port: u16,
    mtu: u16,
}

impl NextHop {
    /// The link header.
    #[inline(always)]
    pub fn header(&self) -> &[u8] {
        self.header.get(self.header.len() - usize::from(self.header_len)..).unwrap_or_default()
    }

    /// The link header at the end of room for the longest one, and its length.
    #[inline(always)]
    pub fn padded_header(&self) -> (&LinkHeader, u16) {
        (&self.header, u16::from(self.header_len))
    }

    /// The port to leave by.
    #[inline(always)]
    pub fn port(&self) -> PortIndex {
        PortIndex(self.port)
    }

    /// Largest IP packet in bytes.
    #[inline(always)]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// Asked, not answered yet.
    Incomplete,
    Reachable,
    /// Reachable, but not heard of for a while and asked again.
    Probing,
    /// Did not answer.
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Neighbour {
    interface: InterfaceIndex,
    address: u32,
    mac: [u8; 6],
    state: State,
    tries: u8,
    /// When the state was entered, or the last question was asked.
    since: Tick,
    next_free: u32,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    number: Adjacency,
    buffer: u16,
    len: u16,
}

/// The neighbours of one worker.
#[derive(Debug)]
pub struct Neighbours {
    next_hops: HugeSlice<NextHop>,
    rows: Vec<Neighbour>,
    index: Index,
    hasher: Hasher,
    free: u32,
    len: usize,
    /// Slots below this have been used at some time.
    used: usize,
    swept: usize,
    sweep_due: usize,
    sweep_until: Tick,
    waiting: ArrayVec<Waiting, WAITING>,
    buffers: Vec<u8>,
    free_buffers: ArrayVec<u16, WAITING>,
    /// The interfaces as they were when the headers were built.
    interfaces: ArrayVec<Interface, 256>,
}

const NO_SLOT: u32 = u32::MAX;

impl Neighbours {
    /// Room for `capacity` neighbours.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(capacity: usize, hasher: Hasher) -> io::Result<Self> {
        let capacity = capacity.clamp(1, Adjacency::MAX_SLOTS);
        let mut next_hops = HugeSlice::<NextHop>::zeroed(capacity)?;
        for (slot, next_hop) in next_hops.iter_mut().enumerate() {
            next_hop.number = Adjacency::of_slot(slot);
        }
        Ok(Self {
            next_hops,
            rows: Vec::with_capacity(capacity),
            index: Index::new(capacity)?,
            hasher,
            free: NO_SLOT,
            len: 0,
            used: 0,
            swept: 0,
            sweep_due: 0,
            sweep_until: Tick(0),
            waiting: ArrayVec::new(),
            buffers: vec![0; WAITING * WAITING_BYTES],
            free_buffers: (0..WAITING as u16).collect(),
            interfaces: ArrayVec::new(),
        })
    }

    /// The interface by which a number leads.
    pub fn interface(&self, number: Adjacency) -> Option<&Interface> {
        self.interfaces.get(self.rows.get(number.slot())?.interface.index())
    }

    /// Number of neighbours, known or asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Packets that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Starts to load a next hop.
    #[inline(always)]
    pub fn prefetch(&self, number: Adjacency) {
        if let Some(next_hop) = self.next_hops.get(number.slot()) {
            crate::base::prefetch::prefetch(next_hop);
        }
    }

    /// The next hop of a number, if it is still that and its Ethernet address is known.
    #[inline(always)]
    pub fn ready(&self, number: Adjacency) -> Option<&NextHop> {
        let next_hop = self.next_hops.get(number.slot())?;
        (next_hop.number == number && next_hop.is_ready != 0).then_some(next_hop)
    }

    /// Whether a number still stands for what it was given out for.
    pub fn is_current(&self, number: Adjacency) -> bool {
        self.next_hops.get(number.slot()).is_some_and(|n| n.number == number) && number != Adjacency::NONE
    }

    /// The largest packet that a next hop takes, known or not.
    pub fn mtu(&self, number: Adjacency) -> u16 {
        self.next_hops.get(number.slot()).map_or(0, |n| n.mtu)
    }

    fn find(&self, interface: InterfaceIndex, address: u32) -> Option<usize> {
        let hash = self.hasher.address(interface.0, address);
        let slot = self.index.find(hash, |slot| {
            self.rows
                .get(slot as usize)
                .is_some_and(|n| n.interface == interface && n.address == address && n.state != State::Free)
        })?;
        Some(slot as usize)
    }

    /// The Ethernet address of a neighbour, if it is known.
    pub fn mac_of(&self, interface: InterfaceIndex, address: u32) -> Option<[u8; 6]> {
        let slot = self.find(interface, address)?;
        self.next_hops.get(slot).filter(|next_hop| next_hop.is_ready != 0)?;
        self.rows.get(slot).map(|row| row.mac)
    }

    /// The number of a next hop, which is made (and asked for) if it is new. `None` when there is no room.
    pub fn resolve(
        &mut self,
        interface: InterfaceIndex,
        address: u32,
        now: Tick,
        out: &mut Output,
        counters: &mut Counters,
    ) -> Option<Adjacency> {
        let slot = match self.find(interface, address) {
            Some(slot) => slot,
            None => {
                let slot = self.make(interface, address, now)?;
                self.ask(slot, now, out, counters);
                slot
            }
        };
        self.next_hops.get(slot).map(|n| n.number)
    }

    fn make(&mut self, interface: InterfaceIndex, address: u32, now: Tick) -> Option<usize> {
        let settings = self.interfaces.get(interface.index())?;
        let (port, mtu) = (settings.port.0, settings.mtu);
        let fresh = self.free == NO_SLOT;
        let slot = if fresh { self.rows.len() } else { self.free as usize };
        if slot >= self.next_hops.len() {
            return None;
        }
        if !self.index.insert(self.hasher.address(interface.0, address), slot as u32) {
            return None;
        }
        let neighbour = Neighbour {
            interface,
            address,
            mac: [0; 6],
            state: State::Incomplete,
            tries: 0,
            since: now,
            next_free: NO_SLOT,
        };
        if fresh {
            self.rows.push(neighbour);
            self.used = self.rows.len();
        } else {
            self.free = self.rows[slot].next_free;
            self.rows[slot] = neighbour;
        }
        let next_hop = &mut self.next_hops[slot];
        next_hop.is_ready = 0;
        next_hop.port = port;
        next_hop.mtu = mtu;
        self.len += 1;
        Some(slot)
    }

    fn remove(&mut self, slot: usize, counters: &mut Counters) {
        self.drop_waiting(slot, counters);
        let Some(neighbour) = self.rows.get_mut(slot) else { return };
        self.index.remove(self.hasher.address(neighbour.interface.0, neighbour.address), slot as u32);
        neighbour.state = State::Free;
        neighbour.next_free = self.free;
        self.free = slot as u32;
        let next_hop = &mut self.next_hops[slot];
        next_hop.number = next_hop.number.next();
        next_hop.is_ready = 0;
        self.len -= 1;
    }

    /// Sends one ARP request: to the neighbour itself while its address is known, else to all.
    fn ask(&mut self, slot: usize, now: Tick, out: &mut Output, counters: &mut Counters) {
        let Some(neighbour) = self.rows.get_mut(slot) else { return };
        let Some(interface) = self.interfaces.get(neighbour.interface.index()) else { return };
        neighbour.tries += 1;
        neighbour.since = now;
        let known = neighbour.state == State::Probing;
        let destination = if known { neighbour.mac } else { ethernet::BROADCAST };
        let request = Arp {
            is_request: true,
            sender_mac: interface.mac,
            sender: interface.address,
            target_mac: [0; 6],
            target: neighbour.address,
        };
        emit_arp(&request, destination, interface, out, counters);
    }

    /// Learns the Ethernet address of a neighbour that spoke: one that is known already, or with `make` also a new one.
    /// Says whether there is something to tell the other workers. What waited for it is emitted.
    pub fn learn(
        &mut self,
        fact: NeighbourFact,
        make: bool,
        now: Tick,
        out: &mut Output,
        counters: &mut Counters,
    ) -> bool {
        let slot = match self.find(fact.interface, fact.address) {
            Some(slot) => slot,
            None if make => match self.make(fact.interface, fact.address, now) {
                Some(slot) => slot,
                None => return false,
            },
            None => return false,
        };
        let Some(neighbour) = self.rows.get_mut(slot) else { return false };
        let changed = neighbour.mac != fact.mac;
        neighbour.mac = fact.mac;
        neighbour.state = State::Reachable;
        neighbour.tries = 0;
        neighbour.since = now;
        if let (Some(interface), Some(next_hop)) =
            (self.interfaces.get(fact.interface.index()), self.next_hops.get_mut(slot))
            && (changed || next_hop.is_ready == 0)
        {
            let (header, len) = ethernet::header(fact.mac, interface.mac, interface.vlan, ethernet::IPV4);
            next_hop.header = header;
            next_hop.header.rotate_right(header.len() - len);
            next_hop.header_len = len as u8;
            next_hop.is_ready = 1;
        }
        self.release_waiting(slot, out, counters);
        true
    }

    /// Keeps a copy of an IP packet until its next hop is known.
    ///
    /// # Errors
    /// The reason to drop it: the neighbour does not answer, or too many wait.
    pub fn hold(&mut self, number: Adjacency, packet: &[u8]) -> Result<(), DropReason> {
        let neighbour = self.rows.get(number.slot()).ok_or(DropReason::NeighbourUnresolved)?;
        if neighbour.state != State::Incomplete {
            return Err(DropReason::NeighbourUnresolved);
        }
        let each = self.waiting.iter().filter(|w| w.number == number).count();
        let most = if self.waiting.len() < WAITING / 2 { WAITING_EACH } else { WAITING_EACH_CROWDED };
        if each >= most || packet.len() > WAITING_BYTES {
            return Err(DropReason::NeighbourQueueFull);
        }
        let buffer = self.free_buffers.pop().ok_or(DropReason::NeighbourQueueFull)?;
        put(&mut self.buffers, usize::from(buffer) * WAITING_BYTES, packet);
        let waiting = Waiting { number, buffer, len: packet.len() as u16 };
        if self.waiting.try_push(waiting).is_err() {
            let _ = self.free_buffers.try_push(buffer);
            return Err(DropReason::NeighbourQueueFull);
        }
        Ok(())
    }

    fn release_waiting(&mut self, slot: usize, out: &mut Output, counters: &mut Counters) {
        let Some(next_hop) = self.next_hops.get(slot).copied() else { return };
        let mut at = 0;
        while let Some(waiting) = self.waiting.get(at).copied() {
            if waiting.number.slot() != slot {
                at += 1;
                continue;
            }
            self.waiting.remove(at);
            let _ = self.free_buffers.try_push(waiting.buffer);
            let start = usize::from(waiting.buffer) * WAITING_BYTES;
            let packet = self.buffers.get(start..start + usize::from(waiting.len)).unwrap_or_default();
            counters.held -= 1;
            let header = next_hop.header();
            match out.emit(next_hop.port(), header.len() + packet.len(), Exit::Forwarded) {
                Some(frame) => {
                    put(frame, 0, header);
                    put(frame, header.len(), packet);
                    counters.forwarded += 1;
                }
                None => counters.drop(DropReason::NoBuffer),
            }
        }
    }

    fn drop_waiting(&mut self, slot: usize, counters: &mut Counters) {
        let free_buffers = &mut self.free_buffers;
        self.waiting.retain(|waiting| {
            let goes = waiting.number.slot() == slot;
            if goes {
                let _ = free_buffers.try_push(waiting.buffer);
                counters.held -= 1;
                counters.drop(DropReason::NeighbourUnresolved);
            }
            !goes
        });
    }

    /// Takes over changed interfaces: neighbours on an interface that is no more what it was are forgotten.
    pub fn follow(&mut self, snapshot: &Snapshot, counters: &mut Counters) {
        let interfaces = &snapshot.topology().interfaces;
        for slot in 0..self.used {
            let Neighbour { interface, state, .. } = self.rows[slot];
            let same = self.interfaces.get(interface.index()) == interfaces.get(interface.index());
            if state != State::Free && !same {
                self.remove(slot, counters);
            }
        }
        self.interfaces = interfaces.iter().take(self.interfaces.capacity()).cloned().collect();
    }

    /// Time passes: asks again, probes, forgets. Looks at a bounded number of neighbours.
    pub fn tick(&mut self, now: Tick, out: &mut Output, counters: &mut Counters) {
        let elapsed = now.since(self.sweep_until);
        if elapsed == 0 && self.sweep_due == 0 {
            return;
        }
        self.sweep_until = now;
        if elapsed > 0 {
            self.sweep_due = self.used;
        }
        for _ in 0..self.sweep_due.min(SWEEP) {
            self.sweep_due -= 1;
            self.swept = if self.swept + 1 < self.used { self.swept + 1 } else { 0 };
            self.look_at(self.swept, now, out, counters);
        }
    }

    fn look_at(&mut self, slot: usize, now: Tick, out: &mut Output, counters: &mut Counters) {
        let Some(neighbour) = self.rows.get_mut(slot) else { return };
        let age = now.since(neighbour.since);
        match neighbour.state {
            State::Free => {}
            State::Reachable if age >= CONFIRM => {
                neighbour.state = State::Probing;
                self.ask(slot, now, out, counters);
            }
            State::Incomplete | State::Probing if age >= RETRY => {
                if neighbour.tries < TRIES {
                    self.ask(slot, now, out, counters);
                } else {
                    neighbour.state = State::Failed;
                    neighbour.since = now;
                    if let Some(next_hop) = self.next_hops.get_mut(slot) {
                        next_hop.is_ready = 0;
                    }
                    self.drop_waiting(slot, counters);
                }
            }
            State::Failed if age >= SILENCE => self.remove(slot, counters),
            State::Reachable | State::Incomplete | State::Probing | State::Failed => {}
        }
    }
}

/// Emits an ARP packet on an interface.
pub fn emit_arp(
    arp: &Arp,
    destination: [u8; 6],
    interface: &Interface,
    out: &mut Output,
    counters: &mut Counters,
) {
    if let Some(frame) = out.emit(interface.port, Arp::frame_len(interface.vlan), Exit::Own) {
        arp.write(frame, destination, interface.vlan);
        counters.originated += 1;
    }
}
