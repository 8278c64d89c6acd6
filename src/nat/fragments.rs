//! Fragments: later ones have no ports, so they follow the first one of their datagram (RFC 4787 REQ-14); and packets that
//! are too large for the way out are cut (RFC 791 §3.2).
//!
//! With several workers all fragments of a datagram meet at one of them, which is computed from what every fragment has.
//! There the first one is remembered, and those that came before it have waited. From there each goes on as the first one
//! did, if need be to the worker that owns the session, unless it overlaps another (RFC 1858 §4). Where addresses alone tell the
//! way, as those of an any-port entry do, fragments go their own ways.

use crate::base::owner::{owner_of_datagram, owner_of_host};
use crate::base::{DropReason, PortIndex, WorkerIndex};
use crate::nat::decision::routed;
use crate::nat::engine::{Context, Engine};
use crate::nat::inward::{check_outside_source, static_inward};
use crate::nat::key::FlowKey;
use crate::nat::lane::Lane;
use crate::nat::leave::send;
use crate::nat::neighbours::NextHop;
use crate::nat::outward::{check_inside, static_outward};
use crate::nat::reassembly::{First, Place};
use crate::nat::session::{Flow, SessionKind};
use crate::nat::{Exit, Verdict};
use crate::policy::{Realm, Snapshot};
use crate::wire::bytes::{get_u16, put, put_u16};
use crate::wire::datagram::{DONT_FRAGMENT, MORE_FRAGMENTS, OFFSET_MASK};
use crate::wire::{Arrival, Packet, checksum, icmp};

impl Engine {
    /// The first of several fragments: what belongs to it follows.
    #[cold]
    pub(super) fn first_fragment(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if let Some(to) = self.meeting_place(lane, cx.snapshot) {
            return Verdict::Hand { to, arrival: Arrival::Fragment };
        }
        let place = self.fragments.place(lane, cx.tick);
        if place == Place::Unfit && way_by_addresses(lane, cx.snapshot).is_none() {
            return Verdict::Drop(DropReason::FragmentOverlap);
        }
        // A duplicate is a part of the same datagram.
        let twin = if let Place::Of(first) = place { Some(first) } else { None };
        let mut lane = *lane;
        if lane.tenant != Realm::Outside.tenant() {
            lane.identification = twin
                .and_then(|first| first.identification)
                .or_else(|| Some(self.identifications.take(lane.datagram.destination)));
        }
        let verdict = self.flow(packet, &lane, cx);
        if !matches!(verdict, Verdict::Drop(_)) && twin.is_none() {
            let first = self.fragments.begin(&lane, cx.tick);
            self.release_held(&first, cx);
        }
        verdict
    }

