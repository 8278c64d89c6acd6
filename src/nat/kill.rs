//! Ending sessions on request, with TCP resets to both ends where they are asked for.

use crate::base::{Moment, Tick};
use crate::nat::Output;
use crate::nat::engine::{Context, Engine};
use crate::nat::events::Ending;
use crate::nat::key::FlowKey;
use crate::nat::lane::Lane;
use crate::nat::query::{SessionCursor, SessionFilter};
use crate::nat::session::Session;
use crate::nat::table::SessionTable;
use crate::policy::Snapshot;
use crate::wire::Transport;
use crate::wire::datagram::tcp_flags::SYN;

/// Sessions that are ended at a time.
const ENDS: u32 = 64;

/// TCP connections whose ends one batch tells at most: each may emit two frames.
const RESETS: usize = 128;

/// Flows of TCP connections that were reset of late, a power of two.
const FLOWS: usize = 4096;
/// Ticks for which they are known: as long as a segment that was under way may come.
const LIFE: u32 = 100;

/// TCP connections that are reset. A reset may carry a sequence number that is not the receiver's next one, as segments are under way;
/// whoever sends another segment gets one that is.
#[derive(Debug)]
pub(super) struct Resets {
    /// Sessions that have ended and whose ends are still to be told.
    due: Vec<Session>,
    /// Their flows in both directions, by the last bits of their hashes.
    flows: Vec<(FlowKey, Tick)>,
    /// Until when any of them is known.
    until: Tick,
}

impl Resets {
    pub(super) fn new() -> Self {
        let flows = vec![(FlowKey::default(), Tick(0)); FLOWS];
        Self { due: Vec::with_capacity(RESETS), flows, until: Tick(0) }
    }

    /// Notes a session before it ends. One that finds no room is told of by what its ends still send.
    pub(super) fn note(&mut self, sessions: &SessionTable, session: &Session, now: Tick) {
        if !session.is_tcp() {
            return;
        }
        self.until = Tick(now.0 + LIFE);
        for key in [session.outward_key(), session.inward_key()] {
            let at = sessions.hash(&key) as usize & (FLOWS - 1);
            if let Some(flow) = self.flows.get_mut(at) {
                *flow = (key, self.until);
            }
        }
        if self.due.len() < self.due.capacity() {
            self.due.push(*session);
        }
    }

    /// Whether a segment belongs to a connection that was reset.
    #[inline]
    pub(super) fn is_of(&self, lane: &Lane, now: Tick) -> bool {
        now < self.until && lane.datagram.transport == Transport::Tcp && self.has(lane, now)
    }

    #[cold]
    fn has(&self, lane: &Lane, now: Tick) -> bool {
        let flow = self.flows.get(lane.hash as usize & (FLOWS - 1));
        // One that begins anew, or answers to that, does not.
        lane.datagram.tcp_flags & SYN == 0
            && flow.is_some_and(|(key, until)| now < *until && *key == lane.key())
    }
}

impl Engine {
    /// Goes on ending all sessions that match, looking at no more than `budget` slots and ending few of them. `resets` says
    /// whether both ends of TCP connections are told. Returns how many ended, and whether that was all.
    pub fn kill_sessions(
        &mut self,
        cursor: &mut SessionCursor,
        filter: &SessionFilter,
        resets: bool,
        budget: usize,
        (snapshot, now): (&Snapshot, Moment),
        out: &mut Output,
    ) -> (u32, bool) {
        out.clear();
        let cx = &mut Context::new(snapshot, now, out);
        self.follow(cx);
        self.events.at(now);
        let mut ended = 0;
        for _ in 0..budget {
            if ended == ENDS {
                break;
            }
            let Some(slot) = cursor.advance(1, self.sessions.capacity()).next() else { break };
            if self.row(slot, now.tick()).is_some_and(|row| filter.admits(&row)) {
                self.kill(slot, resets, cx);
                ended += 1;
            }
        }
        self.send_resets(cx);
        if self.capture.is_some() {
            self.capture_emissions(cx.out, now);
        }
        (ended, cursor.is_at(self.sessions.capacity()))
    }

    /// Ends a session, and resets its TCP connection if that is wanted.
    fn kill(&mut self, slot: u32, resets: bool, cx: &mut Context<'_>) {
        if let Some(session) = self.sessions.session(slot).filter(|_| resets) {
            self.resets.note(&self.sessions, session, cx.tick);
        }
        self.close(slot, cx.snapshot, Ending::Killed);
    }

    /// Resets the TCP connections of sessions that have ended.
    #[inline]
    pub(super) fn send_resets(&mut self, cx: &mut Context<'_>) {
        while let Some(session) = self.resets.due.pop() {
            self.reset_both(&session, cx);
        }
    }
}
