//! Fragments: later ones have no ports, so they follow the first one of their datagram (RFC 4787 REQ-14); and packets that
//! are too large for the way out are cut (RFC 791 §3.2).

use std::time::Duration;

use crate::base::{DropReason, Tick};
use crate::nat::Verdict;
use crate::nat::decision::routed;
use crate::nat::engine::{Context, Engine};
use crate::nat::flow::send;
use crate::nat::inward::{check_outside_source, static_inward};
use crate::nat::key::{FlowKey, Hasher};
use crate::nat::lane::Lane;
use crate::nat::neighbours::NextHop;
use crate::nat::outward::{check_inside, static_outward};
use crate::nat::session::{Flow, SessionKind};
use crate::policy::{Realm, Snapshot};
use crate::wire::bytes::{get_u16, put, put_u16};
use crate::wire::datagram::{DONT_FRAGMENT, MORE_FRAGMENTS, OFFSET_MASK};
use crate::wire::{Packet, checksum, icmp};

/// Datagrams that are remembered; a newer one takes an older one's place.
const SETS: usize = 1024;
const WAYS: usize = 4;
/// How long a first fragment is remembered (RFC 1122 §3.3.2 would allow 60 s; the identification of a fast sender comes
/// round sooner).
const MEMORY: u32 = Tick::ticks(Duration::from_secs(30));

#[derive(Clone, Copy, Debug, Default)]
struct Remembered {
    key: FlowKey,
    id: u16,
    until: Tick,
}

/// First fragments that were seen, by the datagram that they belong to.
#[derive(Debug)]
pub struct Fragments {
    sets: Vec<[Remembered; WAYS]>,
    hasher: Hasher,
}

impl Fragments {
    /// A table of fixed size.
    pub fn new(hasher: Hasher) -> Self {
        Self { sets: vec![[Remembered::default(); WAYS]; SETS], hasher }
    }

    fn set(&self, key: &FlowKey, id: u16) -> usize {
        self.hasher.datagram(key, id) as usize % SETS
    }

    /// Remembers the ports of a first fragment. The one whose time ends first makes room.
    pub fn remember(&mut self, key: &FlowKey, id: u16, now: Tick) {
        let set = self.set(key, id);
        let set = &mut self.sets[set];
        let until = now.plus(MEMORY);
        let place = match set.iter().position(|r| is_same(&r.key, key) && r.id == id) {
            Some(place) => place,
            None => (0..WAYS).min_by_key(|way| set[*way].until).unwrap_or(0),
        };
        set[place] = Remembered { key: *key, id, until };
    }

    /// The key of the first fragment of a later one's datagram.
    pub fn first_of(&self, key: &FlowKey, id: u16, now: Tick) -> Option<FlowKey> {
        let set = &self.sets[self.set(key, id)];
        set.iter().find(|r| is_same(&r.key, key) && r.id == id && r.until >= now).map(|r| r.key)
    }
}

/// Whether two fragments are of one sender, receiver and protocol (RFC 791 §3.2).
fn is_same(a: &FlowKey, b: &FlowKey) -> bool {
    (a.source, a.destination, a.tenant, a.protocol) == (b.source, b.destination, b.tenant, b.protocol)
}

impl Engine {
    /// A fragment without a transport header.
    #[cold]
    pub(super) fn later_fragment(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if let Some(first) = self.fragments.first_of(&lane.key(), lane.datagram.id, cx.tick) {
            let mut lane = *lane;
            lane.tenant = first.tenant;
            lane.datagram.source_port = first.source_port;
            lane.datagram.destination_port = first.destination_port;
            lane.hash = self.sessions.hash(&first);
            return self.flow(packet, &lane, cx);
        }
        if let Err(reason) = check_addresses(lane, cx.snapshot) {
            return Verdict::Drop(reason);
        }
        if !cx.snapshot.is_own_address(Realm::of_tenant(lane.tenant), lane.datagram.destination)
            && let Some(realm) =
                routed(lane.tenant, lane.datagram.source, lane.datagram.destination, cx.snapshot, |_| true)
        {
            return self.route(packet, lane, realm, cx);
        }
        match by_address_alone(lane, cx) {
            Ok(flow) => self.translate_stateless(packet, lane, &flow, cx),
            Err(reason) => Verdict::Drop(reason),
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
            let Some(frame) = cx.out.emit(next_hop.port(), ip + header_len + len, false) else {
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

/// An any-port entry needs no ports, so its fragments may come in any order.
fn by_address_alone(lane: &Lane, cx: &Context<'_>) -> Result<Flow, DropReason> {
    const UNKNOWN: DropReason = DropReason::FragmentNoFirst;
    let key = &lane.key();
    let found = match Realm::of_tenant(key.tenant) {
        Realm::Outside => static_inward(key, cx.snapshot),
        Realm::Vpc(vpc) => {
            if cx.snapshot.host(vpc, key.source).is_none_or(|host| !host.forwards().is_empty()) {
                return Err(UNKNOWN);
            }
            static_outward(key, vpc, cx.snapshot)
        }
    };
    found.map(|entry| entry.flow).filter(|flow| flow.kind == SessionKind::DnatAny).ok_or(UNKNOWN)
}

/// Whether a fragment's source and destination may be there at all.
fn check_addresses(lane: &Lane, snapshot: &Snapshot) -> Result<(), DropReason> {
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
