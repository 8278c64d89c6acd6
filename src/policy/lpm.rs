//! Longest-prefix match over IPv4.

use std::fmt;
use std::net::Ipv4Addr;

use hashbrown::HashMap;

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
/// One hash map over all lengths, asked once for each length in use, longest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Lpm<T> {
    /// Bit `n` is set when a prefix of length `n` is in the table.
    lengths: u64,
    values: HashMap<Prefix, T>,
}

impl<T> Default for Lpm<T> {
    fn default() -> Self {
        Self { lengths: 0, values: HashMap::new() }
    }
}

impl<T> Lpm<T> {
    /// Adds or replaces the value of a prefix.
    pub fn insert(&mut self, prefix: Prefix, value: T) -> Option<T> {
        self.lengths |= 1 << prefix.len;
        self.values.insert(prefix, value)
    }

    /// The value of exactly this prefix.
    pub fn exact(&self, prefix: Prefix) -> Option<&T> {
        self.values.get(&prefix)
    }

    /// The value of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: u32) -> Option<&T> {
        let mut lengths = self.lengths;
        while lengths != 0 {
            let len = 63 - lengths.leading_zeros() as u8;
            if let Some(value) = self.values.get(&Prefix::of(address, len)) {
                return Some(value);
            }
            lengths &= !(1 << len);
        }
        None
    }

    /// All prefixes with their values, in no particular order.
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

impl<T> FromIterator<(Prefix, T)> for Lpm<T> {
    fn from_iter<I: IntoIterator<Item = (Prefix, T)>>(iter: I) -> Self {
        let mut table = Self::default();
        for (prefix, value) in iter {
            table.insert(prefix, value);
        }
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
