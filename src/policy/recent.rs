//! What the latest generations brought, so that a worker learns what is new without looking at everything.

use std::sync::Arc;

use crate::base::Generation;

/// Things with the generation that brought each, oldest first, bounded: of the oldest it is only known that there were some.
#[derive(Clone, Debug)]
pub struct Recent<T> {
    /// All that came later is listed.
    forgotten: Generation,
    list: Arc<[(Generation, T)]>,
}

/// So far back is looked first.
const NEAR: usize = 64;

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { forgotten: Generation(0), list: Arc::new([]) }
    }
}

impl<T: Copy> Recent<T> {
    /// What is remembered of the time after a generation, oldest first.
    pub fn since(&self, generation: Generation) -> &[(Generation, T)] {
        // Mostly few are new, and no cache has the others.
        let near = self.list.len().saturating_sub(NEAR);
        let from =
            if self.list.get(near).is_some_and(|(brought, _)| *brought <= generation) { near } else { 0 };
        let within = self.list.get(from..).unwrap_or_default();
        within.get(within.partition_point(|(brought, _)| *brought <= generation)..).unwrap_or_default()
    }

    /// Whether all of the time after a generation is remembered.
    pub fn remembers(&self, generation: Generation) -> bool {
        self.forgotten <= generation
    }

    /// Adds what a generation brought; of all, at most `most` are remembered.
    pub fn extend(&mut self, generation: Generation, new: &[T], most: usize) {
        if new.is_empty() {
            return;
        }
        let skip = (self.list.len() + new.len()).saturating_sub(most);
        let new = new.iter().map(|thing| (generation, *thing));
        let mut all = self.list.iter().copied().chain(new);
        self.forgotten =
            skip.checked_sub(1).and_then(|last| all.nth(last)).map_or(self.forgotten, |(g, _)| g);
        self.list = all.collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told_and_what_was_forgotten_is_known() {
        let mut recent = Recent::default();
        recent.extend(Generation(1), &['a', 'b'], 4);
        recent.extend(Generation(2), &[], 4);
        recent.extend(Generation(3), &['c'], 4);
        let told = |recent: &Recent<char>, since| {
            recent.since(Generation(since)).iter().map(|(_, thing)| *thing).collect::<String>()
        };
        assert_eq!([0, 1, 2, 3].map(|since| told(&recent, since)), ["abc", "c", "c", ""]);
        assert!(recent.remembers(Generation(0)));

        recent.extend(Generation(5), &['d', 'e'], 4);
        assert_eq!(told(&recent, 0), "bcde");
        assert!(!recent.remembers(Generation(0)) && recent.remembers(Generation(1)));
        recent.extend(Generation(6), &['f', 'g', 'h', 'i', 'j'], 4);
        assert_eq!(told(&recent, 5), "ghij");
        assert!(!recent.remembers(Generation(5)) && recent.remembers(Generation(6)));
        let many = ['k'; 3 * NEAR];
        recent.extend(Generation(7), &many, 1024);
        recent.extend(Generation(8), &many[..9], 1024);
        let count = |since| recent.since(Generation(since)).len();
        assert_eq!([5, 6, 7, 8].map(count), [many.len() + 13, many.len() + 9, 9, 0]);
    }
}
