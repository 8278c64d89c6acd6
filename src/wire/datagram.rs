//! An IPv4 packet, parsed once. A [`Datagram`] is a proof: what it says of offsets and lengths holds, and nothing
//! downstream checks again.

use crate::base::DropReason;
use crate::wire::bytes::{get_u16, get_u32};
use crate::wire::{checksum, icmp, options, protocol};

/// What kind of transport a packet carries, as far as a NAT tells kinds apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP with a whole header.
    Tcp,
    /// UDP with a whole header.
    Udp,
    /// An ICMP echo request. Its identifier is the source port, its destination port is zero.
    EchoRequest,
    /// An ICMP echo reply. Its identifier is the destination port, its source port is zero.
    EchoReply,
    /// Any other protocol. Both ports are zero.
    #[default]
    Other,
    /// An ICMP error, which quotes a packet.
    IcmpError,
    /// Any other ICMP message.
    IcmpOther,
    /// A fragment other than the first: it has no transport header. Both ports are zero.
    LaterFragment,
}

/// An IPv4 packet, parsed and checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagram {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port, or identifier of an echo request.
    pub source_port: u16,
    /// Destination port, or identifier of an echo reply.
    pub destination_port: u16,
    /// Offset of the IP header in the slice that was parsed from.
    pub l3: u16,
    /// Offset of what follows the IP header.
    pub l4: u16,
    /// Total length of the IP packet in bytes.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset, as they stand in the header, the reserved bit included.
    pub fragment: u16,
    /// Protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// The kind of transport.
    pub transport: Transport,
    /// The TCP flags; none in other packets.
    pub tcp_flags: u8,
    /// The TCP acknowledgement number; of no meaning in other packets.
    pub tcp_acknowledgement: u32,
}

/// Don't Fragment, in the flags.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// More Fragments, in the flags.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset in the flags, in units of eight bytes.
pub const OFFSET_MASK: u16 = 0x1fff;

/// TCP flags.
pub mod tcp_flags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

impl Datagram {
    /// Parses the IPv4 packet at `l3` in `bytes`; what follows its total length is padding.
    ///
    /// # Errors
    /// The reason to drop it.
    pub fn parse(bytes: &[u8], l3: usize) -> Result<Self, DropReason> {
        let mut datagram = Self::default();
        datagram.parse_into(bytes, l3)?;
        Ok(datagram)
    }

    /// [`parse`](Self::parse) in place. After an error the value means nothing.
    ///
    /// # Errors
    /// The reason to drop the packet.
    #[inline(always)]
    pub fn parse_into(&mut self, bytes: &[u8], l3: usize) -> Result<(), DropReason> {
        let Some(packet) = bytes.get(l3..) else {
            return Err(DropReason::FrameTooShort);
        };
        let Some(header) = packet.first_chunk::<20>() else {
            return Err(DropReason::FrameTooShort);
        };
        if header[0] != 0x45 {
            return self.parse_unusual(packet, header, l3);
        }
        if !checksum::header_is_right(header) {
            return Err(DropReason::IpChecksum);
        }
        self.parse_fields(packet, header, l3, header.len())
    }

    /// A packet whose header is not the usual twenty bytes.
    #[cold]
    fn parse_unusual(&mut self, packet: &[u8], header: &[u8; 20], l3: usize) -> Result<(), DropReason> {
        if header[0] >> 4 != 4 {
            return Err(DropReason::IpVersion);
        }
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header_len < 20 || header_len > usize::from(get_u16(header, 2)) {
            return Err(DropReason::IpHeaderLength);
        }
        let whole = packet.get(..header_len).ok_or(DropReason::IpHeaderLength)?;
        if checksum::of(whole) != 0 {
            return Err(DropReason::IpChecksum);
        }
        options::check(whole.get(20..).unwrap_or_default())?;
        self.parse_fields(packet, header, l3, header_len)
    }

    /// What follows once the header is known to be a right one of this length.
    #[inline(always)]
    fn parse_fields(
        &mut self,
        packet: &[u8],
        header: &[u8; 20],
        l3: usize,
        header_len: usize,
    ) -> Result<(), DropReason> {
        let total_len = u16::from_be_bytes([header[2], header[3]]);
        let packet = packet.get(..usize::from(total_len)).ok_or(DropReason::IpTotalLength)?;
        let segment = packet.get(header_len..).ok_or(DropReason::IpTotalLength)?;
        self.source = get_u32(header, 12);
        self.destination = get_u32(header, 16);
        self.source_port = 0;
        self.destination_port = 0;
        self.l3 = l3 as u16;
        self.l4 = (l3 + header_len) as u16;
        self.total_len = total_len;
        self.id = get_u16(header, 4);
        self.fragment = get_u16(header, 6);
        self.protocol = header[9];
        self.ttl = header[8];
        self.transport = Transport::Other;
        self.tcp_flags = 0;
        if self.ttl == 0 {
            return Err(DropReason::TtlZero);
        }
        self.parse_transport(segment)
    }

