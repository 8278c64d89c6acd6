//! What a session log is told: sessions that begin and end, in a bounded ring that the packet path never waits for.
//!
//! What finds no room in the ring is counted, and the count is told as soon as there is room again: a log has no gap that it
//! does not know of.

use rtrb::Producer;

use crate::base::{Moment, WorkerIndex};
use crate::nat::ports::blocks::PortBlock;
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
    /// It was asked for.
    Killed,
    /// Its worker died.
    Lost,
    /// Its handshake was not complete, and another connection needed its room.
    Evicted,
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
    /// A private host got a block of ports, or has it no more: with the entry's other events of sessions left out.
    Block {
        /// When.
        at: Moment,
        /// The worker that gave it out.
        worker: WorkerIndex,
        /// The block.
        block: PortBlock,
        /// Whether it got it.
        is_taken: bool,
    },
    /// Events before this one that found no room.
    Lost {
        /// When this was noticed.
        at: Moment,
        /// How many.
        count: u64,
    },
}

/// A ring with what found no room in it.
#[derive(Debug, Default)]
struct Tap {
    ring: Option<Producer<Event>>,
    lost: u64,
}

impl Tap {
    fn tell(&mut self, event: Event, now: Moment) {
        let Some(ring) = &mut self.ring else { return };
        if self.lost > 0 && ring.slots() >= 2 {
            let gap = Event::Lost { at: now, count: self.lost };
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
    fn settle(&mut self, now: Moment) {
        if self.lost > 0
            && let Some(ring) = &mut self.ring
            && ring.push(Event::Lost { at: now, count: self.lost }).is_ok()
        {
            self.lost = 0;
        }
    }
}

/// An engine's end of its log. Without a ring nothing is told.
#[derive(Debug, Default)]
pub struct Events {
    /// Where a session log reads, and where somebody watches.
    log: Tap,
    watch: Tap,
    /// The time of the present batch.
    now: Moment,
}

impl Events {
    /// From now on events go into this ring.
    pub(super) fn start(&mut self, ring: Producer<Event>) {
        self.log.ring = Some(ring);
    }

    /// From now on events go into this ring, too, or no more; gives back the one before.
    pub(super) fn watch(&mut self, ring: Option<Producer<Event>>) -> Option<Producer<Event>> {
        self.watch.lost = 0;
        std::mem::replace(&mut self.watch.ring, ring)
    }

    /// Notes the time of a batch.
    #[inline]
    pub(super) fn at(&mut self, now: Moment) {
        self.now = now;
    }

    /// Whether anybody listens to what is logged, or only watched.
    #[inline]
    pub(super) fn is_wanted(&self, is_logged: bool) -> bool {
        is_logged && self.log.ring.is_some() || self.watch.ring.is_some()
    }

    /// A session began.
    pub(super) fn created(&mut self, session: SessionRow, is_logged: bool) {
        self.tell(Event::Created { at: self.now, session }, is_logged);
    }

    /// A session ended.
    pub(super) fn ended(&mut self, session: SessionRow, ending: Ending, is_logged: bool) {
        self.tell(Event::Ended { at: self.now, session, ending }, is_logged);
    }

    /// A host got a block of ports, or has it no more: who watches sees its sessions.
    pub(super) fn block(&mut self, worker: WorkerIndex, block: PortBlock, is_taken: bool) {
        self.log.tell(Event::Block { at: self.now, worker, block, is_taken }, self.now);
    }

    /// The time of the present batch.
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    fn tell(&mut self, event: Event, is_logged: bool) {
        if is_logged {
            self.log.tell(event, self.now);
        }
        self.watch.tell(event, self.now);
    }

    /// Tells of what was lost without waiting for the next event.
    #[inline]
    pub(super) fn settle(&mut self) {
        self.log.settle(self.now);
        self.watch.settle(self.now);
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
            events.created(session(port), true);
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
                    Ok(other @ (Event::Ended { .. } | Event::Block { .. })) => panic!("{other:?}"),
                    Err(_) => break,
                }
            }
        }
        assert!(told > 100 && lost > 100, "{told} told, {lost} lost");
    }

    #[test]
    fn without_a_reader_nothing_is_kept() {
        let mut events = Events::default();
        assert!(!events.is_wanted(true));
        events.created(session(1), true);
        events.settle();
        assert_eq!(events.log.lost, 0);
    }
}
