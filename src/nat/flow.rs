//! Packets of sessions: check, count, translate; and packets that have none yet.

use crate::base::{DropReason, EipIndex, GatewayIndex, Generation, VpcIndex};
use crate::nat::decision::Decision;
use crate::nat::engine::{Context, Engine};
use crate::nat::events::Ending;
use crate::nat::hosts::HostKey;
use crate::nat::lane::{Lane, Next};
use crate::nat::leave::{is_over_limit, send_from};
use crate::nat::neighbours::Adjacency;
use crate::nat::query::session_row;
use crate::nat::session::{ByteCount, Flow, Record, Session, SessionKind};
use crate::nat::usage::Payers;
use crate::nat::{Verdict, tcp};
use crate::policy::{Allocation, Leaving, Realm, Snapshot, Timeouts};
use crate::wire::bytes::get_u32;
use crate::wire::datagram::tcp_flags::{ACK, RST, SYN};
use crate::wire::rewrite::{self, Change, End};
use crate::wire::tcp::window_scale;
use crate::wire::{Datagram, Packet, Transport, protocol};

/// How a packet without a session is translated.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// By the session in this slot, made just now.
    Session(u32),
    /// By its entry alone: the table has no room.
    Stateless(Flow),
}

/// The direction of a packet: from the outside it changes its destination, from the inside its source.
#[inline(always)]
pub(super) fn end_of(tenant: u16) -> End {
    if tenant == Realm::Outside.tenant() { End::Destination } else { End::Source }
}

impl Engine {
    /// The fast path: a plain packet of a session that is where it probably is, in force, with nothing to note and its next hop
    /// ready. `None`, and no change, if anything else is the case.
    #[inline(always)]
    pub(super) fn fast(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        slot: u32,
        cx: &Context<'_>,
    ) -> Option<Verdict> {
        // Compiled once for each direction, so that only this branch asks for it.
        match end_of(lane.tenant) {
            End::Source => self.fast_at(End::Source, packet, lane, slot, cx),
            End::Destination => self.fast_at(End::Destination, packet, lane, slot, cx),
        }
    }

    #[inline(always)]
    fn fast_at(
        &mut self,
        end: End,
        packet: &mut Packet<'_>,
        lane: &Lane,
        slot: u32,
        cx: &Context<'_>,
    ) -> Option<Verdict> {
        let session = self.sessions.session_mut(slot)?;
        let datagram = &lane.datagram;
        let way = match end {
            End::Source => session.way_out,
            End::Destination => session.way_in,
        };
        let next_hop = self.neighbours.ready(way)?;
        let front = packet.front(datagram.l3)?;
        let is_usual = session.has_at(end, &lane.key())
            && (!self.doubt.concerns(session) || refresh(session, cx.snapshot))
            && datagram.total_len <= next_hop.mtu()
            && (!session.is_tcp() || tcp::is_plain(datagram.tcp_flags, session.tcp));
        if !is_usual || cx.is_limited && is_over_limit(EipIndex(session.eip), end, datagram, cx) {
            return None;
        }
        let (carried, total) = match end {
            End::Source => (&mut session.carried_out, &mut self.counters.bytes_out),
            End::Destination => (&mut session.carried_in, &mut self.counters.bytes_in),
        };
        let is_full = carried.count(datagram.total_len);
        *total += u64::from(datagram.total_len);
        session.last_seen = cx.tick.0;
        if session.is_tcp() {
            session.acknowledge(end, datagram.tcp_acknowledgement);
        }
        let mut change = session.change(end);
        if end == End::Source {
            change.identification = self.identifications.of(lane, session.shares_eip());
        }
        rewrite::apply_to(front.header, front.segment, datagram, &change, 1);
        let sent = send_from(front.link, lane, next_hop);
        if is_full {
            self.settle(slot);
        }
        Some(sent)
    }

    /// A packet of a flow that is not for the fast path: of a session, or the first of one.
    pub(super) fn flow(&mut self, packet: &mut Packet<'_>, lane: &Lane, cx: &mut Context<'_>) -> Verdict {
        if let Some(slot) = self.sessions.find(lane.hash, &lane.key())
            && self.is_in_force(slot, cx.snapshot)
        {
            return self.translate(packet, lane, slot, cx);
        }
        self.miss(packet, lane, cx)
    }

