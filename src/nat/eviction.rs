//! What gives way where a table, a quota or a limit is full: half-open TCP connections, the oldest first.

use crate::base::DropReason;
use crate::nat::engine::{Context, Engine};
use crate::nat::events::Ending;
use crate::nat::hosts::HostKey;
use crate::nat::lane::Lane;
use crate::nat::session::{Flow, SessionKind};
use crate::policy::{Snapshot, SnatEntry};
use crate::wire::{Arrival, protocol};

/// Half-open connections that are looked at, the oldest first, for one that gives way.
const LOOKS: usize = 64;

/// A SNAT session that is to be made, as far as it matters to what gives way to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newcomer {
    protocol: u8,
    /// Tenant and address of the private host.
    inside: (u16, u32),
    /// The mapping that it is to use, if that is there already.
    mapping: Option<u32>,
    /// Whether it is of a packet that has turned round inside the gateway.
    is_second_half: bool,
}

impl Newcomer {
    /// One of a new peer.
    pub(super) fn of(flow: &Flow, mapping: Option<u32>, lane: &Lane) -> Self {
        let inside = (flow.tenant, flow.inside.0);
        let is_second_half = lane.arrival == Arrival::Hairpin;
        Self { protocol: flow.protocol, inside, mapping, is_second_half }
    }

    /// Tenant and address of the private host.
    pub(super) fn inside(self) -> (u16, u32) {
        self.inside
    }
}

impl From<&Lane> for Newcomer {
    /// One of a private host's packet.
    fn from(lane: &Lane) -> Self {
        let inside = (lane.tenant, lane.datagram.source);
        Self { protocol: lane.datagram.protocol, inside, mapping: None, is_second_half: false }
    }
}

impl Engine {
    /// There may be so many half-open connections and no more: the oldest goes for another, but none of a mapping that is about to be
    /// used.
    pub(super) fn keep_half_open_limit(&mut self, protocol: u8, spared: Option<u32>, cx: &Context<'_>) {
        if protocol == protocol::TCP && self.half_open.len() >= self.half_open.limit() {
            let oldest = self.half_open.iter().take(LOOKS).find(|slot| !self.is_of_mapping(*slot, spared));
            if let Some(slot) = oldest {
                self.evict(slot, cx);
            }
        }
    }

    fn evict(&mut self, slot: u32, cx: &Context<'_>) {
        self.counters.evicted += 1;
        self.close(slot, cx.snapshot, Ending::Evicted);
    }

    fn is_of_mapping(&self, slot: u32, mapping: Option<u32>) -> bool {
        self.sessions.get(slot).is_some_and(|(session, record)| {
            session.kind() == SessionKind::Snat && Some(record.mapping) == mapping
        })
    }

    /// After a new session was refused: ends a half-open connection in whose place it may come.
    #[cold]
    pub(super) fn make_room(
        &mut self,
        entry: &SnatEntry,
        newcomer: Newcomer,
        reason: DropReason,
        cx: &Context<'_>,
    ) -> bool {
        let Some(slot) = self.gives_way(entry, newcomer, reason, cx.snapshot) else { return false };
        self.evict(slot, cx);
        true
    }

    /// The half-open connection that gives way to a new session, which was refused for this reason: for a table without room the oldest
    /// of all; for a quota or a limit one of the same host or gateway, only in favour of another
    /// connection, and not where one session less would not be enough.
    pub(super) fn gives_way(
        &self,
        entry: &SnatEntry,
        newcomer: Newcomer,
        reason: DropReason,
        snapshot: &Snapshot,
    ) -> Option<u32> {
        let is_enough =
            reason == DropReason::SessionTableFull || self.is_one_too_many(entry, newcomer, snapshot);
        if newcomer.is_second_half || !is_enough {
            return None;
        }
        let is_tcp = newcomer.protocol == protocol::TCP;
        let may_go = |slot: &u32| {
            !self.is_of_mapping(*slot, newcomer.mapping)
                && self.sessions.get(*slot).is_some_and(|(session, record)| match reason {
                    DropReason::SessionTableFull => true,
                    DropReason::HostQuota => {
                        is_tcp
                            && session.kind().is_snat()
                            && (session.tenant, session.inside) == newcomer.inside
                    }
                    DropReason::SessionLimit => {
                        is_tcp && session.kind().is_snat() && record.gateway == entry.gateway.0
                    }
                    _ => false,
                })
        };
        self.half_open.iter().take(LOOKS).find(may_go)
    }

    /// Whether one session less would leave room for another under a host's quota and its gateway's limit. A new configuration may
    /// have lowered either.
    fn is_one_too_many(&self, entry: &SnatEntry, newcomer: Newcomer, snapshot: &Snapshot) -> bool {
        let (tenant, address) = newcomer.inside;
        let host = self.hosts.find(&self.hosts.hashed(HostKey { tenant, address }));
        let has = host.and_then(|slot| self.hosts.get(slot)).map_or(0, |host| host.sessions);
        has <= entry.host_quota
            && snapshot
                .gateway(entry.gateway)
                .is_some_and(|gateway| gateway.meter.sessions() <= gateway.limits.sessions)
    }
}
