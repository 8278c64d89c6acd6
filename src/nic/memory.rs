//! Ports made of bounded rings in memory: for tests, benches and simulation.
//!
//! ```text
//! open:  worker -- queue ==two rings==> Far     a test that injects frames and collects what was sent
//! wire:  worker -- queue ==two rings==> queue -- worker
//! ```
//!
//! Like a NIC, a queue whose receive ring is full misses the frame, and counts it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rtrb::chunks::ChunkError;
use rtrb::{Consumer, Producer, RingBuffer};

use super::{Burst, Cache, Frame, Mac, Pool, Port, PortCounters, PortInfo, Queue};
use crate::base::{Checksum, PortIndex};

/// What a memory port pretends to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device's name.
    pub device: String,
    /// The port's own Ethernet address.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Frames that each ring holds.
    pub ring: usize,
}

impl Options {
    /// A port called `memoryN` with the address `02:00:00:00:00:N`, an MTU of 1500 and rings of 1024.
    pub fn of(port: PortIndex) -> Self {
        let [high, low] = port.0.to_be_bytes();
        Self { device: format!("memory{port}"), mac: [2, 0, 0, 0, high, low], mtu: 1500, ring: 1024 }
    }
}

/// Opens a port with `queues` queues; each has a far end to inject frames and to collect what was sent.
///
/// A queue keeps what its far end has no room for: it stays in the burst.
pub fn open(port: PortIndex, queues: usize, pool: &Arc<Pool>, options: &Options) -> (Port, Vec<Far>) {
    let mut near = Vec::with_capacity(queues);
    let mut far = Vec::with_capacity(queues);
    for _ in 0..queues {
        let (mut here, there) = cable((port, options.ring), (port, options.ring));
        here.missed_there = None;
        near.push(here);
        far.push(Far { queue: there, cache: pool.cache() });
    }
    (assemble(port, near, options), far)
}

/// Connects two ports queue by queue, as a cable would: what one transmits the other receives, or misses when its
/// ring is full.
pub fn wire(queues: usize, a: (PortIndex, &Options), b: (PortIndex, &Options)) -> (Port, Port) {
    let (at_a, at_b) = (0..queues).map(|_| cable((a.0, a.1.ring), (b.0, b.1.ring))).unzip();
    (assemble(a.0, at_a, a.1), assemble(b.0, at_b, b.1))
}

fn cable(a: (PortIndex, usize), b: (PortIndex, usize)) -> (MemoryQueue, MemoryQueue) {
    let (to_a, at_a) = RingBuffer::new(a.1);
    let (to_b, at_b) = RingBuffer::new(b.1);
    let missed: [Arc<AtomicU64>; 2] = Default::default();
    let end = |port, receive, transmit, here: usize| MemoryQueue {
        port,
        receive,
        transmit,
        missed_here: Arc::clone(&missed[here]),
        missed_there: Some(Arc::clone(&missed[1 - here])),
    };
    (end(a.0, at_a, to_b, 0), end(b.0, at_b, to_a, 1))
}

fn assemble(index: PortIndex, queues: Vec<MemoryQueue>, options: &Options) -> Port {
    let info = PortInfo {
        device: options.device.clone(),
        mode: "rings in memory".to_owned(),
        mac: options.mac,
        mtu: options.mtu,
    };
    let queues = queues.into_iter().map(|queue| Box::new(queue) as Box<dyn Queue>).collect();
    Port { index, info, queues, rss: None, monitor: None, guard: None }
}

/// One end of a pair of rings.
#[derive(Debug)]
struct MemoryQueue {
    port: PortIndex,
    receive: Consumer<Frame>,
    transmit: Producer<Frame>,
    missed_here: Arc<AtomicU64>,
    /// Where the other end counts frames that its ring has no room for. `None`: they stay here.
    missed_there: Option<Arc<AtomicU64>>,
}

impl MemoryQueue {
    /// Moves frames off the front of `burst` into the ring, and those that do not fit into the count of missed ones.
    fn send(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        let (chunk, fitting) = match self.transmit.write_chunk_uninit(burst.len()) {
            Ok(chunk) => (chunk, burst.len()),
            Err(ChunkError::TooFewSlots(room)) => match self.transmit.write_chunk_uninit(room) {
                Ok(chunk) => (chunk, room),
                Err(_) => return 0,
            },
        };
        chunk.fill_from_iter(burst.drain(..fitting));
        let Some(missed) = &self.missed_there else { return fitting };
        let lost = burst.len();
        if lost > 0 {
            missed.fetch_add(lost as u64, Ordering::Relaxed);
            burst.drain(..).for_each(|frame| cache.give(frame));
        }
        fitting + lost
    }
}

