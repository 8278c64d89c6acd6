//! A hash index of fixed size: from a hash to the slots of a table.
//!
//! A bucket is one cache line with ten short tags and ten slot numbers. A look-up compares all tags at once and
//! gives the slots behind equal ones to the caller, who compares the whole key in the table; so a hit touches one line of
//! the index and one of the table. An entry whose home bucket is full goes to one of a few others, and its home notes
//! which, so that a miss, too, touches one line as long as nothing has overflowed, and seldom more than two. Nothing is
//! ever moved or rehashed.

use std::io;

use wide::u16x16;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::base::hugepage::HugeSlice;
use crate::base::prefetch::prefetch;

const WAYS: usize = 10;

/// How many buckets, its home included, an entry may be in.
const REACH: usize = 16;

/// Entries for two buckets at the planned size: three quarters of their ways.
const PLANNED_FOR_TWO: usize = 15;

#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C, align(64))]
struct Bucket {
    /// Zero in a free place, else the hash's top bits with the lowest set.
    tags: [u16; WAYS],
    /// Entries at home here that are elsewhere.
    overflowed: u16,
    /// A bit for each distance at which any of them is.
    distances: u16,
    slots: [u32; WAYS],
}

impl Bucket {
    /// The ways whose tag is `tag`: all tags are compared at once.
    #[inline(always)]
    fn ways(&self, tag: u16) -> Ways {
        let halves: &[[u16; 16]; 2] = zerocopy::transmute_ref!(self);
        let equal = u16x16::new(halves[0]).simd_eq(u16x16::splat(tag));
        Ways(equal.to_bitmask() & ((1 << WAYS) - 1))
    }

    /// Puts an entry here, if there is a free way.
    #[inline]
    fn put(&mut self, hash: u64, slot: u32) -> bool {
        let Some(way) = self.ways(0).next() else { return false };
        let (Some(tag), Some(place)) = (self.tags.get_mut(way), self.slots.get_mut(way)) else {
            return false;
        };
        *tag = tag_of(hash);
        *place = slot;
        true
    }

    /// One more entry at home here is at this distance.
    fn overflow(&mut self, distance: usize) {
        self.overflowed += 1;
        self.distances |= 1 << distance;
    }

    /// One of them is gone.
    fn recede(&mut self) {
        self.overflowed -= 1;
        if self.overflowed == 0 {
            self.distances = 0;
        }
    }

    #[inline(always)]
    fn slot(&self, way: usize) -> u32 {
        self.slots.get(way).copied().unwrap_or(u32::MAX)
    }
}

/// A set of ways, a bit each.
struct Ways(u32);

impl Iterator for Ways {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let way = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(way)
    }
}

/// The index.
#[derive(Debug)]
pub struct Index {
    buckets: HugeSlice<Bucket>,
    /// Number of buckets as a factor: `hash * factor >> 32` is the home bucket.
    factor: u64,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("tags", &self.tags).finish_non_exhaustive()
    }
}