    #[inline(always)]
    fn parse_transport(&mut self, segment: &[u8]) -> Result<(), DropReason> {
        if self.fragment & OFFSET_MASK != 0 {
            return self.check_later_fragment(segment.len());
        }
        match self.protocol {
            protocol::TCP => {
                let Some(header) = segment.first_chunk::<20>() else {
                    return Err(DropReason::TransportTruncated);
                };
                let header_len = usize::from(header[12] >> 4) * 4;
                let is_whole = header_len <= segment.len() || self.is_fragment();
                if header_len < 20 || !is_whole {
                    return Err(DropReason::TransportMalformed);
                }
                self.transport = Transport::Tcp;
                self.tcp_flags = header[13];
                self.tcp_acknowledgement = get_u32(header, 8);
                self.source_port = u16::from_be_bytes([header[0], header[1]]);
                self.destination_port = u16::from_be_bytes([header[2], header[3]]);
            }
            protocol::UDP => {
                let Some(header) = segment.first_chunk::<8>() else {
                    return Err(DropReason::TransportTruncated);
                };
                let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
                if len < 8 || (len > segment.len() && !self.is_fragment()) {
                    return Err(DropReason::TransportMalformed);
                }
                self.transport = Transport::Udp;
                self.source_port = u16::from_be_bytes([header[0], header[1]]);
                self.destination_port = u16::from_be_bytes([header[2], header[3]]);
            }
            protocol::ICMP => {
                let Some(header) = segment.first_chunk::<8>() else {
                    return Err(DropReason::TransportTruncated);
                };
                let identifier = u16::from_be_bytes([header[4], header[5]]);
                self.transport = match header[0] {
                    icmp::ECHO_REQUEST => {
                        self.source_port = identifier;
                        Transport::EchoRequest
                    }
                    icmp::ECHO_REPLY => {
                        self.destination_port = identifier;
                        Transport::EchoReply
                    }
                    kind if icmp::is_error(kind) => Transport::IcmpError,
                    _ => Transport::IcmpOther,
                };
            }
            _ => {}
        }
        Ok(())
    }

    #[cold]
    fn check_later_fragment(&mut self, len: usize) -> Result<(), DropReason> {
        let offset = self.fragment_offset();
        // RFC 1858 §3: a TCP fragment at offset 8 would carry the flags of the header.
        if self.protocol == protocol::TCP && offset < 20 {
            return Err(DropReason::FragmentTiny);
        }
        // Nothing may reach past the largest datagram.
        if offset + len + usize::from(self.l4 - self.l3) > 65535 {
            return Err(DropReason::FragmentOverlap);
        }
        self.transport = Transport::LaterFragment;
        Ok(())
    }

    /// Whether it is a fragment, first or later.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Whether it may not be fragmented.
    #[inline]
    pub const fn dont_fragment(&self) -> bool {
        self.fragment & DONT_FRAGMENT != 0
    }

    /// Whether it is no fragment and cannot become one (RFC 6864 §4).
    #[inline(always)]
    pub const fn is_atomic(&self) -> bool {
        self.fragment & (DONT_FRAGMENT | MORE_FRAGMENTS | OFFSET_MASK) == DONT_FRAGMENT
    }

    /// The fragment's offset in bytes.
    #[inline]
    pub const fn fragment_offset(&self) -> usize {
        (self.fragment & OFFSET_MASK) as usize * 8
    }

    /// Whether its transport header has ports (an identifier counts as one) that name a session.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        matches!(
            self.transport,
            Transport::Tcp | Transport::Udp | Transport::EchoRequest | Transport::EchoReply
        )
    }

    /// Whether packets of its kind make a flow by themselves: all but ICMP messages that are no echo, and later fragments.
    #[inline(always)]
    pub const fn makes_flows(&self) -> bool {
        !matches!(self.transport, Transport::IcmpError | Transport::IcmpOther | Transport::LaterFragment)
    }

    /// Whether its IP header is longer than twenty bytes.
    #[inline(always)]
    pub const fn has_options(&self) -> bool {
        self.header_len() != 20
    }

    /// Length of the IP header in bytes.
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.l4 - self.l3) as usize
    }

    /// Where the packet ends in the slice that it was parsed from.
    #[inline]
    pub const fn end(&self) -> usize {
        self.l3 as usize + self.total_len as usize
    }
}
