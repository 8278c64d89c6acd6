//! What translation does to a packet.

use super::session::Endpoint;
use crate::support::packet::{Body, Packet, Quote, TCP, UDP};

/// One more hop (RFC 1812 §5.3.1).
pub fn hop(packet: &Packet) -> Packet {
    let ttl = packet.ip.ttl - 1;
    packet.clone().ttl(ttl)
}

/// RFC 1624 §3, equation 3: HC' = ~(~HC + ~m + m').
fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Which end of a quoted packet is translated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// The quoted packet with one end translated; its checksums follow where they are there (RFC 5508 REQ-4, REQ-5).
pub fn quote(mut quote: Quote, end: End, (address, port): Endpoint) -> Quote {
    let old_address = match end {
        End::Source => std::mem::replace(&mut quote.ip.src, address),
        End::Destination => std::mem::replace(&mut quote.ip.dst, address),
    };
    let port_at = match end {
        End::Source => quote.source_port_at(),
        End::Destination => quote.destination_port_at(),
    };
    let (checksum_at, pseudo_header) = match quote.protocol {
        UDP => (6, true),
        TCP => (16, true),
        _ => (2, false),
    };
    let word =
        |bytes: &[u8], at: usize| bytes.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let Some(port_at) = port_at else { return quote };
    let Some(old_port) = word(&quote.transport, port_at) else { return quote };
    quote.transport[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
    let Some(mut checksum) = word(&quote.transport, checksum_at) else { return quote };
    if quote.protocol == UDP && checksum == 0 {
        // No checksum (RFC 768): none it stays.
        return quote;
    }
    checksum = update(checksum, old_port, port);
    if pseudo_header {
        let [old, new] = [old_address, address].map(u32::from);
        checksum = update(checksum, (old >> 16) as u16, (new >> 16) as u16);
        checksum = update(checksum, old as u16, new as u16);
    }
    if quote.protocol == UDP && checksum == 0 {
        checksum = 0xffff;
    }
    quote.transport[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    quote
}

/// An ICMP error with its quote changed.
pub fn requoted(mut packet: Packet, change: impl FnOnce(Quote) -> Quote) -> Packet {
    if let Body::Error { quote, .. } = &mut packet.body {
        *quote = change(quote.clone());
    }
    packet
}
