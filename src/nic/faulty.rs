//! A decorator that treats received frames as a bad network would: it drops, duplicates, reorders and corrupts them. The
//! same seed and the same frames give the same faults.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{BURST, Burst, Cache, Frame, Port, PortCounters, Queue};
use crate::base::{Checksum, Rng};

/// A frame that is overtaken is so by at most this number of others.
const FARTHEST: u32 = 4;

/// How often each fault befalls a frame: chances in a million, drawn one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The frame is lost.
    pub drop: u32,
    /// One bit of it is wrong.
    pub corrupt: u32,
    /// It comes twice.
    pub duplicate: u32,
    /// Up to four later ones overtake it.
    pub reorder: u32,
}

/// How often each fault befell a frame of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounters {
    /// Frames lost.
    pub dropped: u64,
    /// Frames with a wrong bit.
    pub corrupted: u64,
    /// Frames that came twice.
    pub duplicated: u64,
    /// Frames that others overtook.
    pub reordered: u64,
}

/// Reads the counters of a queue, wherever that is.
#[derive(Clone, Debug, Default)]
pub struct FaultReader(Arc<[AtomicU64; 4]>);

impl FaultReader {
    /// The counters as they are now.
    pub fn read(&self) -> FaultCounters {
        let [dropped, corrupted, duplicated, reordered] =
            std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed));
        FaultCounters { dropped, corrupted, duplicated, reordered }
    }

    fn count(&self, fault: Fault) {
        self.0[fault as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// In the order of the counters.
#[derive(Clone, Copy)]
enum Fault {
    Drop,
    Corrupt,
    Duplicate,
    Reorder,
}

/// Makes all queues of a port faulty; each draws from a stream of its own.
pub fn port(port: Port, faults: Faults, seed: u64) -> (Port, Vec<FaultReader>) {
    let mut readers = Vec::with_capacity(port.queues.len());
    let port = port.decorated(|index, queue| {
        let faulty = Faulty::new(queue, faults, seed.wrapping_add(index as u64));
        readers.push(faulty.reader());
        faulty
    });
    (port, readers)
}

/// A queue that receives over a bad network. What it transmits is left alone.
#[derive(Debug)]
pub struct Faulty<Q> {
    inner: Q,
    faults: Faults,
    rng: Rng,
    counted: FaultReader,
    incoming: Burst,
    /// Frames on their way to the receiver: a burst and its duplicates, and the one that was overtaken.
    ready: VecDeque<Frame>,
    /// A frame that is being overtaken, and by how many more.
    late: Option<(Frame, u32)>,
}

impl<Q: Queue> Faulty<Q> {
    /// Puts a bad network before `inner`.
    pub fn new(inner: Q, faults: Faults, seed: u64) -> Self {
        Self {
            inner,
            faults,
            rng: Rng::from_seed(seed),
            counted: FaultReader::default(),
            incoming: Burst::new(),
            ready: VecDeque::with_capacity(2 * BURST + 1),
            late: None,
        }
    }

    /// Reads the counters from elsewhere.
    pub fn reader(&self) -> FaultReader {
        self.counted.clone()
    }

    fn befalls(&mut self, chance: u32, fault: Fault) -> bool {
        let befalls = self.rng.below(1_000_000) < chance;
        if befalls {
            self.counted.count(fault);
        }
        befalls
    }

    /// One frame's way through the bad network.
    fn pass(&mut self, mut frame: Frame, cache: &mut Cache) {
        if self.befalls(self.faults.drop, Fault::Drop) {
            return cache.give(frame);
        }
        if !frame.is_empty() && self.befalls(self.faults.corrupt, Fault::Corrupt) {
            let bit = self.rng.below(frame.len() as u32 * 8) as usize;
            frame.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            if frame.checksum == Checksum::Verified {
                frame.checksum = Checksum::Unverified;
            }
        }
        let twice = self.rng.below(1_000_000) < self.faults.duplicate;
        // Without a free buffer there is no second frame, and none is counted.
        if twice && let Some(mut twin) = cache.take() {
            twin.fill(frame.bytes());
            (twin.port, twin.checksum) = (frame.port, frame.checksum);
            self.counted.count(Fault::Duplicate);
            self.deliver(twin);
        }
        if self.late.is_none() && self.befalls(self.faults.reorder, Fault::Reorder) {
            let others = 1 + self.rng.below(FARTHEST);
            self.late = Some((frame, others));
        } else {
            self.deliver(frame);
        }
    }

    fn deliver(&mut self, frame: Frame) {
        self.ready.push_back(frame);
        match self.late.take() {
            Some((late, 1)) => self.ready.push_back(late),
            Some((late, others)) => self.late = Some((late, others - 1)),
            None => {}
        }
    }

    /// Fetches a burst and lets it pass. A frame is not overtaken by those that never come: when none does, it arrives.
    fn fetch(&mut self, cache: &mut Cache) {
        let mut incoming = std::mem::take(&mut self.incoming);
        self.inner.receive(cache, &mut incoming);
        if incoming.is_empty() {
            self.ready.extend(self.late.take().map(|(frame, _)| frame));
        }
        for frame in incoming.drain(..) {
            self.pass(frame, cache);
        }
        self.incoming = incoming;
    }
}

impl<Q: Queue> Queue for Faulty<Q> {
    fn receive(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        if self.ready.is_empty() {
            self.fetch(cache);
        }
        let count = self.ready.len().min(burst.remaining_capacity());
        burst.extend(self.ready.drain(..count));
        count
    }

    fn transmit(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        self.inner.transmit(cache, burst)
    }

    fn counters(&mut self) -> PortCounters {
        self.inner.counters()
    }

    /// None while a frame is kept here, for nothing would wake its receiver.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        if self.ready.is_empty() && self.late.is_none() { self.inner.wait_fd() } else { None }
    }

    fn finished(&self) -> bool {
        self.ready.is_empty() && self.late.is_none() && self.inner.finished()
    }

    fn close(&mut self, cache: &mut Cache) -> io::Result<()> {
        self.ready
            .drain(..)
            .chain(self.late.take().map(|(frame, _)| frame))
            .for_each(|frame| cache.give(frame));
        self.inner.close(cache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PortIndex;
    use crate::nic::{Pool, memory};

    const SENT: u32 = 20_000;

    /// Sends numbered frames through a faulty port and returns what arrived.
    fn run(faults: Faults, seed: u64) -> (Vec<Vec<u8>>, FaultCounters) {
        let pool = Pool::new(4096, 2048).unwrap();
        let mut cache = pool.cache();
        let (near, mut far) = memory::open(PortIndex(3), 1, &pool, &memory::Options::of(PortIndex(3)));
        let (mut near, readers) = port(near, faults, seed);
        let mut arrived = Vec::new();
        let mut burst = Burst::new();
        for number in 0..SENT {
            let mut bytes = [0; 60];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            assert!(far[0].send(&bytes));
            if number % 100 != 99 {
                continue;
            }
            loop {
                let count = near.queues[0].receive(&mut cache, &mut burst);
                assert_eq!(count, burst.len());
                for frame in burst.drain(..) {
                    assert_eq!(frame.port, PortIndex(3));
                    arrived.push(frame.bytes().to_vec());
                    cache.give(frame);
                }
                if count == 0 {
                    break;
                }
            }
        }
        assert!(!near.queues[0].finished());
        near.queues[0].close(&mut cache).unwrap();
        drop(far);
        // The far end's own supply stays with it up to a group.
        assert!(pool.spare_slots() + cache.len() + 64 > pool.slots());
        (arrived, readers[0].read())
    }

    fn number(bytes: &[u8]) -> u32 {
        u32::from_be_bytes(bytes[..4].try_into().unwrap())
    }

    #[test]
    fn without_faults_everything_arrives_in_order() {
        let (arrived, counted) = run(Faults::default(), 1);
        assert_eq!(counted, FaultCounters::default());
        assert!((0..SENT).eq(arrived.iter().map(|bytes| number(bytes))));
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let faults = Faults { drop: 10_000, corrupt: 10_000, duplicate: 10_000, reorder: 10_000 };
        assert_eq!(run(faults, 7), run(faults, 7));
        assert_ne!(run(faults, 7), run(faults, 8));
    }

    #[test]
    fn each_fault_is_what_it_says_and_is_counted() {
        let near = |count: u64| (800..1200).contains(&count);
        let often = 50_000;

        let (arrived, counted) = run(Faults { drop: often, ..Faults::default() }, 1);
        assert!(near(counted.dropped), "{counted:?}");
        assert_eq!(arrived.len() as u64 + counted.dropped, u64::from(SENT));
        assert!(arrived.is_sorted());

        let (arrived, counted) = run(Faults { duplicate: often, ..Faults::default() }, 1);
        assert!(near(counted.duplicated), "{counted:?}");
        assert_eq!(arrived.len() as u64, u64::from(SENT) + counted.duplicated);
        let twice = arrived.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert_eq!(twice as u64, counted.duplicated);

        let (arrived, counted) = run(Faults { corrupt: often, ..Faults::default() }, 1);
        assert!(near(counted.corrupted), "{counted:?}");
        let mut wrong = 0;
        for (i, bytes) in arrived.iter().enumerate() {
            let mut right = [0; 60];
            right[..4].copy_from_slice(&(i as u32).to_be_bytes());
            let bits: u32 = bytes.iter().zip(right).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert!(bits <= 1);
            wrong += u64::from(bits);
        }
        assert_eq!(wrong, counted.corrupted);

        let (mut arrived, counted) = run(Faults { reorder: often, ..Faults::default() }, 1);
        assert!(near(counted.reordered), "{counted:?}");
        let displaced = arrived.windows(2).filter(|pair| number(&pair[0]) > number(&pair[1])).count();
        // One that ends a burst arrives in its place.
        assert!(displaced as u64 <= counted.reordered && near(displaced as u64), "{displaced}");
        for (place, bytes) in arrived.iter().enumerate() {
            assert!(place.abs_diff(number(bytes) as usize) <= FARTHEST as usize);
        }
        arrived.sort();
        assert!((0..SENT).eq(arrived.iter().map(|bytes| number(bytes))));
    }
}