    /// A fragment without a transport header.
    #[cold]
    pub(super) fn later_fragment(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if let Err(reason) = check_addresses(lane, cx.snapshot) {
            return Verdict::Drop(reason);
        }
        if let Some(to) = self.meeting_place(lane, cx.snapshot) {
            return Verdict::Hand { to, arrival: Arrival::Fragment };
        }
        let place = self.fragments.take(lane, cx.tick);
        if let Place::Of(first) = place {
            return self.follow_first(packet, lane, &first, cx);
        }
        match way_by_addresses(lane, cx.snapshot) {
            Some(ByAddresses::Route(realm)) => return self.route(packet, lane, realm, cx),
            Some(ByAddresses::Entry(flow)) => return self.translate_stateless(packet, lane, &flow, cx),
            None if place == Place::Unfit => return Verdict::Drop(DropReason::FragmentOverlap),
            None if !may_be_translated(lane, cx.snapshot) => {
                return Verdict::Drop(DropReason::FragmentNoFirst);
            }
            None => {}
        }
        match self.fragments.hold(packet, lane, cx.tick, &mut self.counters) {
            Ok(()) => Verdict::Held,
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// The worker at which the fragments of a datagram meet, if it is another one.
    pub(super) fn meeting_place(&self, lane: &Lane, snapshot: &Snapshot) -> Option<WorkerIndex> {
        if self.workers == 1 || lane.arrival != Arrival::Wire {
            return None;
        }
        let (source, destination) = (lane.datagram.source, lane.datagram.destination);
        let owner = match Realm::of_tenant(lane.tenant) {
            Realm::Outside => {
                snapshot.eip(destination).filter(|eip| eip.any_port.is_none())?;
                owner_of_datagram(source, destination, self.workers)
            }
            Realm::Vpc(_) => owner_of_host(source, self.workers),
        };
        (owner != self.worker.0).then_some(WorkerIndex(owner))
    }

    /// A later fragment goes where the first one went.
    fn follow_first(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        first: &First,
        cx: &mut Context<'_>,
    ) -> Verdict {
        let mut lane = *lane;
        lane.identification = first.identification;
        lane.datagram.source_port = first.key.source_port;
        lane.datagram.destination_port = first.key.destination_port;
        lane.hash = self.sessions.hash(&first.key);
        self.flow(packet, &lane, cx)
    }

    /// Lets go what has waited for a first fragment.
    fn release_held(&mut self, first: &First, cx: &mut Context<'_>) {
        while let Some(held) = self.fragments.release(first) {
            let mut buffer = self.fragments.lend();
            let mut packet = held.packet(&mut buffer);
            self.counters.held -= 1;
            let verdict = match self.fragments.take(&held.lane, cx.tick) {
                Place::Of(first) => self.follow_first(&mut packet, &held.lane, &first, cx),
                Place::Unfit => Verdict::Drop(DropReason::FragmentOverlap),
                Place::Unknown => Verdict::Drop(DropReason::FragmentNoFirst),
            };
            let emitted = match verdict {
                Verdict::Send { port, head, len } => {
                    let (start, len) = (usize::from(head), usize::from(len));
                    let frame = packet.buffer.get(start..start + len).unwrap_or_default();
                    emit_copy(cx, port, Exit::Forwarded, frame)
                }
                Verdict::Hand { to, arrival } => {
                    emit_copy(cx, held.port, Exit::Handed { to, arrival }, packet.frame())
                }
                Verdict::Consumed | Verdict::Held | Verdict::Drop(_) => true,
            };
            self.count(if emitted { verdict } else { Verdict::Drop(DropReason::NoBuffer) });
            self.fragments.take_back(buffer);
        }
    }

    /// Sends a translated packet that is larger than the way out in fragments: the packet itself becomes the first.
    #[cold]
    pub(super) fn send_in_fragments(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        next_hop: &NextHop,
        cx: &mut Context<'_>,
    ) -> Verdict {
        let datagram = &lane.datagram;
        let (l3, header_len) = (usize::from(datagram.l3), datagram.header_len());
        let each = usize::from(next_hop.mtu()).saturating_sub(header_len) & !7;
        let payload_len = usize::from(datagram.total_len) - header_len;
        if each == 0 {
            return Verdict::Drop(DropReason::TooLarge);
        }
        let offset = datagram.fragment & OFFSET_MASK;
        let link = next_hop.header();
        let mut at = each;
        while at < payload_len {
            let len = each.min(payload_len - at);
            let is_last = at + len == payload_len;
            let start = usize::from(datagram.l4) + at;
            let (Some(header), Some(payload)) =
                (packet.buffer.get(l3..l3 + header_len), packet.buffer.get(start..start + len))
            else {
                break;
            };
            let ip = link.len();
            let Some(frame) = cx.out.emit(next_hop.port(), ip + header_len + len, Exit::Own) else {
                return Verdict::Drop(DropReason::NoBuffer);
            };
            put(frame, 0, link);
            put(frame, ip, header);
            put(frame, ip + header_len, payload);
            let more = datagram.fragment & MORE_FRAGMENTS | if is_last { 0 } else { MORE_FRAGMENTS };
            finish_fragment(frame, ip, header_len, len, more | (offset + (at / 8) as u16));
            self.counters.originated += 1;
            at += len;
        }
        finish_fragment(packet.buffer, l3, header_len, each, MORE_FRAGMENTS | offset);
        let mut first = *lane;
        first.datagram.total_len = (header_len + each) as u16;
        send(packet, &first, next_hop)
    }

    /// The largest next-hop MTU problem as an ICMP message.
    pub(super) fn too_large(mtu: u16) -> (u8, u8, u32) {
        (icmp::DESTINATION_UNREACHABLE, icmp::FRAGMENTATION_NEEDED, u32::from(mtu))
    }
}

/// Emits a copy of a frame; says whether there was room for it.
fn emit_copy(cx: &mut Context<'_>, port: PortIndex, exit: Exit, frame: &[u8]) -> bool {
    let room = cx.out.emit(port, frame.len(), exit);
    room.map(|room| room.copy_from_slice(frame)).is_some()
}

/// Where a fragment goes if its addresses alone tell that.
#[derive(Clone, Copy, Debug)]
pub(super) enum ByAddresses {
    /// It is routed on this side, untranslated.
    Route(Realm),
    /// An any-port entry translates it.
    Entry(Flow),
}

/// The way of a fragment that needs no ports, so that those of a datagram may come in any order and at any worker.
pub(super) fn way_by_addresses(lane: &Lane, snapshot: &Snapshot) -> Option<ByAddresses> {
    // Nothing for the gateway itself is routed or leaves by an entry.
    if is_for_gateway(lane, snapshot) {
        return None;
    }
    let (source, destination) = (lane.datagram.source, lane.datagram.destination);
    let route = routed(lane.tenant, source, destination, snapshot, |_| true).map(ByAddresses::Route);
    route.or_else(|| any_port_entry(&lane.key(), snapshot).map(ByAddresses::Entry))
}

/// The any-port entry of a fragment, if no other entry may have it.
fn any_port_entry(key: &FlowKey, snapshot: &Snapshot) -> Option<Flow> {
    let entry = match Realm::of_tenant(key.tenant) {
        Realm::Outside => static_inward(key, snapshot),
        Realm::Vpc(vpc) => snapshot
            .host(vpc, key.source)
            .filter(|host| host.forwards().is_empty())
            .and_then(|_| static_outward(key, vpc, snapshot)),
    };
    entry.map(|entry| entry.flow).filter(|flow| flow.kind == SessionKind::DnatAny)
}

/// Whether the first fragment of a later one's datagram may be one that an entry translates.
pub(super) fn may_be_translated(lane: &Lane, snapshot: &Snapshot) -> bool {
    let (source, destination) = (lane.datagram.source, lane.datagram.destination);
    !is_for_gateway(lane, snapshot)
        && match Realm::of_tenant(lane.tenant) {
            Realm::Outside => snapshot.eip(destination).is_some_and(|eip| eip.gateway.is_some()),
            Realm::Vpc(vpc) => snapshot.host(vpc, source).is_some() || snapshot.snat(vpc, source).is_some(),
        }
}

/// Whether a fragment is for the gateway itself, by its address on this side or, from a VPC, on the outside.
fn is_for_gateway(lane: &Lane, snapshot: &Snapshot) -> bool {
    [Realm::of_tenant(lane.tenant), Realm::Outside]
        .into_iter()
        .any(|realm| snapshot.is_own_address(realm, lane.datagram.destination))
}

/// Whether a fragment's source and destination may be there at all.
pub(super) fn check_addresses(lane: &Lane, snapshot: &Snapshot) -> Result<(), DropReason> {
    match Realm::of_tenant(lane.tenant) {
        Realm::Outside => check_outside_source(lane, snapshot),
        Realm::Vpc(vpc) => check_inside(lane, vpc, snapshot),
    }
}

/// Sets length, flags and offset of a fragment, and its header checksum.
fn finish_fragment(bytes: &mut [u8], l3: usize, header_len: usize, payload_len: usize, flags: u16) {
    let keep = get_u16(bytes, l3 + 6) & !(DONT_FRAGMENT | MORE_FRAGMENTS | OFFSET_MASK);
    put_u16(bytes, l3 + 2, (header_len + payload_len) as u16);
    put_u16(bytes, l3 + 6, keep | flags);
    let header = bytes.get(l3..l3 + header_len).unwrap_or_default();
    let checksum = checksum::of_header(header);
    put_u16(bytes, l3 + 10, checksum);
}
