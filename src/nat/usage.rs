//! What each gateway, EIP and entry has carried: sessions, packets, bytes, refused sessions.
//!
//! A packet of a session counts in the session alone. What it has carried is brought here when it ends, when its counter is full,
//! or when somebody asks ([`Engine::settle_sessions`]): each packet once, so that totals only grow.
//!
//! A table has a fixed number of rows, and an index has the row of its last bits. Indices are given in order, so two of them
//! meet only after a table's length of others; then the row stays with the one that has sessions.

use std::io;

use zerocopy::FromZeros;

use crate::base::hugepage::HugeSlice;
use crate::base::{DropReason, EipIndex, EntryId, GatewayIndex, Tick};
use crate::nat::carried::Carried;
use crate::nat::engine::Engine;
use crate::nat::hosts::HostKey;
use crate::nat::query::SessionCursor;
use crate::nat::session::{Record, Session};
use crate::nat::talkers::{TALKERS, Talker};

/// Rows of the table of gateways.
const GATEWAYS: usize = 1 << 14;
/// Rows of the tables of EIPs and of entries. Memory is touched only for those in use.
const EIPS: usize = 1 << 20;
const ENTRIES: usize = 1 << 20;

/// What usage is counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageKind {
    /// NAT gateways, by [`GatewayIndex`].
    Gateway,
    /// EIPs, by [`EipIndex`].
    Eip,
    /// DNAT and SNAT entries, by [`EntryId`].
    Entry,
}

/// What one of them has carried, as far as one worker knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros)]
#[repr(C, align(64))]
pub struct Usage {
    /// One more than the index that it belongs to; zero in a row that was never used.
    owner: u32,
    /// Sessions at the moment.
    pub sessions: u32,
    /// Sessions that began.
    pub created: u64,
    /// Bytes of IP packets from private hosts.
    pub bytes_out: u64,
    /// Bytes of IP packets to private hosts.
    pub bytes_in: u64,
    /// IP packets from private hosts.
    pub packets_out: u64,
    /// IP packets to private hosts.
    pub packets_in: u64,
    /// Packets that were refused a SNAT session because its specification allows no more sessions.
    pub over_sessions: u64,
    /// The same for new sessions a second.
    pub over_rate: u64,
    /// The same for the quota of a private host.
    pub over_quota: u64,
    /// The same because no external port was free.
    pub no_port: u64,
}

// What live sessions count in is in the first of two cache lines.
const _: () = assert!(size_of::<Usage>() == 128 && std::mem::offset_of!(Usage, over_sessions) < 64);

impl Usage {
    /// The index that it belongs to.
    pub fn index(&self) -> u32 {
        self.owner.wrapping_sub(1)
    }

    /// Adds what another worker knows.
    pub fn add(&mut self, other: &Self) {
        self.owner = other.owner;
        self.sessions = self.sessions.saturating_add(other.sessions);
        for (ours, theirs) in [
            (&mut self.created, other.created),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.packets_out, other.packets_out),
            (&mut self.packets_in, other.packets_in),
            (&mut self.over_sessions, other.over_sessions),
            (&mut self.over_rate, other.over_rate),
            (&mut self.over_quota, other.over_quota),
            (&mut self.no_port, other.no_port),
        ] {
            *ours += theirs;
        }
    }

    fn refuse(&mut self, reason: DropReason) {
        match reason {
            DropReason::SessionLimit => self.over_sessions += 1,
            DropReason::SessionRateLimit => self.over_rate += 1,
            DropReason::HostQuota => self.over_quota += 1,
            DropReason::PortsExhausted => self.no_port += 1,
            _ => {}
        }
    }
}

/// Usage of one kind.
#[derive(Debug)]
struct Ledger {
    rows: HugeSlice<Usage>,
    /// Rows from here on were never used.
    end: usize,
    /// Whether a row was ever wanted for an index while another one had it: there may be sessions that no row counts.
    is_contested: bool,
}

impl Ledger {
    fn new(rows: usize) -> io::Result<Self> {
        Ok(Self { rows: HugeSlice::sparse(rows)?, end: 0, is_contested: false })
    }

    /// The row of an index, taken over from another one that has no sessions.
    fn claim(&mut self, index: u32) -> Option<&mut Usage> {
        let at = index as usize & (self.rows.len() - 1);
        let row = self.rows.get_mut(at)?;
        let owner = index.wrapping_add(1);
        if row.owner != owner {
            if row.sessions > 0 {
                self.is_contested = true;
                return None;
            }
            *row = Usage { owner, ..Usage::default() };
            self.end = self.end.max(at + 1);
        }
        Some(row)
    }

    /// Whether an index may have sessions.
    fn may_have_sessions(&self, index: u32) -> bool {
        let row = self.rows.get(index as usize & (self.rows.len() - 1));
        self.is_contested || row.is_some_and(|row| row.owner == index.wrapping_add(1) && row.sessions > 0)
    }

