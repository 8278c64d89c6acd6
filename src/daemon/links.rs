//! Looking after the links of ports: one that goes or comes is said. A NIC may have forgotten how it is to distribute what it
//! receives when its link comes back, so that is looked after too.

use std::time::Duration;

use crate::base::Moment;

/// How often the links are looked at.
const EVERY: Duration = Duration::from_millis(500);
/// A distribution is looked at after so many looks, even if its link has not changed.
const RARELY: u32 = 20;

/// The links at the last look.
#[derive(Debug, Default)]
pub(super) struct Links {
    next: Moment,
    looks: u32,
    /// The speed of each, zero while it is down, if that is known.
    known: Vec<Option<u32>>,
}

impl Links {
    /// Looks, when it is time. `restore` is asked for a port whose distribution is to be looked at, and says what was wrong.
    pub(super) fn look(
        &mut self,
        now: Moment,
        links: impl FnOnce() -> Vec<(String, Option<u32>)>,
        restore: impl Fn(usize) -> Option<String>,
    ) {
        if now < self.next {
            return;
        }
        self.next = now + EVERY;
        self.looks = self.looks.wrapping_add(1);
        let links = links();
        for (index, (name, link)) in links.iter().enumerate() {
            let known = self.known.get(index).copied().flatten();
            match (known, *link) {
                (Some(0), Some(0)) | (None, _) | (_, None) => {}
                (Some(_), Some(0)) => log::warn!("port {name}: its link is down"),
                (Some(0), Some(speed)) => log::info!("port {name}: its link is up, {}", describe(speed)),
                (Some(before), Some(speed)) if before != speed => {
                    log::info!("port {name}: its link has now {}", describe(speed));
                }
                _ => {}
            }
            if (known != *link && *link != Some(0) || self.looks.is_multiple_of(RARELY))
                && let Some(found) = restore(index)
            {
                log::warn!("port {name}: {found}");
            }
        }
        self.known = links.into_iter().map(|(_, link)| link).collect();
    }
}

fn describe(speed: u32) -> String {
    // What has no speed says this, or one.
    if matches!(speed, 1 | u32::MAX) { "of no known speed".to_owned() } else { format!("{speed} Mbit/s") }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_link_that_comes_back_has_its_distribution_looked_at() {
        let restored = RefCell::new(Vec::new());
        let mut links = Links::default();
        let mut look = |millis, link| {
            let restore = |port| {
                restored.borrow_mut().push(port);
                None
            };
            links.look(Moment::from_millis(millis), || vec![("wan".to_owned(), link)], restore);
            restored.borrow_mut().drain(..).len()
        };
        assert_eq!(look(1000, Some(10_000)), 1, "the first look");
        assert_eq!(look(1100, Some(0)), 0, "not yet");
        assert_eq!(look(1500, Some(0)), 0, "gone");
        assert_eq!(look(2000, Some(0)), 0);
        assert_eq!(look(2500, Some(10_000)), 1, "back");
        let later: usize = (0..RARELY).map(|n| look(3000 + u64::from(n) * 500, Some(10_000))).sum();
        assert_eq!(later, 1, "and from time to time");
    }
}
