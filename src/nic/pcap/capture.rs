//! A decorator that writes what passes, received and transmitted, to a capture.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrayvec::ArrayVec;

use super::write::Sink;
use crate::base::time::Clock;
use crate::nic::{BURST, Burst, Cache, Frame, Port, PortCounters, Queue};

/// Has all queues of a port write what passes to one file. The file is complete when all of them are closed.
///
/// For debugging: the queues share a lock, and a full buffer is written out at once.
///
/// # Errors
/// The file cannot be created.
pub fn port(port: Port, path: &Path, clock: Clock) -> io::Result<Port> {
    let sink = Arc::new(Mutex::new(Sink::create(path)?));
    Ok(port.decorated(|_, inner| Capture {
        inner,
        sink: Some(Arc::clone(&sink)),
        clock,
        copies: Vec::new(),
        lengths: ArrayVec::new(),
    }))
}

/// A queue whose frames are written to a capture.
#[derive(Debug)]
struct Capture<Q> {
    inner: Q,
    /// `None` once closed.
    sink: Option<Arc<Mutex<Sink>>>,
    clock: Clock,
    /// What is offered for transmission: the queue may take a part of it, and what it takes is gone.
    copies: Vec<u8>,
    lengths: ArrayVec<usize, BURST>,
}

impl<Q> Capture<Q> {
    fn write<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) {
        let Some(sink) = &self.sink else { return };
        let now: Duration = self.clock.unix(self.clock.now());
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        for frame in frames {
            // An error is kept and told at the end.
            sink.write(now, frame);
        }
    }
}

impl<Q: Queue> Queue for Capture<Q> {
    fn receive(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        let before = burst.len();
        let count = self.inner.receive(cache, burst);
        if count > 0 {
            self.write(burst[before..].iter().map(Frame::bytes));
        }
        count
    }

    fn transmit(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        self.copies.clear();
        self.lengths.clear();
        for frame in burst.iter() {
            self.copies.extend_from_slice(frame.bytes());
            self.lengths.push(frame.len());
        }
        let count = self.inner.transmit(cache, burst);
        let mut rest = self.copies.as_slice();
        self.write(self.lengths.iter().take(count).map(|&len| {
            let (frame, behind) = rest.split_at(len);
            rest = behind;
            frame
        }));
        count
    }

    fn counters(&mut self) -> PortCounters {
        self.inner.counters()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }

    fn finished(&self) -> bool {
        self.inner.finished()
    }

    fn close(&mut self, cache: &mut Cache) -> io::Result<()> {
        let closed = self.inner.close(cache);
        // The last queue completes the file.
        match self.sink.take().and_then(Arc::into_inner) {
            Some(sink) => closed.and(sink.into_inner().unwrap_or_else(PoisonError::into_inner).close()),
            None => closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Moment, PortIndex};
    use crate::nic::pcap::read::Source;
    use crate::nic::{Pool, memory};

    #[test]
    fn what_passes_is_written_once() {
        let path = std::env::temp_dir().join(format!("natgate-capture-{}.pcap", std::process::id()));
        let pool = Pool::new(256, 2048).unwrap();
        let mut cache = pool.cache();
        let options = memory::Options { ring: 2, ..memory::Options::of(PortIndex(0)) };
        let (near, mut far) = memory::open(PortIndex(0), 2, &pool, &options);
        let clock = Clock::start();
        let begin = clock.unix(Moment::from_secs(1));
        let mut near = port(near, &path, clock).unwrap();

        for (i, far) in far.iter_mut().enumerate() {
            for k in 0..2 {
                assert!(far.send(&[i as u8, k]));
            }
        }
        let mut burst = Burst::new();
        for queue in &mut near.queues {
            queue.receive(&mut cache, &mut burst);
        }
        // Two fit the ring: two stay, and are not written before they leave.
        assert_eq!(near.queues[0].transmit(&mut cache, &mut burst), 2);
        assert_eq!(near.queues[0].transmit(&mut cache, &mut burst), 0);
        assert_eq!(near.queues[1].transmit(&mut cache, &mut burst), 2);
        for queue in &mut near.queues {
            queue.close(&mut cache).unwrap();
        }

        let mut source = Source::open(&path).unwrap();
        let mut frame = Vec::new();
        let mut written = Vec::new();
        while let Some(time) = source.next(&mut frame).unwrap() {
            assert!(time >= begin && time < begin + Duration::from_mins(1));
            written.push([frame[0], frame[1]]);
        }
        let once = [[0, 0], [0, 1], [1, 0], [1, 1]];
        assert_eq!(written, [once, once].concat());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told() {
        let pool = Pool::new(256, 2048).unwrap();
        let mut cache = pool.cache();
        let open = || memory::open(PortIndex(0), 1, &pool, &memory::Options::of(PortIndex(0)));
        let error = port(open().0, Path::new("/nonexistent/x.pcap"), Clock::start()).unwrap_err().to_string();
        assert!(error.starts_with("cannot write the capture /nonexistent/x.pcap: "), "{error}");

        // The device has no room, which shows when the buffer is written out.
        let (near, mut far) = open();
        let mut near = port(near, Path::new("/dev/full"), Clock::start()).unwrap();
        assert!(far[0].send(b"frame"));
        let mut burst = Burst::new();
        assert_eq!(near.queues[0].receive(&mut cache, &mut burst), 1);
        burst.drain(..).for_each(|frame| cache.give(frame));
        let error = near.queues[0].close(&mut cache).unwrap_err().to_string();
        assert!(error.starts_with("the capture /dev/full is incomplete: "), "{error}");
    }
}
