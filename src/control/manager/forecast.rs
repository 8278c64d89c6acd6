//! When the external ports of an EIP will be used up, if it goes on as in the last minute.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;

use crate::base::{EipIndex, Moment};

/// An EIP and an IP protocol number.
type Key = (EipIndex, u8);

/// Samples that are kept, and the time between two.
const SAMPLES: usize = 7;
const PERIOD: Duration = Duration::from_secs(10);

/// How many ports were taken of late.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    samples: VecDeque<(Moment, HashMap<Key, u64>)>,
}

impl Forecast {
    /// Whether it is time for a sample.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.samples.back().is_none_or(|(then, _)| now.since(*then) >= PERIOD)
    }

    /// Notes how many ports are taken.
    pub(super) fn note(&mut self, now: Moment, taken: HashMap<Key, u64>) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((now, taken));
    }

    /// Seconds until `limit` ports are taken; none if they do not grow more.
    pub(super) fn seconds_to_full(&self, now: Moment, key: Key, taken: u64, limit: u64) -> Option<f64> {
        let left = limit.saturating_sub(taken);
        if left == 0 {
            return Some(0.0);
        }
        let (then, before) = self.samples.front()?;
        let seconds = now.since(*then).as_secs_f64();
        let more = taken.checked_sub(before.get(&key).copied().unwrap_or(0)).filter(|more| *more > 0)?;
        (seconds >= 1.0).then(|| left as f64 * seconds / more as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (EipIndex(1), 6);

    #[test]
    fn ports_that_grow_by_a_hundred_a_second_last_for_a_tenth_of_their_number_in_milliseconds() {
        let mut forecast = Forecast::default();
        for step in 0..20u64 {
            let now = Moment::from_secs(10 * step);
            assert!(forecast.is_due(now));
            forecast.note(now, [(KEY, 1000 * step)].into());
            assert!(!forecast.is_due(now + Duration::from_secs(9)));
        }
        let left = forecast.seconds_to_full(Moment::from_secs(190), KEY, 19_000, 64_000);
        assert_eq!(left, Some(450.0));
        assert_eq!(forecast.seconds_to_full(Moment::from_secs(190), KEY, 64_000, 64_000), Some(0.0));
    }

    #[test]
    fn ports_that_do_not_grow_more_last() {
        let mut forecast = Forecast::default();
        assert_eq!(forecast.seconds_to_full(Moment::from_secs(1), KEY, 5, 10), None);
        forecast.note(Moment::from_secs(1), [(KEY, 5)].into());
        assert_eq!(forecast.seconds_to_full(Moment::from_secs(11), KEY, 5, 10), None);
        assert_eq!(forecast.seconds_to_full(Moment::from_secs(11), KEY, 4, 10), None);
    }
}
