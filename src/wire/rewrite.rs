//! Changing a packet's addresses, ports and TTL in place, with its checksums.

use crate::wire::bytes::{get_u16, put_u16, put_u32};
use crate::wire::checksum::updated;
use crate::wire::{Datagram, Delta, Transport, protocol};

/// Which end of a packet is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Source address and port: on the way out.
    Source,
    /// Destination address and port: on the way in.
    Destination,
}

/// A change of one end, with what it does to the checksums.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Which end.
    pub end: End,
    /// The new address.
    pub address: u32,
    /// The new port (or identifier).
    pub port: u16,
    /// The identification that the packet gets besides.
    pub identification: Option<u16>,
    /// The effect of the address on the IP header's checksum.
    pub ip: Delta,
    /// Its effect on the transport checksum: address and port for TCP and UDP, the identifier alone for ICMP.
    pub transport: Delta,
}

impl Change {
    /// The change of one end of a packet from what it has now.
    pub fn of(datagram: &Datagram, end: End, address: u32, port: u16) -> Self {
        let (old, old_port) = match end {
            End::Source => (datagram.source, datagram.source_port),
            End::Destination => (datagram.destination, datagram.destination_port),
        };
        let ip = Delta::of_u32(old, address);
        let transport = transport_delta(datagram.protocol, ip, Delta::of_u16(old_port, port));
        Self { end, address, port, identification: None, ip, transport }
    }
}

/// The effect of a changed address and port on the transport checksum of a protocol.
pub const fn transport_delta(protocol: u8, address: Delta, port: Delta) -> Delta {
    match protocol {
        protocol::ICMP => port,
        protocol::TCP | protocol::UDP => address.and(port),
        _ => Delta::NONE,
    }
}

/// The delta of a TTL that goes down by one.
const TTL_DOWN: Delta = Delta(0xfeff);

/// Applies a change to the packet that `datagram` describes in `bytes`, and takes `hops` (0 or 1) off its TTL.
///
/// A UDP checksum of zero stays zero (RFC 3022 §4.1), and one that becomes zero is sent as 0xffff (RFC 768).
pub fn apply(bytes: &mut [u8], datagram: &Datagram, change: &Change, hops: u8) {
    let packet = bytes.get_mut(usize::from(datagram.l3)..);
    let Some((header, rest)) = packet.and_then(|packet| packet.split_first_chunk_mut()) else { return };
    let Some(segment) = rest.get_mut(datagram.header_len() - header.len()..) else { return };
    apply_to(header, segment, datagram, change, hops);
}

/// [`apply`] where the headers are found already: the first twenty bytes of the IP header, and what follows it.
#[inline(always)]
pub fn apply_to(header: &mut [u8; 20], segment: &mut [u8], datagram: &Datagram, change: &Change, hops: u8) {
    header[8] = header[8].wrapping_sub(hops);
    let ttl_delta = if hops == 0 { Delta::NONE } else { TTL_DOWN };
    let mut changes = u32::from(change.ip.0) + u32::from(ttl_delta.0);
    if let Some(id) = change.identification {
        changes += u32::from(!datagram.id) + u32::from(id);
        header[4..6].copy_from_slice(&id.to_be_bytes());
    }
    let checksum = updated(u16::from_be_bytes([header[10], header[11]]), changes);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let (address_at, port_at) = match change.end {
        End::Source => (12, 0),
        End::Destination => (16, 2),
    };
    header[address_at..address_at + 4].copy_from_slice(&change.address.to_be_bytes());

    let port = change.port.to_be_bytes();
    match datagram.transport {
        Transport::Udp => {
            let Some(header) = segment.first_chunk_mut::<8>() else { return };
            header[port_at..port_at + 2].copy_from_slice(&port);
            let old = u16::from_be_bytes([header[6], header[7]]);
            if old != 0 {
                let new = change.transport.apply(old);
                let new = if new == 0 { 0xffff } else { new };
                header[6..8].copy_from_slice(&new.to_be_bytes());
            }
        }
        Transport::Tcp => {
            let Some(header) = segment.first_chunk_mut::<20>() else { return };
            header[port_at..port_at + 2].copy_from_slice(&port);
            let checksum = change.transport.apply(u16::from_be_bytes([header[16], header[17]]));
            header[16..18].copy_from_slice(&checksum.to_be_bytes());
        }
        other => apply_to_query(segment, other, change.end, change.port, change.transport),
    }
}

