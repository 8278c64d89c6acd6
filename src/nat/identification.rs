//! IP identifications of what leaves with an EIP that private hosts share (RFC 7857 §10): two datagrams of one address, peer
//! and protocol that are on their way at once must differ in it, or their fragments get mixed (RFC 6864 §5.3.1), and hosts know
//! nothing of each other's. What may not be fragmented needs none, and keeps what it has (RFC 6864 §4.1).

use crate::base::{Rng, WorkerIndex};
use crate::nat::lane::Lane;

/// Two to this power is the number of counters: many peers share one.
const BITS: u32 = 10;

/// The identifications that one worker gives out: peers have counters of their own as far as there are, so that they learn
/// little of each other's traffic, and workers have shares, so that they need not agree.
#[derive(Debug)]
pub struct Identifications {
    next: Box<[u16; 1 << BITS]>,
    /// What tells which counter a peer has, unknown outside.
    mix: u32,
    worker: u16,
    workers: u16,
}

impl Identifications {
    /// Counters that begin anywhere.
    pub fn new(worker: WorkerIndex, workers: u16, rng: &mut Rng) -> Self {
        let shares = u32::from(u16::MAX) / u32::from(workers);
        let mix = rng.next_u64() as u32 | 1;
        let next = std::array::from_fn(|_| (rng.below(shares) as u16) * workers + worker.0);
        Self { next: Box::new(next), mix, worker: worker.0, workers }
    }

    /// The identification that the next datagram to a peer gets.
    pub fn next(&self, peer: u32) -> u16 {
        self.next[self.counter(peer)]
    }

    /// The identification of a datagram to a peer.
    #[inline(always)]
    pub fn take(&mut self, peer: u32) -> u16 {
        let counter = self.counter(peer);
        let next = &mut self.next[counter];
        let taken = *next;
        *next = taken.checked_add(self.workers).unwrap_or(self.worker);
        taken
    }

    #[inline(always)]
    fn counter(&self, peer: u32) -> usize {
        (peer.wrapping_mul(self.mix) >> (32 - BITS)) as usize
    }

    /// The identification that a private host's packet gets if it needs one, where it leaves with an EIP that is shared or not.
    #[inline(always)]
    pub fn of(&mut self, lane: &Lane, is_shared: bool) -> Option<u16> {
        (is_shared && !lane.datagram.is_atomic())
            .then(|| lane.identification.unwrap_or_else(|| self.take(lane.datagram.destination)))
    }
}
