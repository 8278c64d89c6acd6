//! Times of the engine's stages: the clock is read once a stage and batch.

use crate::base::Moment;
use crate::base::time::Clock;
use crate::nat::stage::{Observer, Stage};

/// Nanoseconds of each stage, in the order of [`Stage::ALL`].
pub type StageTimes = [u64; Stage::ALL.len()];

/// Adds up times of stages.
#[derive(Debug)]
pub struct StageTimer {
    clock: Clock,
    since: Moment,
    times: StageTimes,
}

impl StageTimer {
    /// A timer that has measured nothing yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, since: clock.now(), times: StageTimes::default() }
    }

    /// The first stage of a batch begins now.
    pub fn restart(&mut self) {
        self.since = self.clock.now();
    }

    /// What was measured.
    pub fn times(&self) -> StageTimes {
        self.times
    }
}

impl Observer for StageTimer {
    #[inline]
    fn passed(&mut self, stage: Stage) {
        let now = self.clock.now();
        if let Some(time) = self.times.get_mut(stage as usize) {
            *time += now.since(self.since).as_nanos() as u64;
        }
        self.since = now;
    }
}
