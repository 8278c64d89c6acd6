//! What sessions stand on, in classes: by them a change of the configuration tells which sessions it may concern.

use crate::base::{EipIndex, VpcIndex};

/// What a change concerns: the sessions of one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// An EIP.
    Eip(EipIndex),
    /// A private host of a VPC: its SNAT sessions.
    Host(VpcIndex, u32),
}

impl Touched {
    /// The class that it is of.
    pub const fn mark(self) -> Mark {
        match self {
            Self::Eip(index) => Mark::of_eip(index),
            Self::Host(_, address) => Mark::of_host(address),
        }
    }
}

/// A class of EIPs, or of private hosts. What is in one class counts as changed together, which costs a look too many and
/// nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u32);

/// Classes of EIPs.
const EIPS: usize = 8192;
/// Classes of private hosts. There are so many because thousands of hosts may change between two looks at all sessions.
const HOSTS: usize = 65536;

impl Mark {
    /// How many there are.
    pub const COUNT: usize = EIPS + HOSTS;

    /// Of the sessions of an EIP.
    #[inline]
    pub const fn of_eip(index: EipIndex) -> Self {
        Self(index.0 % EIPS as u32)
    }

    /// Of the sessions of a private host, in whichever VPC.
    #[inline]
    pub const fn of_host(address: u32) -> Self {
        Self(EIPS as u32 + (address.wrapping_mul(0x9e37_79b9) >> (u32::BITS - HOSTS.ilog2())))
    }

    /// Its number, below [`Mark::COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of marks: 9 KiB, of which a core's first cache keeps what is looked at.
#[derive(Clone, Debug)]
pub struct Marks([u64; Mark::COUNT / 64]);

impl Default for Marks {
    fn default() -> Self {
        Self([0; Mark::COUNT / 64])
    }
}

impl Marks {
    /// Whether a mark is in it.
    #[inline]
    pub fn has(&self, mark: Mark) -> bool {
        self.0[mark.index() / 64] & 1 << (mark.index() % 64) != 0
    }

    /// Adds a mark.
    #[inline]
    pub fn add(&mut self, mark: Mark) {
        self.0[mark.index() / 64] |= 1 << (mark.index() % 64);
    }

    /// Adds all marks.
    pub fn fill(&mut self) {
        self.0.fill(u64::MAX);
    }

    /// Takes all marks away.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_both_kinds_stay_apart_and_within_the_set() {
        for n in (0..=u32::MAX).step_by(65_537) {
            let (eip, host) = (Mark::of_eip(EipIndex(n)), Mark::of_host(n));
            assert!(eip.index() < EIPS && (EIPS..Mark::COUNT).contains(&host.index()));
        }
    }

    #[test]
    fn hosts_of_a_subnet_spread_over_the_classes() {
        let classes: std::collections::BTreeSet<_> =
            (0..4096).map(|n| Mark::of_host(0x0a00_0000 + n).0).collect();
        assert!(classes.len() > 3500, "{}", classes.len());
    }

    #[test]
    fn a_set_holds_what_was_added() {
        let mut marks = Marks::default();
        let (some, other) = (Mark::of_eip(EipIndex(70)), Mark::of_host(70));
        assert!(marks.is_empty());
        marks.add(some);
        assert!(marks.has(some) && !marks.has(other) && !marks.is_empty());
        marks.fill();
        assert!(marks.has(other));
        marks.clear();
        assert!(marks.is_empty() && !marks.has(some));
    }
}
