//! One receive and transmit queue of a port, and the port that all of them share.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::pools::Pools;
use super::rss::Distribution;
use super::sys::{self, Lane};
use crate::base::{Checksum, PortIndex};
use crate::nic::{Burst, Cache, Monitor, PortCounters, Queue};

/// Frames that a queue is drained of at most when its port is closed: more than any ring has entries.
const MOST_DRAINED: usize = 1 << 17;

/// A started port. It is stopped, and its device given back, with the last of its queues.
#[derive(Debug)]
pub(super) struct Device {
    port: u16,
    queues: u16,
    is_stopped: bool,
    is_promiscuous: bool,
    /// Held by whoever reads its counters: some drivers add up registers that reading clears.
    reading: Mutex<()>,
    // DPDK has pointers to these two as long as the port is there.
    _pools: Arc<Pools>,
    _key: Arc<[u8]>,
}

impl Device {
    /// A port that was started with these pools, and this key of its hash.
    pub(super) fn new(port: u16, queues: u16, pools: &Arc<Pools>, key: &Arc<[u8]>) -> Self {
        let (pools, key) = (Arc::clone(pools), Arc::clone(key));
        let (is_stopped, is_promiscuous) = (false, false);
        Self { port, queues, is_stopped, is_promiscuous, reading: Mutex::default(), _pools: pools, _key: key }
    }

    /// Makes it deliver frames to any address until it is stopped.
    pub(super) fn be_promiscuous(&mut self) -> io::Result<()> {
        sys::set_promiscuous(self.port, true)?;
        self.is_promiscuous = true;
        Ok(())
    }

    fn stop(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_stopped, true) {
            return Ok(());
        }
        if self.is_promiscuous {
            // A kernel device underneath would stay so.
            let _ = sys::set_promiscuous(self.port, false);
        }
        // What a software ring holds does not come back to the pool by itself.
        (0..self.queues).for_each(|queue| sys::drain(self.port, queue, MOST_DRAINED));
        sys::stop_port(self.port)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            log::warn!("a DPDK port could not be closed: {error}");
        }
    }
}

/// The port as management sees it, which does not keep it from being closed.
#[derive(Debug)]
pub(super) struct Watched {
    device: Weak<Device>,
    distribution: Distribution,
}

impl Watched {
    pub(super) fn new(device: &Arc<Device>, distribution: Distribution) -> Self {
        Self { device: Arc::downgrade(device), distribution }
    }
}

impl Monitor for Watched {
    fn link(&self) -> Option<u32> {
        sys::speed(self.device.upgrade()?.port)
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        let Some(device) = self.device.upgrade() else { return Vec::new() };
        let _reading = device.reading.lock().unwrap_or_else(PoisonError::into_inner);
        sys::statistics(device.port).unwrap_or_default()
    }

    fn restore(&self) -> Option<String> {
        self.distribution.restore(self.device.upgrade()?.port)
    }
}

/// A thread that DPDK knows until it ends.
struct Known;

impl Drop for Known {
    fn drop(&mut self) {
        sys::unregister_thread();
    }
}

thread_local! {
    static KNOWN: Known = {
        if let Err(error) = sys::register_thread() {
            log::warn!("DPDK does not take a worker as a thread of its own, so buffers have no cache: {error}");
        }
        Known
    };
}

/// A queue of a port.
#[derive(Debug)]
pub(super) struct DpdkQueue {
    /// `None` once closed.
    lane: Option<Lane>,
    device: Option<Arc<Device>>,
    index: PortIndex,
    /// What is known of a checksum of which the port says nothing.
    unverified: Checksum,
    /// Whether it reports the port's counters: the first queue does it for all.
    is_first: bool,
    is_known: bool,
    refused: u64,
    last: PortCounters,
}

impl DpdkQueue {
    pub(super) fn new(
        lane: Lane,
        device: &Arc<Device>,
        index: PortIndex,
        unverified: Checksum,
        is_first: bool,
    ) -> Self {
        Self {
            lane: Some(lane),
            is_first,
            device: Some(Arc::clone(device)),
            index,
            unverified,
            is_known: false,
            refused: 0,
            last: PortCounters::default(),
        }
    }
}

impl Queue for DpdkQueue {
    fn receive(&mut self, _cache: &mut Cache, burst: &mut Burst) -> usize {
        if !self.is_known {
            KNOWN.with(|_| self.is_known = true);
        }
        let Some(lane) = &mut self.lane else { return 0 };
        lane.receive(self.index, self.unverified, burst, &mut self.refused)
    }

    fn transmit(&mut self, _cache: &mut Cache, burst: &mut Burst) -> usize {
        self.lane.as_mut().map_or(0, |lane| lane.transmit(burst))
    }

    fn counters(&mut self) -> PortCounters {
        // While management reads them, they are what they were.
        if let Some(device) = self.device.as_ref().filter(|_| self.is_first && self.lane.is_some())
            && let Ok(_reading) = device.reading.try_lock()
            && let Ok([rx_missed, rx_errors, tx_errors]) = sys::counters(device.port)
        {
            self.last = PortCounters { rx_missed, rx_errors, tx_errors };
        }
        PortCounters { rx_errors: self.last.rx_errors + self.refused, ..self.last }
    }

    fn close(&mut self, _cache: &mut Cache) -> io::Result<()> {
        self.counters();
        self.lane = None;
        match self.device.take().and_then(Arc::into_inner) {
            Some(mut device) => device.stop(),
            None => Ok(()),
        }
    }
}
