//! The session table of one worker: slots of fixed number, an index over both directions, and expiry that does not
//! touch sessions that are alive.
//!
//! ```text
//! index bucket (64 B) -> session (64 B)          every packet
//!                        record (36 B)           beginning, end, listing
//!                        deadline (4 B)          the sweep: sixteen sessions a cache line
//! ```
//!
//! A session's deadline is written when it begins and when it closes, not for each packet. A sweep goes round the
//! deadlines, all of them once a second; where one has passed it looks at the session, and either ends it or writes the
//! deadline that its last packet gives it. So an idle session costs a look at four bytes a second, a busy one a look at its
//! line once a timeout.

use std::io;

use crate::base::Tick;
use crate::base::hugepage::{HugeSlice, Pages};
use crate::base::prefetch::prefetch;
use crate::nat::carried::Carried;
use crate::nat::index::Index;
use crate::nat::key::{FlowKey, Hasher};
use crate::nat::session::{Record, Session};
use crate::nat::tcp;
use crate::nat::usage::Payers;

/// Ticks in which the sweep goes round all deadlines.
const ROUND: u32 = 10;

/// In a deadline: the slot is free, and the rest is the next free slot.
const FREE: u32 = 1 << 31;
/// The end of the list of free slots.
const LAST: u32 = FREE | (FREE - 1);

/// The sessions of one worker.
#[derive(Debug)]
pub struct SessionTable {
    sessions: HugeSlice<Session>,
    records: HugeSlice<Record>,
    deadlines: HugeSlice<u32>,
    index: Index,
    /// Sessions by mapping and peer address.
    peers: Index,
    hasher: Hasher,
    free: u32,
    len: usize,
    sweep: Sweep,
}

#[derive(Debug, Default)]
struct Sweep {
    /// The next slot to look at.
    next: usize,
    /// Slots that are due to be looked at, in units of 1/ROUND of a slot.
    due: usize,
    /// The time up to which slots were made due.
    until: Tick,
}

impl SessionTable {
    /// No slot: out of range.
    pub const NO_SLOT: u32 = u32::MAX;

