//! One receive and transmit queue of a port of capsule's.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use capsule::PortQueue;

use super::runtime::Running;
use super::sys::Lane;
use crate::base::{Checksum, PortIndex};
use crate::nic::dpdk::sys as dpdk;
use crate::nic::{BURST, Burst, Cache, Monitor, PortCounters, Queue};

/// Bursts that a queue is drained of at most when it is closed: more than any ring has entries.
const MOST_DRAINED: usize = (1 << 17) / BURST;

/// Where a pipeline's installation leaves a queue for its worker.
pub(super) type Place = Arc<Mutex<Option<PortQueue>>>;

/// A port as management sees it, which does not keep it from being stopped. How it distributes what it receives is capsule's.
#[derive(Debug)]
pub(super) struct Watched {
    port: u16,
    running: Weak<Running>,
}

impl Watched {
    pub(super) fn new(port: u16, running: &Arc<Running>) -> Self {
        Self { port, running: Arc::downgrade(running) }
    }
}

impl Monitor for Watched {
    fn link(&self) -> Option<u32> {
        let _running = self.running.upgrade()?;
        dpdk::speed(self.port)
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        let Some(running) = self.running.upgrade() else { return Vec::new() };
        let _reading = running.reading.lock().unwrap_or_else(PoisonError::into_inner);
        dpdk::statistics(self.port).unwrap_or_default()
    }

    fn restore(&self) -> Option<String> {
        None
    }
}

/// A queue of a port.
pub(super) struct CapsuleQueue {
    lane: Lane,
    place: Place,
    /// Taken from its place by whoever polls first.
    queue: Option<PortQueue>,
    /// `None` once closed.
    running: Option<Arc<Running>>,
    index: PortIndex,
    /// What is known of a received frame's checksum: capsule does not say what the port says.
    checksum: Checksum,
    port: u16,
    /// Whether it reports the counters of the port: the first queue does.
    is_first: bool,
    /// Frames that capsule was given and could not send.
    unsent: u64,
    last: PortCounters,
}

impl CapsuleQueue {
    pub(super) fn new(
        lane: Lane,
        place: Place,
        running: &Arc<Running>,
        index: PortIndex,
        checksum: Checksum,
        (port, is_first): (u16, bool),
    ) -> Self {
        Self {
            lane,
            place,
            queue: None,
            running: Some(Arc::clone(running)),
            index,
            checksum,
            port,
            is_first,
            unsent: 0,
            last: PortCounters::default(),
        }
    }

    /// Takes the queue from its place, if it is there by now.
    #[cold]
    fn fetch(&mut self) {
        if self.running.is_some() {
            self.queue = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

impl Queue for CapsuleQueue {
    fn receive(&mut self, _cache: &mut Cache, burst: &mut Burst) -> usize {
        if self.queue.is_none() {
            self.fetch();
        }
        let Some(queue) = &mut self.queue else { return 0 };
        self.lane.receive(queue, self.index, self.checksum, burst)
    }

    /// What the ring does not take is freed by capsule, so all count as taken, and those as errors of sending.
    fn transmit(&mut self, _cache: &mut Cache, burst: &mut Burst) -> usize {
        if burst.is_empty() {
            return 0;
        }
        if self.queue.is_none() {
            self.fetch();
        }
        let Some(queue) = &mut self.queue else { return 0 };
        let (given, sent) = self.lane.transmit(queue, burst);
        self.unsent += given.saturating_sub(sent) as u64;
        given
    }

    fn counters(&mut self) -> PortCounters {
        // While management reads them, they are what they were.
        if let Some(running) = self.running.as_ref().filter(|_| self.is_first)
            && let Ok(_reading) = running.reading.try_lock()
            && let Ok([rx_missed, rx_errors, tx_errors]) = dpdk::counters(self.port)
        {
            let rx_errors = rx_errors + capsule_ffi::refused(self.port);
            self.last = PortCounters { rx_missed, rx_errors, tx_errors };
        }
        PortCounters { tx_errors: self.last.tx_errors + self.unsent, ..self.last }
    }

    fn close(&mut self, cache: &mut Cache) -> io::Result<()> {
        self.counters();
        let mut burst = Burst::new();
        // What a software ring holds does not come back to the pool by itself.
        for _ in 0..MOST_DRAINED {
            if self.receive(cache, &mut burst) == 0 {
                break;
            }
            burst.drain(..).for_each(|frame| cache.give(frame));
        }
        self.queue = None;
        match self.running.take().and_then(Arc::into_inner) {
            Some(running) => running.stop(),
            None => Ok(()),
        }
    }
}
