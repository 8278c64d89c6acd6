//! Receive-side scaling (RSS): which queue of a NIC a packet comes to, computed as the NIC computes it, and how a NIC is made
//! to bring each packet to the worker that owns it.
//!
//! ```text
//! packet -> Toeplitz hash under the key -> its low bits -> entry of the indirection table -> queue = worker
//! ```
//!
//! Each bit of a bucket's number ([`owner`](crate::base::owner)) is an exclusive-or of bits of the packet, and that is what a
//! key can be made to compute: the low bits of the hash are then the bucket's number from its last bit to its first, whatever
//! the other end of the flow is, and the table says the bucket's owner. So a packet is never handed over, and this takes
//! no more of a NIC than that its key and its table can be set.

use std::sync::atomic::{AtomicU16, Ordering};

use super::owner::{PORT_GROUP, bucket_bits, bucket_of_host, bucket_of_port, owner_of_bucket};
use super::toeplitz::{INPUT, Toeplitz, USED};

/// Which queue each hash leads to. Its owner may change it while others look.
#[derive(Debug)]
pub struct IndirectionTable(Box<[AtomicU16]>);

impl IndirectionTable {
    /// A table of these queues; without any, all hashes lead to the first queue.
    pub fn new(queues: &[u16]) -> Self {
        Self(queues.iter().copied().map(AtomicU16::new).collect())
    }

    /// A table of `len` entries in which the queues take turns, which is what drivers begin with.
    pub fn round_robin(len: u16, queues: u16) -> Self {
        Self((0..len).map(|at| AtomicU16::new(at % queues.max(1))).collect())
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The queue that a hash leads to.
    #[inline]
    pub fn queue(&self, hash: u32) -> u16 {
        let at = if self.len().is_power_of_two() {
            hash as usize & (self.len() - 1)
        } else {
            (hash as usize).checked_rem(self.len()).unwrap_or(0)
        };
        self.0.get(at).map_or(0, |queue| queue.load(Ordering::Relaxed))
    }

    /// Takes over other entries, as many as there are of both.
    pub fn set(&self, queues: &[u16]) {
        for (entry, queue) in self.0.iter().zip(queues) {
            entry.store(*queue, Ordering::Relaxed);
        }
    }

    /// Its entries.
    pub fn queues(&self) -> Vec<u16> {
        self.0.iter().map(|queue| queue.load(Ordering::Relaxed)).collect()
    }
}

/// By what of a packet its owner is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnedBy {
    /// Its source, a private host.
    Source,
    /// Its destination port, an external one.
    DestinationPort,
}

impl OwnedBy {
    fn bucket(self, source: u32, port: u16, workers: u16) -> u32 {
        match self {
            Self::Source => bucket_of_host(source, workers),
            Self::DestinationPort => bucket_of_port(port, workers),
        }
    }
}

/// What makes a NIC bring packets to their owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The bytes of the key that matter; those after are zero.
    pub key: [u8; USED],
    /// The entries of the indirection table.
    pub table: Vec<u16>,
}

impl Program {
    /// For a NIC with an indirection table of `len` entries; `None` if no such table can say the owners, which is the case
    /// when it is smaller than there are buckets and their owners do not repeat within it.
    pub fn new(by: OwnedBy, workers: u16, len: usize) -> Option<Self> {
        let usable = len.checked_ilog2().filter(|_| len.is_power_of_two())?;
        let all = bucket_bits(workers);
        let bits = usable.min(all);
        if bits < all && !(workers.is_power_of_two() && u32::from(workers) <= 1 << bits) {
            return None;
        }
        let mut key = [0; USED];
        let mut set = |bit: u32| key[bit as usize / 8] |= 0x80 >> (bit % 8);
        match by {
            // The address is the first of the input. Bit `n` of its hash sees the bits whose distance from a bit of the key
            // is `n`: with one bit of the key for each fold, those that are folded upon each other.
            OwnedBy::Source => (0..u32::BITS.div_ceil(all)).for_each(|fold| {
                if let Some(bit) = (64 - bits).checked_sub(1 + fold * all) {
                    set(bit);
                }
            }),
            // The destination port is the last of the input.
            OwnedBy::DestinationPort => set(127 - PORT_GROUP - bits),
        }
        let owner = |at: usize| {
            let bucket = (at as u32).reverse_bits() >> (u32::BITS - bits);
            owner_of_bucket(bucket, workers)
        };
        Some(Self { key, table: (0..len).map(owner).collect() })
    }
}

/// How a port distributes the packets of IPv4 flows over its queues.
#[derive(Debug)]
pub struct Rss {
    toeplitz: Toeplitz,
    /// Its indirection table, which may change.
    pub table: IndirectionTable,
}

impl Rss {
    /// What a port with this key and this table does.
    pub fn new(key: &[u8], table: IndirectionTable) -> Self {
        Self { toeplitz: Toeplitz::new(key), table }
    }

    /// The queue of a TCP or UDP packet.
    pub fn queue(&self, source: (u32, u16), destination: (u32, u16)) -> u16 {
        self.queue_at(self.towards(source, destination.0), destination.1)
    }

    /// What a packet's hash is but for its destination port.
    #[inline]
    pub fn towards(&self, source: (u32, u16), destination: u32) -> u32 {
        self.toeplitz.addresses(source.0, destination) ^ self.toeplitz.source_port(source.1)
    }

