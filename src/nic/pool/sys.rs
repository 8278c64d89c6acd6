//! The one owner of a packet buffer.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use std::sync::Arc;

use super::{HEADROOM, Pool, Store};
use crate::base::hugepage::Pages;
use crate::base::{Checksum, PortIndex};

// SAFETY: the region is plain bytes; who may touch which is settled by the ownership of slots, and the store is itself
// shared between threads.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// Slots in memory that a back end brings with it. There may be anything between them.
#[derive(Debug)]
pub struct Region {
    /// Where it starts.
    pub start: NonNull<u8>,
    /// Its length in bytes.
    pub len: usize,
    /// Bytes from a slot number to the next: slot `n` starts at `n * unit`.
    pub unit: usize,
    /// Bytes of a slot.
    pub slot_size: usize,
    /// Number of slots.
    pub slots: usize,
    /// The kind of pages underneath.
    pub pages: Pages,
}

impl Pool {
    /// A pool over slots of a back end's own.
    ///
    /// # Safety
    /// The store gives out each number at most once until it is given back; it gives out only numbers of slots, which lie
    /// inside the region and apart from each other, and are mapped and initialised as long as the store lives.
    pub unsafe fn over(region: &Region, store: Box<dyn Store>) -> Arc<Self> {
        let Region { start, len, unit, slot_size, slots, pages } = *region;
        Arc::new(Self { start, len, unit, slot_size, slots, pages, store })
    }
}

/// Exclusive ownership of one slot of a [`Pool`] and of the frame inside it.
///
/// A frame must be given back to a [`Cache`](super::Cache) or to a queue: one that is just dropped leaks its slot
/// (never its memory). The pool must outlive it; every holder of frames holds the pool's `Arc` through its cache.
#[derive(Debug)]
#[must_use = "a frame that is dropped leaks its slot: give it back to a cache"]
pub struct Frame {
    start: NonNull<u8>,
    slot: u32,
    slot_size: u32,
    head: u32,
    len: u32,
    /// The port it came in on.
    pub port: PortIndex,
    /// What the NIC says of its transport checksum.
    pub checksum: Checksum,
}

// SAFETY: a frame is the only owner of its slot's bytes, as a `Box<[u8]>` would be.
unsafe impl Send for Frame {}

impl Frame {
    /// The frame of a free slot. Only a cache calls this, with a slot that it took off its own free list.
    pub(super) fn of_slot(pool: &Pool, slot: u32) -> Self {
        let offset = slot as usize * pool.unit;
        assert!(offset + pool.slot_size <= pool.len, "slot out of range");
        // SAFETY: the slot lies inside the pool's region, by the assertion.
        let start = unsafe { pool.start.add(offset) };
        Self {
            start,
            slot,
            slot_size: pool.slot_size as u32,
            head: HEADROOM as u32,
            len: 0,
            port: PortIndex(0),
            checksum: Checksum::Unverified,
        }
    }

    /// Gives up the frame for its slot number, which now stands for the ownership (on a free list, or in a ring that
    /// the kernel owns).
    pub fn into_slot(self) -> u32 {
        self.slot
    }

    /// Takes ownership of a slot back from where [`into_slot`](Self::into_slot) left it.
    ///
    /// # Safety
    /// The slot's ownership was given up by `into_slot` on a frame of the same pool and has not been taken back since.
    pub unsafe fn from_slot(pool: &Pool, slot: u32) -> Self {
        Self::of_slot(pool, slot)
    }

    /// The slot's number, for a back end's descriptors.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Where the frame starts in its slot.
    #[inline]
    pub fn head(&self) -> usize {
        self.head as usize
    }

    /// Length of the frame in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Says where in the slot the frame lies; what does not fit the slot is cut off.
    #[inline]
    pub fn set_bounds(&mut self, head: usize, len: usize) {
        let head = head.min(self.slot_size as usize);
        self.head = head as u32;
        self.len = len.min(self.slot_size as usize - head) as u32;
    }

    /// The frame's bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let (head, len) = (self.head(), self.len());
        &self.slot_bytes()[head..head + len]
    }

    /// The frame's bytes, to change.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let (head, len) = (self.head(), self.len());
        &mut self.slot_bytes_mut()[head..head + len]
    }

    /// Copies `bytes` in as the frame, behind the headroom. `false`, and no change, if they do not fit.
    pub fn fill(&mut self, bytes: &[u8]) -> bool {
        if HEADROOM + bytes.len() > self.slot_size as usize {
            return false;
        }
        self.set_bounds(HEADROOM, bytes.len());
        self.bytes_mut().copy_from_slice(bytes);
        true
    }

    /// The whole slot, headroom and tailroom included.
    #[inline]
    pub fn slot_bytes(&self) -> &[u8] {
        // SAFETY: the slot's `slot_size` bytes are mapped and initialised (zeroed at first) and owned by this frame.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.slot_size as usize) }
    }

    /// The whole slot, to change.
    #[inline]
    pub fn slot_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `slot_bytes`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.slot_size as usize) }
    }
}
