//! How long a session lives without traffic.

use std::time::Duration;

use crate::base::Tick;

/// Idle timeouts in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// An established TCP connection (RFC 5382 REQ-5: at least 2 h 4 min).
    pub tcp_established: u32,
    /// A TCP connection that is opening, closing or was reset (RFC 5382 REQ-5, RFC 7857 §2: 4 min).
    pub tcp_transitory: u32,
    /// A UDP session (RFC 4787 REQ-5: at least 2 min, 5 min recommended).
    pub udp: u32,
    /// An ICMP query (RFC 5508 REQ-2: at least 60 s).
    pub icmp: u32,
    /// Any other protocol through an any-port entry.
    pub other: u32,
    /// Whether both hosts of an established TCP connection that expires are sent a reset.
    pub tcp_reset: bool,
}

impl Timeouts {
    /// The profile `rfc`.
    pub const RFC: Self = Self::of_seconds(2 * 3600 + 4 * 60, 240, 300, 60);
    /// The profile `alibaba`.
    pub const ALIBABA: Self = Self::of_seconds(900, 240, 60, 60);

    const fn of_seconds(tcp_established: u64, tcp_transitory: u64, udp: u64, icmp: u64) -> Self {
        const fn ticks(seconds: u64) -> u32 {
            Tick::ticks(Duration::from_secs(seconds))
        }
        Self {
            tcp_established: ticks(tcp_established),
            tcp_transitory: ticks(tcp_transitory),
            udp: ticks(udp),
            icmp: ticks(icmp),
            other: ticks(udp),
            tcp_reset: false,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::RFC
    }
}
