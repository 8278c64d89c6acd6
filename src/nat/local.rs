//! What the gateway itself says: ARP, echo replies, ICMP errors, announcements.

use std::time::Duration;

use arrayvec::ArrayVec;

use crate::base::{DropReason, Generation, Moment};
use crate::nat::engine::{Context, Engine};
use crate::nat::lane::Lane;
use crate::nat::neighbours::emit_arp;
use crate::nat::{Counters, Exit, NeighbourFact, Verdict};
use crate::policy::{Announcement, Interface, Realm};
use crate::wire::arp::Arp;
use crate::wire::bytes::{put, put_u16, put_u32};
use crate::wire::{Arrival, Packet, Transport, checksum, ethernet, icmp, protocol};

/// TTL of packets of the gateway's own.
const TTL: u8 = 64;
/// An ICMP error is no longer than this (RFC 1812 §4.3.2.3).
const ERROR_LEN: usize = 576;

/// A limit on the gateway's own ICMP errors (RFC 1812 §4.3.2.8): a thousand a second, a hundred at once.
#[derive(Debug, Default)]
pub(super) struct ErrorBudget {
    next: u64,
}

impl ErrorBudget {
    const INTERVAL: u64 = 1_000_000;
    const BURST: u64 = 100 * Self::INTERVAL;

    fn take(&mut self, now: Moment) -> bool {
        let next = self.next.max(now.0) + Self::INTERVAL;
        let is_within = next <= now.0 + Self::BURST;
        if is_within {
            self.next = next;
        }
        is_within
    }
}

impl Engine {
    /// An ARP packet: answers for own addresses and EIPs, learns who speaks to the gateway.
    #[cold]
    pub(super) fn arp(&mut self, packet: &mut Packet<'_>, lane: &Lane, cx: &mut Context<'_>) -> Verdict {
        let end = packet.head + packet.len;
        let bytes = packet.buffer.get(usize::from(lane.datagram.l3)..end).unwrap_or_default();
        let arp = match Arp::parse(bytes) {
            Ok(arp) => arp,
            Err(reason) => return Verdict::Drop(reason),
        };
        let Some(interface) = cx.snapshot.interface(lane.interface) else {
            return Verdict::Drop(DropReason::UnknownVlan);
        };
        if arp.sender_mac == interface.mac {
            return Verdict::Drop(DropReason::ArpMalformed);
        }
        let is_ours = |address: u32| {
            address == interface.address
                || interface.realm == Realm::Outside
                    && cx.snapshot.eip(address).is_some_and(|eip| eip.interface == lane.interface)
        };
        if is_ours(arp.sender) {
            // Somebody claims one of our addresses: defend it (RFC 5227 §2.4).
            if self.errors.take(cx.now) {
                announce(arp.sender, interface, cx.out, &mut self.counters);
            }
            return Verdict::Consumed;
        }
        let asks_us = arp.is_request && is_ours(arp.target);
        let tells_us = !arp.is_request && arp.target_mac == interface.mac;
        if arp.sender != 0 && interface.prefix.contains(arp.sender) {
            let fact = NeighbourFact { interface: lane.interface, address: arp.sender, mac: arp.sender_mac };
            // Only who speaks to the gateway becomes known; others may change what is known (RFC 826). An answer may be to
            // a question of another worker, which is told of it.
            let make = asks_us || tells_us;
            if self.neighbours.learn(fact, make, cx.tick, cx.out, &mut self.counters) {
                cx.out.tell(fact);
            }
        }
        if asks_us {
            let reply = Arp {
                is_request: false,
                sender_mac: interface.mac,
                sender: arp.target,
                target_mac: arp.sender_mac,
                target: arp.sender,
            };
            emit_arp(&reply, arp.sender_mac, interface, cx.out, &mut self.counters);
        }
        if asks_us || tells_us || arp.sender == arp.target {
            return Verdict::Consumed;
        }
        Verdict::Drop(DropReason::NotOurs)
    }

    /// A packet for an address of the gateway itself.
    pub(super) fn meant_for_gateway(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if lane.datagram.transport == Transport::EchoRequest {
            return self.answer_echo(packet, lane, cx);
        }
        Verdict::Drop(DropReason::LocalUnserved)
    }

