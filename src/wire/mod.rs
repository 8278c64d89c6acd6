//! Bytes and their meaning: views, parsing once, checksum arithmetic. Pure: no state, no clock, no I/O.

pub mod arp;
pub mod bytes;
pub mod checksum;
pub mod datagram;
pub mod ethernet;
pub mod ftp;
pub mod icmp;
pub mod options;
pub mod packet;
pub mod rewrite;
pub mod tcp;

pub use checksum::Delta;
pub use datagram::{Datagram, Transport};
pub use packet::{Arrival, Packet};

/// IP protocol numbers.
pub mod protocol {
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
}