    /// The row of an index, if it has it.
    fn get(&mut self, index: u32) -> Option<&mut Usage> {
        let at = index as usize & (self.rows.len() - 1);
        self.rows.get_mut(at).filter(|row| row.owner == index.wrapping_add(1))
    }
}

/// Whom a session counts for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payers {
    pub gateway: u32,
    pub eip: u32,
    pub entry: u32,
    pub host: HostKey,
}

impl Payers {
    pub(super) fn of(session: &Session, record: &Record) -> Self {
        let host = HostKey { tenant: session.tenant, address: session.inside };
        Self { gateway: record.gateway, eip: session.eip, entry: record.entry, host }
    }
}

/// The usage that one worker counts.
#[derive(Debug)]
pub(super) struct Usages {
    gateways: Ledger,
    eips: Ledger,
    entries: Ledger,
}

impl Usages {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            gateways: Ledger::new(GATEWAYS)?,
            eips: Ledger::new(EIPS)?,
            entries: Ledger::new(ENTRIES)?,
        })
    }

    fn rows(&mut self, payers: Payers) -> [Option<&mut Usage>; 3] {
        [self.gateways.get(payers.gateway), self.eips.get(payers.eip), self.entries.get(payers.entry)]
    }

    /// Whether there may be sessions of an EIP.
    pub(super) fn may_have_sessions(&self, eip: EipIndex) -> bool {
        self.eips.may_have_sessions(eip.0)
    }

    /// A session began.
    pub(super) fn opened(&mut self, payers: Payers) {
        let rows = [
            self.gateways.claim(payers.gateway),
            self.eips.claim(payers.eip),
            self.entries.claim(payers.entry),
        ];
        for row in rows.into_iter().flatten() {
            row.sessions += 1;
            row.created += 1;
        }
    }

    /// A session ended.
    pub(super) fn closed(&mut self, payers: Payers) {
        for row in self.rows(payers).into_iter().flatten() {
            row.sessions = row.sessions.saturating_sub(1);
        }
    }

    /// A session carried what was not brought here yet.
    pub(super) fn carried(&mut self, payers: Payers, out: Carried, into: Carried) {
        for row in self.rows(payers).into_iter().flatten() {
            row.bytes_out += u64::from(out.bytes());
            row.bytes_in += u64::from(into.bytes());
            row.packets_out += u64::from(out.packets());
            row.packets_in += u64::from(into.packets());
        }
    }

    /// All that was counted, of gateways, EIPs and entries, as it stands when all sessions have ended.
    pub(super) fn totals(&self) -> [Vec<Usage>; 3] {
        [&self.gateways, &self.eips, &self.entries].map(|ledger| {
            let used = ledger.rows.get(..ledger.end).unwrap_or_default().iter();
            used.filter(|row| row.owner != 0).map(|row| Usage { sessions: 0, ..*row }).collect()
        })
    }

    /// Counts on from these.
    pub(super) fn go_on_from(&mut self, totals: &[Vec<Usage>; 3]) {
        for (ledger, rows) in [&mut self.gateways, &mut self.eips, &mut self.entries].into_iter().zip(totals)
        {
            for row in rows {
                if let Some(place) = ledger.claim(row.index()) {
                    *place = *row;
                }
            }
        }
    }

    /// Bytes of its tables that are in use.
    pub(super) fn bytes_in_use(&self) -> usize {
        [&self.gateways, &self.eips, &self.entries].map(|ledger| ledger.rows.bytes_in_use()).iter().sum()
    }

    /// A session was refused, on an EIP if it came as far as that.
    pub(super) fn refused(
        &mut self,
        gateway: GatewayIndex,
        entry: EntryId,
        eip: Option<EipIndex>,
        reason: DropReason,
    ) {
        let eip = eip.and_then(|eip| self.eips.claim(eip.0));
        let rows = [self.gateways.claim(gateway.0), self.entries.claim(entry.0), eip];
        rows.into_iter().flatten().for_each(|row| row.refuse(reason));
    }
}

impl Engine {
    /// Brings what one session has carried here.
    #[cold]
    #[inline(never)]
    pub(super) fn settle(&mut self, slot: u32) {
        if let Some((payers, out, into)) = self.sessions.settle(slot) {
            self.credit(payers, out, into);
        }
    }

    /// Counts what a session has carried for all that it counts for.
    pub(super) fn credit(&mut self, payers: Payers, out: Carried, into: Carried) {
        if out.is_empty() && into.is_empty() {
            return;
        }
        self.usages.carried(payers, out, into);
        let host = self.hosts.hashed(payers.host);
        self.talkers.carried(&host, out, into, self.events.now().tick());
    }

