//! Blocks of neighbouring ports that private hosts have for as long as they have sessions. A host's blocks are a chain, the newest
//! first, on the one EIP that it leaves with.

use std::io;

use hashbrown::HashMap;
use zerocopy::FromZeros;

use crate::base::hugepage::HugeSlice;
use crate::base::{EipIndex, EntryId, Tick};
use crate::nat::ports::PortsRow;
use crate::policy::{self, PortRange};

/// Blocks that an EIP has at the most: none is smaller than 64 ports.
const EACH: usize = 1024;

/// A block that a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBlock {
    /// The VPC as a tenant number.
    pub tenant: u16,
    /// The private host.
    pub inside: u32,
    /// The EIP.
    pub external: u32,
    /// Its ports.
    pub ports: PortRange,
    /// The entry that gave it out.
    pub entry: EntryId,
    /// When the host got it.
    pub since: Tick,
}

/// A block in its place; free if it has no tenant.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C)]
struct Row {
    inside: u32,
    external: u32,
    entry: u32,
    since: u32,
    tenant: u16,
    first: u16,
    last: u16,
    /// The next block of the same host as one more than its number.
    next: u16,
}

impl Row {
    fn block(&self) -> PortBlock {
        PortBlock {
            tenant: self.tenant,
            inside: self.inside,
            external: self.external,
            ports: PortRange { first: self.first, last: self.last },
            entry: EntryId(self.entry),
            since: Tick(self.since),
        }
    }
}

/// The blocks of one EIP.
#[derive(Debug)]
struct Place {
    eip: EipIndex,
    /// How many are taken.
    taken: u32,
    /// Of which blocks a search found none since the last one was given back.
    exhausted: Option<policy::Blocks>,
}

impl Place {
    fn of(eip: EipIndex) -> Self {
        Self { eip, taken: 0, exhausted: None }
    }
}

/// The blocks of one worker.
#[derive(Debug)]
pub struct PortBlocks {
    rows: HugeSlice<Row>,
    places: Vec<Place>,
    capacity: usize,
    of: HashMap<EipIndex, u32>,
}