    /// A table with `capacity` slots.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(capacity: usize, hasher: Hasher) -> io::Result<Self> {
        let capacity = capacity.clamp(1, (FREE - 2) as usize);
        let mut deadlines = HugeSlice::zeroed(capacity)?;
        for (slot, deadline) in deadlines.iter_mut().enumerate() {
            *deadline = if slot + 1 == capacity { LAST } else { FREE | (slot as u32 + 1) };
        }
        Ok(Self {
            sessions: HugeSlice::zeroed(capacity)?,
            records: HugeSlice::zeroed(capacity)?,
            deadlines,
            index: Index::new(2 * capacity)?,
            peers: Index::sparse(capacity)?,
            hasher,
            free: FREE,
            len: 0,
            sweep: Sweep::default(),
        })
    }

    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of slots.
    pub fn capacity(&self) -> usize {
        self.sessions.len()
    }

    /// Bytes of all parts together, without the index by mapping and peer.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.sessions)
            + size_of_val(&*self.records)
            + size_of_val(&*self.deadlines)
            + self.index.bytes()
    }

    /// Bytes of the index by mapping and peer that are in use.
    pub fn peers_in_use(&self) -> usize {
        self.peers.bytes_in_use()
    }

    /// The kind of pages underneath.
    pub fn pages(&self) -> Pages {
        self.sessions.pages()
    }

    /// The hash of a flow.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.hasher.flow(key)
    }

    /// First stage of a look-up: starts to load the index bucket.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Second stage: the most likely slot, whose session starts to load; out of range when there is none.
    #[inline(always)]
    pub fn prefetch_session(&self, hash: u64) -> u32 {
        let slot = self.index.candidate(hash).unwrap_or(Self::NO_SLOT);
        if let Some(session) = self.sessions.get(slot as usize) {
            prefetch(session);
        }
        slot
    }

    /// Third stage: whether the session in a slot is the flow's.
    #[inline(always)]
    pub fn is(&self, slot: u32, key: &FlowKey) -> bool {
        self.sessions.get(slot as usize).is_some_and(|session| session.has(key))
    }

    /// The slot of a flow.
    #[inline]
    pub fn find(&self, hash: u64, key: &FlowKey) -> Option<u32> {
        self.index.find(hash, |slot| self.is(slot, key))
    }

    /// The session in a slot.
    #[inline(always)]
    pub fn session(&self, slot: u32) -> Option<&Session> {
        self.sessions.get(slot as usize)
    }

    /// The session in a slot, to change what is not its key.
    #[inline(always)]
    pub fn session_mut(&mut self, slot: u32) -> Option<&mut Session> {
        self.sessions.get_mut(slot as usize)
    }

    /// The session in a slot, with its record.
    #[inline]
    pub fn get(&self, slot: u32) -> Option<(&Session, &Record)> {
        Some((self.sessions.get(slot as usize)?, self.records.get(slot as usize)?))
    }

    /// Whether a slot holds a session.
    pub fn is_live(&self, slot: u32) -> bool {
        self.deadlines.get(slot as usize).is_some_and(|deadline| deadline & FREE == 0)
    }

    /// Adds a session; `None`, and no change, when there is no room or one of its keys is taken.
    pub fn insert(&mut self, session: &Session, record: &Record) -> Option<u32> {
        let (outward, inward) = (session.outward_key(), session.inward_key());
        let (outward_hash, inward_hash) = (self.hash(&outward), self.hash(&inward));
        let slot = self.free & !FREE;
        let next = *self.deadlines.get(slot as usize)?;
        let sessions = &self.sessions;
        let has = |key: FlowKey| move |slot: u32| sessions.get(slot as usize).is_some_and(|s| s.has(&key));
        if !self.index.insert_unless(outward_hash, slot, has(outward)) {
            return None;
        }
        if !self.index.insert_unless(inward_hash, slot, has(inward)) {
            self.index.remove(outward_hash, slot);
            return None;
        }
        self.free = next;
        let at = slot as usize;
        self.deadlines[at] = (session.last_seen + timeout(session, record)).min(FREE - 1);
        self.sessions[at] = *session;
        self.records[at] = *record;
        self.len += 1;
        self.prefetch_free();
        Some(slot)
    }

    /// Starts to load what the next session will be written to.
    fn prefetch_free(&self) {
        let next = (self.free & !FREE) as usize;
        if let (Some(session), Some(record), Some(deadline)) =
            (self.sessions.get(next), self.records.get(next), self.deadlines.get(next))
        {
            prefetch(session);
            prefetch(record);
            prefetch(deadline);
        }
    }

    /// Removes the session in a slot and says what it was.
    pub fn remove(&mut self, slot: u32) -> Option<(Session, Record)> {
        if !self.is_live(slot) {
            return None;
        }
        let at = slot as usize;
        let (session, record) = (self.sessions[at], self.records[at]);
        let inward = self.hash(&session.inward_key());
        let outward = self.hash(&session.outward_key());
        self.index.remove(inward, slot);
        self.index.remove(outward, slot);
        if session.notes_peer() {
            self.peers.remove(self.hasher.address_of_mapping(record.mapping, session.peer), slot);
        }
        self.sessions[at].tenant = 0;
        self.deadlines[at] = self.free | FREE;
        self.free = FREE | slot;
        self.len -= 1;
        Some((session, record))
    }

    /// Notes that a mapping's host talks to the session's peer (address-dependent filtering, RFC 4787 REQ-8).
    pub fn note_peer(&mut self, slot: u32) {
        let at = slot as usize;
        let (Some(session), Some(record)) = (self.sessions.get_mut(at), self.records.get(at)) else { return };
        if self.peers.insert(self.hasher.address_of_mapping(record.mapping, session.peer), slot) {
            session.set_notes_peer();
        }
    }

    /// Whether a noted session of a mapping has this peer address.
    pub fn has_peer(&self, mapping: u32, peer: u32) -> bool {
        let is_it = |slot: u32| {
            let at = slot as usize;
            self.sessions.get(at).is_some_and(|session| session.peer == peer)
                && self.records.get(at).is_some_and(|record| record.mapping == mapping)
        };
        self.peers.find(self.hasher.address_of_mapping(mapping, peer), is_it).is_some()
    }

    /// Notes that a session's timeout became shorter: its deadline follows from its last packet anew.
    pub fn reschedule(&mut self, slot: u32) {
        if self.is_live(slot) {
            let at = slot as usize;
            let timeout = timeout(&self.sessions[at], &self.records[at]);
            self.deadlines[at] = (self.sessions[at].last_seen + timeout).min(FREE - 1);
        }
    }

    /// Lets a session end at the next round of the sweep.
    pub fn expire_now(&mut self, slot: u32) {
        if self.is_live(slot) {
            self.sessions[slot as usize].last_seen = 0;
            self.deadlines[slot as usize] = 0;
        }
    }

    /// Moves the bytes that a session has carried into its record; says what it carried out and in, and whom that counts for.
    #[cold]
    pub(super) fn settle(&mut self, slot: u32) -> Option<(Payers, Carried, Carried)> {
        let at = slot as usize;
        let session = self.sessions.get_mut(at).filter(|session| session.tenant != 0)?;
        if session.carried_out.is_empty() && session.carried_in.is_empty() {
            return None;
        }
        let record = self.records.get_mut(at)?;
        let (out, into) = (std::mem::take(&mut session.carried_out), std::mem::take(&mut session.carried_in));
        record.settled_out.add(out.bytes());
        record.settled_in.add(into.bytes());
        Some((Payers::of(session, record), out, into))
    }

    /// The next slot whose session has expired, looking at no more slots than `budget`, which goes down by those looked
    /// at. `None` when nothing (more) is due.
    pub fn next_expired(&mut self, now: Tick, budget: &mut usize) -> Option<u32> {
        let elapsed = now.since(self.sweep.until).min(ROUND);
        self.sweep.until = now;
        self.sweep.due =
            (self.sweep.due + self.capacity() * elapsed as usize).min(self.capacity() * ROUND as usize);
        while self.sweep.due > 0 && *budget > 0 {
            let slot = self.sweep.next;
            self.sweep.next = if slot + 1 < self.capacity() { slot + 1 } else { 0 };
            self.sweep.due = self.sweep.due.saturating_sub(ROUND as usize);
            *budget -= 1;
            let deadline = self.deadlines.get_mut(slot)?;
            if *deadline & FREE != 0 || *deadline > now.0 {
                continue;
            }
            let (session, record) = (self.sessions.get(slot)?, self.records.get(slot)?);
            let alive_until =
                if session.last_seen == 0 { 0 } else { session.last_seen + timeout(session, record) };
            if alive_until <= now.0 {
                return Some(slot as u32);
            }
            *deadline = alive_until.min(FREE - 1);
        }
        None
    }
}

/// The idle timeout of a session in its present state, in ticks.
pub fn timeout(session: &Session, record: &Record) -> u32 {
    if session.is_tcp() && tcp::is_established(session.tcp) {
        record.timeout_established
    } else {
        record.timeout_transitory
    }
}
