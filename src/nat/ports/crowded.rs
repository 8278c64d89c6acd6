//! Destinations to which nearly all ports of an EIP are in use by endpoint-dependent sessions.
//!
//! Whether a shared port is free towards a peer takes a look into the session table. While most ports are free, a few looks
//! at random find one. When they do not, all ports are looked through once, and what is found is kept as a bit a port, as
//! long as there is room: from then on the search for the last free port, and the answer that there is none, cost no look.

use std::io;

use arrayvec::ArrayVec;

use super::WORDS;
use crate::base::hugepage::HugeSlice;
use crate::base::{EipIndex, Tick};
use crate::wire::protocol;

/// Destinations that are remembered.
pub const ROWS: usize = 8;

/// An external address and a peer's endpoint: sessions between them need different ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The EIP.
    pub eip: EipIndex,
    /// IP protocol number.
    pub protocol: u8,
    /// The peer's address and port.
    pub peer: (u32, u16),
}

impl Destination {
    /// What an EIP's sessions with a peer have in common.
    pub fn new(eip: EipIndex, protocol: u8, (address, port): (u32, u16)) -> Self {
        // The identifier of an ICMP query is the port on the EIP; a peer has none.
        let port = if protocol == protocol::ICMP { 0 } else { port };
        Self { eip, protocol, peer: (address, port) }
    }
}

/// The ports in use towards crowded destinations.
#[derive(Debug)]
pub struct Crowded {
    rows: ArrayVec<Destination, ROWS>,
    /// [`WORDS`] words a row, a bit a port that is in use.
    bits: HugeSlice<u64>,
    /// The row that makes room next.
    next: usize,
    /// When a row last made room.
    replaced: Tick,
}

impl Crowded {
    /// Knows no destination yet.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new() -> io::Result<Self> {
        let bits = HugeSlice::sparse(ROWS * WORDS)?;
        Ok(Self { rows: ArrayVec::new(), bits, next: 0, replaced: Tick::default() })
    }

    /// The ports in use towards a destination, if it is known.
    pub fn ports(&self, destination: &Destination) -> Option<&[u64]> {
        self.row(destination).and_then(|row| self.bits.get(row * WORDS..(row + 1) * WORDS))
    }

    /// The destinations that are remembered, each with how many ports are in use towards it.
    pub fn list(&self) -> impl Iterator<Item = (Destination, u32)> {
        let used =
            self.bits.chunks_exact(WORDS).map(|words| words.iter().map(|word| word.count_ones()).sum());
        self.rows.iter().copied().zip(used)
    }

    /// Notes that a port is in use towards a destination, or is not any more.
    pub fn note(&mut self, destination: &Destination, port: u16, is_used: bool) {
        let Some(row) = self.row(destination) else { return };
        let Some(word) = self.bits.get_mut(row * WORDS + usize::from(port >> 6)) else { return };
        let mask = 1 << (port & 63);
        *word = if is_used { *word | mask } else { *word & !mask };
    }

    /// Remembers a destination whose ports in use are these. When more are crowded than can be remembered, one makes room,
    /// once a tick: `false` if that was done in this tick already.
    pub fn remember(&mut self, destination: Destination, now: Tick, used: impl Iterator<Item = u16>) -> bool {
        let row = match self.rows.try_push(destination) {
            Ok(()) => self.rows.len() - 1,
            Err(_) if self.replaced == now => return false,
            Err(_) => {
                self.replaced = now;
                let row = self.next % ROWS;
                self.next = row + 1;
                self.rows[row] = destination;
                row
            }
        };
        if let Some(words) = self.bits.get_mut(row * WORDS..(row + 1) * WORDS) {
            words.fill(0);
        }
        used.for_each(|port| self.note(&destination, port, true));
        true
    }

    fn row(&self, destination: &Destination) -> Option<usize> {
        self.rows.iter().position(|row| row == destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(peer: u16) -> Destination {
        Destination::new(EipIndex(1), protocol::TCP, (0xc633_6401, peer))
    }

    fn used(crowded: &Crowded, destination: &Destination) -> Option<u32> {
        crowded.list().find(|(known, _)| known == destination).map(|(_, used)| used)
    }

    #[test]
    fn more_than_there_is_room_for_take_turns_once_a_tick() {
        let mut crowded = Crowded::new().unwrap();
        for peer in 0..ROWS as u16 {
            assert!(crowded.remember(to(peer), Tick(5), 1000..1010 + peer));
        }
        assert_eq!(used(&crowded, &to(3)), Some(13));
        crowded.note(&to(3), 1000, false);
        crowded.note(&to(99), 1000, true);
        assert_eq!((used(&crowded, &to(3)), used(&crowded, &to(99))), (Some(12), None));
        assert!(crowded.remember(to(99), Tick(6), 7..8));
        assert!(!crowded.remember(to(98), Tick(6), 7..8));
        assert_eq!((used(&crowded, &to(0)), used(&crowded, &to(99))), (None, Some(1)));
        assert!(crowded.remember(to(98), Tick(7), 7..8));
        assert_eq!((used(&crowded, &to(1)), used(&crowded, &to(98))), (None, Some(1)));
    }

    #[test]
    fn an_icmp_query_has_no_port_at_its_peer() {
        let icmp = |port| Destination::new(EipIndex(1), protocol::ICMP, (1, port));
        assert_eq!(icmp(7), icmp(8));
        assert_ne!(to(7), to(8));
    }
}
