//! Ordered maps by the thousand, of which most have one entry.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::ops::RangeInclusive;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

/// An ordered map for each group that has entries.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Grouped<G: Hash + Eq, K, V>(HashMap<G, Few<K, V>>);

/// An ordered map that is not empty. A single entry costs no memory of its own.
#[derive(Clone, Debug, PartialEq)]
enum Few<K, V> {
    One(K, V),
    /// Two and more.
    Many(BTreeMap<K, V>),
}

impl<G: Hash + Eq, K, V> Default for Grouped<G, K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<G: Hash + Eq, K: Ord + Copy, V: Copy> Grouped<G, K, V> {
    /// Puts an entry into a group, or takes it out; whether the group came or went with it.
    pub(super) fn note(&mut self, group: G, key: K, value: Option<V>) -> bool {
        match (self.0.entry(group), value) {
            (Entry::Vacant(entry), Some(value)) => {
                entry.insert(Few::One(key, value));
                true
            }
            (Entry::Vacant(_), None) => false,
            (Entry::Occupied(mut entry), Some(value)) => {
                entry.get_mut().insert(key, value);
                false
            }
            (Entry::Occupied(mut entry), None) => {
                let was_last = entry.get_mut().remove(key);
                if was_last {
                    entry.remove();
                }
                was_last
            }
        }
    }

    /// How many entries a group has.
    pub(super) fn len(&self, group: &G) -> usize {
        match self.0.get(group) {
            None => 0,
            Some(Few::One(..)) => 1,
            Some(Few::Many(map)) => map.len(),
        }
    }

    /// Whether a group has an entry of this key.
    pub(super) fn contains(&self, group: &G, key: K) -> bool {
        self.range(group, key..=key).next().is_some()
    }

    /// The entries of a group that lie in a range, in order.
    pub(super) fn range<'a>(
        &'a self,
        group: &G,
        range: RangeInclusive<K>,
    ) -> impl DoubleEndedIterator<Item = (K, V)> + use<'a, G, K, V> {
        let (one, many) = match self.0.get(group) {
            Some(Few::One(key, value)) if range.contains(key) => (Some((*key, *value)), None),
            Some(Few::Many(map)) => (None, Some(map.range(range))),
            None | Some(Few::One(..)) => (None, None),
        };
        one.into_iter().chain(many.into_iter().flatten().map(|(key, value)| (*key, *value)))
    }
}

impl<K: Ord + Copy, V: Copy> Few<K, V> {
    fn insert(&mut self, key: K, value: V) {
        match self {
            Self::One(known, _) if *known == key => *self = Self::One(key, value),
            Self::One(known, its) => *self = Self::Many(BTreeMap::from([(*known, *its), (key, value)])),
            Self::Many(map) => {
                map.insert(key, value);
            }
        }
    }

    /// Removes an entry, unless it is the last one: says so then.
    fn remove(&mut self, key: K) -> bool {
        match self {
            Self::One(known, _) => *known == key,
            Self::Many(map) => {
                map.remove(&key);
                if let (1, Some((key, value))) = (map.len(), map.first_key_value()) {
                    *self = Self::One(*key, *value);
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_one_ordered_map(
            changes in proptest::collection::vec((0u8..3, 0u16..5, any::<Option<u8>>()), 0..60),
            range in (0u16..5, 0u16..5),
        ) {
            let (mut grouped, mut model) = (Grouped::default(), BTreeMap::new());
            for (group, key, value) in changes {
                let of_group = |model: &BTreeMap<(u8, u16), u8>| model.keys().filter(|(g, _)| *g == group).count();
                let before = of_group(&model);
                match value {
                    Some(value) => model.insert((group, key), value),
                    None => model.remove(&(group, key)),
                };
                let after = of_group(&model);
                prop_assert_eq!(grouped.note(group, key, value), (before == 0) != (after == 0));
                prop_assert_eq!(grouped.len(&group), after);
            }
            let range = range.0..=range.1;
            let mut fresh = Grouped::default();
            for ((group, key), value) in &model {
                prop_assert!(grouped.contains(group, *key));
                fresh.note(*group, *key, Some(*value));
            }
            prop_assert_eq!(&fresh, &grouped);
            for group in 0..3 {
                let all = model.iter().filter(|((g, key), _)| *g == group && range.contains(key));
                let all: Vec<_> = all.map(|((_, key), value)| (*key, *value)).collect();
                if !range.is_empty() {
                    prop_assert_eq!(grouped.range(&group, range.clone()).collect::<Vec<_>>(), all.clone());
                    prop_assert!(grouped.range(&group, range.clone()).rev().eq(all.into_iter().rev()));
                }
            }
        }
    }
}
