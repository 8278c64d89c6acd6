//! Looking whether every worker still turns its loop. A worker that stands still is said; and as long as one does, the service
//! manager's watchdog is not fed, so that it restarts the gateway.

use std::time::Duration;

use super::notify::Notifier;
use crate::base::Moment;

/// How often the workers are looked at where the service manager has no watchdog.
const USUAL: Duration = Duration::from_secs(1);

/// What the workers had done at the last look.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// Time between two looks.
    every: Duration,
    /// Whether the service manager is waiting for word.
    is_fed: bool,
    next: Moment,
    /// Turns of each worker's loop at the last look.
    turns: Vec<u64>,
    /// Workers that stood still at the last look.
    still: Vec<usize>,
}

impl Watchdog {
    /// Looks twice in the time that the service manager gives in `WATCHDOG_USEC` (`sd_watchdog_enabled(3)`).
    pub(super) fn from_environment(now: Moment) -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|process| process == u64::from(std::process::id()));
        let given =
            number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0).map(Duration::from_micros);
        let every = given.map_or(USUAL, |given| given / 2);
        Self { every, is_fed: given.is_some(), next: now + every, turns: Vec::new(), still: Vec::new() }
    }

    /// Looks, when it is time; `stalled` is told of a worker that has begun to stand still.
    pub(super) fn look(
        &mut self,
        now: Moment,
        turns: impl FnOnce() -> Vec<u64>,
        stalled: impl Fn(usize),
        notifier: &Notifier,
    ) {
        if now < self.next {
            return;
        }
        self.next = now + self.every;
        let turns = turns();
        let still =
            std::iter::zip(&self.turns, &turns).enumerate().filter(|(_, (before, now))| before == now);
        let still: Vec<usize> = still.map(|(worker, _)| worker).collect();
        for worker in still.iter().filter(|worker| !self.still.contains(worker)) {
            log::error!("worker {worker} has stood still for {:?}", self.every);
            stalled(*worker);
        }
        for worker in self.still.iter().filter(|worker| !still.contains(worker)) {
            log::warn!("worker {worker} goes on");
        }
        if self.is_fed && still.is_empty() {
            notifier.alive();
        }
        (self.turns, self.still) = (turns, still);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_keeps_the_watchdog_hungry() {
        let (notifier, socket) = Notifier::to_test();
        socket.set_nonblocking(true).unwrap();
        let fed = || {
            let mut buffer = [0; 100];
            socket.recv(&mut buffer).is_ok_and(|read| &buffer[..read] == b"WATCHDOG=1")
        };
        let mut watchdog = Watchdog {
            every: Duration::from_secs(1),
            is_fed: true,
            next: Moment::from_secs(1),
            turns: Vec::new(),
            still: Vec::new(),
        };
        let stalls = std::cell::RefCell::new(Vec::new());
        let mut look = |millis, turns: [u64; 2]| {
            let stalled = |worker| stalls.borrow_mut().push(worker);
            watchdog.look(Moment::from_millis(millis), || turns.to_vec(), stalled, &notifier);
            fed()
        };
        assert!(look(1000, [5, 5]));
        assert!(!look(1500, [6, 6]), "not yet");
        assert!(look(2000, [7, 7]));
        assert!(!look(3000, [8, 7]), "the second stands still");
        assert!(!look(4000, [9, 7]));
        assert!(!look(5000, [9, 8]), "now the first does");
        assert!(look(6000, [10, 9]));
        assert_eq!(*stalls.borrow(), [1, 0]);
    }
}