impl PortBlocks {
    /// Room for the blocks of so many EIPs. Memory is touched only for those in use.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(eips: usize) -> io::Result<Self> {
        let capacity = eips.max(1);
        Ok(Self {
            rows: HugeSlice::sparse(capacity * EACH)?,
            places: Vec::with_capacity(capacity),
            capacity,
            of: HashMap::with_capacity(capacity),
        })
    }

    fn place(&mut self, eip: EipIndex) -> Option<usize> {
        if let Some(place) = self.of.get(&eip) {
            return Some(*place as usize);
        }
        let at = if self.places.len() < self.capacity {
            self.places.push(Place::of(eip));
            self.places.len() - 1
        } else {
            // An EIP that nobody uses any more makes room.
            let at = self.places.iter().position(|place| place.taken == 0)?;
            self.of.remove(&self.places[at].eip);
            self.places[at] = Place::of(eip);
            at
        };
        self.of.insert(eip, at as u32);
        Some(at)
    }

    fn row(&self, eip: EipIndex, chain: u16) -> Option<&Row> {
        let number = usize::from(chain.checked_sub(1)?);
        self.rows.get(*self.of.get(&eip)? as usize * EACH + number)
    }

    /// The blocks of a chain.
    pub fn chain(&self, eip: EipIndex, mut chain: u16) -> impl Iterator<Item = PortBlock> {
        std::iter::from_fn(move || {
            let row = self.row(eip, chain)?;
            chain = row.next;
            Some(row.block())
        })
    }

    /// Gives out a free block of an EIP, one of those whose numbers are `share.0` modulo `share.1`, from a random one on. `block`
    /// says whose it is to be; its ports are set here. Returns the chain with it in front.
    pub fn take(
        &mut self,
        eip: EipIndex,
        blocks: policy::Blocks,
        share: (u16, u16),
        block: PortBlock,
        chain: u16,
        random: u64,
    ) -> Option<(u16, PortBlock)> {
        let (worker, workers) = share;
        let mine = u32::from(blocks.count.min(EACH as u16).saturating_sub(worker)).div_ceil(workers.into());
        let start = ((random >> 32) * u64::from(mine)) >> 32;
        let place = self.place(eip)?;
        if self.places[place].exhausted == Some(blocks) {
            return None;
        }
        let number = (start as u32..mine)
            .chain(0..start as u32)
            .map(|n| (n * u32::from(workers)) as usize + usize::from(worker))
            .find(|number| self.rows.get(place * EACH + number).is_some_and(|row| row.tenant == 0));
        let Some(number) = number else {
            self.places[place].exhausted = Some(blocks);
            return None;
        };
        let ports = blocks.range(number as u16);
        let PortBlock { tenant, inside, external, entry, since, ports: _ } = block;
        let row = self.rows.get_mut(place * EACH + number)?;
        let (first, last) = (ports.first, ports.last);
        *row = Row { inside, external, entry: entry.0, since: since.0, tenant, first, last, next: chain };
        self.places[place].taken += 1;
        Some((number as u16 + 1, PortBlock { ports, ..block }))
    }

    /// Whether there is a block to give out, as for [`take`](Self::take).
    pub fn has_free(&self, eip: EipIndex, blocks: policy::Blocks, share: (u16, u16)) -> bool {
        let mut mine = (share.0..blocks.count.min(EACH as u16)).step_by(usize::from(share.1));
        match self.of.get(&eip) {
            None => mine.next().is_some(),
            Some(place) => mine.any(|number| {
                let row = self.rows.get(*place as usize * EACH + usize::from(number));
                row.is_some_and(|row| row.tenant == 0)
            }),
        }
    }

    /// EIPs, with how many blocks are taken.
    pub fn rows(&self) -> impl Iterator<Item = PortsRow> {
        self.places.iter().map(|place| PortsRow { eip: place.eip, protocol: None, taken: place.taken })
    }

    /// All blocks that are taken.
    pub fn iter(&self) -> impl Iterator<Item = PortBlock> {
        let used = self.rows.get(..self.places.len() * EACH).unwrap_or_default();
        used.iter().filter(|row| row.tenant != 0).map(Row::block)
    }

    /// Bytes of it that are in use.
    pub fn bytes_in_use(&self) -> usize {
        self.rows.bytes_in_use()
    }

    /// Takes the first block off a chain; what it was, and the rest of the chain.
    pub fn give(&mut self, eip: EipIndex, chain: u16) -> Option<(PortBlock, u16)> {
        let place = *self.of.get(&eip)? as usize;
        let row = self.rows.get_mut(place * EACH + usize::from(chain.checked_sub(1)?))?;
        if row.tenant == 0 {
            return None;
        }
        let (block, next) = (row.block(), row.next);
        (row.tenant, row.next) = (0, 0);
        self.places[place].taken -= 1;
        self.places[place].exhausted = None;
        Some((block, next))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const EIP: EipIndex = EipIndex(7);

    fn block(inside: u32) -> PortBlock {
        let ports = PortRange { first: 0, last: 0 };
        PortBlock { tenant: 1, inside, external: 9, ports, entry: EntryId(3), since: Tick(5) }
    }

    #[test]
    fn every_block_is_given_out_once_and_comes_back() {
        let blocks = policy::Blocks::of(PortRange { first: 1024, last: 65535 }, 64);
        for workers in [1, 3] {
            let mut seen = BTreeSet::new();
            for worker in 0..workers {
                let mut all = PortBlocks::new(2).unwrap();
                let mut chain = 0;
                while let Some((next, taken)) =
                    all.take(EIP, blocks, (worker, workers), block(5), chain, 77 << 40)
                {
                    assert_eq!(blocks.number(taken.ports.first).unwrap() % workers, worker);
                    assert!(seen.insert(taken.ports.first), "{taken:?} twice");
                    chain = next;
                }
                let count = all.chain(EIP, chain).count();
                for n in 0..count {
                    assert_eq!(all.chain(EIP, chain).count(), count - n);
                    (_, chain) = all.give(EIP, chain).unwrap();
                }
                assert_eq!((chain, all.give(EIP, 1)), (0, None));
            }
            assert_eq!(seen.len(), usize::from(blocks.count));
        }
    }

    #[test]
    fn an_eip_that_nobody_uses_makes_room() {
        let blocks = policy::Blocks::of(PortRange { first: 1024, last: 65535 }, 1024);
        let mut all = PortBlocks::new(1).unwrap();
        let (chain, _) = all.take(EIP, blocks, (0, 1), block(5), 0, 0).unwrap();
        assert_eq!(all.take(EipIndex(8), blocks, (0, 1), block(5), 0, 0), None);
        all.give(EIP, chain).unwrap();
        assert!(all.take(EipIndex(8), blocks, (0, 1), block(5), 0, 0).is_some());
    }
}
