//! Longest-prefix match over IPv4.

use std::fmt;
use std::net::Ipv4Addr;

/// An IPv4 prefix; the bits behind its length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: u32,
    len: u8,
}

impl Prefix {
    /// Every address.
    pub const ALL: Self = Self { address: 0, len: 0 };

    /// The prefix of `len` bits (at most 32) that `address` lies in.
    pub const fn of(address: u32, len: u8) -> Self {
        let len = if len > 32 { 32 } else { len };
        Self { address: address & mask(len), len }
    }

    /// The prefix of one address.
    pub const fn host(address: u32) -> Self {
        Self { address, len: 32 }
    }

    /// Its first address.
    pub const fn address(self) -> u32 {
        self.address
    }

    /// Its length in bits.
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// Its last address.
    pub const fn last(self) -> u32 {
        self.address | !mask(self.len)
    }

    /// Whether `address` lies in it.
    #[inline]
    pub const fn contains(self, address: u32) -> bool {
        address & mask(self.len) == self.address
    }

    /// Whether all of `other` lies in it.
    pub const fn covers(self, other: Self) -> bool {
        self.len <= other.len && self.contains(other.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.address), self.len)
    }
}

/// The network mask of a prefix length.
const fn mask(len: u8) -> u32 {
    if len == 0 { 0 } else { u32::MAX << (32 - len) }
}

/// A table from prefixes to values; the longest prefix that contains an address wins.
///
/// The prefixes cut the addresses into ranges, each of which belongs to one prefix or to none; a look-up is a binary search
/// among the beginnings of the ranges.
#[derive(Clone, Debug, PartialEq)]
pub struct Lpm<T> {
    /// By address and length.
    values: Vec<(Prefix, T)>,
    /// Where each range begins; the first one begins at zero.
    starts: Vec<u32>,
    /// The place in `values` of each range's prefix, or [`NOBODY`].
    owners: Vec<u32>,
}

/// The owner of a range that no prefix contains.
const NOBODY: u32 = u32::MAX;

impl<T> Default for Lpm<T> {
    fn default() -> Self {
        Self { values: Vec::new(), starts: Vec::new(), owners: Vec::new() }
    }
}

impl<T> Lpm<T> {
    /// Adds or replaces the value of a prefix. To make a table of many, collect it: this takes time by its size.
    pub fn insert(&mut self, prefix: Prefix, value: T) -> Option<T> {
        match self.place(prefix) {
            Ok(at) => Some(std::mem::replace(&mut self.values[at].1, value)),
            Err(at) => {
                self.values.insert(at, (prefix, value));
                self.cut();
                None
            }
        }
    }

    fn place(&self, prefix: Prefix) -> Result<usize, usize> {
        self.values.binary_search_by_key(&prefix, |(prefix, _)| *prefix)
    }

    /// The value of exactly this prefix.
    pub fn exact(&self, prefix: Prefix) -> Option<&T> {
        self.place(prefix).ok().map(|at| &self.values[at].1)
    }

    /// The value of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: u32) -> Option<&T> {
        let after = self.starts.partition_point(|start| *start <= address);
        let owner = self.owners.get(after.wrapping_sub(1))?;
        self.values.get(*owner as usize).map(|(_, value)| value)
    }

    /// Cuts the addresses into ranges anew.
    fn cut(&mut self) {
        self.starts.clear();
        self.owners.clear();
        if self.values.is_empty() {
            return;
        }
        let (starts, owners) = (&mut self.starts, &mut self.owners);
        let mut begin = |start: u32, owner: u32| {
            if starts.last() == Some(&start) {
                owners.pop();
            } else {
                starts.push(start);
            }
            owners.push(owner);
        };
        begin(0, NOBODY);
        // Prefixes that contain the one at hand, the longest last: a prefix comes before those inside it.
        let mut around: Vec<(Prefix, u32)> = Vec::with_capacity(33);
        for (owner, (prefix, _)) in (0..).zip(&self.values) {
            leave(&mut around, |ended| !ended.covers(*prefix), &mut begin);
            begin(prefix.address, owner);
            around.push((*prefix, owner));
        }
        leave(&mut around, |_| true, &mut begin);
    }

    /// All prefixes with their values, by address and length.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &T)> {
        self.values.iter().map(|(prefix, value)| (*prefix, value))
    }

    /// All prefixes with their values, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Prefix, &mut T)> {
        self.values.iter_mut().map(|(prefix, value)| (*prefix, value))
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// Takes the innermost prefixes away that end here: behind each, its range belongs to the one around it.
fn leave(around: &mut Vec<(Prefix, u32)>, ends: impl Fn(Prefix) -> bool, begin: &mut impl FnMut(u32, u32)) {
    while let Some((ended, _)) = around.pop_if(|(prefix, _)| ends(*prefix)) {
        if let Some(start) = ended.last().checked_add(1) {
            begin(start, around.last().map_or(NOBODY, |(_, owner)| *owner));
        }
    }
}

impl<T> FromIterator<(Prefix, T)> for Lpm<T> {
    /// Of several values for one prefix the last one stays.
    fn from_iter<I: IntoIterator<Item = (Prefix, T)>>(iter: I) -> Self {
        let mut values: Vec<_> = iter.into_iter().collect();
        values.reverse();
        values.sort_by_key(|(prefix, _)| *prefix);
        values.dedup_by_key(|(prefix, _)| *prefix);
        let mut table = Self { values, ..Self::default() };
        table.cut();
        table
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_a_linear_search_finds(
            prefixes in proptest::collection::vec((any::<u32>(), 0u8..=32), 0..40),
            address: u32,
            near in any::<prop::sample::Index>(),
        ) {
            let prefixes: Vec<_> = prefixes.into_iter().map(|(a, l)| Prefix::of(a, l)).collect();
            let table: Lpm<Prefix> = prefixes.iter().map(|p| (*p, *p)).collect();
            let mut addresses = vec![address];
            if !prefixes.is_empty() {
                let p = near.get(&prefixes);
                addresses.extend([p.address(), p.last(), p.last().wrapping_add(1)]);
            }
            for address in addresses {
                let best = prefixes.iter().filter(|p| p.contains(address)).max_by_key(|p| p.len());
                prop_assert_eq!(table.lookup(address), best);
            }
            let mut one_by_one = Lpm::default();
            for prefix in &prefixes {
                let before = one_by_one.insert(*prefix, *prefix);
                prop_assert!(before.is_none_or(|before| before == *prefix));
                prop_assert_eq!(one_by_one.exact(*prefix), Some(prefix));
            }
            prop_assert_eq!(one_by_one, table);
        }
    }

    #[test]
    fn a_prefix_drops_its_host_bits() {
        let prefix = Prefix::of(0x0a01_0203, 16);
        assert_eq!(prefix.to_string(), "10.1.0.0/16");
        assert_eq!(prefix.last(), 0x0a01_ffff);
        assert!(prefix.covers(Prefix::of(0x0a01_8000, 24)));
        assert!(!prefix.covers(Prefix::ALL));
    }
}
