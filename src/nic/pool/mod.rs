//! Packet buffers. One pool serves all ports and all workers, so a frame goes from one port to another, or to
//! another worker, without being copied.
//!
//! ```text
//! slot: | headroom ........ | frame ............ | tailroom |
//!       ^ 0                 ^ head               ^ head+len ^ slot size
//! ```

mod sys;

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

pub use sys::{Frame, Region};

use crate::base::hugepage::{HugeSlice, Pages};

/// Room in front of a received frame: for a VLAN tag, and what XDP asks for.
pub const HEADROOM: usize = 256;

/// Free slots move between a worker's cache and the pool in groups of this size.
pub const GROUP: usize = 64;
/// A cache gives groups back above this many free slots.
const CACHE_HIGH: usize = 8 * GROUP;

/// Where slots are when they are in no worker's cache: the pool's own memory, or memory that a back end needs buffers
/// to come from.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Takes a group of free slots.
    fn take(&self) -> Option<[u32; GROUP]>;

    /// Takes slots back; those that it has no room for stay with the caller, who is told so by `false`.
    fn give(&self, slots: &[u32]) -> bool;

    /// Free slots here.
    fn free(&self) -> usize;
}

/// All packet buffers of the process: slots of one size in one region.
#[derive(Debug)]
pub struct Pool {
    start: NonNull<u8>,
    /// Bytes of the region.
    len: usize,
    /// Bytes from a slot number to the next. Not every number need be a slot's.
    unit: usize,
    slot_size: usize,
    slots: usize,
    pages: Pages,
    /// Owns the memory. The free slots that are in no worker's cache lie here.
    store: Box<dyn Store>,
}

/// Memory of the pool's own, in which slots lie one behind the other.
#[derive(Debug)]
struct Own {
    _memory: HugeSlice<u8>,
    spare: ArrayQueue<[u32; GROUP]>,
}

impl Store for Own {
    fn take(&self) -> Option<[u32; GROUP]> {
        self.spare.pop()
    }

    fn give(&self, slots: &[u32]) -> bool {
        // The queue has room for every group there is; what is less than a group stays where it is.
        <[u32; GROUP]>::try_from(slots).is_ok_and(|group| self.spare.push(group).is_ok())
    }

    fn free(&self) -> usize {
        self.spare.len() * GROUP
    }
}

impl Pool {
    /// A pool of at least `slots` slots of `slot_size` bytes (a power of two from 2048 to 65536; AF_XDP takes 2048
    /// or 4096).
    ///
    /// # Errors
    /// The kernel's, when it gives no memory; invalid input for another slot size.
    pub fn new(slots: usize, slot_size: usize) -> io::Result<Arc<Self>> {
        if !slot_size.is_power_of_two() || !(2048..=65536).contains(&slot_size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let groups = slots.div_ceil(GROUP).max(1);
        let slots = groups * GROUP;
        let memory = HugeSlice::zeroed(slots * slot_size)?;
        let spare = ArrayQueue::new(groups);
        for group in 0..groups {
            let first = (group * GROUP) as u32;
            // The queue holds exactly as many groups as there are.
            let _ = spare.push(std::array::from_fn(|i| first + i as u32));
        }
        let (start, len, pages) = (memory.as_ptr(), memory.len(), memory.pages());
        let store = Box::new(Own { _memory: memory, spare });
        Ok(Arc::new(Self { start, len, unit: slot_size, slot_size, slots, pages, store }))
    }

    /// A worker's own supply of slots.
    pub fn cache(self: &Arc<Self>) -> Cache {
        Cache { pool: Arc::clone(self), free: Vec::with_capacity(CACHE_HIGH + GROUP) }
    }

    /// Bytes of a slot.
    pub fn slot_size(&self) -> usize {
        self.slot_size
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The kind of pages underneath.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// The whole region, for a back end that registers it with the kernel: start and length in bytes.
    pub fn region(&self) -> (NonNull<u8>, usize) {
        (self.start, self.len)
    }

    /// Whether slots lie one behind the other, from number 0 on, as XDP sockets need them.
    pub fn is_dense(&self) -> bool {
        self.unit == self.slot_size
    }

    /// Free slots that are in no cache.
    pub fn spare_slots(&self) -> usize {
        self.store.free()
    }
}

/// A worker's own supply of free slots; refilled from the pool and emptied into it by groups.
#[derive(Debug)]
pub struct Cache {
    pool: Arc<Pool>,
    free: Vec<u32>,
}

impl Cache {
    /// The pool behind the cache.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Free slots held here.
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Whether no free slot is held here.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// An empty frame with [`HEADROOM`] in front, or `None` when all slots are in use.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        if self.free.is_empty() {
            let group = self.pool.store.take()?;
            self.free.extend_from_slice(&group);
        }
        self.free.pop().map(|slot| Frame::of_slot(&self.pool, slot))
    }

    /// Takes a frame back.
    #[inline]
    pub fn give(&mut self, frame: Frame) {
        self.free.push(frame.into_slot());
        if self.free.len() >= CACHE_HIGH + GROUP {
            self.release_group();
        }
    }

    fn release_group(&mut self) {
        let rest = self.free.len().saturating_sub(GROUP);
        if self.pool.store.give(&self.free[rest..]) {
            self.free.truncate(rest);
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        while self.free.len() >= GROUP {
            self.release_group();
        }
        if !self.free.is_empty() {
            // Some stores take any number.
            self.pool.store.give(&self.free);
        }
    }
}
