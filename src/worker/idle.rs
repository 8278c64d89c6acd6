//! What a worker does when there is nothing to do, and how it is called when there is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use arrayvec::ArrayVec;
use crossbeam::utils::CachePadded;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

/// The most ports that a gateway has.
pub const MAX_PORTS: usize = 64;

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// It keeps asking: the lowest latency, a whole core.
    Poll,
    /// After a short while without work it sleeps in the kernel until a frame, another worker or management calls:
    /// for machines where cores are shared.
    #[default]
    Sleep,
}

/// Empty turns go on for so long before a worker sleeps: bursts come close together.
pub(super) const SPIN: Duration = Duration::from_micros(50);
/// A worker never sleeps longer than this, for its timers.
pub(super) const NAP: Duration = Duration::from_millis(10);
/// A worker with a queue that cannot wake it never sleeps longer than this.
pub(super) const BLIND_NAP: Duration = Duration::from_micros(500);

/// How a sleeping worker is woken. Ringing costs a fence and a load while the worker is awake.
///
/// No call is lost: the worker says that it sleeps and then looks whether there is work; a caller leaves the work and
/// then looks whether the worker sleeps. With a full fence between the two steps on both sides, at least one of
/// them sees the other.
#[derive(Debug)]
pub(super) struct Doorbell {
    asleep: CachePadded<AtomicBool>,
    event: OwnedFd,
}

impl Doorbell {
    pub(super) fn new() -> std::io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { asleep: CachePadded::new(AtomicBool::new(false)), event })
    }

    /// Wakes the worker if it sleeps. To be called after the work was left for it.
    #[inline]
    pub(super) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // It cannot fail: the counter is far from full, as only one call is made a sleep.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Sleeps until `work` was there from the start, somebody rings, one of `queues` has frames, or `most` has passed.
    pub(super) fn sleep<'a>(
        &self,
        queues: impl Iterator<Item = BorrowedFd<'a>>,
        most: Duration,
        work: impl FnOnce() -> bool,
    ) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !work() {
            let mut fds = ArrayVec::<PollFd<'_>, { MAX_PORTS + 1 }>::new();
            fds.push(PollFd::from_borrowed_fd(self.event.as_fd(), PollFlags::IN));
            for fd in queues {
                let _ = fds.try_push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(most.subsec_nanos()) };
            // An interrupted or failed call is a short sleep.
            let _ = rustix::event::poll(&mut fds, Some(&timeout));
        }
        self.asleep.store(false, Ordering::Relaxed);
        let _ = rustix::io::read(&self.event, &mut [0_u8; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Clock;

    #[test]
    fn a_call_before_or_during_the_sleep_ends_it() {
        let bell = Doorbell::new().unwrap();
        let clock = Clock::start();
        let called = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2000 {
                    while called.load(Ordering::Acquire) {
                        std::thread::yield_now();
                    }
                    called.store(true, Ordering::Release);
                    bell.ring();
                }
            });
            for _ in 0..2000 {
                while !called.load(Ordering::Acquire) {
                    let before = clock.now();
                    bell.sleep(std::iter::empty(), Duration::from_millis(900), || {
                        called.load(Ordering::Acquire)
                    });
                    assert!(clock.now().since(before) < Duration::from_millis(800), "a call was lost");
                }
                called.store(false, Ordering::Release);
            }
        });
    }

    #[test]
    fn without_a_call_it_ends_by_itself() {
        let bell = Doorbell::new().unwrap();
        let clock = Clock::start();
        let before = clock.now();
        bell.sleep(std::iter::empty(), Duration::from_millis(5), || false);
        assert!(clock.now().since(before) >= Duration::from_millis(4));
    }
}