    /// Goes on bringing what all sessions have carried to the usage of their gateways, EIPs and entries, looking at no more than
    /// `budget` slots. Says whether it has come to the end.
    pub fn settle_sessions(&mut self, cursor: &mut SessionCursor, budget: usize) -> bool {
        let slots = cursor.advance(budget, self.sessions.capacity());
        for slot in slots {
            self.settle(slot);
        }
        cursor.is_at(self.sessions.capacity())
    }

    /// Continues a listing of usage: looks at no more than `budget` rows and appends those that were ever used to `rows`,
    /// within its capacity. Says whether it has come to the end.
    pub fn list_usage(
        &self,
        kind: UsageKind,
        cursor: &mut u32,
        budget: usize,
        rows: &mut Vec<Usage>,
    ) -> bool {
        let ledger = match kind {
            UsageKind::Gateway => &self.usages.gateways,
            UsageKind::Eip => &self.usages.eips,
            UsageKind::Entry => &self.usages.entries,
        };
        for _ in 0..budget {
            let at = *cursor as usize;
            if at >= ledger.end || rows.len() == rows.capacity() {
                break;
            }
            *cursor += 1;
            rows.extend(ledger.rows.get(at).filter(|row| row.owner != 0));
        }
        *cursor as usize >= ledger.end
    }

    /// Continues a listing of the private hosts that carry most of late, with their SNAT sessions: looks at no more than `budget`
    /// rows and appends those in use to `rows`, within its capacity. Says whether it has come to the end.
    pub fn list_talkers(&self, cursor: &mut u32, budget: usize, now: Tick, rows: &mut Vec<Talker>) -> bool {
        let room = rows.capacity() - rows.len();
        rows.extend(self.talkers.rows(*cursor as usize, budget, now).take(room).map(|row| {
            let host = self.hosts.hashed(HostKey { tenant: row.tenant, address: row.address });
            let found = self.hosts.find(&host).and_then(|slot| self.hosts.get(slot));
            Talker { sessions: found.map_or(0, |host| host.sessions), ..row }
        }));
        *cursor = cursor.saturating_add(budget as u32);
        *cursor as usize >= TALKERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYERS: Payers = Payers { gateway: 1, eip: 2, entry: 3, host: HostKey { tenant: 1, address: 4 } };

    #[test]
    fn sessions_packets_and_refusals_count_for_all_three() {
        let (mut out, mut into) = (Carried::default(), Carried::default());
        assert!(!out.count(60) && !out.count(40) && !into.count(7));
        let mut usages = Usages::new().unwrap();
        usages.opened(PAYERS);
        usages.opened(PAYERS);
        usages.carried(PAYERS, out, into);
        usages.closed(PAYERS);
        usages.refused(GatewayIndex(1), EntryId(3), None, DropReason::SessionLimit);
        for row in usages.rows(PAYERS).into_iter().flatten() {
            assert_eq!((row.sessions, row.created, row.bytes_out, row.bytes_in), (1, 2, 100, 7));
            assert_eq!((row.packets_out, row.packets_in), (2, 1));
        }
        let refused = usages.rows(PAYERS).map(|row| row.map(|row| row.over_sessions));
        assert_eq!(refused, [Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn eips_with_sessions_are_known_even_where_no_row_counts_them() {
        let (eip, next, other) = (EipIndex(2), EipIndex(3), EipIndex(2 + EIPS as u32));
        let mut usages = Usages::new().unwrap();
        let may = |usages: &Usages| [eip, next, other].map(|eip| usages.may_have_sessions(eip));
        assert_eq!(may(&usages), [false; 3]);
        usages.opened(PAYERS);
        assert_eq!(may(&usages), [true, false, false]);
        usages.closed(PAYERS);
        assert_eq!(may(&usages), [false; 3]);
        usages.opened(PAYERS);
        usages.opened(Payers { eip: other.0, ..PAYERS });
        usages.closed(PAYERS);
        assert!(may(&usages)[2]);
    }

    #[test]
    fn a_row_goes_over_to_another_index_when_it_has_no_sessions() {
        let mut usages = Usages::new().unwrap();
        let later = Payers { entry: 3 + ENTRIES as u32, ..PAYERS };
        usages.opened(PAYERS);
        usages.opened(later);
        usages.carried(later, Carried::default(), Carried::default());
        assert!(usages.entries.get(later.entry).is_none());
        assert_eq!(usages.gateways.get(1).unwrap().created, 2);
        usages.closed(PAYERS);
        usages.opened(later);
        assert_eq!(usages.entries.get(later.entry).unwrap().created, 1);
        // The former owner's sessions are not taken off the new one's.
        usages.closed(PAYERS);
        assert_eq!(usages.entries.get(later.entry).unwrap().sessions, 1);
    }
}