    /// Notes a TCP segment, which may change the state.
    fn note(&mut self, packet: &Packet<'_>, lane: &Lane, slot: u32, end: End) {
        let Some(session) = self.sessions.session_mut(slot) else { return };
        let was_established = tcp::is_established(session.tcp);
        note_segment(session, packet, &lane.datagram, end);
        let (state, is_half_open) = (session.tcp, tcp::is_half_open(session.tcp));
        if was_established && !tcp::is_established(state) {
            self.sessions.reschedule(slot);
        }
        if is_half_open {
            self.half_open.push(slot);
        } else {
            self.half_open.remove(slot);
        }
    }

    /// Counts a packet of a session, unless it was the last one of its flow.
    fn account(&mut self, slot: u32, lane: &Lane, end: End) {
        let session = self.sessions.session_mut(slot).filter(|session| session.has(&lane.key()));
        let Some(session) = session else { return };
        let carried = match end {
            End::Source => &mut session.carried_out,
            End::Destination => &mut session.carried_in,
        };
        if carried.count(lane.datagram.total_len) {
            self.settle(slot);
        }
    }

    /// A packet of a session that is in force, whatever is unusual about it.
    fn translate(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        slot: u32,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if lane.datagram.ttl <= lane.hops() {
            return self.ttl_expired(packet, lane, cx);
        }
        let end = end_of(lane.tenant);
        let way = match self.find_way(slot, end, cx) {
            Ok(way) => way,
            Err(reason) => return Verdict::Drop(reason),
        };
        // With its way found, the first packet of a session is mostly like those to come.
        if lane.next == Next::Plain
            && lane.candidate != slot
            && let Some(sent) = self.fast(packet, lane, slot, cx)
        {
            return sent;
        }
        let Some(session) = self.sessions.session(slot).copied() else {
            return Verdict::Drop(DropReason::NoMapping);
        };
        let mut looked_into = *lane;
        let lane = if session.tcp & tcp::LOOKED_INTO == 0 {
            lane
        } else {
            if let Err(reason) = self.control_segment(packet, &mut looked_into, slot, end, cx) {
                return Verdict::Drop(reason);
            }
            &looked_into
        };
        if let Some(session) = self.sessions.session_mut(slot) {
            session.last_seen = cx.tick.0;
        }
        if lane.datagram.transport == Transport::Tcp {
            self.note(packet, lane, slot, end);
        }
        let mut change = session.change(end);
        if end == End::Source {
            change.identification = self.identifications.of(lane, session.shares_eip());
        }
        let verdict = self.leave(packet, lane, &change, way, cx);
        if !matches!(verdict, Verdict::Drop(_)) {
            self.account(slot, lane, end);
        }
        verdict
    }

    /// The next hop of a session in one direction, which the session remembers.
    fn find_way(&mut self, slot: u32, end: End, cx: &mut Context<'_>) -> Result<Adjacency, DropReason> {
        let session = self.sessions.session(slot).ok_or(DropReason::NoMapping)?;
        let (realm, destination, way) = match end {
            End::Source => (Realm::Outside, session.peer, session.way_out),
            End::Destination => (Realm::of_tenant(session.tenant), session.inside, session.way_in),
        };
        if way == Adjacency::HAIRPIN || self.neighbours.is_current(way) {
            return Ok(way);
        }
        let way = self.way_to(realm, destination, cx)?;
        if let Some(session) = self.sessions.session_mut(slot) {
            match end {
                End::Source => session.way_out = way,
                End::Destination => session.way_in = way,
            }
        }
        Ok(way)
    }

