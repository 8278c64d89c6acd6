//! IPv4 packets as the rows write and read them. Checksums are smoltcp's, not those of the gateway that is judged.

use std::fmt;
use std::net::Ipv4Addr;

use smoltcp::wire::{Icmpv4Packet, IpAddress, Ipv4Packet, TcpPacket, UdpPacket};

/// An address and a port, or the identifier of an echo.
pub type Endpoint = (Ipv4Addr, u16);

/// ICMP.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// Generic routing encapsulation.
pub const GRE: u8 = 47;
/// Encapsulated security payload.
pub const ESP: u8 = 50;
/// SCTP.
pub const SCTP: u8 = 132;

/// TCP: the last segment.
pub const FIN: u8 = 0x01;
/// TCP: the first segment.
pub const SYN: u8 = 0x02;
/// TCP: reset.
pub const RST: u8 = 0x04;
/// TCP: push.
pub const PSH: u8 = 0x08;
/// TCP: acknowledgement.
pub const ACK: u8 = 0x10;

/// "Do not fragment" in [`Packet::fragment`].
pub const DF: u16 = 0x4000;
/// "More fragments" in [`Packet::fragment`].
pub const MF: u16 = 0x2000;

/// ICMP Destination Unreachable.
pub const UNREACHABLE: u8 = 3;
/// ICMP Redirect.
pub const REDIRECT: u8 = 5;
/// ICMP Time Exceeded.
pub const TIME_EXCEEDED: u8 = 11;

/// An IPv4 packet: its header, and the bytes behind it.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset as on the wire: [`DF`], [`MF`], eights of bytes.
    pub fragment: u16,
    /// IP options, padded.
    pub options: Vec<u8>,
    /// IP protocol.
    pub protocol: u8,
    /// What follows the header, with its checksum.
    pub body: Vec<u8>,
}