impl Queue for MemoryQueue {
    fn receive(&mut self, _cache: &mut Cache, burst: &mut Burst) -> usize {
        let count = self.receive.slots().min(burst.remaining_capacity());
        let Ok(chunk) = self.receive.read_chunk(count) else { return 0 };
        burst.extend(chunk.into_iter().map(|mut frame| {
            frame.port = self.port;
            frame
        }));
        count
    }

    fn transmit(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        for frame in burst.iter_mut() {
            // A cable tells nothing about checksums.
            frame.checksum = Checksum::Unverified;
        }
        self.send(cache, burst)
    }

    fn counters(&mut self) -> PortCounters {
        PortCounters { rx_missed: self.missed_here.load(Ordering::Relaxed), ..PortCounters::default() }
    }

    fn close(&mut self, cache: &mut Cache) -> io::Result<()> {
        while let Ok(frame) = self.receive.pop() {
            cache.give(frame);
        }
        Ok(())
    }
}

/// The other end of a queue: whoever holds it is the network. It may live in another thread.
///
/// What it holds goes back to the pool when it is dropped, if the queue was closed before.
#[derive(Debug)]
pub struct Far {
    queue: MemoryQueue,
    cache: Cache,
}

impl Far {
    /// Sends `bytes` to the queue. `false` if the queue missed the frame, or no packet buffer was free or large
    /// enough.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        let Some(mut frame) = self.cache.take() else { return false };
        if !frame.fill(bytes) {
            self.cache.give(frame);
            return false;
        }
        self.send_frame(frame)
    }

    /// Sends a frame of the same pool to the queue, with the checksum state that it has. `false` if the queue missed
    /// it.
    pub fn send_frame(&mut self, frame: Frame) -> bool {
        let mut burst = Burst::new();
        burst.push(frame);
        self.send_burst(&mut burst) == 1
    }

    /// Sends frames of the same pool to the queue; says how many it did not miss. `burst` is empty then.
    pub fn send_burst(&mut self, burst: &mut Burst) -> usize {
        let fitting = self.queue.transmit.slots().min(burst.len());
        self.queue.send(&mut self.cache, burst);
        fitting
    }

    /// The next frame that the queue has transmitted. It goes back to [`cache`](Self::cache).
    pub fn receive_frame(&mut self) -> Option<Frame> {
        self.queue.receive.pop().ok()
    }

    /// Appends frames that the queue has transmitted; says how many. They go back to [`cache`](Self::cache).
    pub fn receive_burst(&mut self, burst: &mut Burst) -> usize {
        self.queue.receive(&mut self.cache, burst)
    }

    /// The bytes of the next frame that the queue has transmitted.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let frame = self.receive_frame()?;
        let bytes = frame.bytes().to_vec();
        self.cache.give(frame);
        Some(bytes)
    }

    /// The far end's own packet buffers.
    pub fn cache(&mut self) -> &mut Cache {
        &mut self.cache
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // Emptying a ring cannot fail.
        let _ = self.queue.close(&mut self.cache);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Options {
        Options { ring: 4, ..Options::of(PortIndex(1)) }
    }

    fn burst_of(cache: &mut Cache, count: u8) -> Burst {
        (0..count)
            .map(|i| {
                let mut frame = cache.take().unwrap();
                assert!(frame.fill(&[i; 20]));
                frame
            })
            .collect()
    }

    fn give(cache: &mut Cache, burst: Burst) -> Vec<u8> {
        burst
            .into_iter()
            .map(|frame| {
                let first = frame.bytes()[0];
                cache.give(frame);
                first
            })
            .collect()
    }

    #[test]
    fn frames_go_both_ways_queue_by_queue() {
        let pool = Pool::new(256, 2048).unwrap();
        let mut cache = pool.cache();
        let (mut port, mut far) = open(PortIndex(1), 2, &pool, &small());
        assert_eq!(port.info.mac, [2, 0, 0, 0, 0, 1]);
        assert!(far[1].send(b"to the second queue"));
        let mut frame = far[1].cache().take().unwrap();
        frame.checksum = Checksum::Partial;
        assert!(frame.fill(b"unfinished"));
        assert!(far[1].send_frame(frame));
        assert!(!far[1].send(&[0; 2000]), "larger than a slot");

        let mut burst = Burst::new();
        assert_eq!(port.queues[0].receive(&mut cache, &mut burst), 0);
        assert_eq!(port.queues[1].receive(&mut cache, &mut burst), 2);
        assert_eq!(burst[0].bytes(), b"to the second queue");
        assert_eq!((burst[0].port, burst[0].checksum), (PortIndex(1), Checksum::Unverified));
        assert_eq!(burst[1].checksum, Checksum::Partial);
        assert_eq!(port.queues[0].transmit(&mut cache, &mut burst), 2);
        assert_eq!(far[0].receive().unwrap(), b"to the second queue");
        assert_eq!(far[0].receive_frame().map(|frame| frame.checksum), Some(Checksum::Unverified));
        assert_eq!(far[1].receive(), None);
    }

    #[test]
    fn a_full_ring_misses_or_keeps() {
        let pool = Pool::new(256, 2048).unwrap();
        let mut cache = pool.cache();
        let (mut port, mut far) = open(PortIndex(1), 1, &pool, &small());
        let mut burst = burst_of(&mut cache, 7);
        assert_eq!(far[0].send_burst(&mut burst), 4);
        assert!(burst.is_empty());
        assert!(!far[0].send(b"one more"));
        assert_eq!(port.queues[0].counters().rx_missed, 4);
        assert_eq!(port.queues[0].receive(&mut cache, &mut burst), 4);
        assert_eq!(give(&mut cache, burst), [0, 1, 2, 3]);

        let mut burst = burst_of(&mut cache, 7);
        assert_eq!(port.queues[0].transmit(&mut cache, &mut burst), 4);
        assert_eq!(give(&mut cache, burst), [4, 5, 6]);
        let mut sent = Burst::new();
        assert_eq!(far[0].receive_burst(&mut sent), 4);
        assert_eq!(give(far[0].cache(), sent), [0, 1, 2, 3]);
        assert_eq!(port.queues[0].counters(), PortCounters { rx_missed: 4, ..PortCounters::default() });
    }

    #[test]
    fn a_burst_takes_no_more_than_it_holds() {
        let pool = Pool::new(1024, 2048).unwrap();
        let mut cache = pool.cache();
        let (mut port, mut far) = open(PortIndex(0), 1, &pool, &Options::of(PortIndex(0)));
        for i in 0..300_u16 {
            assert!(far[0].send(&i.to_be_bytes()));
        }
        let mut burst = Burst::new();
        assert_eq!(port.queues[0].receive(&mut cache, &mut burst), 256);
        assert_eq!(port.queues[0].receive(&mut cache, &mut burst), 0);
        burst.drain(..).for_each(|frame| cache.give(frame));
        assert_eq!(port.queues[0].receive(&mut cache, &mut burst), 44);
        assert_eq!(burst[0].bytes(), 256_u16.to_be_bytes());
        burst.drain(..).for_each(|frame| cache.give(frame));
    }

    #[test]
    fn a_wire_connects_two_ports_and_loses_no_slot() {
        let pool = Pool::new(256, 2048).unwrap();
        let mut cache = pool.cache();
        let options = small();
        let (mut a, mut b) = wire(1, (PortIndex(1), &options), (PortIndex(2), &options));
        let mut burst = burst_of(&mut cache, 6);
        burst[0].checksum = Checksum::Verified;
        assert_eq!(a.queues[0].transmit(&mut cache, &mut burst), 6);
        assert!(burst.is_empty());
        assert_eq!(b.queues[0].counters().rx_missed, 2);
        assert_eq!(a.queues[0].counters().rx_missed, 0);
        assert_eq!(b.queues[0].receive(&mut cache, &mut burst), 4);
        assert_eq!((burst[0].port, burst[0].checksum), (PortIndex(2), Checksum::Unverified));
        assert_eq!(b.queues[0].transmit(&mut cache, &mut burst), 4);
        for port in [&mut a, &mut b] {
            port.queues[0].close(&mut cache).unwrap();
        }
        assert_eq!(pool.spare_slots() + cache.len(), pool.slots());
    }
}
