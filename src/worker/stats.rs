//! What a worker counts, and how management reads it without disturbing the worker.
//!
//! The counters themselves are plain numbers in the worker's own cache lines. Every [`PERIOD`] the worker copies them
//! to a board: relaxed stores that nobody waits for. A reader copies the board and looks at its sequence number to
//! learn whether the worker wrote meanwhile; then it reads again. So a copy is coherent: the conservation law holds in
//! it.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::nat::Counters;

/// How often a worker copies its counters to the board.
pub const PERIOD: Duration = Duration::from_millis(10);

/// Classes of batch sizes: 1, 2-3, 4-7, ... 128-255, 256.
pub const SIZE_CLASSES: usize = 9;

/// What a worker did with its time, and what it could not do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Activity {
    /// Turns of the loop that found something to do.
    pub busy_turns: u64,
    /// Turns of the loop that found nothing.
    pub idle_turns: u64,
    /// Times that the worker slept.
    pub sleeps: u64,
    /// Nanoseconds in turns that found something to do.
    pub busy_nanos: u64,
    /// Nanoseconds in turns that found nothing, asleep or not.
    pub idle_nanos: u64,
    /// Batches that held packets.
    pub batches: u64,
    /// Batches by size: class `n` counts those of 2^n packets and more, below 2^(n+1).
    pub batch_sizes: [u64; SIZE_CLASSES],
    /// Frames of the gateway's own making that were put on a wire.
    pub own_sent: u64,
    /// Frames of the gateway's own making lost because no buffer was free.
    pub own_no_buffer: u64,
    /// Frames of the gateway's own making lost because a transmit queue was full.
    pub own_transmit_full: u64,
    /// Facts about neighbours that found no room on their way to another worker.
    pub facts_lost: u64,
    /// Frames from other workers that wait at the moment.
    pub waiting: u64,
    /// The most frames from other workers that were found waiting at once.
    pub waiting_most: u64,
    /// Free buffers in the worker's own cache at the moment.
    pub free_slots: u64,
}

impl Activity {
    /// Counts a batch that is not empty.
    #[inline]
    pub(super) fn batch(&mut self, size: usize) {
        self.batches += 1;
        if let Some(class) = self.batch_sizes.get_mut(size.max(1).ilog2() as usize) {
            *class += 1;
        }
    }

    /// The share of time spent in turns that found something to do, from 0 to 1.
    pub fn busy_ratio(&self) -> f64 {
        let all = self.busy_nanos + self.idle_nanos;
        if all == 0 { 0.0 } else { self.busy_nanos as f64 / all as f64 }
    }
}

/// Traffic of one port through one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortTotals {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes of frames received.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes of frames sent.
    pub tx_bytes: u64,
    /// Frames that the device or the kernel dropped before they could be received.
    pub rx_missed: u64,
    /// Received frames that were refused (larger than a slot, truncated).
    pub rx_errors: u64,
    /// Frames that the device or the kernel refused to send after it had taken them.
    pub tx_errors: u64,
}

/// Everything that one worker counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerTotals {
    /// What became of packets.
    pub counters: Counters,
    /// What the worker did with its time.
    pub activity: Activity,
    /// Traffic by port.
    pub ports: Vec<PortTotals>,
}

/// Where a worker's counters are copied to.
#[derive(Debug)]
pub(super) struct Board {
    /// Odd while the worker writes.
    sequence: AtomicU64,
    words: Box<[AtomicU64]>,
    ports: usize,
}

const COUNTERS: usize = size_of::<Counters>() / 8;
const ACTIVITY: usize = size_of::<Activity>() / 8;
const PORT: usize = size_of::<PortTotals>() / 8;
/// A reader that was disturbed so many times in a row lets others run: the worker may have lost its core while it wrote.
const IMPATIENT: usize = 64;
const PAUSE: Duration = Duration::from_micros(50);
/// Readers give up a coherent copy after so many disturbed ones, some seconds: the worker's thread is stopped in its middle.
const ATTEMPTS: usize = 1_000_000;

impl Board {
    pub(super) fn new(ports: usize) -> Self {
        let words = COUNTERS + ACTIVITY + ports * PORT;
        Self {
            sequence: AtomicU64::new(0),
            words: std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect(),
            ports,
        }
    }

    /// Copies the counters here. Only the board's one worker calls this.
    pub(super) fn write<'a>(
        &self,
        counters: &Counters,
        activity: &Activity,
        ports: impl Iterator<Item = &'a PortTotals>,
    ) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let mut places = self.words.iter();
        let mut store = |bytes: &[u8]| {
            for (word, place) in bytes.as_chunks::<8>().0.iter().zip(&mut places) {
                place.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
            }
        };
        store(counters.as_bytes());
        store(activity.as_bytes());
        ports.for_each(|port| store(port.as_bytes()));
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// A copy of what was written last.
    pub(super) fn read(&self) -> WorkerTotals {
        let mut words = vec![0_u64; self.words.len()];
        for attempt in 1..ATTEMPTS {
            let before = self.sequence.load(Ordering::Acquire);
            for (word, place) in words.iter_mut().zip(&self.words) {
                *word = place.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                break;
            }
            if attempt.is_multiple_of(IMPATIENT) {
                std::thread::sleep(PAUSE);
            } else {
                std::hint::spin_loop();
            }
        }
        let (counters, rest) = words.split_at(COUNTERS);
        let (activity, ports) = rest.split_at(ACTIVITY);
        WorkerTotals {
            counters: typed(counters),
            activity: typed(activity),
            ports: ports.chunks_exact(PORT).take(self.ports).map(typed).collect(),
        }
    }
}

/// The counters that these words are.
fn typed<T: FromBytes + IntoBytes>(words: &[u64]) -> T {
    let mut value = T::new_zeroed();
    let bytes = value.as_mut_bytes();
    bytes.copy_from_slice(&words.as_bytes()[..bytes.len()]);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let board = Board::new(2);
        let mut counters = Counters { received: 7, displaced: 3, ..Counters::default() };
        counters.drop(crate::base::DropReason::NoBuffer);
        let mut activity = Activity { free_slots: 9, ..Activity::default() };
        activity.batch(1);
        activity.batch(256);
        activity.batch(200);
        let ports = [
            PortTotals { rx_packets: 1, ..Default::default() },
            PortTotals { tx_errors: 2, ..Default::default() },
        ];
        board.write(&counters, &activity, ports.iter());
        let read = board.read();
        assert_eq!(read.counters, counters);
        assert_eq!(read.activity, activity);
        assert_eq!(
            (read.activity.batch_sizes[0], read.activity.batch_sizes[7], read.activity.batch_sizes[8]),
            (1, 1, 1)
        );
        assert_eq!(read.ports, ports);
    }

    #[test]
    fn a_copy_is_coherent_while_the_worker_writes() {
        let board = Board::new(0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in 0..50_000 {
                    let counters = Counters { received: n, forwarded: n, ..Counters::default() };
                    board.write(&counters, &Activity::default(), [].iter());
                }
            });
            while !writer.is_finished() {
                assert_eq!(board.read().counters.balance(), 0);
            }
        });
    }
}