impl Packet {
    /// A packet with the usual header.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, body: &[u8]) -> Self {
        let (ttl, tos, id, fragment) = (64, 0, 0x1234, 0);
        Self { src, dst, ttl, tos, id, fragment, options: Vec::new(), protocol, body: body.to_vec() }.sealed()
    }

    /// A UDP datagram.
    pub fn udp(src: Endpoint, dst: Endpoint, payload: &[u8]) -> Self {
        let mut body = vec![0; 8];
        body[..2].copy_from_slice(&src.1.to_be_bytes());
        body[2..4].copy_from_slice(&dst.1.to_be_bytes());
        body[4..6].copy_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
        body.extend_from_slice(payload);
        Self::new(src.0, dst.0, UDP, &body)
    }

    /// A TCP segment with options.
    pub fn segment(
        src: Endpoint,
        dst: Endpoint,
        flags: u8,
        (seq, ack): (u32, u32),
        options: &[u8],
        payload: &[u8],
    ) -> Self {
        let mut body = vec![0; 20];
        body[..2].copy_from_slice(&src.1.to_be_bytes());
        body[2..4].copy_from_slice(&dst.1.to_be_bytes());
        body[4..8].copy_from_slice(&seq.to_be_bytes());
        body[8..12].copy_from_slice(&ack.to_be_bytes());
        body[12] = (((20 + options.len()) / 4) << 4) as u8;
        body[13] = flags;
        body[14..16].copy_from_slice(&0x7210u16.to_be_bytes());
        body.extend_from_slice(options);
        body.extend_from_slice(payload);
        Self::new(src.0, dst.0, TCP, &body)
    }

    /// A TCP segment.
    pub fn tcp(src: Endpoint, dst: Endpoint, flags: u8, numbers: (u32, u32)) -> Self {
        Self::segment(src, dst, flags, numbers, &[], &[])
    }

    /// The first segment of a connection.
    pub fn syn(src: Endpoint, dst: Endpoint) -> Self {
        Self::segment(src, dst, SYN, (1000, 0), &[2, 4, 5, 0], &[])
    }

    /// An echo request (type 8) or reply (type 0).
    pub fn echo(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, id: u16, payload: &[u8]) -> Self {
        let mut body = vec![kind, 0, 0, 0, 0, 0, 0, 1];
        body[4..6].copy_from_slice(&id.to_be_bytes());
        body.extend_from_slice(payload);
        Self::new(src, dst, ICMP, &body)
    }

    /// An echo request.
    pub fn ping(src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> Self {
        Self::echo(src, dst, 8, id, b"abcdefgh")
    }

    /// An ICMP error about a packet, of which `bytes` bytes behind the header are quoted.
    pub fn error(from: Ipv4Addr, (kind, code): (u8, u8), rest: [u8; 4], about: &Self, bytes: usize) -> Self {
        let quoted = about.encode();
        let end = quoted.len().min(20 + about.options.len() + bytes);
        let mut body = vec![kind, code, 0, 0];
        body.extend_from_slice(&rest);
        body.extend_from_slice(&quoted[..end]);
        Self::new(from, about.src, ICMP, &body)
    }

    /// With the checksum that its body needs, if the packet is whole.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        let (src, dst) = (IpAddress::Ipv4(self.src), IpAddress::Ipv4(self.dst));
        match self.protocol {
            UDP if self.body.len() >= 8 => UdpPacket::new_unchecked(&mut self.body).fill_checksum(&src, &dst),
            TCP if self.body.len() >= 20 => {
                TcpPacket::new_unchecked(&mut self.body).fill_checksum(&src, &dst);
            }
            ICMP if self.body.len() >= 8 => Icmpv4Packet::new_unchecked(&mut self.body).fill_checksum(),
            _ => {}
        }
        self
    }

    /// The bytes on the wire, with the header's checksum.
    pub fn encode(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut bytes = vec![0; header];
        bytes[0] = 0x40 | (header / 4) as u8;
        bytes[1] = self.tos;
        bytes[2..4].copy_from_slice(&((header + self.body.len()) as u16).to_be_bytes());
        bytes[4..6].copy_from_slice(&self.id.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        bytes[8] = self.ttl;
        bytes[9] = self.protocol;
        bytes[12..16].copy_from_slice(&self.src.octets());
        bytes[16..20].copy_from_slice(&self.dst.octets());
        bytes[20..].copy_from_slice(&self.options);
        Ipv4Packet::new_unchecked(&mut bytes).fill_checksum();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Reads a packet as it lies in a frame, perhaps with padding behind it.
    ///
    /// # Errors
    /// What is wrong with its header.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let packet = Ipv4Packet::new_checked(bytes).map_err(|_| "an IP header that contradicts itself")?;
        if packet.version() != 4 || !packet.verify_checksum() {
            return Err("a wrong IP version or header checksum".into());
        }
        let (header, total) = (usize::from(packet.header_len()), usize::from(packet.total_len()));
        Ok(Self {
            src: packet.src_addr(),
            dst: packet.dst_addr(),
            ttl: bytes[8],
            tos: bytes[1],
            id: u16::from_be_bytes([bytes[4], bytes[5]]),
            fragment: u16::from_be_bytes([bytes[6], bytes[7]]),
            options: bytes[20..header].to_vec(),
            protocol: bytes[9],
            body: bytes[header..total].to_vec(),
        })
    }

    /// Where in its packet a fragment lies, in bytes.
    pub fn offset(&self) -> usize {
        usize::from(self.fragment & 0x1fff) * 8
    }

    /// Whether this is a fragment of a packet.
    pub fn is_fragment(&self) -> bool {
        self.fragment & !DF != 0
    }

    /// Whether the checksum in the body is right; of a fragment, and where there is none, there is nothing to say.
    pub fn is_valid(&self) -> bool {
        let (src, dst) = (IpAddress::Ipv4(self.src), IpAddress::Ipv4(self.dst));
        let body = self.body.as_slice();
        match self.protocol {
            _ if self.is_fragment() => true,
            UDP => UdpPacket::new_checked(body)
                .is_ok_and(|udp| body.get(6..8) == Some(&[0, 0]) || udp.verify_checksum(&src, &dst)),
            TCP => TcpPacket::new_checked(body).is_ok_and(|tcp| tcp.verify_checksum(&src, &dst)),
            ICMP => Icmpv4Packet::new_checked(body).is_ok_and(|icmp| icmp.verify_checksum()),
            _ => true,
        }
    }

    fn word(&self, at: usize) -> u16 {
        self.body.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]))
    }

    /// Source address and port; an echo request has its identifier here.
    pub fn source(&self) -> Endpoint {
        let port = match (self.protocol, self.body.first()) {
            (TCP | UDP, _) => self.word(0),
            (ICMP, Some(8)) => self.word(4),
            _ => 0,
        };
        (self.src, port)
    }

    /// Destination address and port; an echo reply has its identifier here.
    pub fn destination(&self) -> Endpoint {
        let port = match (self.protocol, self.body.first()) {
            (TCP | UDP, _) => self.word(2),
            (ICMP, Some(0)) => self.word(4),
            _ => 0,
        };
        (self.dst, port)
    }

    /// Type and code of an ICMP message.
    pub fn icmp(&self) -> (u8, u8) {
        match (self.protocol, &self.body[..]) {
            (ICMP, [kind, code, ..]) => (*kind, *code),
            _ => (255, 255),
        }
    }

    /// The packet that an ICMP error quotes, as far as it goes. Its checksum is not looked at.
    pub fn quote(&self) -> Option<Self> {
        let bytes = self.body.get(8..).filter(|bytes| bytes.len() >= 20)?;
        let header = usize::from(bytes[0] & 15) * 4;
        let mut whole = bytes.to_vec();
        let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]])).clamp(header, bytes.len());
        whole[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        if header < 20 || header > whole.len() {
            return None;
        }
        Ipv4Packet::new_unchecked(&mut whole).fill_checksum();
        Self::decode(&whole).ok()
    }

    /// TCP control bits.
    pub fn flags(&self) -> u8 {
        self.body.get(13).copied().unwrap_or(0)
    }

    /// With another source.
    #[must_use]
    pub fn from(mut self, (address, port): Endpoint) -> Self {
        self.src = address;
        match (self.protocol, self.body.first()) {
            (TCP | UDP, _) => self.body[..2].copy_from_slice(&port.to_be_bytes()),
            (ICMP, Some(8)) => self.body[4..6].copy_from_slice(&port.to_be_bytes()),
            _ => {}
        }
        self.resealed()
    }

    /// With another destination.
    #[must_use]
    pub fn to(mut self, (address, port): Endpoint) -> Self {
        self.dst = address;
        match (self.protocol, self.body.first()) {
            (TCP | UDP, _) => self.body[2..4].copy_from_slice(&port.to_be_bytes()),
            (ICMP, Some(0)) => self.body[4..6].copy_from_slice(&port.to_be_bytes()),
            _ => {}
        }
        self.resealed()
    }

    /// Sealed again, but a UDP datagram without a checksum stays without.
    fn resealed(self) -> Self {
        let without = self.protocol == UDP && self.body.get(6..8) == Some(&[0, 0]);
        if without { self } else { self.sealed() }
    }

    /// With another time to live.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The answer of a usual host.
    #[must_use]
    pub fn answer(&self) -> Self {
        let (from, to) = (self.destination(), self.source());
        match self.protocol {
            UDP => Self::udp(from, to, &self.body[8..]),
            TCP => {
                let number = |at: usize| {
                    u32::from_be_bytes([
                        self.body[at],
                        self.body[at + 1],
                        self.body[at + 2],
                        self.body[at + 3],
                    ])
                };
                let opens = self.flags() & (SYN | ACK) == SYN;
                let header = usize::from(self.body[12] >> 4) * 4;
                let counted = (self.body.len() - header) as u32
                    + u32::from(self.flags() & SYN != 0)
                    + u32::from(self.flags() & FIN != 0);
                let seq = if opens { 7000 } else { number(8) };
                let bits = if opens { SYN | ACK } else { ACK };
                Self::tcp(from, to, bits, (seq, number(4).wrapping_add(counted)))
            }
            ICMP => Self::echo(self.dst, self.src, 0, self.word(4), &self.body[8..]),
            protocol => Self::new(self.dst, self.src, protocol, &self.body),
        }
    }

    /// The packet in fragments of at most so many bytes (a multiple of eight), in order.
    pub fn fragments(&self, bytes: usize) -> Vec<Self> {
        let count = self.body.len().div_ceil(bytes);
        let parts = self.body.chunks(bytes).enumerate();
        parts
            .map(|(at, part)| {
                let more = if at + 1 < count { MF } else { 0 };
                let fragment = (at * bytes / 8) as u16 | more;
                Self { fragment, body: part.to_vec(), ..self.clone() }
            })
            .collect()
    }

    /// The packet of which these are all fragments, in any order and some of them twice.
    ///
    /// # Errors
    /// Why they make none.
    pub fn reassemble(fragments: &[Self]) -> Result<Self, String> {
        let mut parts = fragments.to_vec();
        parts.sort_by_key(Self::offset);
        parts.dedup();
        let first = parts.first().ok_or("no fragment came")?;
        let mut body: Vec<u8> = Vec::new();
        for part in &parts {
            if part.offset() != body.len() || part.id != first.id {
                return Err(format!("the fragments make no whole: {fragments:?}"));
            }
            body.extend_from_slice(&part.body);
        }
        if parts.last().is_none_or(|last| last.fragment & MF != 0) {
            return Err(format!("the last fragment is missing: {fragments:?}"));
        }
        let whole = Self { fragment: 0, body, ..first.clone() };
        if whole.is_valid() { Ok(whole) } else { Err("reassembled, its checksum is wrong".into()) }
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((src, s), (dst, d)) = (self.source(), self.destination());
        match self.protocol {
            _ if self.is_fragment() => {
                write!(f, "fragment {src} > {dst} id {} at {}", self.id, self.offset())
            }
            UDP => write!(f, "UDP {src}:{s} > {dst}:{d}"),
            TCP => write!(f, "TCP {src}:{s} > {dst}:{d} flags {:#04x}", self.flags()),
            ICMP => match self.icmp() {
                (8, _) => write!(f, "echo request {src} > {dst} id {s}"),
                (0, _) => write!(f, "echo reply {src} > {dst} id {d}"),
                (kind, code) => write!(f, "ICMP {kind}/{code} {src} > {dst}"),
            },
            protocol => write!(f, "protocol {protocol} {src} > {dst}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Endpoint = (Ipv4Addr::new(10, 0, 0, 2), 4000);
    const B: Endpoint = (Ipv4Addr::new(198, 51, 100, 1), 53);

    #[test]
    fn what_is_written_is_read() {
        for packet in [
            Packet::udp(A, B, b"data"),
            Packet::syn(A, B),
            Packet::ping(A.0, B.0, 7),
            Packet::new(A.0, B.0, GRE, b"abc"),
        ] {
            let mut padded = packet.encode();
            padded.extend_from_slice(&[9; 9]);
            assert_eq!(Packet::decode(&padded).unwrap(), packet);
            assert!(packet.is_valid(), "{packet:?}");
            let moved = packet.clone().from((B.0, 9)).to((A.0, 8));
            assert!(moved.is_valid() && moved != packet, "{moved:?}");
            let mut broken = packet.clone();
            *broken.body.last_mut().unwrap() ^= 1;
            assert_eq!(broken.is_valid(), packet.protocol == GRE);
        }
    }

    #[test]
    fn fragments_make_the_whole_again_or_it_is_said_why_not() {
        let whole = Packet::udp(A, B, &[7; 1000]);
        let mut parts = whole.fragments(256);
        assert_eq!(parts.len(), 4);
        parts.reverse();
        parts.push(parts[1].clone());
        assert_eq!(Packet::reassemble(&parts).unwrap(), whole);
        parts.retain(|part| part.offset() != 256);
        assert!(Packet::reassemble(&parts).unwrap_err().contains("no whole"));
        assert!(Packet::reassemble(&parts[1..]).is_err());
    }

    #[test]
    fn an_error_quotes_what_it_is_about() {
        let about = Packet::udp(A, B, &[7; 100]);
        for bytes in [8, 200] {
            let error = Packet::error(B.0, (UNREACHABLE, 3), [0; 4], &about, bytes);
            let quote = error.quote().unwrap();
            assert_eq!((error.dst, error.icmp(), quote.source(), quote.destination()), (A.0, (3, 3), A, B));
        }
    }
}
