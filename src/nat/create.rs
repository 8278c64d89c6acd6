//! Making sessions, and what they hold: a mapping, a port, a place among their host's and their gateway's limits. All of it or
//! nothing.

use crate::base::{DropReason, EipIndex, Tick};
use crate::nat::decision::Static;
use crate::nat::engine::{Context, Engine};
use crate::nat::events::Ending;
use crate::nat::eviction::Newcomer;
use crate::nat::flow::{Found, end_of, in_force};
use crate::nat::ftp;
use crate::nat::hosts::HostKey;
use crate::nat::key::{EndpointKey, FlowKey, Hashed};
use crate::nat::lane::Lane;
use crate::nat::ports::PortRequest;
use crate::nat::ports::blocks::PortBlock;
use crate::nat::prospect::{Prospect, usual_place};
use crate::nat::session::{Flow, SessionKind};
use crate::nat::tcp;
use crate::policy::{Allocation, Eip, Filtering, Mapping, PoolAddress, Snapshot, SnatEntry};
use crate::wire::datagram::tcp_flags;
use crate::wire::rewrite::End;
use crate::wire::{Transport, protocol};

impl Engine {
    /// Begins the session of a DNAT flow, or does without one.
    pub(super) fn open_static(&mut self, entry: &Static, lane: &Lane, cx: &Context<'_>) -> Found {
        // A reply, a segment that closes or a later fragment makes no session: only what begins or goes on does.
        let begins = match lane.datagram.transport {
            Transport::Tcp => lane.datagram.tcp_flags & tcp_flags::RST == 0,
            Transport::EchoReply | Transport::LaterFragment => false,
            _ => true,
        };
        // A flood of what may be no connection is translated, but takes no more room than its share.
        let is_flood = entry.flow.protocol == protocol::TCP
            && (lane.datagram.tcp_flags & tcp_flags::SYN != 0 || end_of(lane.tenant) == End::Destination);
        let has_room = !is_flood || self.half_open.len() < self.half_open.limit();
        let slot = if begins && has_room { self.open_over_rival(entry, cx) } else { None };
        let Some(slot) = slot else { return Found::Stateless(entry.flow) };
        if entry.flow.protocol == protocol::TCP
            && let Some(session) = self.sessions.session_mut(slot)
        {
            // The segment itself is noted when it is translated.
            session.tcp = tcp::PARTIAL;
        }
        Found::Session(slot)
    }

    /// Makes the session of a DNAT flow. One that has its private side is over, or not in force any more, when a packet comes
    /// as far as this: it makes room.
    fn open_over_rival(&mut self, entry: &Static, cx: &Context<'_>) -> Option<u32> {
        let open = |engine: &mut Self| engine.open(&entry.flow, entry.gateway, &entry.timeouts, 0, cx);
        open(self).or_else(|| {
            let rival = self.rival(&entry.flow)?;
            self.close(rival, cx.snapshot, Ending::Superseded);
            open(self)
        })
    }

    /// Makes the session of a new peer of a mapping. Of a packet that turns round inside the gateway the first half is there already:
    /// nothing gives way to the second.
    pub(super) fn open_admitted(
        &mut self,
        entry: &SnatEntry,
        mapping: u32,
        flow: &Flow,
        lane: &Lane,
        cx: &Context<'_>,
    ) -> Result<u32, DropReason> {
        self.keep_half_open_limit(flow.protocol, Some(mapping), cx);
        let opened = self.try_admitted(entry, mapping, flow, cx).or_else(|reason| {
            let newcomer = Newcomer::of(flow, Some(mapping), lane);
            if !self.make_room(entry, newcomer, reason, cx) {
                return Err(reason);
            }
            self.try_admitted(entry, mapping, flow, cx)
        });
        if opened.is_ok() && self.ftp.expects(mapping).is_some() {
            self.has_come(mapping, flow.peer.0);
        }
        opened
    }

