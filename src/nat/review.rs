//! After a change of the configuration, sessions that it does not stand behind any more end, busy or idle: a few slots are
//! looked at in each batch until all were.

use crate::base::{EipIndex, Generation};
use crate::nat::engine::Engine;
use crate::policy::Snapshot;

/// Slots that one batch looks at, in the order of memory.
const SLOTS: usize = 64;
/// Sessions that one batch ends.
const ENDS: usize = 16;

/// How far the sessions have been looked at.
#[derive(Debug, Default)]
pub(super) struct Review {
    /// All sessions are in force under this configuration, or were made later.
    done: Generation,
    /// The configuration that was in force when the present round began.
    began: Generation,
    /// The next slot.
    next: usize,
}

impl Engine {
    /// Looks at some sessions, if the configuration has changed since all were looked at. While it changes all the time, round
    /// follows round.
    pub(super) fn review(&mut self, snapshot: &Snapshot) {
        if self.review.done == snapshot.generation() {
            return;
        }
        if self.review.next == 0 {
            self.review.began = snapshot.generation();
        }
        let mut ends = 0;
        let until = (self.review.next + SLOTS).min(self.sessions.capacity());
        while self.review.next < until && ends < ENDS {
            let slot = self.review.next as u32;
            self.review.next += 1;
            if self.sessions.is_live(slot)
                && self.sessions.session(slot).is_some_and(|session| {
                    snapshot.eip_changed(EipIndex(session.eip)) > Generation(session.generation)
                })
                && !self.is_in_force(slot, snapshot)
            {
                ends += 1;
            }
        }
        if self.review.next == self.sessions.capacity() {
            self.review.next = 0;
            self.review.done = self.review.began;
        }
    }
}
