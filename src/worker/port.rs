//! A port as one worker sees it: its queue and the frames that wait to be sent.

use arrayvec::ArrayVec;

use crate::base::{DropReason, PortIndex};
use crate::nat::Verdict;
use crate::nic::{BURST, Burst, Cache, Frame, Queue};
use crate::worker::process::Process;
use crate::worker::stats::{Activity, PortTotals};

/// A queue that takes nothing so many times in a row is full.
const REFUSALS: usize = 4;

/// Whose frame it is that is sent: it decides where its loss is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A packet that the engine counted as forwarded.
    Forwarded,
    /// A frame of the gateway's own making.
    Own,
}

/// What a worker counts and draws buffers with.
#[derive(Debug)]
pub(super) struct Core<E> {
    pub(super) engine: E,
    pub(super) cache: Cache,
    pub(super) activity: Activity,
}

impl<E: Process> Core<E> {
    /// Counts a frame of `len` bytes that was to be sent by `port` and cannot be.
    #[cold]
    pub(super) fn lose(&mut self, port: PortIndex, len: usize, origin: Origin, reason: DropReason) {
        match (origin, reason) {
            (Origin::Forwarded, _) => {
                let verdict = Verdict::Send { port, head: 0, len: len.min(usize::from(u16::MAX)) as u16 };
                self.engine.undo(verdict, reason);
            }
            (Origin::Own, DropReason::NoBuffer) => self.activity.own_no_buffer += 1,
            (Origin::Own, _) => self.activity.own_transmit_full += 1,
        }
    }
}

/// A port as one worker sees it.
pub(super) struct WorkerPort {
    index: PortIndex,
    pub(super) queue: Box<dyn Queue>,
    waiting: Burst,
    /// Whose each of the waiting frames is.
    origins: ArrayVec<Origin, BURST>,
    pub(super) totals: PortTotals,
}

impl WorkerPort {
    pub(super) fn new(index: PortIndex, queue: Box<dyn Queue>) -> Self {
        Self { index, queue, waiting: Burst::new(), origins: ArrayVec::new(), totals: PortTotals::default() }
    }

    /// Receives frames into the empty `burst`.
    #[inline]
    pub(super) fn receive(&mut self, cache: &mut Cache, burst: &mut Burst) {
        self.queue.receive(cache, burst);
        self.totals.rx_packets += burst.len() as u64;
        self.totals.rx_bytes += burst.iter().map(|frame| frame.len() as u64).sum::<u64>();
    }

    /// Puts a frame among those to be sent at the end of the turn, or at once when there are many.
    #[inline]
    pub(super) fn send<E: Process>(&mut self, frame: Frame, origin: Origin, core: &mut Core<E>) {
        if self.waiting.is_full() {
            self.flush(core);
        }
        self.waiting.push(frame);
        self.origins.push(origin);
    }

    /// Sends what waits. What the queue does not take is dropped and counted.
    pub(super) fn flush<E: Process>(&mut self, core: &mut Core<E>) {
        let bytes: usize = self.waiting.iter().map(Frame::len).sum();
        let mut refusals = 0;
        while !self.waiting.is_empty() && refusals < REFUSALS {
            let before = self.waiting.len();
            self.queue.transmit(&mut core.cache, &mut self.waiting);
            if self.waiting.len() == before {
                refusals += 1;
                std::hint::spin_loop();
            }
        }
        let sent = self.origins.len() - self.waiting.len();
        self.totals.tx_packets += sent as u64;
        let own = self.origins[..sent].iter().filter(|&&origin| origin == Origin::Own).count();
        core.activity.own_sent += own as u64;
        self.totals.tx_bytes += bytes as u64;
        for (frame, &origin) in self.waiting.drain(..).zip(&self.origins[sent..]) {
            self.totals.tx_bytes -= frame.len() as u64;
            core.lose(self.index, frame.len(), origin, DropReason::TransmitFull);
            core.cache.give(frame);
        }
        self.origins.clear();
    }

    /// Gives back what waits to be sent, and counts what a call that did not end has sent.
    pub(super) fn let_go(&mut self, cache: &mut Cache, activity: &mut Activity) {
        let sent = self.origins.len().saturating_sub(self.waiting.len());
        self.totals.tx_packets += sent as u64;
        let own = self.origins.iter().take(sent).filter(|&&origin| origin == Origin::Own).count();
        activity.own_sent += own as u64;
        self.waiting.drain(..).for_each(|frame| cache.give(frame));
        self.origins.clear();
    }

    /// Whether frames wait to be sent.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Lets the queue give back the buffers of frames that have left.
    pub(super) fn reclaim(&mut self, cache: &mut Cache) {
        self.queue.transmit(cache, &mut self.waiting);
    }

    /// Reads the queue's own counters.
    pub(super) fn count(&mut self) {
        let counters = self.queue.counters();
        self.totals.rx_missed = counters.rx_missed;
        self.totals.rx_errors = counters.rx_errors;
        self.totals.tx_errors = counters.tx_errors;
    }
}

impl std::fmt::Debug for WorkerPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerPort").field("index", &self.index).finish_non_exhaustive()
    }
}
