//! The NIC seam: ports with one queue a worker, frames in batches. A back end does I/O and nothing else: it never
//! looks further into a frame than its hardware would.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`pool`] | packet buffers, shared by all ports and workers |
//! | [`memory`] | ports made of rings in memory: tests, benches, simulation |
//! | [`pcap`] | replays a capture into the gateway; decorator that writes what passes |
//! | [`faulty`] | decorator that drops, duplicates, reorders and corrupts by seed |
//! | [`af_packet`] | Linux packet sockets with memory-mapped rings |
//! | [`af_xdp`] | Linux XDP sockets |
//! | `dpdk` | DPDK's poll-mode drivers; with the feature `dpdk`, and by capsule with the feature `capsule` |
//! | [`crew`] | threads that a back end brings with it |
//! | [`open`] | chooses the back end for a device |
//! | [`device`] | what the Linux back ends ask of a network device |

pub mod af_packet;
pub mod af_xdp;
pub mod crew;
pub mod device;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod faulty;
pub mod memory;
pub mod open;
pub mod pcap;
pub mod pool;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use arrayvec::ArrayVec;

pub use crew::Crew;
pub use pool::{Cache, Frame, Pool};

use crate::base::PortIndex;
use crate::base::rss::Rss;

/// The most frames that one call receives or sends.
pub const BURST: usize = 256;

/// A batch of frames on its way to or from a queue.
pub type Burst = ArrayVec<Frame, BURST>;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What a back end says of an opened port.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// The device's name, for people.
    pub device: String,
    /// The mode in force, for people: which back end, which variant, and why that one.
    pub mode: String,
    /// The port's own Ethernet address.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// What a port counts itself, besides the gateway's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames that the device or the kernel dropped before natgate could receive them.
    pub rx_missed: u64,
    /// Received frames that were refused (larger than a slot, truncated).
    pub rx_errors: u64,
    /// Frames that the device or the kernel refused to send after it had taken them.
    pub tx_errors: u64,
}

/// One receive and one transmit queue of a port, polled by exactly one worker.
pub trait Queue: Send {
    /// Appends received frames to `burst`, at most to its capacity, each with its port and checksum state set, and
    /// says how many. Never blocks.
    fn receive(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize;

    /// Takes frames off the front of `burst` and sends them, in order; says how many. What the queue has no room for
    /// stays in `burst`. Never blocks. Slots whose sending has ended go back to `cache`, now or at a later call.
    fn transmit(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize;

    /// Counters of this queue since it was opened.
    fn counters(&mut self) -> PortCounters;

    /// A file descriptor that becomes readable when frames wait, if there is one: an idle worker may sleep on it.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether no frame will ever be received again, because what is replayed has come to its end. A queue of a network
    /// never says so.
    fn finished(&self) -> bool {
        false
    }

    /// Gives all slots that the queue holds back to `cache` and lets go of the device as it was before.
    fn close(&mut self, cache: &mut Cache) -> io::Result<()>;
}

impl<Q: Queue + ?Sized> Queue for Box<Q> {
    fn receive(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        (**self).receive(cache, burst)
    }

    fn transmit(&mut self, cache: &mut Cache, burst: &mut Burst) -> usize {
        (**self).transmit(cache, burst)
    }

    fn counters(&mut self) -> PortCounters {
        (**self).counters()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        (**self).wait_fd()
    }

    fn finished(&self) -> bool {
        (**self).finished()
    }

    fn close(&mut self, cache: &mut Cache) -> io::Result<()> {
        (**self).close(cache)
    }
}

/// A device as management looks at it from time to time, on a thread of its own.
pub trait Monitor: Send + Sync {
    /// The speed of its link in Mbit/s, zero while it is down; `None` if it does not say.
    fn link(&self) -> Option<u32>;

    /// Its own counters that are not zero, by its own names.
    fn statistics(&self) -> Vec<(String, u64)>;

    /// Makes it distribute frames over its queues as it is to, if it does not any more; says what was found then.
    fn restore(&self) -> Option<String>;
}

/// An opened port: its description and its queues, in worker order.
pub struct Port {
    /// The port's index in the configuration.
    pub index: PortIndex,
    /// What it is.
    pub info: PortInfo,
    /// One queue a worker.
    pub queues: Vec<Box<dyn Queue>>,
    /// How it distributes the packets of IPv4 flows over its queues, where that is known and is not by their owners
    /// ([`owner`](crate::base::owner)).
    pub rss: Option<Arc<Rss>>,
    /// Its device, if that says anything of itself.
    pub monitor: Option<Box<dyn Monitor>>,
    /// Undoes what opening changed on the device (offloads, an attached program) when dropped, after all queues.
    pub guard: Option<Box<dyn Send>>,
}

impl Port {
    /// The same port with each queue inside of what `decorator` makes of it; the number is the queue's.
    pub fn decorated<Q: Queue + 'static>(
        mut self,
        mut decorator: impl FnMut(usize, Box<dyn Queue>) -> Q,
    ) -> Self {
        let queues = self.queues.into_iter().enumerate();
        self.queues = queues.map(|(i, queue)| Box::new(decorator(i, queue)) as Box<dyn Queue>).collect();
        self
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("index", &self.index).field("info", &self.info).finish_non_exhaustive()
    }
}
