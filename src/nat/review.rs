//! After a change of the configuration, which sessions it may concern, and how those that it does not stand behind any more end,
//! busy or idle: a few slots are looked at in each batch until all were.

use crate::base::{EipIndex, Generation};
use crate::nat::engine::Engine;
use crate::nat::session::Session;
use crate::policy::{Mark, Marks, Snapshot, Touched};

/// Batches that a round of looking at all slots takes, while it is the least that one batch looks at, or less than the most.
const ROUND: usize = 16_384;
/// The least and the most slots that one batch looks at, in the order of memory.
const BUSY: (usize, usize) = (8, 256);
/// Sessions that it ends.
const BUSY_ENDS: usize = 16;
/// Slots looked at and sessions ended where there is no packet to delay.
const IDLE: (usize, usize) = (4096, 256);

/// What changed of the configuration since all sessions were looked at. The packets of all other sessions need not ask for it.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    is_any: bool,
    /// What changed.
    marks: Box<Marks>,
    /// What of it changed since the present round of looking at the slots began.
    late: Box<Marks>,
    /// The round's next slot.
    next: usize,
}

impl Doubt {
    /// Whether a change may concern a session.
    #[inline(always)]
    pub(super) fn concerns(&self, session: &Session) -> bool {
        self.is_any
            && (self.marks.has(Mark::of_eip(EipIndex(session.eip)))
                || self.marks.has(Mark::of_host(session.inside)))
    }

    /// Notes what changed between a configuration and this one, as far as there may be sessions of it.
    pub(super) fn follow(
        &mut self,
        before: Generation,
        snapshot: &Snapshot,
        has_sessions: impl Fn(Touched) -> bool,
    ) {
        let touched = snapshot.touched();
        if snapshot.topology_changed() > before || !touched.remembers(before) {
            self.is_any = true;
            self.marks.fill();
            self.late.fill();
            return;
        }
        for (_, touched) in touched.since(before).iter().filter(|(_, touched)| has_sessions(*touched)) {
            self.is_any = true;
            self.marks.add(touched.mark());
            self.late.add(touched.mark());
        }
    }

    /// Begins a round.
    fn begin(&mut self) {
        self.late.clear();
    }

    /// Ends a round: what changed before it began concerns nobody any more.
    fn end(&mut self) {
        self.next = 0;
        std::mem::swap(&mut self.marks, &mut self.late);
        self.is_any = !self.marks.is_empty();
    }
}

impl Engine {
    /// Looks at some sessions, if the configuration has changed since all were looked at. While it changes all the time, round
    /// follows round.
    pub(super) fn review(&mut self, snapshot: &Snapshot, is_idle: bool) {
        if !self.doubt.is_any {
            return;
        }
        if self.doubt.next == 0 {
            self.doubt.begin();
        }
        let capacity = self.sessions.capacity();
        let busy = || ((capacity / ROUND).clamp(BUSY.0, BUSY.1), BUSY_ENDS);
        let (slots, most) = if is_idle { IDLE } else { busy() };
        let mut ends = 0;
        let until = (self.doubt.next + slots).min(capacity);
        while self.doubt.next < until && ends < most {
            let slot = self.doubt.next as u32;
            self.doubt.next += 1;
            if self.sessions.is_live(slot)
                && self.sessions.session(slot).is_some_and(|session| self.doubt.concerns(session))
                && !self.is_in_force(slot, snapshot)
            {
                ends += 1;
            }
        }
        if self.doubt.next == capacity {
            self.doubt.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::policy::{PortVlans, Topology};

    fn session(eip: u32, inside: u32) -> Session {
        let mut session = Session::new_zeroed();
        (session.eip, session.inside) = (eip, inside);
        session
    }

    #[test]
    fn a_change_is_in_doubt_until_a_round_that_began_after_it_is_over() {
        let first = Snapshot::default();
        let mut edit = first.edit();
        edit.touch(EipIndex(1));
        let second = edit.finish();
        let mut edit = second.edit();
        edit.touch(EipIndex(2));
        let third = edit.finish();
        let [one, two, other] = [1, 2, 3].map(|eip| session(eip, 7));

        let mut doubt = Doubt::default();
        let concerns = |doubt: &Doubt| [&one, &two, &other].map(|session| doubt.concerns(session));
        assert_eq!(concerns(&doubt), [false; 3]);
        doubt.follow(first.generation(), &second, |_| true);
        assert_eq!(concerns(&doubt), [true, false, false]);
        doubt.begin();
        doubt.follow(second.generation(), &third, |_| true);
        assert_eq!(concerns(&doubt), [true, true, false]);
        doubt.end();
        assert_eq!(concerns(&doubt), [false, true, false]);
        doubt.begin();
        doubt.end();
        assert_eq!(concerns(&doubt), [false; 3]);
        assert!(!doubt.is_any);
    }

    #[test]
    fn a_changed_topology_and_a_gap_concern_everybody() {
        let first = Snapshot::default();
        let mut edit = first.edit();
        edit.set_topology(Topology { ports: vec![PortVlans::default()], ..Topology::default() });
        let moved = edit.finish();
        let mut doubt = Doubt::default();
        doubt.follow(first.generation(), &moved, |_| true);
        assert!(doubt.concerns(&session(4, 4)));

        let mut edit = first.edit();
        (0..5000).for_each(|eip| edit.touch(EipIndex(eip)));
        let much = edit.finish();
        let mut doubt = Doubt::default();
        doubt.follow(first.generation(), &much, |_| true);
        assert!(doubt.concerns(&session(6000, 4)));
    }
}
