//! The highest rate without loss (RFC 2544 §26.1): trials, halving what is left between a rate that passed and one that
//! did not.

use std::io;

use crate::pktgen::trial::Trial;

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// The highest rate to try, in packets a second; otherwise as fast as the sender can.
    pub limit: Option<f64>,
    /// Share of packets that may be lost.
    pub loss: f64,
    /// When to stop: the share of the rate within which the result is known.
    pub resolution: f64,
}

/// What was found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Found {
    /// The highest rate that passed, in packets a second; none if none did.
    pub rate_pps: Option<f64>,
    /// Whether the sender was the limit, not what is tested.
    pub sender_was_the_limit: bool,
    /// All trials.
    pub trials: Vec<Trial>,
}

/// Trials at the most: each halves what is left.
const TRIALS: usize = 24;

/// A sender that falls behind by more than this share has not offered the rate.
const REACHED: f64 = 0.99;

impl Goal {
    /// Runs trials, each at a rate or as fast as the sender can, until the rate is found.
    ///
    /// # Errors
    /// The trial's.
    pub fn search(&self, mut run: impl FnMut(Option<f64>) -> io::Result<Trial>) -> io::Result<Found> {
        let first = run(self.limit)?;
        let passed = self.passes(&first);
        let fell_behind = |trial: &Trial, rate: f64| trial.sent_pps < rate * REACHED;
        let mut found = Found {
            rate_pps: passed.then_some(first.sent_pps),
            sender_was_the_limit: passed && self.limit.is_none_or(|limit| fell_behind(&first, limit)),
            trials: Vec::new(),
        };
        let (mut low, mut high) = (0.0, first.sent_pps);
        // What came through is a good guess at what does.
        let mut next = first.received_pps.min(high * 0.95);
        found.trials.push(first);
        if passed {
            return Ok(found);
        }
        while high - low > self.resolution * high && high >= 1.0 && found.trials.len() < TRIALS {
            let rate = next.clamp(low + (high - low) * 0.1, low + (high - low) * 0.9).max(1.0);
            let trial = run(Some(rate))?;
            if self.passes(&trial) && trial.sent > 0 {
                low = rate.min(trial.sent_pps);
                found.rate_pps = Some(low);
                found.sender_was_the_limit = fell_behind(&trial, rate);
            } else {
                high = rate;
            }
            found.trials.push(trial);
            if found.sender_was_the_limit {
                break;
            }
            next = f64::midpoint(low, high);
        }
        Ok(found)
    }

    fn passes(&self, trial: &Trial) -> bool {
        trial.loss <= self.loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that carries `capacity`, and a sender that reaches `fastest`.
    fn find(capacity: f64, fastest: f64, goal: Goal) -> Found {
        goal.search(|rate| {
            let sent_pps = rate.unwrap_or(f64::INFINITY).min(fastest);
            let received_pps = sent_pps.min(capacity);
            Ok(Trial {
                sent: sent_pps as u64,
                sent_pps,
                received_pps,
                loss: 1.0 - received_pps / sent_pps,
                ..Trial::default()
            })
        })
        .unwrap()
    }

    const GOAL: Goal = Goal { limit: None, loss: 0.0, resolution: 0.01 };

    #[test]
    fn the_rate_is_found_within_the_resolution() {
        for capacity in [1_234.0, 700_000.0, 9_900_000.0] {
            let found = find(capacity, 10e6, GOAL);
            let rate = found.rate_pps.unwrap();
            assert!(rate <= capacity && rate >= 0.985 * capacity, "{rate} of {capacity}");
            assert!(!found.sender_was_the_limit && found.trials.len() < TRIALS);
        }
    }

    #[test]
    fn a_fast_device_is_limited_by_the_sender_or_the_limit() {
        let found = find(2e6, 1e6, GOAL);
        assert_eq!((found.rate_pps, found.sender_was_the_limit, found.trials.len()), (Some(1e6), true, 1));
        let found = find(2e6, 1e6, Goal { limit: Some(5e5), ..GOAL });
        assert_eq!((found.rate_pps, found.sender_was_the_limit, found.trials.len()), (Some(5e5), false, 1));
    }

    #[test]
    fn some_loss_may_be_allowed_and_a_dead_device_has_no_rate() {
        let found = find(700_000.0, 10e6, Goal { loss: 0.1, ..GOAL });
        let rate = found.rate_pps.unwrap();
        assert!((760_000.0..=778_000.0).contains(&rate), "{rate}");
        assert_eq!(find(0.0, 1000.0, GOAL).rate_pps, None);
    }
}
