//! How every packet leaves that is to go on: its next hop, its bandwidth, its rewriting; or it turns round to another EIP.

use crate::base::{DropReason, EipIndex};
use crate::nat::Verdict;
use crate::nat::engine::{Context, Engine};
use crate::nat::lane::{Lane, Next};
use crate::nat::neighbours::{Adjacency, NextHop};
use crate::policy::Realm;
use crate::wire::datagram::tcp_flags;
use crate::wire::ethernet::LinkHeader;
use crate::wire::rewrite::{self, Change, End};
use crate::wire::tcp;
use crate::wire::{Arrival, Datagram, Packet, Transport};

impl Engine {
    /// The next hop towards a destination on one side; an own EIP on the outside is a hairpin.
    pub(super) fn way_to(
        &mut self,
        realm: Realm,
        destination: u32,
        cx: &mut Context<'_>,
    ) -> Result<Adjacency, DropReason> {
        if realm == Realm::Outside && cx.snapshot.eip(destination).is_some() {
            return Ok(Adjacency::HAIRPIN);
        }
        let route = cx.snapshot.route(realm, destination).ok_or(DropReason::NoRoute)?;
        let is_public = || cx.snapshot.topology().public_ranges.lookup(destination).is_some();
        if realm == Realm::Outside && route.next_hop.is_some() && is_public() {
            // The router there would send it back.
            return Err(DropReason::EipUnassigned);
        }
        let address = route.next_hop.unwrap_or(destination);
        if let Some((way, known)) = cx.last_way
            && (known == (route.interface, address))
            && self.neighbours.is_current(way)
        {
            return Ok(way);
        }
        let interface = cx.snapshot.interface(route.interface).ok_or(DropReason::NoRoute)?;
        let is_broadcast = interface.prefix.len() < 31
            && (address == interface.prefix.last() || address == interface.prefix.address());
        if is_broadcast || address == interface.address {
            return Err(DropReason::MartianDestination);
        }
        let way = self
            .neighbours
            .resolve(route.interface, address, cx.tick, cx.out, &mut self.counters)
            .ok_or(DropReason::NeighbourTableFull)?;
        cx.last_way = Some((way, (route.interface, address)));
        Ok(way)
    }

    /// Translates a packet and sends it to a next hop, ready or not, in fragments if it must be.
    pub(super) fn leave(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        change: &Change,
        way: Adjacency,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if cx.is_limited
            && let Some(eip) = cx.snapshot.eip(external_address(lane, change))
            && is_over_limit(eip.index, change.end, &lane.datagram, cx)
        {
            return Verdict::Drop(DropReason::Bandwidth);
        }
        if way == Adjacency::HAIRPIN {
            return self.turn_round(packet, lane, change, cx);
        }
        let mtu = self.neighbours.mtu(way);
        let is_too_large = lane.datagram.total_len > mtu;
        if is_too_large && lane.datagram.dont_fragment() {
            self.tell_sender(packet, lane, Self::too_large(mtu), cx);
            return Verdict::Drop(DropReason::FragmentationNeeded);
        }
        if lane.datagram.transport == Transport::Tcp && lane.datagram.tcp_flags & tcp_flags::SYN != 0 {
            self.clamp_mss(packet, lane, way, cx);
        }
        rewrite::apply(packet.buffer, &lane.datagram, change, lane.hops());
        match change.end {
            End::Source => self.counters.bytes_out += u64::from(lane.datagram.total_len),
            End::Destination => self.counters.bytes_in += u64::from(lane.datagram.total_len),
        }
        let datagram = lane.datagram;
        match self.neighbours.ready(way).copied() {
            Some(next_hop) if is_too_large => self.send_in_fragments(packet, lane, &next_hop, cx),
            Some(next_hop) => send(packet, lane, &next_hop),
            None if is_too_large => Verdict::Drop(DropReason::TooLarge),
            None => {
                let bytes = packet.buffer.get(usize::from(datagram.l3)..datagram.end());
                match self.neighbours.hold(way, bytes.unwrap_or_default()) {
                    Ok(()) => Verdict::Held,
                    Err(reason) => Verdict::Drop(reason),
                }
            }
        }
    }

