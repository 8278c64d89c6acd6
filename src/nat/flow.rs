//! Packets of sessions: check, count, translate; and packets that have none yet.

use crate::base::{DropReason, EipIndex, Generation};
use crate::nat::decision::Decision;
use crate::nat::engine::{Context, Engine};
use crate::nat::events::Ending;
use crate::nat::lane::Lane;
use crate::nat::leave::{is_over_limit, send};
use crate::nat::neighbours::Adjacency;
use crate::nat::query::session_row;
use crate::nat::session::{CARRY, Flow, Record, Session, SessionKind};
use crate::nat::{Verdict, tcp};
use crate::policy::{Realm, Snapshot, Timeouts};
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
    /// The fast path: a packet of a session that is where it probably is, in force, with nothing to note and its next hop
    /// ready. `None`, and no change, if anything about it is unusual.
    #[inline(always)]
    pub(super) fn fast(&mut self, packet: &mut Packet<'_>, lane: &Lane, cx: &Context<'_>) -> Option<Verdict> {
        // Compiled once for each direction, so that only this branch asks for it.
        match end_of(lane.tenant) {
            End::Source => self.fast_at(End::Source, packet, lane, cx),
            End::Destination => self.fast_at(End::Destination, packet, lane, cx),
        }
    }

    #[inline(always)]
    fn fast_at(
        &mut self,
        end: End,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &Context<'_>,
    ) -> Option<Verdict> {
        let session = self.sessions.session_mut(lane.candidate)?;
        let datagram = &lane.datagram;
        let way = match end {
            End::Source => session.way_out,
            End::Destination => session.way_in,
        };
        let next_hop = self.neighbours.ready(way)?;
        let is_usual = session.has_at(end, &lane.key())
            && (session.generation == cx.snapshot.generation().0 || refresh(session, cx.snapshot))
            && datagram.ttl > lane.hops()
            && datagram.total_len <= next_hop.mtu()
            && !datagram.is_fragment()
            && (!session.is_tcp() || tcp::is_plain(datagram.tcp_flags, session.tcp));
        let (bytes, total) = match end {
            End::Source => (&mut session.bytes_out, &mut self.counters.bytes_out),
            End::Destination => (&mut session.bytes_in, &mut self.counters.bytes_in),
        };
        if !is_usual
            || *bytes >= CARRY
            || cx.is_limited && is_over_limit(EipIndex(session.eip), end, datagram, cx)
        {
            return None;
        }
        *bytes += u32::from(datagram.total_len);
        *total += u64::from(datagram.total_len);
        session.last_seen = cx.tick.0;
        session.acknowledge(end, datagram.tcp_acknowledgement);
        let mut change = session.change(end);
        if end == End::Source {
            change.identification = self.identifications.of(lane, session.kind());
        }
        rewrite::apply(packet.buffer, datagram, &change, lane.hops());
        Some(send(packet, lane, next_hop))
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

    /// What is rare: a TCP segment that changes the state, a counter that is full.
    #[cold]
    fn note(&mut self, packet: &Packet<'_>, lane: &Lane, slot: u32, end: End, carry: bool) {
        if carry {
            self.sessions.carry(slot, end);
        }
        let Some(session) = self.sessions.session_mut(slot) else { return };
        if lane.datagram.transport == Transport::Tcp {
            let was_established = tcp::is_established(session.tcp);
            note_segment(session, packet, &lane.datagram, end);
            if was_established && !tcp::is_established(session.tcp) {
                self.sessions.reschedule(slot);
            }
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
        let Some(session) = self.sessions.session(slot).copied() else {
            return Verdict::Drop(DropReason::NoMapping);
        };
        let (realm, destination, way) = match end {
            End::Source => (Realm::Outside, session.peer, session.way_out),
            End::Destination => (Realm::of_tenant(session.tenant), session.inside, session.way_in),
        };
        let known = way == Adjacency::HAIRPIN || self.neighbours.is_current(way);
        let way = if known {
            way
        } else {
            match self.way_to(realm, destination, cx) {
                Ok(way) => way,
                Err(reason) => return Verdict::Drop(reason),
            }
        };
        if let Some(session) = self.sessions.session_mut(slot) {
            match end {
                End::Source => session.way_out = way,
                End::Destination => session.way_in = way,
            }
            session.last_seen = cx.tick.0;
            match end {
                End::Source => session.bytes_out += u32::from(lane.datagram.total_len),
                End::Destination => session.bytes_in += u32::from(lane.datagram.total_len),
            }
            let carry = session.bytes_out >= CARRY || session.bytes_in >= CARRY;
            self.note(packet, lane, slot, end, carry);
        }
        let mut change = session.change(end);
        if end == End::Source {
            change.identification = self.identifications.of(lane, session.kind());
        }
        self.leave(packet, lane, &change, way, cx)
    }

    /// A packet without a session.
    #[inline(never)]
    fn miss(&mut self, packet: &mut Packet<'_>, lane: &Lane, cx: &mut Context<'_>) -> Verdict {
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
                self.tell_refused(packet, lane, *reason, cx);
            }),
            Decision::Admit { entry, mapping, flow } => self.open_admitted(entry, mapping, &flow, cx),
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
                let identification = self.identifications.of(lane, flow.kind);
                (Change { identification, ..flow.outward() }, Realm::Outside, flow.peer.0)
            }
            End::Destination => (flow.inward(), Realm::of_tenant(flow.tenant), flow.inside.0),
        };
        match self.way_to(realm, destination, cx) {
            Ok(way) => self.leave(packet, lane, &change, way, cx),
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// Begins a session.
    ///
    /// # Errors
    /// When the table has no room for it, or its flow is there already.
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
        let session = Session::new(flow, cx.snapshot.generation(), cx.tick);
        let record = Record {
            created: cx.tick.0,
            entry: flow.entry.0,
            gateway,
            mapping,
            timeout_transitory,
            timeout_established,
            carried_out: 0,
            carried_in: 0,
        };
        let slot = self.sessions.insert(session, record)?;
        self.counters.sessions_created += 1;
        if self.events.is_wanted() {
            self.events.created(session_row(self.worker, &session, &record, cx.tick));
        }
        Some(slot)
    }

    /// Ends a session and gives back what it held.
    pub(super) fn close(&mut self, slot: u32, snapshot: &Snapshot, ending: Ending) {
        let Some((session, record)) = self.sessions.remove(slot) else { return };
        self.counters.sessions_removed += 1;
        if self.events.is_wanted() {
            let row = session_row(self.worker, &session, &record, self.events.now().tick());
            self.events.ended(row, ending);
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
        if let Some(host) = self.hosts.find(session.tenant, session.inside) {
            self.hosts.leave(host);
        }
        if let Some(gateway) = snapshot.gateway(crate::base::GatewayIndex(record.gateway)) {
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
        if snapshot.eip_changed(EipIndex(session.eip)) > checked {
            let flow = session.flow(record);
            if !in_force(&flow, snapshot) {
                let owned_now = snapshot.eip(flow.external.0).is_some_and(|eip| {
                    eip.any_port.is_some() || eip.forward(flow.protocol, flow.external.1).is_some()
                });
                self.counters.displaced += u64::from(flow.kind.is_snat() && owned_now);
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
    let is_untouched = snapshot.eip_changed(EipIndex(session.eip)) <= checked
        && snapshot.topology_changed() <= checked
        && session.way_out != Adjacency::HAIRPIN;
    if is_untouched {
        session.generation = snapshot.generation().0;
    }
    is_untouched
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
                        && e.ports.contains(port)
                })
        }
    }
}
