//! An EIP's bandwidth limit, which all workers together keep.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::Moment;
use crate::wire::rewrite::End;

/// What may pass at once after a pause: as much as the rate gives in this time ...
const BURST_NANOS: u64 = 100_000_000;
/// ... and at least so many bytes, so that a TCP window fits in at low rates.
const LEAST_BURST: u64 = 64 * 1024;

/// A limit on bytes of IP packets, for each direction on its own: the generic cell rate algorithm. Packets that go past it are
/// dropped, not queued. One atomic a direction is shared by the workers.
#[derive(Debug)]
pub struct Limiter {
    bits_per_second: u64,
    burst: u64,
    /// The theoretical arrival times, in nanoseconds.
    outward: AtomicU64,
    inward: AtomicU64,
}

impl Limiter {
    /// A limit that nothing has used of.
    pub fn new(bits_per_second: u64) -> Self {
        let bits_per_second = bits_per_second.max(1);
        let burst = BURST_NANOS.max(cost(LEAST_BURST, bits_per_second));
        Self { bits_per_second, burst, outward: AtomicU64::new(0), inward: AtomicU64::new(0) }
    }

    /// The rate.
    pub fn bits_per_second(&self) -> u64 {
        self.bits_per_second
    }

    /// Whether a packet of so many bytes may pass now in the direction that changes this end. If so, it is counted.
    #[inline]
    pub fn admit(&self, end: End, bytes: u16, now: Moment) -> bool {
        let cost = cost(bytes.into(), self.bits_per_second);
        let next = match end {
            End::Source => &self.outward,
            End::Destination => &self.inward,
        };
        next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            let next = next.max(now.0).saturating_add(cost);
            (next <= now.0.saturating_add(self.burst)).then_some(next)
        })
        .is_ok()
    }
}

/// The time that bytes take at a rate, in nanoseconds.
const fn cost(bytes: u64, bits_per_second: u64) -> u64 {
    bytes.saturating_mul(8_000_000_000) / bits_per_second
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that pass within ten seconds, of twice as many that come.
    fn passed(limiter: &Limiter, bytes: u16) -> u64 {
        let gap = cost(bytes.into(), limiter.bits_per_second()) / 2;
        let mut passed = 0;
        let mut now = 1_000_000_000;
        while now < 11_000_000_000 {
            passed += u64::from(bytes) * u64::from(limiter.admit(End::Source, bytes, Moment(now)));
            now += gap.max(1);
        }
        passed
    }

    #[test]
    fn the_rate_is_kept_and_a_burst_is_allowed() {
        for (rate, bytes) in
            [(1_000_000, 1500), (10_000_000, 60), (1_000_000_000, 1500), (40_000_000_000, 9000)]
        {
            let limiter = Limiter::new(rate);
            let (passed, rated) = (passed(&limiter, bytes) as f64, rate as f64 / 8.0 * 10.0);
            let burst = limiter.burst as f64 / 1e9 * rate as f64 / 8.0;
            assert!(passed >= rated && passed <= rated * 1.01 + burst, "{rate}: {passed} of {rated}");
        }
    }

    #[test]
    fn the_directions_do_not_share() {
        let limiter = Limiter::new(1_000_000);
        let now = Moment::from_secs(1);
        while limiter.admit(End::Source, 1500, now) {}
        assert!(limiter.admit(End::Destination, 1500, now));
        assert!(!limiter.admit(End::Source, 1500, now));
        assert!(limiter.admit(End::Source, 1500, now + std::time::Duration::from_millis(13)));
    }
}