/// The part of [`apply_to`] behind the IP header in an ICMP query; what is no such stays as it is.
#[inline(never)]
fn apply_to_query(segment: &mut [u8], transport: Transport, end: End, identifier: u16, delta: Delta) {
    // The identifier is the source port of a request and the destination port of a reply.
    if matches!(
        (transport, end),
        (Transport::EchoRequest, End::Source) | (Transport::EchoReply, End::Destination)
    ) {
        put_u16(segment, 4, identifier);
        let checksum = delta.apply(get_u16(segment, 2));
        put_u16(segment, 2, checksum);
    }
}

/// Takes one off the TTL of the packet at `l3`.
pub fn decrement_ttl(bytes: &mut [u8], l3: usize) {
    if let Some(header) = bytes.get_mut(l3..).and_then(|b| b.first_chunk_mut::<20>()) {
        header[8] = header[8].wrapping_sub(1);
        let checksum = TTL_DOWN.apply(u16::from_be_bytes([header[10], header[11]]));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Finishes a transport checksum that a local kernel left to its NIC, if it is unfinished: `certain` says that it is,
/// else it is exactly when the field holds the pseudo-header's sum.
pub fn finish_checksum(bytes: &mut [u8], datagram: &Datagram, certain: bool) {
    if datagram.is_fragment() {
        return;
    }
    let field = match datagram.transport {
        Transport::Tcp => 16,
        Transport::Udp => 6,
        _ => return,
    };
    let (l4, end) = (usize::from(datagram.l4), datagram.end());
    let Some(segment) = bytes.get_mut(l4..end) else { return };
    let Datagram { source, destination, protocol, .. } = *datagram;
    let pseudo = super::checksum::pseudo_header(source, destination, protocol, segment.len() as u16);
    let unfinished = super::checksum::fold(pseudo);
    if !certain && get_u16(segment, field) != unfinished {
        return;
    }
    put_u16(segment, field, 0);
    let checksum = super::checksum::of_transport(source, destination, protocol, segment);
    // A zero says of UDP that there is no checksum (RFC 768); of TCP it is a checksum like any other.
    let is_none = checksum == 0 && datagram.transport == Transport::Udp;
    put_u16(segment, field, if is_none { 0xffff } else { checksum });
}

/// Changes an address or a port inside a quoted packet, together with the quoted IP header's checksum and whatever of the
/// transport checksum is quoted.
pub fn apply_quoted(message: &mut [u8], quoted: &super::icmp::Quoted, end: End, address: u32, port: u16) {
    let (old, old_port, address_at, port_at) = match end {
        End::Source => (quoted.source, quoted.source_port, 12, 0),
        End::Destination => (quoted.destination, quoted.destination_port, 16, 2),
    };
    let address_delta = Delta::of_u32(old, address);
    let header_checksum = address_delta.apply(get_u16(message, quoted.l3 + 10));
    put_u16(message, quoted.l3 + 10, header_checksum);
    put_u32(message, quoted.l3 + address_at, address);
    if !quoted.has_ports {
        return;
    }
    let delta = transport_delta(quoted.protocol, address_delta, Delta::of_u16(old_port, port));
    let (port_at, checksum_at) = match quoted.protocol {
        protocol::TCP => (quoted.l4 + port_at, quoted.l4 + 16),
        protocol::UDP => (quoted.l4 + port_at, quoted.l4 + 6),
        _ => {
            let is_request = quoted.icmp_type == super::icmp::ECHO_REQUEST;
            if is_request != (end == End::Source) {
                return;
            }
            (quoted.l4 + 4, quoted.l4 + 2)
        }
    };
    put_u16(message, port_at, port);
    let old_checksum = get_u16(message, checksum_at);
    let is_quoted = checksum_at + 2 <= message.len();
    if is_quoted && !(quoted.protocol == protocol::UDP && old_checksum == 0) {
        let new = delta.apply(old_checksum);
        let new = if quoted.protocol == protocol::UDP && new == 0 { 0xffff } else { new };
        put_u16(message, checksum_at, new);
    }
}