    /// A packet without a session.
    #[inline(never)]
    fn miss(&mut self, packet: &mut Packet<'_>, lane: &Lane, cx: &mut Context<'_>) -> Verdict {
        if self.resets.is_of(lane, cx.tick) {
            return self.reset_sender(packet, lane, cx);
        }
        let decision = match Realm::of_tenant(lane.tenant) {
            Realm::Outside => self.decide_inward(lane, cx.snapshot),
            Realm::Vpc(vpc) => self.decide_outward(lane, vpc, cx.snapshot),
        };
        let session = match decision {
            Decision::Static(entry) => match self.open_static(&entry, lane, cx) {
                Found::Session(slot) => Ok(slot),
                Found::Stateless(flow) => {
                    self.counters.stateless += 1;
                    return self.translate_stateless(packet, lane, &flow, cx);
                }
            },
            Decision::Snat(entry) => self.open_snat(entry, lane, cx).inspect_err(|reason| {
                self.count_refused(entry, lane, *reason);
                self.tell_refused(packet, lane, *reason, cx);
            }),
            Decision::Admit { entry, mapping, flow } => self
                .open_admitted(entry, mapping, &flow, lane, cx)
                .inspect_err(|reason| self.usages.refused(entry.gateway, entry.id, None, *reason)),
            Decision::Route(realm) => return self.route(packet, lane, realm, cx),
            Decision::Echo => return self.answer_echo(packet, lane, cx),
            Decision::Local => return self.meant_for_gateway(packet, lane, cx),
            Decision::Hand { to, arrival } => return Verdict::Hand { to, arrival },
            Decision::Drop(reason) => Err(reason),
        };
        match session {
            Ok(slot) => self.translate(packet, lane, slot, cx),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// Translates a packet by its flow alone.
    pub(super) fn translate_stateless(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        flow: &Flow,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if lane.datagram.ttl <= lane.hops() {
            return self.ttl_expired(packet, lane, cx);
        }
        let (change, realm, destination) = match end_of(lane.tenant) {
            End::Source => {
                let identification = self.identifications.of(lane, flow.kind.shares_eip());
                (Change { identification, ..flow.outward() }, Realm::Outside, flow.peer.0)
            }
            End::Destination => (flow.inward(), Realm::of_tenant(flow.tenant), flow.inside.0),
        };
        match self.way_to(realm, destination, cx) {
            Ok(way) => self.leave(packet, lane, &change, way, cx),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// Begins a session; `None` when the table has no room for it, or its flow is there already.
    #[inline(always)]
    pub(super) fn open(
        &mut self,
        flow: &Flow,
        gateway: u32,
        timeouts: &Timeouts,
        mapping: u32,
        cx: &Context<'_>,
    ) -> Option<u32> {
        let (timeout_transitory, timeout_established) = match flow.protocol {
            protocol::TCP => (timeouts.tcp_transitory, timeouts.tcp_established),
            protocol::UDP => (timeouts.udp, timeouts.udp),
            protocol::ICMP => (timeouts.icmp, timeouts.icmp),
            _ => (timeouts.other, timeouts.other),
        };
        let mut session = Session::new(flow, cx.snapshot.generation(), cx.tick);
        if timeouts.tcp_reset && session.is_tcp() {
            session.set_reset_at_expiry();
        }
        if cx.snapshot.has_blocks() && flow.kind == SessionKind::Snat && is_in_block(flow, cx.snapshot) {
            session.set_in_block();
        }
        let record = Record {
            created: cx.tick.0,
            entry: flow.entry.0,
            gateway,
            mapping,
            timeout_transitory,
            timeout_established,
            settled_out: ByteCount::default(),
            settled_in: ByteCount::default(),
        };
        let slot = self.sessions.insert(&session, &record)?;
        if session.is_tcp() {
            // Until its segment is noted, which may never be: nobody is to fill the table with what does not leave.
            self.half_open.push(slot);
        }
        self.counters.sessions_created += 1;
        self.usages.opened(Payers::of(&session, &record));
        if self.events.is_wanted(!session.is_in_block()) {
            self.tell_of(&session, &record, cx);
        }
        Some(slot)
    }

    #[cold]
    fn tell_of(&mut self, session: &Session, record: &Record, cx: &Context<'_>) {
        let row = session_row(self.worker, session, record, cx.tick);
        self.events.created(row, !session.is_in_block());
    }

    /// Ends a session and gives back what it held.
    pub(super) fn close(&mut self, slot: u32, snapshot: &Snapshot, ending: Ending) {
        let Some((session, record)) = self.sessions.remove(slot) else { return };
        self.counters.sessions_removed += 1;
        let payers = Payers::of(&session, &record);
        self.credit(payers, session.carried_out, session.carried_in);
        self.usages.closed(payers);
        if session.is_tcp() {
            self.half_open.remove(slot);
            if session.tcp & tcp::LOOKED_INTO != 0 {
                self.end_control(slot);
            }
        }
        if self.events.is_wanted(!session.is_in_block()) {
            let row = session_row(self.worker, &session, &record, self.events.now().tick());
            self.events.ended(row, ending, !session.is_in_block());
        }
        match session.kind() {
            SessionKind::DnatPort | SessionKind::DnatAny => return,
            SessionKind::Snat => {
                if let Some(mapping) = self.mappings.release(record.mapping) {
                    self.ports.give(EipIndex(mapping.eip), mapping.protocol, mapping.external_port);
                }
            }
            SessionKind::SnatDependent => {
                let peer = (session.peer, session.peer_port);
                self.ports.give_shared(EipIndex(session.eip), session.protocol, session.external_port, peer);
            }
        }
        let host = self.hosts.hashed(HostKey { tenant: session.tenant, address: session.inside });
        if let Some(host) = self.hosts.find(&host) {
            self.leave_host(host);
        }
        if let Some(gateway) = snapshot.gateway(GatewayIndex(record.gateway)) {
            gateway.meter.leave();
        }
    }

    /// Whether a session is what the present configuration would make. If that is newer than the one that the session was
    /// checked against last, it is checked anew, and ended if it is not.
    pub(super) fn is_in_force(&mut self, slot: u32, snapshot: &Snapshot) -> bool {
        let Some((session, record)) = self.sessions.get(slot) else { return false };
        let checked = Generation(session.generation);
        if checked == snapshot.generation() {
            return true;
        }
        if snapshot.changed(EipIndex(session.eip), session.inside) > checked {
            let flow = session.flow(record);
            if !in_force(&flow, snapshot) && !is_kept(&flow, record.gateway, snapshot) {
                let owned_now = snapshot.eip(flow.external.0).is_some_and(|eip| {
                    eip.any_port.is_some() || eip.forward(flow.protocol, flow.external.1).is_some()
                });
                self.counters.displaced += u64::from(flow.kind.is_snat() && owned_now);
                if snapshot.leaving(flow.entry) == Some(Leaving::Reset) {
                    self.resets.note(&self.sessions, session, self.events.now().tick());
                }
                self.close(slot, snapshot, Ending::Reconfigured);
                return false;
            }
        }
        let Some(session) = self.sessions.session_mut(slot) else { return false };
        if snapshot.topology_changed() > checked {
            session.way_in = Adjacency::NONE;
            session.way_out = Adjacency::NONE;
        } else if session.way_out == Adjacency::HAIRPIN {
            session.way_out = Adjacency::NONE;
        }
        session.generation = snapshot.generation().0;
        true
    }
}

/// Notes what a TCP segment changes of its connection. A reset that cannot come from its sender changes nothing (RFC 7857
/// §2.2); whether to believe it is the receiver's own matter.
fn note_segment(session: &mut Session, packet: &Packet<'_>, datagram: &Datagram, end: End) {
    let flags = datagram.tcp_flags;
    let header = packet.buffer.get(usize::from(datagram.l4)..datagram.end()).unwrap_or_default();
    if flags & RST != 0 {
        if !tcp::is_established(session.tcp) || session.admits_reset(end, get_u32(header, 4)) {
            session.tcp = tcp::after(session.tcp, flags, end);
        }
        return;
    }
    if tcp::reopens(session.tcp, flags) {
        session.restart_windows();
    }
    if flags & SYN != 0 && !tcp::is_established(session.tcp) {
        let len = usize::from(header.get(12).copied().unwrap_or_default() >> 4) * 4;
        session.scale_windows(end, window_scale(header.get(20..len).unwrap_or_default()));
    }
    if flags & ACK != 0 {
        session.acknowledge(end, datagram.tcp_acknowledgement);
    }
    session.tcp = tcp::after(session.tcp, flags, end);
}

/// Whether nothing that a session depends on has changed since it was checked last; it counts as checked then.
#[inline(never)]
fn refresh(session: &mut Session, snapshot: &Snapshot) -> bool {
    let checked = Generation(session.generation);
    let is_untouched = snapshot.changed(EipIndex(session.eip), session.inside) <= checked
        && snapshot.topology_changed() <= checked
        && session.way_out != Adjacency::HAIRPIN;
    if is_untouched {
        session.generation = snapshot.generation().0;
    }
    is_untouched
}

/// Whether a session goes on although the configuration does not stand behind it any more: its entry's sessions are kept, its EIP
/// is still its gateway's, no static entry wants what a dynamic session has, and its destination is not exempt from translation.
pub(super) fn is_kept(flow: &Flow, gateway: u32, snapshot: &Snapshot) -> bool {
    if snapshot.leaving(flow.entry) != Some(Leaving::Kept) {
        return false;
    }
    let Some(eip) = snapshot.eip(flow.external.0).filter(|eip| eip.index == flow.eip) else { return false };
    let Realm::Vpc(vpc) = Realm::of_tenant(flow.tenant) else { return false };
    let is_static = || {
        let host = snapshot.host(vpc, flow.inside.0);
        eip.any_port.is_some()
            || eip.forward(flow.protocol, flow.external.1).is_some()
            || host.is_some_and(|host| {
                host.any_port.is_some() || host.forward(flow.protocol, flow.inside.1).is_some()
            })
    };
    let is_exempt = || snapshot.is_exempt(vpc, flow.inside.0, flow.peer.0);
    // Who has a port of such an EIP follows from its blocks.
    let is_in_block = || snapshot.block_entry(eip).is_some();
    eip.gateway == Some(GatewayIndex(gateway))
        && !(flow.kind.is_snat() && (is_static() || is_exempt() || is_in_block()))
}

/// Whether a flow's external port is one of a block, whose log tells of it.
fn is_in_block(flow: &Flow, snapshot: &Snapshot) -> bool {
    let eip = snapshot.eip(flow.external.0);
    eip.and_then(|eip| snapshot.block_entry(eip)).is_some_and(|entry| entry.id == flow.entry)
}

/// Whether the entry of a flow, which gives out blocks of ports, still is the one that covers the host: it has blocks of no other.
#[cold]
fn has_blocks_of(vpc: VpcIndex, flow: &Flow, snapshot: &Snapshot) -> bool {
    snapshot.snat(vpc, flow.inside.0).is_some_and(|covering| covering.id == flow.entry)
}

/// Whether the configuration still stands behind a flow: its entry is there and translates it in the same way.
pub(super) fn in_force(flow: &Flow, snapshot: &Snapshot) -> bool {
    let Some(eip) = snapshot.eip(flow.external.0).filter(|eip| eip.index == flow.eip) else { return false };
    let Realm::Vpc(vpc) = Realm::of_tenant(flow.tenant) else { return false };
    let (protocol, port) = (flow.protocol, flow.external.1);
    match flow.kind {
        SessionKind::DnatAny => {
            eip.any_port.is_some_and(|e| e.id == flow.entry && e.vpc == vpc && e.host == flow.inside.0)
        }
        SessionKind::DnatPort => eip.forward(protocol, port).is_some_and(|e| {
            e.id == flow.entry && e.vpc == vpc && (e.host, e.host_port(port)) == flow.inside
        }),
        SessionKind::Snat | SessionKind::SnatDependent => {
            // A static entry always beats dynamic sessions: on the EIP, and of the host.
            let is_static = snapshot.host(vpc, flow.inside.0).is_some_and(|host| {
                host.any_port.is_some() || host.forward(protocol, flow.inside.1).is_some()
            });
            !is_static
                && !snapshot.is_exempt(vpc, flow.inside.0, flow.peer.0)
                && eip.any_port.is_none()
                && eip.forward(protocol, port).is_none()
                && snapshot.snat_entry(vpc, flow.entry).is_some_and(|e| {
                    e.member(flow.eip).is_some_and(|member| member.address == flow.external.0)
                        && e.may_map(flow.inside.0, flow.external)
                        && (!matches!(e.allocation, Allocation::Blocks { .. })
                            || has_blocks_of(vpc, flow, snapshot))
                })
        }
    }
}
