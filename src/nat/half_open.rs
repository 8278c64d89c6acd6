//! TCP connections that are not open as far as was seen, because one side's SYN is missing, the oldest first. They may have half of the session
//! table, and where there is no room they are the first to go: a flood of SYN segments (RFC 4987) takes nothing from connections that
//! are established.

use std::io;

use zerocopy::FromZeros;

use crate::base::hugepage::HugeSlice;

/// Neighbours in the list as slots moved by [`FIRST`]; zero in a slot that is not in it.
#[derive(Clone, Copy, Debug, Default, FromZeros)]
#[repr(C)]
struct Links {
    older: u32,
    newer: u32,
}

/// No neighbour: an end of the list.
const END: u32 = 1;
/// What stands for slot 0.
const FIRST: u32 = 2;

/// The half-open connections of one worker.
#[derive(Debug)]
pub struct HalfOpen {
    /// A place for each slot of the session table; memory is touched only for those of TCP.
    links: HugeSlice<Links>,
    oldest: u32,
    newest: u32,
    len: usize,
}

impl HalfOpen {
    /// A list for a session table with `capacity` slots.
    ///
    /// # Errors
    /// The kernel's, when it gives no memory.
    pub fn new(capacity: usize) -> io::Result<Self> {
        Ok(Self { links: HugeSlice::sparse(capacity)?, oldest: END, newest: END, len: 0 })
    }

    /// Bytes of it that are in use.
    pub fn bytes_in_use(&self) -> usize {
        self.links.bytes_in_use()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many there may be.
    pub fn limit(&self) -> usize {
        (self.links.len() / 2).max(1)
    }

    /// Whether a session is one of them.
    pub fn contains(&self, slot: u32) -> bool {
        self.links.get(slot as usize).is_some_and(|links| links.older != 0)
    }

    /// Adds a session as the newest.
    pub fn push(&mut self, slot: u32) {
        if self.contains(slot) || slot as usize >= self.links.len() {
            return;
        }
        let number = slot + FIRST;
        self.links[slot as usize] = Links { older: self.newest, newer: END };
        match self.place(self.newest) {
            Some(links) => links.newer = number,
            None => self.oldest = number,
        }
        self.newest = number;
        self.len += 1;
    }

    /// Takes a session out.
    pub fn remove(&mut self, slot: u32) {
        if !self.contains(slot) {
            return;
        }
        let Links { older, newer } = std::mem::take(&mut self.links[slot as usize]);
        match self.place(older) {
            Some(links) => links.newer = newer,
            None => self.oldest = newer,
        }
        match self.place(newer) {
            Some(links) => links.older = older,
            None => self.newest = older,
        }
        self.len -= 1;
    }

    /// Their slots, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let slot = next.checked_sub(FIRST)?;
            next = self.links.get(slot as usize)?.newer;
            Some(slot)
        })
    }

    fn place(&mut self, number: u32) -> Option<&mut Links> {
        self.links.get_mut(number.checked_sub(FIRST)? as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_queue_from_which_any_can_be_taken(
            steps in proptest::collection::vec((any::<bool>(), 0u32..12), 0..200),
        ) {
            let mut list = HalfOpen::new(10).unwrap();
            let mut model: Vec<u32> = vec![];
            for (push, slot) in steps {
                if push {
                    list.push(slot);
                    if slot < 10 && !model.contains(&slot) {
                        model.push(slot);
                    }
                } else {
                    list.remove(slot);
                    model.retain(|known| *known != slot);
                }
                prop_assert_eq!(list.iter().collect::<Vec<_>>(), model.clone());
                prop_assert_eq!(list.len(), model.len());
                prop_assert!((0..12).all(|slot| list.contains(slot) == model.contains(&slot)));
            }
        }
    }
}
