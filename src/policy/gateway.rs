//! A gateway's limits, and what all workers together have used of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::{Moment, VpcIndex};

/// What a specification allows. It limits SNAT sessions only, never DNAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// SNAT sessions at once, over all workers.
    pub sessions: u64,
    /// New SNAT sessions a second, over all workers.
    pub new_per_second: u64,
}

impl Limits {
    /// No limit: it is your own machine.
    pub const UNLIMITED: Self = Self { sessions: u64::MAX, new_per_second: u64::MAX };
}

/// A NAT gateway as the workers see it.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Its VPC.
    pub vpc: VpcIndex,
    /// Its specification.
    pub limits: Limits,
    /// What is used of the limits. The same meter goes from snapshot to snapshot.
    pub meter: Arc<Meter>,
}

/// What all workers together have used of a gateway's limits. Touched when a session starts or ends, never for a packet
/// of an existing one.
#[derive(Debug, Default)]
pub struct Meter {
    sessions: AtomicU64,
    /// The theoretical arrival time, in nanoseconds, of the generic cell rate algorithm.
    next_arrival: AtomicU64,
}

impl Meter {
    /// SNAT sessions at the moment.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Counts one session in, unless that passes the limit.
    pub fn enter(&self, limits: Limits) -> bool {
        if self.sessions.fetch_add(1, Ordering::Relaxed) < limits.sessions {
            return true;
        }
        self.leave();
        false
    }

    /// Counts one session out.
    pub fn leave(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether one more session may start now: the generic cell rate algorithm with a burst of one second.
    pub fn admit(&self, limits: Limits, now: Moment) -> bool {
        const SECOND: u64 = 1_000_000_000;
        if limits.new_per_second >= SECOND {
            return true;
        }
        let interval = SECOND / limits.new_per_second.max(1);
        self.next_arrival
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                let next = next.max(now.0) + interval;
                (next <= now.0 + SECOND).then_some(next)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_limit_is_exact() {
        let meter = Meter::default();
        let limits = Limits { sessions: 3, ..Limits::UNLIMITED };
        assert_eq!((0..5).filter(|_| meter.enter(limits)).count(), 3);
        meter.leave();
        assert!(meter.enter(limits));
        assert!(!meter.enter(limits));
        assert_eq!(meter.sessions(), 3);
    }

    #[test]
    fn the_rate_limit_is_exact_over_seconds() {
        let meter = Meter::default();
        let limits = Limits { new_per_second: 100, ..Limits::UNLIMITED };
        let mut admitted = 0;
        for millis in 0..10_000 {
            for _ in 0..5 {
                admitted += u32::from(meter.admit(limits, Moment::from_millis(1000 + millis)));
            }
        }
        // Ten seconds at 100 a second after a full burst of 100.
        assert!((1095..=1105).contains(&admitted), "{admitted}");
    }
}