    /// Lowers the segment size that a SYN announces to what the narrower of its two interfaces carries, where one of them asks for
    /// that.
    fn clamp_mss(&self, packet: &mut Packet<'_>, lane: &Lane, way: Adjacency, cx: &Context<'_>) {
        let (Some(from), Some(to)) = (cx.snapshot.interface(lane.interface), self.neighbours.interface(way))
        else {
            return;
        };
        let Some(most) = [from.tcp_mss, to.tcp_mss].into_iter().flatten().min() else { return };
        let room = from.mtu.min(to.mtu).saturating_sub(tcp::HEADERS);
        let segment = packet.buffer.get_mut(usize::from(lane.datagram.l4)..lane.datagram.end());
        tcp::clamp_mss(segment.unwrap_or_default(), most.min(room));
    }

    /// Hairpinning (RFC 4787 REQ-9): the packet, its source translated, is met again as one from the outside.
    fn turn_round(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        change: &Change,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if lane.arrival == Arrival::Hairpin || change.end == End::Destination {
            return Verdict::Drop(DropReason::HairpinLoop);
        }
        self.counters.bytes_out += u64::from(lane.datagram.total_len);
        rewrite::apply(packet.buffer, &lane.datagram, change, lane.hops());
        let mut again = *lane;
        again.datagram.id = change.identification.unwrap_or(lane.datagram.id);
        again.arrival = Arrival::Hairpin;
        // Its hop is taken already.
        again.next = Next::Flow;
        again.prospect = Lane::NO_PROSPECT;
        again.datagram.ttl = lane.datagram.ttl.saturating_sub(lane.hops());
        again.datagram.source = change.address;
        if lane.datagram.has_ports() && lane.datagram.transport != Transport::EchoReply {
            again.datagram.source_port = change.port;
        }
        again.tenant = Realm::Outside.tenant();
        again.hash = self.sessions.hash(&again.key());
        match lane.datagram.transport {
            Transport::LaterFragment => self.later_fragment(packet, &again, cx),
            // The other half of what it quotes is translated too (RFC 5508 REQ-7).
            Transport::IcmpError => self.icmp_error(packet, &again, cx),
            _ if lane.datagram.is_fragment() => self.first_fragment(packet, &again, cx),
            _ => self.flow(packet, &again, cx),
        }
    }

    /// Forwards a packet that is routed and not translated.
    pub(super) fn route(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        realm: Realm,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if lane.datagram.ttl <= lane.hops() {
            return self.ttl_expired(packet, lane, cx);
        }
        let unchanged = Change::of(
            &lane.datagram,
            End::Destination,
            lane.datagram.destination,
            lane.datagram.destination_port,
        );
        match self.way_to(realm, lane.datagram.destination, cx) {
            Ok(way) => self.leave(packet, lane, &unchanged, way, cx),
            Err(reason) => Verdict::Drop(reason),
        }
    }
}

/// Whether a packet is too much for the bandwidth of its EIP. If it is not, it is counted.
#[inline(never)]
pub(super) fn is_over_limit(eip: EipIndex, end: End, datagram: &Datagram, cx: &Context<'_>) -> bool {
    cx.snapshot.limiter(eip).is_some_and(|limiter| !limiter.admit(end, datagram.total_len, cx.now))
}

/// The EIP by which a translated packet goes; another address where it is not translated.
fn external_address(lane: &Lane, change: &Change) -> u32 {
    match change.end {
        End::Source => change.address,
        End::Destination => lane.datagram.destination,
    }
}

/// Puts the link header of the next hop in front of the packet.
pub(super) fn send(packet: &mut Packet<'_>, lane: &Lane, next_hop: &NextHop) -> Verdict {
    let front = packet.buffer.get_mut(..usize::from(lane.datagram.l3));
    match front.and_then(|front| front.last_chunk_mut()) {
        Some(place) => send_from(place, lane, next_hop),
        None => Verdict::Drop(DropReason::NoBuffer),
    }
}

/// The same, where there is room for the link header.
#[inline(always)]
pub(super) fn send_from(place: &mut LinkHeader, lane: &Lane, next_hop: &NextHop) -> Verdict {
    let (header, len) = next_hop.padded_header();
    *place = *header;
    let head = lane.datagram.l3.wrapping_sub(len);
    Verdict::Send { port: next_hop.port(), head, len: lane.datagram.total_len + len }
}
