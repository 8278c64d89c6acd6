//! A worker's counters. They live in the worker's own cache lines; the management core reads copies.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::base::DropReason;

/// What became of all frames so far.
///
/// The conservation law, true after every batch: see [`Counters::balance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counters {
    /// Packets that came before the engine from a port.
    pub received: u64,
    /// Packets that came from another worker.
    pub taken_over: u64,
    /// Packets sent on, translated or routed: at once, or after they were held.
    pub forwarded: u64,
    /// Packets handed to another worker.
    pub handed: u64,
    /// Packets that were meant for the gateway itself.
    pub consumed: u64,
    /// Packets that wait at the moment: for a next hop's address, or for the first fragment of their datagram.
    pub held: u64,
    /// Drops by reason, in the order of [`DropReason::ALL`].
    pub drops: [u64; DropReason::COUNT],
    /// Frames of the gateway's own making: ARP, echo replies, ICMP errors, further fragments.
    pub originated: u64,
    /// Bytes of forwarded IP packets that left to the outside.
    pub bytes_out: u64,
    /// Bytes of forwarded IP packets that left to the inside.
    pub bytes_in: u64,
    /// Sessions started.
    pub sessions_created: u64,
    /// Sessions ended.
    pub sessions_removed: u64,
    /// DNAT packets translated without a session: the table had no room, or they begin none (a TCP reset, an echo reply).
    pub stateless: u64,
    /// SNAT sessions ended because a DNAT entry took their port.
    pub displaced: u64,
    /// Half-open TCP connections ended because another session needed their room.
    pub evicted: u64,
    /// Endpoints announced on FTP control connections that were translated.
    pub ftp_rewritten: u64,
    /// Those that were not: another host's, a port below 1024, unreadable, no port free; and control connections without a place in
    /// the table.
    pub ftp_unaltered: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            received: 0,
            taken_over: 0,
            forwarded: 0,
            handed: 0,
            consumed: 0,
            held: 0,
            drops: [0; DropReason::COUNT],
            originated: 0,
            bytes_out: 0,
            bytes_in: 0,
            sessions_created: 0,
            sessions_removed: 0,
            stateless: 0,
            displaced: 0,
            evicted: 0,
            ftp_rewritten: 0,
            ftp_unaltered: 0,
        }
    }
}

impl Counters {
    /// Counts a drop.
    #[inline]
    pub fn drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// All drops together.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Frames that came in less frames that have an end or wait for one: always zero.
    pub fn balance(&self) -> i64 {
        let came = self.received + self.taken_over;
        let ended = self.forwarded + self.handed + self.consumed + self.held + self.dropped();
        came.wrapping_sub(ended).cast_signed()
    }
}