    fn try_admitted(
        &mut self,
        entry: &SnatEntry,
        mapping: u32,
        flow: &Flow,
        cx: &Context<'_>,
    ) -> Result<u32, DropReason> {
        let host = self.hosts.hashed(HostKey { tenant: flow.tenant, address: flow.inside.0 });
        let host = self.enter_limits(entry, &host, self.hosts.find(&host), flow.eip, cx)?;
        self.mappings.share(mapping);
        self.open(flow, entry.gateway.0, &entry.timeouts, mapping, cx).ok_or_else(|| {
            self.mappings.release(mapping);
            self.leave_limits(entry, host, cx);
            DropReason::SessionTableFull
        })
    }

    /// Makes a SNAT session, its mapping and its port: all of them or nothing.
    pub(super) fn open_snat(
        &mut self,
        entry: &SnatEntry,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Result<u32, DropReason> {
        self.keep_half_open_limit(lane.datagram.protocol, None, cx);
        self.try_snat(entry, lane, cx).or_else(|reason| {
            if !self.make_room(entry, Newcomer::from(lane), reason, cx) {
                return Err(reason);
            }
            self.try_snat(entry, lane, cx)
        })
    }

    fn try_snat(&mut self, entry: &SnatEntry, lane: &Lane, cx: &mut Context<'_>) -> Result<u32, DropReason> {
        let key = &lane.key();
        let prospect = self.prospect_of(lane);
        let known = match entry.mapping {
            Mapping::EndpointIndependent => self.mapping_in_force(&prospect.inside, cx),
            Mapping::EndpointDependent => None,
        };
        let host = self.hosts.find(&prospect.host);
        let choice = match known.and_then(|slot| self.mappings.get(slot)) {
            Some(row) => PoolAddress { index: EipIndex(row.eip), address: row.external },
            None => self.choose_eip(entry, key, host).ok_or(DropReason::PortsExhausted)?,
        };
        let host = self.enter_limits(entry, &prospect.host, host, choice.index, cx)?;
        let opened = match (entry.mapping, known) {
            (Mapping::EndpointIndependent, Some(mapping)) => {
                self.mappings.share(mapping);
                self.open_independent(entry, mapping, key, cx)
            }
            (Mapping::EndpointIndependent, None) => self
                .make_mapping(entry, host, choice, &prospect, key, cx)
                .and_then(|mapping| self.open_independent(entry, mapping, key, cx)),
            (Mapping::EndpointDependent, _) => self.open_dependent(entry, host, choice, lane, cx),
        };
        if opened.is_err() {
            self.leave_limits(entry, host, cx);
        }
        opened
    }

    /// The mapping of an inside endpoint, whichever entry made it. One that the configuration does not stand behind any more
    /// serves no new session: it is taken off the index and ends with its sessions.
    pub(super) fn mapping_in_force(&mut self, inside: &Hashed<EndpointKey>, cx: &Context<'_>) -> Option<u32> {
        let slot = self.mappings.by_inside(inside)?;
        let row = self.mappings.get(slot)?;
        if in_force(&row.flow((0, 0)), cx.snapshot) {
            return Some(slot);
        }
        self.mappings.orphan(slot);
        None
    }

    /// Counts a SNAT session that was refused.
    #[cold]
    pub(super) fn count_refused(&mut self, entry: &SnatEntry, lane: &Lane, reason: DropReason) {
        let host = self.prospect_of(lane).host;
        let eip = (reason == DropReason::PortsExhausted)
            .then(|| self.choose_eip(entry, &lane.key(), self.hosts.find(&host)))
            .flatten();
        self.usages.refused(entry.gateway, entry.id, eip.map(|eip| eip.index), reason);
    }

    /// The EIPs to try for a host, in order: only its own while it has other sessions on one of the pool.
    fn candidates<'e>(
        &self,
        entry: &'e SnatEntry,
        host: u32,
        choice: PoolAddress,
        key: &FlowKey,
    ) -> impl Iterator<Item = PoolAddress> + use<'e> {
        // The session to come is counted already.
        let is_bound = self.hosts.get(host).is_some_and(|host| host.sessions > 1);
        in_order(entry, is_bound, choice, key)
    }

    /// Makes the session of a mapping, which counts it already.
    #[inline(always)]
    fn open_independent(
        &mut self,
        entry: &SnatEntry,
        mapping: u32,
        key: &FlowKey,
        cx: &mut Context<'_>,
    ) -> Result<u32, DropReason> {
        let row = self.mappings.get(mapping).ok_or(DropReason::NoMapping)?;
        let flow = row.flow((key.destination, key.destination_port));
        let Some(slot) = self.open(&flow, entry.gateway.0, &entry.timeouts, mapping, cx) else {
            if let Some(gone) = self.mappings.release(mapping) {
                self.ports.give(EipIndex(gone.eip), gone.protocol, gone.external_port);
            }
            return Err(DropReason::SessionTableFull);
        };
        if entry.filtering == Filtering::AddressDependent {
            self.sessions.note_peer(slot);
        }
        if entry.ftp && (flow.protocol, flow.peer.1) == (protocol::TCP, ftp::PORT) {
            self.look_into(slot);
        }
        Ok(slot)
    }

    /// Makes the mapping of a new inside endpoint: with the port that was foreseen for it if that is free still.
    fn make_mapping(
        &mut self,
        entry: &SnatEntry,
        host: u32,
        choice: PoolAddress,
        prospect: &Prospect,
        key: &FlowKey,
        cx: &Context<'_>,
    ) -> Result<u32, DropReason> {
        let foreseen = prospect.external.filter(|offer| offer.member == choice);
        let (member, external) = match foreseen {
            Some(offer) if self.ports.accept(offer.port) => (offer.member, offer.endpoint),
            _ => self.take_port(entry, host, choice, key, cx).ok_or(DropReason::PortsExhausted)?,
        };
        let Some(slot) = self.mappings.insert(&prospect.inside, &external, member.index, entry.id) else {
            self.ports.give(member.index, key.protocol, external.key.port);
            return Err(DropReason::SessionTableFull);
        };
        self.move_host(host, member.index);
        Ok(slot)
    }

    /// Takes a port for a new mapping, of any EIP that the host may leave with.
    fn take_port(
        &mut self,
        entry: &SnatEntry,
        host: u32,
        choice: PoolAddress,
        key: &FlowKey,
        cx: &Context<'_>,
    ) -> Option<(PoolAddress, Hashed<EndpointKey>)> {
        self.candidates(entry, host, choice, key).find_map(|member| {
            let port = self.take_port_of(entry, host, member, key, cx)?;
            let endpoint = EndpointKey::external(key.protocol, member.address, port);
            Some((member, self.mappings.hashed(endpoint)))
        })
    }

    /// Takes a port of one EIP.
    pub(super) fn take_port_of(
        &mut self,
        entry: &SnatEntry,
        host: u32,
        member: PoolAddress,
        key: &FlowKey,
        cx: &Context<'_>,
    ) -> Option<u16> {
        let eip = cx.snapshot.eip(member.address)?;
        let request = self.port_request(entry, key, eip, cx.snapshot);
        match entry.allocation {
            Allocation::Ports => self.ports.take(eip, request),
            Allocation::Deterministic { .. } => {
                let (_, range) = entry.fixed(key.source)?;
                self.ports.take(eip, PortRequest { range, is_block: true, ..request })
            }
            Allocation::Blocks { per_host, .. } => {
                self.take_in_blocks(entry, host, eip, request, per_host, cx.tick)
            }
        }
    }

    /// The EIP on which a new session of a packet would find a port. Nothing changes.
    pub(super) fn would_leave_with(
        &self,
        entry: &SnatEntry,
        key: &FlowKey,
        snapshot: &Snapshot,
    ) -> Option<PoolAddress> {
        let host = self.hosts.find(&self.prospect(key).host);
        let choice = self.choose_eip(entry, key, host)?;
        let row = host.and_then(|slot| self.hosts.get(slot));
        in_order(entry, row.is_some(), choice, key).find(|member| {
            let Some(eip) = snapshot.eip(member.address) else { return false };
            let request = self.port_request(entry, key, eip, snapshot);
            let in_block = |range| PortRequest { range, is_block: true, ..request };
            match entry.allocation {
                Allocation::Ports if entry.mapping == Mapping::EndpointDependent => {
                    self.ports.has_shared(eip, request, |port| {
                        let inward = key.answer_to(member.address, port);
                        self.sessions.find(self.sessions.hash(&inward), &inward).is_none()
                    })
                }
                Allocation::Ports => self.ports.has_free(eip, request),
                Allocation::Deterministic { .. } => entry
                    .fixed(key.source)
                    .is_some_and(|(_, range)| self.ports.has_free(eip, in_block(range))),
                Allocation::Blocks { per_host, .. } => {
                    let Some(blocks) = entry.blocks() else { return false };
                    // As in `take_in_blocks`: those on an EIP of another entry do not count.
                    let elsewhere = row.map(|row| EipIndex(row.eip)).filter(|at| *at != eip.index);
                    let chain = row.map_or(0, |row| row.blocks);
                    if chain != 0 && elsewhere.is_some_and(|at| entry.member(at).is_some()) {
                        return false;
                    }
                    let chain = if elsewhere.is_some() { 0 } else { chain };
                    let mut has = 0;
                    self.port_blocks.chain(eip.index, chain).inspect(|_| has += 1).any(|block| {
                        blocks.has(block.ports) && self.ports.has_free(eip, in_block(block.ports))
                    }) || has < per_host
                        && self.port_blocks.has_free(eip.index, blocks, (self.worker.0, self.workers))
                }
            }
        })
    }

    /// A port out of the blocks that a host has on an EIP, or out of one more.
    fn take_in_blocks(
        &mut self,
        entry: &SnatEntry,
        host: u32,
        eip: &Eip,
        request: PortRequest,
        per_host: u8,
        now: Tick,
    ) -> Option<u16> {
        /// So many blocks are tried in vain.
        const TRIES: usize = 8;
        let mut row = *self.hosts.get(host)?;
        let blocks = entry.blocks()?;
        if row.blocks != 0 && EipIndex(row.eip) != eip.index {
            // A host has blocks on one EIP. On one that is not of this entry its sessions are not in force any more, whether they have
            // been looked at since or not, so its blocks there are free.
            if entry.member(EipIndex(row.eip)).is_some() {
                return None;
            }
            self.move_host(host, eip.index);
            row = *self.hosts.get(host)?;
        }
        let mut has = 0;
        for block in self.port_blocks.chain(eip.index, row.blocks) {
            has += 1;
            // One of an earlier configuration may lie across those of the present one.
            let request = PortRequest { range: block.ports, is_block: true, ..request };
            if blocks.has(block.ports)
                && let Some(port) = self.ports.take(eip, request)
            {
                return Some(port);
            }
        }
        if has >= per_host {
            return None;
        }
        let whose = PortBlock {
            tenant: row.tenant,
            inside: row.address,
            external: eip.address,
            ports: entry.ports,
            entry: entry.id,
            since: now,
        };
        // A block of which DNAT entries own all ports, or sessions of an earlier configuration have them, is of no use.
        let (chain, block, port) = (0..TRIES).find_map(|_| {
            let (share, random) = ((self.worker.0, self.workers), self.ports.random());
            let (chain, block) =
                self.port_blocks.take(eip.index, blocks, share, whose, row.blocks, random)?;
            let request = PortRequest { range: block.ports, is_block: true, ..request };
            let port = self.ports.take(eip, request);
            if port.is_none() {
                self.port_blocks.give(eip.index, chain);
            }
            Some((chain, block, port?))
        })?;
        self.move_host(host, eip.index);
        self.hosts.set_blocks(host, chain);
        self.events.block(self.worker, block, true);
        Some(port)
    }

    /// A host leaves with another EIP from now on; blocks that it had on the one before are given back.
    fn move_host(&mut self, host: u32, eip: EipIndex) {
        if let Some(row) = self.hosts.get(host).copied()
            && row.blocks != 0
            && EipIndex(row.eip) != eip
        {
            self.give_blocks(EipIndex(row.eip), row.blocks);
            self.hosts.set_blocks(host, 0);
        }
        self.hosts.move_to(host, eip);
    }

    /// A host has one session less; with its last one it gives its blocks of ports back.
    pub(super) fn leave_host(&mut self, host: u32) {
        if let Some(gone) = self.hosts.leave(host)
            && gone.blocks != 0
        {
            self.give_blocks(EipIndex(gone.eip), gone.blocks);
        }
    }

    fn give_blocks(&mut self, eip: EipIndex, mut chain: u16) {
        while let Some((block, rest)) = self.port_blocks.give(eip, chain) {
            self.events.block(self.worker, block, false);
            chain = rest;
        }
    }

    fn open_dependent(
        &mut self,
        entry: &SnatEntry,
        host: u32,
        choice: PoolAddress,
        lane: &Lane,
        cx: &Context<'_>,
    ) -> Result<u32, DropReason> {
        let key = &lane.key();
        for member in self.candidates(entry, host, choice, key) {
            let Some(eip) = cx.snapshot.eip(member.address) else { continue };
            let request = self.port_request(entry, key, eip, cx.snapshot);
            let sessions = &self.sessions;
            let peer = (key.destination, key.destination_port);
            let port = self.ports.take_shared(eip, request, peer, cx.tick, |port| {
                let inward = key.answer_to(member.address, port);
                sessions.find(sessions.hash(&inward), &inward).is_none()
            });
            let Some(port) = port else { continue };
            let flow = Flow {
                kind: SessionKind::SnatDependent,
                protocol: key.protocol,
                tenant: key.tenant,
                inside: (key.source, key.source_port),
                external: (member.address, port),
                peer,
                eip: member.index,
                entry: entry.id,
            };
            let Some(slot) = self.open(&flow, entry.gateway.0, &entry.timeouts, 0, cx) else {
                self.ports.give_shared(member.index, key.protocol, port, peer);
                return Err(DropReason::SessionTableFull);
            };
            self.move_host(host, member.index);
            return Ok(slot);
        }
        Err(DropReason::PortsExhausted)
    }

    /// Counts one more SNAT session of a host, known by its slot or new, against its quota and its gateway's specification.
    /// Returns the host's slot.
    fn enter_limits(
        &mut self,
        entry: &SnatEntry,
        key: &Hashed<HostKey>,
        host: Option<u32>,
        eip: EipIndex,
        cx: &Context<'_>,
    ) -> Result<u32, DropReason> {
        let has = host.and_then(|slot| self.hosts.get(slot)).map_or(0, |host| host.sessions);
        if has >= entry.host_quota {
            return Err(DropReason::HostQuota);
        }
        let gateway = cx.snapshot.gateway(entry.gateway).ok_or(DropReason::NoSnatEntry)?;
        if !gateway.meter.enter(gateway.limits) {
            return Err(DropReason::SessionLimit);
        }
        if !gateway.meter.admit(gateway.limits, cx.now) {
            gateway.meter.leave();
            return Err(DropReason::SessionRateLimit);
        }
        match host {
            Some(slot) => {
                self.hosts.enter(slot);
                Ok(slot)
            }
            None => self.hosts.insert(key, eip).ok_or_else(|| {
                gateway.meter.leave();
                DropReason::SessionTableFull
            }),
        }
    }

    /// Takes back what [`enter_limits`](Self::enter_limits) counted.
    fn leave_limits(&mut self, entry: &SnatEntry, host: u32, cx: &Context<'_>) {
        self.leave_host(host);
        if let Some(gateway) = cx.snapshot.gateway(entry.gateway) {
            gateway.meter.leave();
        }
    }
}

/// The EIPs of an entry in the order in which they are tried for a host: only its own if it is bound to that.
fn in_order<'e>(
    entry: &'e SnatEntry,
    is_bound: bool,
    choice: PoolAddress,
    key: &FlowKey,
) -> impl Iterator<Item = PoolAddress> + use<'e> {
    let is_bound = is_bound || matches!(entry.allocation, Allocation::Deterministic { .. });
    let others = if is_bound { &[] } else { &*entry.pool };
    let start = usual_place(entry, key.source).unwrap_or_default();
    let others = others.iter().cycle().skip(start).take(others.len());
    std::iter::once(choice).chain(others.copied().filter(move |member| *member != choice))
}
