//! TCP resets of the gateway's own: both hosts of a connection whose session ends are told, where that is asked for or the entry says so
//! (RFC 5382 §5 leaves it to the NAT), instead of finding out when they wait for answers that cannot come.

use crate::base::DropReason;
use crate::nat::engine::{Context, Engine};
use crate::nat::lane::Lane;
use crate::nat::session::Session;
use crate::nat::{Exit, Verdict};
use crate::policy::Realm;
use crate::wire::bytes::{put, put_u16, put_u32};
use crate::wire::datagram::DONT_FRAGMENT;
use crate::wire::datagram::tcp_flags::{ACK, RST};
use crate::wire::{Arrival, Packet, checksum, protocol};

/// Bytes of a reset: an IPv4 and a TCP header without options.
const LEN: usize = 40;
/// TTL of resets.
const TTL: u8 = 64;

impl Engine {
    /// Sends a reset to each host of a TCP connection.
    #[cold]
    pub(super) fn reset_both(&mut self, session: &Session, cx: &mut Context<'_>) {
        let inside = (session.inside, session.inside_port);
        let external = (session.external, session.external_port);
        let peer = (session.peer, session.peer_port);
        let realm = Realm::of_tenant(session.tenant);
        let numbers = (session.acknowledged_out, session.acknowledged_in);
        self.reset(realm, peer, inside, numbers, cx);
        self.reset(Realm::Outside, external, peer, (numbers.1, numbers.0), cx);
    }

    /// A segment of a connection that was reset: whoever sent it gets a reset with the number that it expects (RFC 9293 §3.10.7.1).
    #[cold]
    pub(super) fn reset_sender(&mut self, packet: &Packet<'_>, lane: &Lane, cx: &mut Context<'_>) -> Verdict {
        let datagram = &lane.datagram;
        let flags = datagram.tcp_flags & (ACK | RST);
        let (from, to) =
            ((datagram.destination, datagram.destination_port), (datagram.source, datagram.source_port));
        let may = flags == ACK && !lane.is_group && lane.arrival != Arrival::Hairpin;
        if may && let Some(ip) = self.reply_frame(packet, lane, LEN, from.0, cx) {
            write_reset(ip, from, to, (datagram.tcp_acknowledgement, 0));
        }
        Verdict::Drop(DropReason::SessionEnding)
    }

    /// Emits a reset with the sequence number that the receiver expects next, as far as its last acknowledgement tells (RFC 5961
    /// §3.2). One whose number is not known, whose next hop is not, or which would turn round at another EIP is left out.
    fn reset(
        &mut self,
        realm: Realm,
        from: (u32, u16),
        to: (u32, u16),
        (sequence, acknowledgement): (u32, u32),
        cx: &mut Context<'_>,
    ) {
        if sequence == 0 {
            return;
        }
        let Ok(way) = self.way_to(realm, to.0, cx) else { return };
        let Some(next_hop) = self.neighbours.ready(way) else { return };
        let header = next_hop.header();
        let Some(frame) = cx.out.emit(next_hop.port(), header.len() + LEN, Exit::Own) else { return };
        self.counters.originated += 1;
        put(frame, 0, header);
        let ip = frame.get_mut(header.len()..).unwrap_or_default();
        write_reset(ip, from, to, (sequence, acknowledgement));
    }
}

fn write_reset(ip: &mut [u8], from: (u32, u16), to: (u32, u16), (sequence, acknowledgement): (u32, u32)) {
    let Some((ip, tcp)) = ip.split_at_mut_checked(20) else { return };
    ip[0] = 0x45;
    put_u16(ip, 2, LEN as u16);
    // Not to be fragmented: no identification is needed (RFC 6864 §4.1).
    put_u16(ip, 6, DONT_FRAGMENT);
    ip[8] = TTL;
    ip[9] = protocol::TCP;
    put_u32(ip, 12, from.0);
    put_u32(ip, 16, to.0);
    let sum = checksum::of_header(ip);
    put_u16(ip, 10, sum);
    put_u16(tcp, 0, from.1);
    put_u16(tcp, 2, to.1);
    put_u32(tcp, 4, sequence);
    put_u32(tcp, 8, acknowledgement);
    put_u16(tcp, 12, 5 << 12 | u16::from(RST | if acknowledgement == 0 { 0 } else { ACK }));
    let sum = checksum::of_transport(from.0, to.0, protocol::TCP, tcp);
    put_u16(tcp, 16, sum);
}
