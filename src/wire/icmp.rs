//! ICMP (RFC 792): types, and the packet that an error quotes.

use crate::base::DropReason;
use crate::wire::bytes::{get_u16, get_u32};
use crate::wire::datagram::OFFSET_MASK;
use crate::wire::protocol;

/// Echo Reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination Unreachable.
pub const DESTINATION_UNREACHABLE: u8 = 3;
/// Code of Destination Unreachable: fragmentation needed and DF set (RFC 1191).
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Code of Destination Unreachable: communication administratively prohibited (RFC 1812 §5.2.7.1).
pub const ADMINISTRATIVELY_PROHIBITED: u8 = 13;
/// Source Quench.
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo Request.
pub const ECHO_REQUEST: u8 = 8;
/// Time Exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter Problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Whether a type is an error that a NAT translates. A Redirect is none: it speaks of one link only (RFC 1812
/// §5.2.7.2), and Source Quench is no more (RFC 6633).
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// The packet that an ICMP error quotes, as far as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port, or identifier of an echo request.
    pub source_port: u16,
    /// Destination port, or identifier of an echo reply.
    pub destination_port: u16,
    /// Protocol number.
    pub protocol: u8,
    /// ICMP type of a quoted ICMP message.
    pub icmp_type: u8,
    /// Offset of the quoted IP header in the ICMP message.
    pub l3: usize,
    /// Offset of the quoted transport header in the ICMP message.
    pub l4: usize,
    /// Whether the transport header is quoted at all; it is not in an error about a later fragment.
    pub has_ports: bool,
}

impl Quoted {
    /// Reads the quoted packet of an ICMP error.
    ///
    /// # Errors
    /// [`DropReason::IcmpErrorMalformed`] when less than a header and eight bytes are there, or the quoted header is
    /// wrong (RFC 5508 REQ-3).
    pub fn parse(message: &[u8]) -> Result<Self, DropReason> {
        const MALFORMED: DropReason = DropReason::IcmpErrorMalformed;
        let l3 = 8;
        let inner = message.get(l3..).ok_or(MALFORMED)?;
        let first = *inner.first().ok_or(MALFORMED)?;
        let header_len = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || header_len < 20 || inner.len() < header_len + 8 {
            return Err(MALFORMED);
        }
        let header = inner.get(..header_len).ok_or(MALFORMED)?;
        if super::checksum::of(header) != 0 {
            return Err(MALFORMED);
        }
        let l4 = l3 + header_len;
        let protocol = header[9];
        let mut quoted = Self {
            source: get_u32(header, 12),
            destination: get_u32(header, 16),
            source_port: 0,
            destination_port: 0,
            protocol,
            icmp_type: 0,
            l3,
            l4,
            has_ports: false,
        };
        if get_u16(header, 6) & OFFSET_MASK != 0 {
            return Ok(quoted);
        }
        match protocol {
            protocol::TCP | protocol::UDP => {
                quoted.source_port = get_u16(message, l4);
                quoted.destination_port = get_u16(message, l4 + 2);
                quoted.has_ports = true;
            }
            protocol::ICMP => {
                quoted.icmp_type = message.get(l4).copied().unwrap_or_default();
                let identifier = get_u16(message, l4 + 4);
                match quoted.icmp_type {
                    ECHO_REQUEST => quoted.source_port = identifier,
                    ECHO_REPLY => quoted.destination_port = identifier,
                    // An error about an error is never sent (RFC 1122 §3.2.2).
                    _ => return Err(MALFORMED),
                }
                quoted.has_ports = true;
            }
            _ => {}
        }
        Ok(quoted)
    }
}
