//! IP identifications of what leaves with an EIP that private hosts share (RFC 7857 §10): two datagrams of one address, peer
//! and protocol that are on their way at once must differ in it, or their fragments get mixed (RFC 6864 §5.3.1), and hosts know
//! nothing of each other's. What may not be fragmented needs none, and keeps what it has (RFC 6864 §4.1).

use crate::base::{Rng, WorkerIndex};
use crate::nat::engine::{Context, Engine};
use crate::nat::key::Hasher;
use crate::nat::lane::Lane;
use crate::wire::{Packet, rewrite};

/// Counters: many peers share one.
const COUNTERS: usize = 1024;

/// The identifications that one worker gives out: peers have counters of their own as far as there are, so that they learn
/// little of each other's traffic, and workers have shares, so that they need not agree.
#[derive(Debug)]
pub struct Identifications {
    next: Vec<u16>,
    hasher: Hasher,
    worker: u16,
    workers: u16,
}

impl Identifications {
    /// Counters that begin anywhere.
    pub fn new(worker: WorkerIndex, workers: u16, hasher: Hasher, rng: &mut Rng) -> Self {
        let shares = u32::from(u16::MAX) / u32::from(workers);
        let mut anywhere = || (rng.below(shares) as u16) * workers + worker.0;
        Self { next: (0..COUNTERS).map(|_| anywhere()).collect(), hasher, worker: worker.0, workers }
    }

    /// The identification of a datagram to a peer.
    #[inline]
    pub fn take(&mut self, peer: u32) -> u16 {
        let counter = self.hasher.address(0, peer) as usize % COUNTERS;
        let Some(next) = self.next.get_mut(counter) else { return 0 };
        let taken = *next;
        *next = taken.checked_add(self.workers).unwrap_or(self.worker);
        taken
    }
}

impl Engine {
    /// Gives a packet that leaves as `external` the identification that it needs there, and says which it has then.
    pub(super) fn identify(
        &mut self,
        packet: &mut Packet<'_>,
        lane: &Lane,
        external: u32,
        cx: &Context<'_>,
    ) -> u16 {
        let datagram = &lane.datagram;
        let is_its_own = cx.snapshot.eip(external).is_some_and(|eip| eip.any_port.is_some());
        if datagram.is_atomic() || is_its_own {
            return datagram.id;
        }
        let id = lane.identification.unwrap_or_else(|| self.identifications.take(datagram.destination));
        rewrite::identify(packet.buffer, datagram, id);
        id
    }
}
