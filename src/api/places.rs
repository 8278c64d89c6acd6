//! Places for connections. There are so many and no more, and a client that takes one without need keeps nobody out: while others
//! wait, whoever has had a place longest without a request that is being answered gives it up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Time that a client has in any case, from its coming or from its last answer: for a handshake and a header from afar, and for
/// taking an answer.
const GRACE: Duration = Duration::from_secs(1);
/// How often it is looked for a place while there is none.
const LOOK: Duration = Duration::from_millis(20);

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// Who has a place and is not being answered, since when, the longest first.
    idle: Mutex<BTreeMap<(Instant, u64), Arc<Notify>>>,
    next: AtomicU64,
}

impl Places {
    /// So many places.
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(count)),
            idle: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<(Instant, u64), Arc<Notify>>> {
        // Inserting and removing are single steps.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, when there is one.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        loop {
            let free = Arc::clone(&self.free).acquire_owned();
            if let Ok(Ok(permit)) = timeout(LOOK, free).await {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let place = Place {
                    places: Arc::clone(self),
                    number,
                    since: Mutex::new(None),
                    leave: Arc::default(),
                    _permit: permit,
                };
                place.rest();
                return place;
            }
            if let Some((_, leave)) =
                self.idle().first_key_value().filter(|((since, _), _)| since.elapsed() >= GRACE)
            {
                leave.notify_one();
            }
        }
    }

    /// Returns when nobody has a place any more.
    pub(super) async fn empty(&self, count: usize) {
        let _ = self.free.acquire_many(u32::try_from(count).unwrap_or(u32::MAX)).await;
    }
}

/// A connection's place. It is free when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    /// Since when it is idle; none while a request is being answered.
    since: Mutex<Option<Instant>>,
    leave: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is idle.
    fn rest(&self) {
        let now = Instant::now();
        *self.since() = Some(now);
        self.places.idle().insert((now, self.number), Arc::clone(&self.leave));
    }

    /// It is not idle until what this returns is dropped.
    pub(super) fn work(&self) -> Working<'_> {
        if let Some(since) = self.since().take() {
            self.places.idle().remove(&(since, self.number));
        }
        Working(self)
    }

    /// Returns when somebody else needs it more.
    pub(super) async fn wanted(&self) {
        loop {
            self.leave.notified().await;
            // A request may have come in the meantime.
            if self.since().is_some() {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(since) = self.since().take() {
            self.places.idle().remove(&(since, self.number));
        }
    }
}

/// A request is being answered.
pub(super) struct Working<'a>(&'a Place);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(work)
    }

    #[test]
    fn whoever_is_idle_longest_gives_way_and_whoever_works_does_not() {
        run(async {
            let places = Places::new(2);
            let (busy, idle) = (places.take().await, places.take().await);
            let working = busy.work();
            let newcomer = tokio::spawn({
                let places = Arc::clone(&places);
                async move { places.take().await }
            });
            let start = Instant::now();
            let waited = timeout(Duration::from_secs(10), idle.wanted()).await;
            assert!(
                waited.is_ok() && start.elapsed() + LOOK >= GRACE,
                "{waited:?} after {:?}",
                start.elapsed()
            );
            drop(idle);
            let newcomer = newcomer.await.unwrap();
            // Everybody works: nobody is asked to go, and who comes waits.
            let also = newcomer.work();
            assert!(timeout(GRACE * 2, places.take()).await.is_err());
            assert!(timeout(LOOK, busy.wanted()).await.is_err());
            drop(also);
            drop(working);
            drop((busy, newcomer));
            timeout(GRACE, places.empty(2)).await.unwrap();
        });
    }
}
