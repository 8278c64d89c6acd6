//! Maps that share structure: a changed copy costs one shard, not the whole.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::base::Generation;

/// Nodes below the root, and shards below a node. Of many changes to a copy each has its own node to copy, but all of them one
/// root: so it is the root that is wide.
const NODES: usize = 512;
const SHARDS: usize = 32;

type Shard<V> = HashMap<u64, V>;
type Node<V> = [Arc<Shard<V>>; SHARDS];

/// A map from 64-bit keys to values. Cloning shares everything; inserting or removing copies one shard of about
/// 1/16384 of the entries and the two nodes above it.
#[derive(Debug)]
pub struct Map<V> {
    root: Arc<[Arc<Node<V>>; NODES]>,
    len: usize,
}

impl<V> Clone for Map<V> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root), len: self.len }
    }
}

impl<V> Default for Map<V> {
    fn default() -> Self {
        let shard: Arc<Shard<V>> = Arc::new(HashMap::new());
        let node: Arc<Node<V>> = Arc::new(std::array::from_fn(|_| Arc::clone(&shard)));
        Self { root: Arc::new(std::array::from_fn(|_| Arc::clone(&node))), len: 0 }
    }
}

/// Positions of a key's shard in the two levels.
#[inline]
fn path(key: u64) -> (usize, usize) {
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
    (mixed as usize / SHARDS % NODES, mixed as usize % SHARDS)
}

impl<V: Clone> Map<V> {
    /// The value of a key.
    #[inline]
    pub fn get(&self, key: u64) -> Option<&V> {
        let (outer, inner) = path(key);
        self.root[outer][inner].get(&key)
    }

    /// Adds or replaces a value.
    pub fn insert(&mut self, key: u64, value: V) -> Option<V> {
        let before = self.shard_mut(key).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Removes a value.
    pub fn remove(&mut self, key: u64) -> Option<V> {
        let before = self.shard_mut(key).remove(&key);
        self.len -= usize::from(before.is_some());
        before
    }

    fn shard_mut(&mut self, key: u64) -> &mut Shard<V> {
        let (outer, inner) = path(key);
        let node = &mut Arc::make_mut(&mut self.root)[outer];
        Arc::make_mut(&mut Arc::make_mut(node)[inner])
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.root.iter().flat_map(|node| node.iter()).flat_map(|shard| shard.iter().map(|(k, v)| (*k, v)))
    }
}

const CHUNK: usize = 1024;

/// The generation in which each slot was last changed; a changed copy costs one chunk.
#[derive(Clone, Debug, Default)]
pub struct Generations {
    chunks: Vec<Arc<[Generation; CHUNK]>>,
}

impl Generations {
    /// When the slot was last changed; the first generation if never.
    #[inline]
    pub fn get(&self, slot: usize) -> Generation {
        self.chunks.get(slot / CHUNK).map_or(Generation(0), |chunk| chunk[slot % CHUNK])
    }

    /// Notes a change.
    pub fn set(&mut self, slot: usize, generation: Generation) {
        while self.chunks.len() <= slot / CHUNK {
            self.chunks.push(Arc::new([Generation(0); CHUNK]));
        }
        Arc::make_mut(&mut self.chunks[slot / CHUNK])[slot % CHUNK] = generation;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_map_and_copies_stay_apart(
            changes in proptest::collection::vec((0u64..200, any::<Option<u8>>()), 0..300),
        ) {
            let mut map = Map::default();
            let mut model = std::collections::BTreeMap::new();
            let mut old = Vec::new();
            for (key, value) in changes {
                old.push((map.clone(), model.clone()));
                match value {
                    Some(value) => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    None => prop_assert_eq!(map.remove(key), model.remove(&key)),
                }
            }
            old.push((map, model));
            for (map, model) in old {
                prop_assert_eq!(map.len(), model.len());
                let all: std::collections::BTreeMap<_, _> = map.iter().map(|(k, v)| (k, *v)).collect();
                prop_assert_eq!(&all, &model);
                for key in 0..200 {
                    prop_assert_eq!(map.get(key), model.get(&key));
                }
            }
        }
    }
}