    /// Answers an echo request (RFC 1122 §3.2.2.6) as the address that it was sent to.
    pub(super) fn answer_echo(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Verdict {
        let datagram = &lane.datagram;
        if datagram.is_fragment() {
            return Verdict::Drop(DropReason::LocalUnserved);
        }
        let payload = packet.buffer.get(usize::from(datagram.l4)..datagram.end()).unwrap_or_default();
        if checksum::of(payload) != 0 {
            return Verdict::Drop(DropReason::TransportChecksum);
        }
        if lane.arrival == Arrival::Hairpin {
            return self.answer_hairpinned_echo(packet, lane, cx);
        }
        let Some(ip) = self.reply_frame(packet, lane, 20 + payload.len(), datagram.destination, cx) else {
            return Verdict::Drop(DropReason::NoBuffer);
        };
        put(ip, 20, payload);
        ip[20] = icmp::ECHO_REPLY;
        ip[21] = 0;
        finish_icmp(ip);
        Verdict::Consumed
    }

    /// A private host's echo request that was translated before it came to an EIP that the gateway answers for: it becomes
    /// the reply, which then finds its way to the host as any other from the outside does.
    fn answer_hairpinned_echo(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Verdict {
        let (l3, l4) = (usize::from(lane.datagram.l3), usize::from(lane.datagram.l4));
        let Some(ip) = packet.buffer.get_mut(l3..lane.datagram.end()) else {
            return Verdict::Drop(DropReason::NoBuffer);
        };
        put(ip, 8, &[TTL]);
        put_u32(ip, 12, lane.datagram.destination);
        put_u32(ip, 16, lane.datagram.source);
        let sum = checksum::of_header(ip.get(..l4 - l3).unwrap_or_default());
        put_u16(ip, 10, sum);
        let message = ip.get_mut(l4 - l3..).unwrap_or_default();
        put(message, 0, &[icmp::ECHO_REPLY, 0, 0, 0]);
        let sum = checksum::of(message);
        put_u16(message, 2, sum);
        let mut reply = *lane;
        if let Err(reason) = reply.datagram.parse_into(packet.buffer, l3) {
            return Verdict::Drop(reason);
        }
        reply.hash = self.sessions.hash(&reply.key());
        self.flow(packet, &reply, cx)
    }

    /// Emits an IPv4 header from `source` back to the sender of a packet, by the way that it came; gives the room for the
    /// whole IP packet of `len` bytes.
    pub(super) fn reply_frame<'o>(
        &mut self,
        packet: &Packet<'_>,
        lane: &Lane,
        len: usize,
        source: u32,
        cx: &'o mut Context<'_>,
    ) -> Option<&'o mut [u8]> {
        let interface = cx.snapshot.interface(lane.interface)?;
        let sender: &[u8; 6] = packet.buffer.get(usize::from(lane.frame) + 6..)?.first_chunk()?;
        let (link, link_len) = ethernet::header(*sender, interface.mac, interface.vlan, ethernet::IPV4);
        let frame = cx.out.emit(interface.port, link_len + len, Exit::Own)?;
        self.counters.originated += 1;
        put(frame, 0, &link[..link_len]);
        let ip = frame.get_mut(link_len..)?;
        if ip.len() < 28 {
            return None;
        }
        ip[0] = 0x45;
        put_u16(ip, 2, len as u16);
        ip[8] = TTL;
        ip[9] = protocol::ICMP;
        put_u32(ip, 12, source);
        put_u32(ip, 16, lane.datagram.source);
        let checksum = checksum::of_header(&ip[..20]);
        put_u16(ip, 10, checksum);
        Some(ip)
    }

    /// The TTL has run out (RFC 1812 §5.3.1).
    #[cold]
    pub(super) fn ttl_expired(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        cx: &mut Context<'_>,
    ) -> Verdict {
        self.tell_sender(packet, lane, (icmp::TIME_EXCEEDED, 0, 0), cx);
        Verdict::Drop(DropReason::TtlExpired)
    }

    /// A new session was refused: the host is told (RFC 5508 REQ-8), unless its next try may succeed.
    #[cold]
    pub(super) fn tell_refused(
        &mut self,
        packet: &Packet<'_>,
        lane: &Lane,
        reason: DropReason,
        cx: &mut Context<'_>,
    ) {
        if matches!(
            reason,
            DropReason::HostQuota
                | DropReason::PortsExhausted
                | DropReason::SessionLimit
                | DropReason::SessionTableFull
        ) {
            let problem = (icmp::DESTINATION_UNREACHABLE, icmp::ADMINISTRATIVELY_PROHIBITED, 0);
            self.tell_sender(packet, lane, problem, cx);
        }
    }

