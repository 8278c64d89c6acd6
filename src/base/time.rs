//! Time as a value. The packet path never reads a clock: a worker reads it once a batch and passes it on.

use std::time::Duration;

/// Nanoseconds since an arbitrary start, monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `seconds` after the start.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    /// The moment `millis` milliseconds after the start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// Time passed since `earlier`; zero if that lies in the future.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The coarse time that sessions keep.
    pub const fn tick(self) -> Tick {
        Tick((self.0 / Tick::NANOS) as u32)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs.as_nanos() as u64))
    }
}

/// Coarse time in tenths of a second: four bytes that last for six years of uptime with a bit to spare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u32);

impl Tick {
    /// Length of a tick in nanoseconds.
    pub const NANOS: u64 = 100_000_000;

    /// Ticks in `duration`, rounded up, so that a timeout never ends early.
    pub const fn ticks(duration: Duration) -> u32 {
        let ticks = duration.as_nanos().div_ceil(Self::NANOS as u128);
        if ticks > MAX_TICKS as u128 { MAX_TICKS } else { ticks as u32 }
    }

    /// The tick `ticks` later.
    #[inline]
    pub const fn plus(self, ticks: u32) -> Self {
        Self(self.0.saturating_add(ticks))
    }

    /// Ticks since `earlier`; zero if that lies in the future.
    #[inline]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The longest timeout that fits: about three years.
const MAX_TICKS: u32 = 1 << 30;

/// The one place that reads a clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
    /// Time since 1970 at the start.
    unix: Duration,
}

impl Clock {
    const FIRST: u64 = 1_000_000_000;

    /// A clock that starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may")]
    pub fn start() -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { start: std::time::Instant::now(), unix }
    }

    /// The time since the start, plus one second so that no moment is ever zero.
    #[inline]
    pub fn now(&self) -> Moment {
        Moment(self.start.elapsed().as_nanos() as u64 + Self::FIRST)
    }

    /// The time since 1970 at `moment`, for timestamps that people read: by the wall clock as it stood at the start.
    pub const fn unix(&self, moment: Moment) -> Duration {
        let since = Duration::from_nanos(moment.0.saturating_sub(Self::FIRST));
        self.unix.saturating_add(since)
    }
}
