//! What an engine that died leaves to the one in its place: what it has counted, and its end of the session log. Its sessions are lost.

use crate::base::GatewayIndex;
use crate::nat::engine::Engine;
use crate::nat::events::{Ending, Events};
use crate::nat::query::session_row;
use crate::nat::talkers::Talkers;
use crate::nat::usage::{Payers, Usage};
use crate::nat::{Capture, Counters};
use crate::policy::Snapshot;

/// What an engine leaves behind.
#[derive(Debug, Default)]
pub struct Estate {
    /// What it has counted.
    pub counters: Counters,
    /// Sessions that were lost with it.
    pub sessions: u64,
    /// What gateways, EIPs and entries have carried.
    usages: [Vec<Usage>; 3],
    talkers: Talkers,
    events: Events,
    capture: Option<Box<Capture>>,
}

impl Estate {
    /// Counters alone.
    pub fn of(counters: Counters) -> Self {
        Self { counters, ..Self::default() }
    }
}

impl Engine {
    /// Gives up what others count of its sessions, tells that these have ended, and says what it leaves behind. Its tables are only
    /// read: they may be in any state.
    pub fn bequeath(&mut self, snapshot: &Snapshot) -> Estate {
        let mut counters = self.counters;
        let sessions = self.sessions.len() as u64;
        counters.sessions_removed += sessions;
        let now = self.events.now().tick();
        for slot in 0..self.sessions.capacity() as u32 {
            let Some((session, record)) = self.sessions.get(slot).filter(|_| self.sessions.is_live(slot))
            else {
                continue;
            };
            let counting = session.kind().is_snat().then_some(GatewayIndex(record.gateway));
            if let Some(gateway) = counting.and_then(|gateway| snapshot.gateway(gateway)) {
                gateway.meter.leave();
            }
            let (row, is_logged) = (session_row(self.worker, session, record, now), !session.is_in_block());
            let (payers, out, into) = (Payers::of(session, record), session.carried_out, session.carried_in);
            self.credit(payers, out, into);
            self.events.ended(row, Ending::Lost, is_logged);
        }
        for block in self.port_blocks.iter() {
            self.events.block(self.worker, block, false);
        }
        Estate {
            counters,
            sessions,
            usages: self.usages.totals(),
            talkers: std::mem::take(&mut self.talkers),
            events: std::mem::take(&mut self.events),
            capture: self.capture.take(),
        }
    }

    /// Goes on where another engine ended: counts on from what it has counted, and tells where it told.
    pub fn inherit(&mut self, estate: Estate) {
        self.counters = estate.counters;
        self.usages.go_on_from(&estate.usages);
        self.talkers = estate.talkers;
        self.events = estate.events;
        self.capture = estate.capture;
    }
}
