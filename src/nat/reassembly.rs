//! Virtual reassembly: which fragments belong together. First fragments are remembered for their ports, with what has come of
//! their datagrams; later ones that come before them are held, as they are, until the first one comes. Both are bounded in number
//! and in time.

use std::ops::Range;
use std::time::Duration;

use crate::base::{Checksum, DropReason, PortIndex, Tick};
use crate::nat::Counters;
use crate::nat::key::{FlowKey, Hasher};
use crate::nat::lane::Lane;
use crate::nat::parts::{Extent, Fit, MOST, Part, Ranges};
use crate::wire::Packet;
use crate::wire::bytes::put;

/// Datagrams that are remembered; a newer one takes an older one's place.
const SETS: usize = 1024;
const WAYS: usize = 4;
/// How long a first fragment is remembered (RFC 1122 §3.3.2 would allow 60 s; the identification of a fast sender comes
/// round sooner).
const MEMORY: u32 = Tick::ticks(Duration::from_secs(30));

/// Later fragments that are held; a newer one takes the oldest one's place.
const HELD: usize = 256;
/// Those of one sender: as many as the largest datagram has, and some more. A newer one takes the place of another of the same sender.
const HELD_EACH: usize = 64;
/// How long a later fragment waits for the first one: networks reorder by milliseconds.
const PATIENCE: u32 = Tick::ticks(Duration::from_secs(2));
/// The largest frame that is held.
const HELD_BYTES: usize = 9216 + 64;
/// Room in front of a held frame, for a longer link header.
const ROOM: usize = 32;
/// The tag of a place where nothing is held.
const FREE: u32 = 0;

/// A first fragment that was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct First {
    /// Its flow.
    pub key: FlowKey,
    /// The identification that its datagram got on its way out, if it got one.
    pub identification: Option<u16>,
    id: u16,
    until: Tick,
    extent: Extent,
}

impl First {
    fn is_of(&self, key: &FlowKey, id: u16) -> bool {
        is_same(&self.key, key) && self.id == id
    }

    /// Whether more of its datagram is to come: it is not all there, and it began just now. What does not fit is no part of
    /// another datagram yet that has the same identification.
    fn is_open(&self, now: Tick) -> bool {
        !self.extent.is_complete() && self.until.since(now) >= MEMORY - PATIENCE
    }
}

/// What a fragment is to the datagrams whose first fragments are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It belongs to none: it begins one, or waits for the fragment that does.
    Unknown,
    /// It belongs to the datagram that this one began, perhaps as a duplicate.
    Of(First),
    /// It is of a datagram that it does not [fit](Fit::Not) into.
    Unfit,
}

/// A fragment that waits for the first one of its datagram.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// What was known of it when it came; its offsets are those in the buffer that [`Fragments::lend`] gives.
    pub lane: Lane,
    /// The port that it came in on.
    pub port: PortIndex,
    len: u16,
    until: Tick,
}

impl Held {
    /// The fragment as a packet in a buffer that it was copied to.
    pub fn packet<'a>(&self, buffer: &'a mut [u8]) -> Packet<'a> {
        let (len, arrival) = (usize::from(self.len), self.lane.arrival);
        Packet::new(buffer, ROOM, len, self.port, Checksum::Unverified).arrived(arrival)
    }
}

/// What is known of fragmented datagrams.
#[derive(Debug)]
pub struct Fragments {
    firsts: Vec<First>,
    /// What has come of their datagrams.
    ranges: Vec<Ranges>,
    hasher: Hasher,
    /// A tag of its datagram for each held fragment, close together because all are looked through.
    tags: [u32; HELD],
    /// Who sent each of them.
    senders: [u32; HELD],
    held: Vec<Held>,
    /// Their frames.
    buffers: Vec<u8>,
    /// The frame of a fragment that is let go.
    spare: Vec<u8>,
    /// The place of the oldest one, if all are taken.
    next: usize,
    waiting: usize,
    swept: Tick,
}

impl Fragments {
    /// Tables of fixed size.
    pub fn new(hasher: Hasher) -> Self {
        Self {
            firsts: vec![First::default(); SETS * WAYS],
            ranges: vec![[[0; 2]; MOST]; SETS * WAYS],
            hasher,
            tags: [FREE; HELD],
            senders: [0; HELD],
            held: vec![Held::default(); HELD],
            buffers: vec![0; HELD * HELD_BYTES],
            spare: vec![0; HELD_BYTES],
            next: 0,
            waiting: 0,
            swept: Tick(0),
        }
    }

    /// The places in which a datagram may be remembered.
    fn set(&self, key: &FlowKey, id: u16) -> Range<usize> {
        let start = self.hasher.datagram(key, id) as usize % SETS * WAYS;
        start..start + WAYS
    }

    fn tag(&self, key: &FlowKey, id: u16) -> u32 {
        (self.hasher.datagram(key, id) >> 32) as u32 | 1
    }

    /// Remembers a first fragment that begins a datagram. The one whose time ends first makes room.
    pub fn begin(&mut self, lane: &Lane, now: Tick) -> First {
        let (key, id) = (lane.key(), lane.datagram.id);
        let mut set = self.set(&key, id);
        let oldest = set.clone().min_by_key(|at| self.firsts[*at].until).unwrap_or(set.start);
        let at = set.find(|at| self.firsts[*at].is_of(&key, id)).unwrap_or(oldest);
        let mut extent = Extent::default();
        extent.add(&mut self.ranges[at], Part::of(&lane.datagram));
        let identification = lane.identification;
        self.firsts[at] = First { key, identification, id, until: now.plus(MEMORY), extent };
        self.firsts[at]
    }

