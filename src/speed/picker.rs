//! Cheap random numbers for picking flows, so that picking costs next to nothing beside what is measured.

use crate::base::Rng;

/// A xorshift generator.
#[derive(Debug)]
pub struct Picker {
    state: u64,
}

impl Picker {
    /// One that begins anywhere.
    pub fn new(rng: &mut Rng) -> Self {
        Self { state: rng.next_u64() | 1 }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}

/// The number below `bound` that random bits lead to.
pub fn below(random: u64, bound: u32) -> u32 {
    (((random >> 32) * u64::from(bound)) >> 32) as u32
}