    /// The queue of a packet by what [`towards`](Self::towards) said and its destination port.
    #[inline]
    pub fn queue_at(&self, towards: u32, port: u16) -> u16 {
        self.table.queue(towards ^ self.toeplitz.destination_port(port))
    }

    /// Whether every packet of a TCP or UDP flow comes to its owner, whatever its other fields are. It is found out from the
    /// key and the table alone, for all packets that there can be.
    pub fn brings_home(&self, by: OwnedBy, workers: u16) -> bool {
        if !self.table.len().is_power_of_two() {
            return false;
        }
        // Hash and bucket are linear: what all packets lead to is what those of single bits span.
        let mask = self.table.len() as u64 - 1;
        let mut basis: Vec<u64> = Vec::new();
        for bit in 0..INPUT * 8 {
            let one = 1_u128 << (INPUT * 8 - 1 - bit);
            let (source, destination, from, to) =
                ((one >> 64) as u32, (one >> 32) as u32, (one >> 16) as u16, one as u16);
            let hash = self.towards((source, from), destination) ^ self.toeplitz.destination_port(to);
            let both = u64::from(by.bucket(source, to, workers)) << 32 | u64::from(hash) & mask;
            let rest = basis.iter().fold(both, |rest, known| rest.min(rest ^ known));
            if rest != 0 {
                basis.push(rest);
            }
        }
        // More than the table can tell apart: two buckets share an entry, in vain if they have two owners.
        let mut place = 0_u64;
        (0..1_u64 << basis.len()).all(|step| {
            // Each step changes one bit (Gray code).
            if let Some(changed) = basis.get(step.trailing_zeros() as usize).filter(|_| step > 0) {
                place ^= changed;
            }
            self.table.queue(place as u32) == owner_of_bucket((place >> 32) as u32, workers)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use crate::base::owner::{owner_of_host, owner_of_port};
    use crate::base::toeplitz::{MICROSOFT_KEY, SYMMETRIC_KEY};

    const BOTH: [OwnedBy; 2] = [OwnedBy::Source, OwnedBy::DestinationPort];

    fn programmed(by: OwnedBy, workers: u16, len: usize) -> Option<Rss> {
        let program = Program::new(by, workers, len)?;
        Some(Rss::new(&program.key, IndirectionTable::new(&program.table)))
    }

    #[test]
    fn a_programmed_nic_brings_every_packet_to_its_owner() {
        let mut rng = Rng::from_seed(5);
        for workers in 2..=64 {
            for len in [64, 128, 256, 512, 2048] {
                for by in BOTH {
                    let Some(rss) = programmed(by, workers, len) else {
                        assert!(len == 64 && !workers.is_power_of_two(), "{workers} workers, {len} entries");
                        continue;
                    };
                    assert!(rss.brings_home(by, workers), "{workers} workers, {len} entries, by {by:?}");
                    for _ in 0..200 {
                        let (a, b) = (rng.next_u64(), rng.next_u64());
                        let (source, destination) =
                            ((a as u32, b as u16), ((a >> 32) as u32, (b >> 16) as u16));
                        let owner = match by {
                            OwnedBy::Source => owner_of_host(source.0, workers),
                            OwnedBy::DestinationPort => owner_of_port(destination.1, workers),
                        };
                        assert_eq!(rss.queue(source, destination), owner);
                        if by == OwnedBy::Source {
                            // Fragments, and what has no ports, go by the addresses alone.
                            let hash = rss.toeplitz.addresses(source.0, destination.0);
                            assert_eq!(rss.table.queue(hash), owner);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_nic_with_another_key_or_another_table_does_not() {
        for by in BOTH {
            for key in [MICROSOFT_KEY, SYMMETRIC_KEY] {
                assert!(!Rss::new(&key, IndirectionTable::round_robin(128, 4)).brings_home(by, 4));
            }
            let rss = programmed(by, 4, 128).unwrap();
            let mut queues = rss.table.queues();
            queues[77] ^= 1;
            rss.table.set(&queues);
            assert!(!rss.brings_home(by, 4));
            assert!(!rss.brings_home(by, 3));
        }
        let source = programmed(OwnedBy::Source, 4, 128).unwrap();
        assert!(!source.brings_home(OwnedBy::DestinationPort, 4));
        // One worker owns everything.
        assert!(Rss::new(&MICROSOFT_KEY, IndirectionTable::round_robin(128, 1)).brings_home(BOTH[0], 1));
    }

    #[test]
    fn tables_of_any_length_lead_somewhere() {
        assert_eq!(IndirectionTable::new(&[]).queue(77), 0);
        assert_eq!(IndirectionTable::new(&[4, 5, 6]).queue(7), 5);
        assert_eq!(IndirectionTable::round_robin(128, 3).queue(0xffff_ff80 | 5), 2);
        assert_eq!(Program::new(OwnedBy::Source, 2, 96), None);
        assert_eq!(Program::new(OwnedBy::Source, 2, 0), None);
    }

    /// More workers than a table of 128 entries serves fairly.
    #[test]
    fn many_workers_need_a_table_that_repeats() {
        assert!(
            programmed(OwnedBy::DestinationPort, 128, 512)
                .unwrap()
                .brings_home(OwnedBy::DestinationPort, 128)
        );
        assert!(programmed(OwnedBy::Source, 256, 512).unwrap().brings_home(OwnedBy::Source, 256));
        assert_eq!(Program::new(OwnedBy::Source, 100, 512), None);
    }
}