#[inline(always)]
const fn tag_of(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

impl Index {
    /// An index planned for `entries` entries.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(entries: usize) -> io::Result<Self> {
        let buckets = (entries * 2).div_ceil(PLANNED_FOR_TWO).max(REACH);
        Ok(Self { buckets: HugeSlice::zeroed(buckets)?, factor: buckets as u64 })
    }

    /// The same, on pages that take memory only when they are used: for an index that most configurations do not need.
    ///
    /// # Errors
    /// The kernel's, when it gives no address space.
    pub fn sparse(entries: usize) -> io::Result<Self> {
        let buckets = (entries * 2).div_ceil(PLANNED_FOR_TWO).max(REACH);
        Ok(Self { buckets: HugeSlice::sparse(buckets)?, factor: buckets as u64 })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
    }

    /// Bytes of it that are in use.
    pub fn bytes_in_use(&self) -> usize {
        self.buckets.bytes_in_use()
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        (((hash & 0xffff_ffff) * self.factor) >> 32) as usize
    }

    /// The bucket to try after `distance` others: other bits of the hash, so that full neighbourhoods do not grow together.
    #[inline]
    fn place(&self, hash: u64, distance: usize) -> usize {
        self.home(hash.rotate_right(7 * distance as u32))
    }

    /// Starts to load what a look-up of `hash` will read first.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        if let Some(bucket) = self.buckets.get(self.home(hash)) {
            prefetch(bucket);
        }
    }

    /// The first slot with the hash's tag: what a look-up will most likely find. It is only a hint.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Option<u32> {
        let bucket = self.buckets.get(self.home(hash))?;
        match bucket.ways(tag_of(hash)).next() {
            Some(way) => Some(bucket.slot(way)),
            None if bucket.distances == 0 => None,
            None => self.candidate_elsewhere(hash),
        }
    }

    #[cold]
    fn candidate_elsewhere(&self, hash: u64) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// The slot with this hash that `is_it` recognises.
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.locate(hash, &mut is_it).map(|(_, _, slot)| slot)
    }

    #[inline]
    fn locate(&self, hash: u64, is_it: &mut impl FnMut(u32) -> bool) -> Option<(usize, usize, u32)> {
        let home = self.home(hash);
        let tag = tag_of(hash);
        let bucket = self.buckets.get(home)?;
        if let Some((way, slot)) = Self::search(bucket, tag, is_it) {
            return Some((home, way, slot));
        }
        if bucket.distances == 0 {
            return None;
        }
        self.locate_elsewhere(hash, bucket.distances, is_it)
    }

    #[cold]
    fn locate_elsewhere(
        &self,
        hash: u64,
        mut distances: u16,
        is_it: &mut impl FnMut(u32) -> bool,
    ) -> Option<(usize, usize, u32)> {
        while distances != 0 {
            let at = self.place(hash, distances.trailing_zeros() as usize);
            if let Some((way, slot)) = Self::search(self.buckets.get(at)?, tag_of(hash), is_it) {
                return Some((at, way, slot));
            }
            distances &= distances - 1;
        }
        None
    }

    #[inline(always)]
    fn search(bucket: &Bucket, tag: u16, is_it: &mut impl FnMut(u32) -> bool) -> Option<(usize, u32)> {
        bucket.ways(tag).map(|way| (way, bucket.slot(way))).find(|(_, slot)| is_it(*slot))
    }

    /// Adds an entry, which must not be there yet. `false`, and no change, when there is no room within reach.
    #[inline]
    #[must_use]
    pub fn insert(&mut self, hash: u64, slot: u32) -> bool {
        self.put(self.home(hash), hash, slot) || self.insert_elsewhere(hash, slot)
    }

    /// Adds an entry unless one that `is_it` recognises is there. `false`, and no change, when there is, or no room.
    #[inline]
    #[must_use]
    pub fn insert_unless(&mut self, hash: u64, slot: u32, mut is_it: impl FnMut(u32) -> bool) -> bool {
        let home = self.home(hash);
        let Some(bucket) = self.buckets.get_mut(home) else { return false };
        let is_there = Self::search(bucket, tag_of(hash), &mut is_it).is_some();
        if is_there {
            return false;
        }
        if bucket.distances == 0 {
            return bucket.put(hash, slot) || self.insert_elsewhere(hash, slot);
        }
        let distances = bucket.distances;
        self.locate_elsewhere(hash, distances, &mut is_it).is_none() && self.insert(hash, slot)
    }

    #[cold]
    fn insert_elsewhere(&mut self, hash: u64, slot: u32) -> bool {
        let home = self.home(hash);
        for distance in 1..REACH {
            if self.put(self.place(hash, distance), hash, slot) {
                self.buckets[home].overflow(distance);
                return true;
            }
        }
        false
    }

    /// Puts an entry into a bucket, if it has a free way.
    #[inline]
    fn put(&mut self, at: usize, hash: u64, slot: u32) -> bool {
        self.buckets.get_mut(at).is_some_and(|bucket| bucket.put(hash, slot))
    }

    /// Removes an entry, if it is there.
    pub fn remove(&mut self, hash: u64, slot: u32) {
        if let Some((at, way, _)) = self.locate(hash, &mut |other| other == slot) {
            let home = self.home(hash);
            self.buckets[at].tags[way] = 0;
            if at != home {
                self.buckets[home].recede();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::Rng;

    fn hash_of(key: u32, clash: u64) -> u64 {
        (u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1) & !clash
    }

    /// Random insertions and removals against a map, with many entries in few buckets.
    #[test]
    fn behaves_as_a_map_even_when_crowded() {
        for clash in [0, 0xffff_fff0, 0xffff_0000_0000_0000] {
            let mut rng = Rng::from_seed(clash);
            let mut index = Index::new(300).unwrap();
            let mut model = BTreeSet::new();
            let mut refused = 0;
            for _ in 0..20_000 {
                let key = rng.below(400);
                let hash = hash_of(key, clash);
                if model.remove(&key) {
                    index.remove(hash, key);
                } else if index.insert(hash, key) {
                    model.insert(key);
                } else {
                    refused += 1;
                }
                let probe = rng.below(400);
                let found = index.find(hash_of(probe, clash), |slot| slot == probe);
                assert_eq!(found, model.contains(&probe).then_some(probe));
            }
            assert!(clash == 0xffff_fff0 || refused == 0, "{refused} refused with room left");
            for key in model {
                index.remove(hash_of(key, clash), key);
            }
            assert!(index.buckets.iter().all(|b| b.overflowed == 0 && b.tags == [0; WAYS]));
        }
    }

    #[test]
    fn the_hash_spreads_neighbouring_keys() {
        use crate::nat::key::{EndpointKey, FlowKey, Hasher};
        for seed in 0..200 {
            let hasher = Hasher::new(&mut Rng::from_seed(seed));
            let mut flows = Index::new(1024).unwrap();
            let mut endpoints = Index::new(1024).unwrap();
            let mut addresses = Index::new(1024).unwrap();
            for n in 0..1024u32 {
                let key = FlowKey {
                    source: 0x0a00_0100 + n,
                    source_port: 20_000,
                    destination: 0xc612_0000,
                    destination_port: 9,
                    tenant: 1,
                    protocol: 17,
                };
                let endpoint =
                    EndpointKey { tenant: 1, protocol: 17, address: 0x0a00_0100 + n, port: 20_000 };
                assert!(flows.insert(hasher.flow(&key), n), "flow {n}, seed {seed}");
                assert!(endpoints.insert(hasher.endpoint(&endpoint), n), "endpoint {n}, seed {seed}");
                assert!(addresses.insert(hasher.address(1, 0x0a00_0100 + n), n), "address {n}, seed {seed}");
            }
        }
    }

    #[test]
    fn takes_what_it_was_planned_for() {
        let mut rng = Rng::from_seed(5);
        let mut index = Index::new(100_000).unwrap();
        let refused = (0..100_000).filter(|&slot| !index.insert(rng.next_u64(), slot)).count();
        assert_eq!(refused, 0);
    }
}
