//! Cache misses of the calling thread, where the machine counts them.

use perf_event::events::Hardware;
use perf_event::{Builder, Counter};

/// Counts last-level cache misses while it is enabled.
#[derive(Debug)]
pub struct Misses(Option<Counter>);

impl Misses {
    /// A counter of the calling thread, not enabled yet. Virtual machines often have none, and the kernel may keep it to
    /// itself: then nothing is counted.
    pub fn of_this_thread() -> Self {
        Self(Builder::new().kind(Hardware::CACHE_MISSES).build().ok())
    }

    /// Begins to count, or goes on.
    pub fn enable(&mut self) {
        if self.0.as_mut().is_some_and(|counter| counter.enable().is_err()) {
            self.0 = None;
        }
    }

    /// Stops counting.
    pub fn disable(&mut self) {
        if self.0.as_mut().is_some_and(|counter| counter.disable().is_err()) {
            self.0 = None;
        }
    }

    /// What was counted; `None` where the machine does not count.
    pub fn count(&mut self) -> Option<u64> {
        self.0.as_mut()?.read().ok()
    }
}
