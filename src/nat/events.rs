//! What a session log is told: sessions that begin and end, in a bounded ring that the packet path never waits for.
//!
//! What finds no room in the ring is counted, and the count is told as soon as there is room again: a log has no gap that it
//! does not know of.

use rtrb::Producer;

use crate::base::Moment;
use crate::nat::query::SessionRow;

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// No packet came for as long as its timeout; a TCP connection that is over has a short one.
    Expired,
    /// The configuration does not stand behind it any more.
    Reconfigured,
    /// It was over, and another connection needed its ports.
    Superseded,
}

/// One line of a session log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session began.
    Created {
        /// When.
        at: Moment,
        /// The session.
        session: SessionRow,
    },
    /// A session ended.
    Ended {
        /// When.
        at: Moment,
        /// The session as it was.
        session: SessionRow,
        /// Why.
        ending: Ending,
    },
    /// Events before this one that found no room.
    Lost {
        /// When this was noticed.
        at: Moment,
        /// How many.
        count: u64,
    },
}

/// An engine's end of its log. Without a ring nothing is told.
#[derive(Debug, Default)]
pub struct Events {
    ring: Option<Producer<Event>>,
    lost: u64,
    /// The time of the present batch.
    now: Moment,
}

impl Events {
    /// From now on events go into this ring.
    pub(super) fn start(&mut self, ring: Producer<Event>) {
        self.ring = Some(ring);
    }

    /// Notes the time of a batch.
    #[inline]
    pub(super) fn at(&mut self, now: Moment) {
        self.now = now;
    }

    /// Whether anybody listens.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.ring.is_some()
    }

    /// A session began.
    pub(super) fn created(&mut self, session: SessionRow) {
        self.tell(Event::Created { at: self.now, session });
    }

    /// A session ended.
    pub(super) fn ended(&mut self, session: SessionRow, ending: Ending) {
        self.tell(Event::Ended { at: self.now, session, ending });
    }

    /// The time of the present batch.
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    fn tell(&mut self, event: Event) {
        let Some(ring) = &mut self.ring else { return };
        if self.lost > 0 && ring.slots() >= 2 {
            let gap = Event::Lost { at: self.now, count: self.lost };
            if ring.push(gap).is_ok() {
                self.lost = 0;
            }
        }
        if self.lost > 0 || ring.push(event).is_err() {
            self.lost += 1;
        }
    }

    /// Tells of what was lost without waiting for the next event.
    #[inline]
    pub(super) fn settle(&mut self) {
        if self.lost > 0
            && let Some(ring) = &mut self.ring
            && ring.push(Event::Lost { at: self.now, count: self.lost }).is_ok()
        {
            self.lost = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use rtrb::RingBuffer;

    use super::*;
    use crate::base::{EntryId, GatewayIndex, VpcIndex, WorkerIndex};
    use crate::nat::SessionState;
    use crate::nat::session::SessionKind;

    fn session(port: u16) -> SessionRow {
        SessionRow {
            worker: WorkerIndex(0),
            kind: SessionKind::Snat,
            vpc: VpcIndex(0),
            protocol: 17,
            inside: (1, port),
            external: (2, port),
            peer: (3, 53),
            state: SessionState::Active,
            entry: EntryId(0),
            gateway: GatewayIndex(0),
            bytes_out: 0,
            bytes_in: 0,
            age: 0,
            idle: 0,
            expires: 0,
        }
    }

    /// Every event is told or counted, in order, whatever the reader does.
    #[test]
    fn what_is_not_told_is_counted() {
        let (ring, mut reader) = RingBuffer::new(3);
        let mut events = Events::default();
        events.start(ring);
        let (mut told, mut lost, mut last) = (0, 0, 0);
        for port in 1..=1000u16 {
            events.at(Moment(u64::from(port)));
            events.created(session(port));
            if port.is_multiple_of(7) {
                events.settle();
            }
            // Two of three find room.
            for _ in 0..if port.is_multiple_of(3) { 2 } else { 0 } {
                match reader.pop() {
                    Ok(Event::Created { session, .. }) => {
                        assert_eq!(u64::from(session.inside.1), last + 1);
                        last += 1;
                        told += 1;
                    }
                    Ok(Event::Lost { count, .. }) => {
                        last += count;
                        lost += count;
                    }
                    Ok(other @ Event::Ended { .. }) => panic!("{other:?}"),
                    Err(_) => break,
                }
            }
        }
        assert!(told > 100 && lost > 100, "{told} told, {lost} lost");
    }

    #[test]
    fn without_a_reader_nothing_is_kept() {
        let mut events = Events::default();
        assert!(!events.is_wanted());
        events.created(session(1));
        events.settle();
        assert_eq!(events.lost, 0);
    }
}