    /// What a fragment is to the datagrams that are known.
    pub fn place(&self, lane: &Lane, now: Tick) -> Place {
        let Some(at) = self.find(lane, now) else { return Place::Unknown };
        let first = self.firsts[at];
        let is_later = lane.datagram.fragment_offset() > 0;
        match first.extent.fit(&self.ranges[at], Part::of(&lane.datagram)) {
            Fit::New | Fit::Again if is_later => Place::Of(first),
            // Another first one is a duplicate if it comes soon, and else of another datagram.
            Fit::Again if first.is_open(now) && first.key == lane.key() => Place::Of(first),
            _ if first.is_open(now) => Place::Unfit,
            _ => Place::Unknown,
        }
    }

    /// The same of a later fragment, which counts as come from now on.
    pub fn take(&mut self, lane: &Lane, now: Tick) -> Place {
        let place = self.place(lane, now);
        if let (Place::Of(_), Some(at)) = (place, self.find(lane, now)) {
            self.firsts[at].extent.add(&mut self.ranges[at], Part::of(&lane.datagram));
        }
        place
    }

    /// The first fragment of a later one's datagram, whatever part of it that is.
    pub fn first_of(&self, lane: &Lane, now: Tick) -> Option<First> {
        self.find(lane, now).map(|at| self.firsts[at])
    }

    fn find(&self, lane: &Lane, now: Tick) -> Option<usize> {
        let (key, id) = (lane.key(), lane.datagram.id);
        self.set(&key, id).find(|at| self.firsts[*at].is_of(&key, id) && self.firsts[*at].until >= now)
    }

    /// Holds a copy of a later fragment until the first one comes.
    ///
    /// # Errors
    /// The reason to drop it: it is too large.
    pub fn hold(
        &mut self,
        packet: &Packet<'_>,
        lane: &Lane,
        now: Tick,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let start = usize::from(lane.frame);
        let frame = packet.buffer.get(start..lane.datagram.end()).ok_or(DropReason::FragmentNoFirst)?;
        if ROOM + frame.len() > HELD_BYTES {
            return Err(DropReason::FragmentNoFirst);
        }
        let sender = sender_of(&lane.key());
        let place = self.place_for(sender);
        self.senders[place] = sender;
        self.free(place, DropReason::FragmentTableFull, counters);
        let mut lane = *lane;
        lane.frame = ROOM as u16;
        lane.datagram.l3 = (usize::from(lane.datagram.l3) - start + ROOM) as u16;
        lane.datagram.l4 = (usize::from(lane.datagram.l4) - start + ROOM) as u16;
        self.tags[place] = self.tag(&lane.key(), lane.datagram.id);
        let (port, len) = (packet.port, frame.len() as u16);
        self.held[place] = Held { lane, port, len, until: now.plus(PATIENCE) };
        put(&mut self.buffers, place * HELD_BYTES + ROOM, frame);
        self.waiting += 1;
        Ok(())
    }

    /// Where the next fragment of a sender is held.
    fn place_for(&mut self, sender: u32) -> usize {
        let is_of_it = |place: &usize| self.tags[*place] != FREE && self.senders[*place] == sender;
        if (0..HELD).filter(is_of_it).count() >= HELD_EACH
            && let Some(oldest) = (0..HELD).filter(is_of_it).min_by_key(|place| self.held[*place].until)
        {
            return oldest;
        }
        let place = self.next;
        self.next = (place + 1) % HELD;
        place
    }

    /// The oldest held fragment of a datagram. It is held no more, and its frame is in the buffer that
    /// [`lend`](Self::lend) gives.
    pub fn release(&mut self, first: &First) -> Option<Held> {
        if self.waiting == 0 {
            return None;
        }
        let First { key, id, .. } = first;
        let (key, id) = (key, *id);
        let tag = self.tag(key, id);
        let is_it = |place: &usize| {
            let Held { lane, .. } = &self.held[*place];
            self.tags[*place] == tag && is_same(&lane.key(), key) && lane.datagram.id == id
        };
        let place = (self.next..HELD).chain(0..self.next).find(is_it)?;
        self.tags[place] = FREE;
        self.waiting -= 1;
        let start = place * HELD_BYTES;
        let frame = self.buffers.get(start..start + ROOM + usize::from(self.held[place].len));
        put(&mut self.spare, 0, frame.unwrap_or_default());
        Some(self.held[place])
    }

    /// The buffer of the fragment that was released last, until it is given [back](Self::take_back).
    pub fn lend(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.spare)
    }

    /// Takes the lent buffer back.
    pub fn take_back(&mut self, buffer: Vec<u8>) {
        self.spare = buffer;
    }

    /// Time passes: what has waited too long is dropped.
    pub fn tick(&mut self, now: Tick, counters: &mut Counters) {
        if self.waiting == 0 || self.swept == now {
            return;
        }
        self.swept = now;
        for place in 0..HELD {
            if self.held[place].until < now {
                self.free(place, DropReason::FragmentNoFirst, counters);
            }
        }
    }

    fn free(&mut self, place: usize, reason: DropReason, counters: &mut Counters) {
        if std::mem::replace(&mut self.tags[place], FREE) != FREE {
            self.waiting -= 1;
            counters.held -= 1;
            counters.drop(reason);
        }
    }
}

/// A number for the sender of a fragment. VPCs may have the same addresses.
fn sender_of(key: &FlowKey) -> u32 {
    key.source.rotate_left(16).wrapping_add(u32::from(key.tenant))
}

/// Whether two fragments are of one sender, receiver and protocol (RFC 791 §3.2).
fn is_same(a: &FlowKey, b: &FlowKey) -> bool {
    (a.source, a.destination, a.tenant, a.protocol) == (b.source, b.destination, b.tenant, b.protocol)
}