    /// Sends an ICMP error about a packet that is not translated yet: type, code and the second word.
    ///
    /// None is sent about ICMP errors, later fragments, broadcasts and odd sources (RFC 1122 §3.2.2).
    pub(super) fn tell_sender(
        &mut self,
        packet: &Packet<'_>,
        lane: &Lane,
        (kind, code, word): (u8, u8, u32),
        cx: &mut Context<'_>,
    ) {
        let datagram = &lane.datagram;
        let may = datagram.fragment_offset() == 0
            && datagram.transport != Transport::IcmpError
            && !lane.is_group
            && lane.arrival != Arrival::Hairpin
            && !super::inward::is_martian_source(datagram.source);
        if !may || !self.errors.take(cx.now) {
            return;
        }
        let Some(source) = cx.snapshot.interface(lane.interface).map(|i: &Interface| i.address) else {
            return;
        };
        let end = datagram.end().min(usize::from(datagram.l3) + ERROR_LEN - 28);
        let quoted = packet.buffer.get(usize::from(datagram.l3)..end).unwrap_or_default();
        if let Some(ip) = self.reply_frame(packet, lane, 28 + quoted.len(), source, cx) {
            ip[20] = kind;
            ip[21] = code;
            put_u32(ip, 24, word);
            put(ip, 28, quoted);
            finish_icmp(ip);
        }
    }
}

/// Computes the checksum of the ICMP message behind a header of twenty bytes.
fn finish_icmp(ip: &mut [u8]) {
    put_u16(ip, 22, 0);
    let checksum = checksum::of(ip.get(20..).unwrap_or_default());
    put_u16(ip, 22, checksum);
}

/// Broadcasts that an address is here (RFC 5227 §2.3).
fn announce(address: u32, interface: &Interface, out: &mut crate::nat::Output, counters: &mut Counters) {
    let announcement = Arp {
        is_request: true,
        sender_mac: interface.mac,
        sender: address,
        target_mac: [0; 6],
        target: address,
    };
    emit_arp(&announcement, ethernet::BROADCAST, interface, out, counters);
}

/// Announces own addresses and EIPs when they are configured: twice, two seconds apart (RFC 5227 §2.3), a few at a time.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    /// Up to which generation all was announced once.
    done: Generation,
    /// Within the generation at hand: how many.
    next: usize,
    /// What is to be announced once more, and when.
    again: ArrayVec<(Moment, Announcement), 1024>,
    /// Whether the own addresses were announced, for which topology.
    own: Generation,
    has_begun: bool,
}

impl Announcer {
    const AT_ONCE: usize = 16;
    const INTERVAL: Duration = Duration::from_secs(2);

    pub(super) fn tick(&mut self, cx: &mut Context<'_>, counters: &mut Counters) {
        self.own_addresses(cx, counters);
        let list = cx.snapshot.announcements();
        let latest = cx.snapshot.generation();
        if self.done < latest {
            let due = list.since(self.done).get(self.next..).unwrap_or_default();
            let now = &due[..due.len().min(Self::AT_ONCE)];
            for (_, announcement) in now {
                speak(*announcement, cx, counters);
                // One that finds no room is announced once only.
                let _ = self.again.try_push((cx.now + Self::INTERVAL, *announcement));
            }
            self.next += now.len();
            if now.len() == due.len() {
                self.done = latest;
                self.next = 0;
            }
        }
        for _ in 0..Self::AT_ONCE {
            match self.again.first().copied() {
                Some((when, announcement)) if when <= cx.now => {
                    self.again.remove(0);
                    speak(announcement, cx, counters);
                }
                _ => break,
            }
        }
    }

    fn own_addresses(&mut self, cx: &mut Context<'_>, counters: &mut Counters) {
        if self.has_begun && self.own >= cx.snapshot.topology_changed() {
            return;
        }
        self.has_begun = true;
        self.own = cx.snapshot.topology_changed();
        for interface in &cx.snapshot.topology().interfaces {
            announce(interface.address, interface, cx.out, counters);
        }
    }
}

/// Announces an EIP, unless it is gone or elsewhere by now.
fn speak(announcement: Announcement, cx: &mut Context<'_>, counters: &mut Counters) {
    let is_there =
        cx.snapshot.eip(announcement.address).is_some_and(|e| e.interface == announcement.interface);
    if let (true, Some(interface)) = (is_there, cx.snapshot.interface(announcement.interface)) {
        announce(announcement.address, interface, cx.out, counters);
    }
}
