//! DPDK's pools of buffers, and the packet pool over them.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::base::hugepage::Pages;
use crate::nic::Pool;
use crate::nic::dpdk::eal::Eal;
use crate::nic::dpdk::sys::last_error;
use crate::nic::pool::{GROUP, Region, Store};

/// `struct rte_mempool`, of which nothing is known here.
#[repr(C)]
#[derive(Debug)]
pub(in crate::nic::dpdk) struct Mempool {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn rte_mempool_avail_count(pool: *const Mempool) -> c_uint;
    fn rte_mempool_free(pool: *mut Mempool);

    fn natgate_dpdk_pool(
        name: *const c_char,
        count: c_uint,
        size: u16,
        node: c_int,
        lowest: *mut usize,
        highest: *mut usize,
    ) -> *mut Mempool;
    fn natgate_dpdk_take(pool: *mut Mempool, starts: *mut *mut c_void, count: c_uint) -> c_int;
    fn natgate_dpdk_give(pool: *mut Mempool, starts: *mut *mut c_void, count: c_uint);
}

/// A pool of DPDK's, as long as this is there.
#[derive(Debug)]
pub(super) struct Owned {
    raw: NonNull<Mempool>,
    /// The NUMA node whose ports receive into it; negative if there is none.
    node: c_int,
    /// Where its first buffer starts.
    lowest: usize,
    /// Where its last one ends.
    end: usize,
}

impl Owned {
    /// Makes a pool of `count` buffers of `size` bytes for the ports of a NUMA node, in memory of that node or (negative) any.
    /// DPDK must have been started, and not be ended before the pool is gone.
    pub(super) fn new(name: &CStr, count: u32, size: u16, node: c_int, memory: c_int) -> io::Result<Self> {
        let (mut lowest, mut highest) = (0, 0);
        let (lowest_at, highest_at) = (&raw mut lowest, &raw mut highest);
        // SAFETY: a C string, of which a copy is kept, numbers, and two that are written.
        let raw = unsafe { natgate_dpdk_pool(name.as_ptr(), count, size, memory, lowest_at, highest_at) };
        let raw = NonNull::new(raw).ok_or_else(last_error)?;
        Ok(Self { raw, node, lowest, end: highest + usize::from(size) })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once; ports and frames hold the pools, so none is left.
        unsafe { rte_mempool_free(self.raw.as_ptr()) };
    }
}

/// Buffers are numbered by where they start, in units of a cache line, as their places are not evenly spaced.
const UNIT: usize = 64;

/// The pools that all buffers lie in.
#[derive(Debug)]
pub(in crate::nic::dpdk) struct Pools {
    /// The same as those below.
    raw: Box<[*mut Mempool]>,
    owned: Vec<Owned>,
    /// Where the first buffer starts.
    start: NonNull<u8>,
    /// Bytes from there to the end of the last one.
    len: usize,
    /// Ended after the pools are gone.
    _eal: Arc<Eal>,
}

// SAFETY: DPDK's pools may be used by all threads at once; the rest does not change.
unsafe impl Send for Pools {}
// SAFETY: as above.
unsafe impl Sync for Pools {}

impl Pools {
    /// These pools. An error of the kind `OutOfMemory` if there is none, or they lie too far apart for buffers to be numbered.
    pub(super) fn of(owned: Vec<Owned>, eal: &Arc<Eal>) -> io::Result<Self> {
        let lowest = owned.iter().map(|pool| pool.lowest).min().unwrap_or_default();
        let end = owned.iter().map(|pool| pool.end).max().unwrap_or_default();
        let len = end - lowest;
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(lowest));
        let start = start.filter(|_| len / UNIT < u32::MAX as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        let raw = owned.iter().map(|pool| pool.raw.as_ptr()).collect();
        Ok(Self { raw, owned, start, len, _eal: Arc::clone(eal) })
    }

    /// DPDK's own pointers to them.
    #[inline]
    pub(in crate::nic::dpdk) fn raw(&self) -> &[*mut Mempool] {
        &self.raw
    }

    /// The one that a port on this NUMA node receives into.
    pub(in crate::nic::dpdk) fn near(&self, node: c_int) -> *mut Mempool {
        let near = self.owned.iter().find(|pool| pool.node == node).or(self.owned.first());
        near.map_or(std::ptr::null_mut(), |pool| pool.raw.as_ptr())
    }

    /// The number of the buffer that starts there.
    #[inline]
    pub(in crate::nic::dpdk) fn number(&self, start: *mut c_void) -> u32 {
        ((start.addr() - self.start.as_ptr().addr()) / UNIT) as u32
    }

    /// Where the buffer of this number starts.
    #[inline]
    pub(in crate::nic::dpdk) fn start_of(&self, number: u32) -> *mut c_void {
        // Checked to lie inside when the frame was made of it.
        self.start.as_ptr().wrapping_add(number as usize * UNIT).cast()
    }

    /// Free buffers of each pool.
    pub(in crate::nic::dpdk) fn free(&self) -> impl Iterator<Item = usize> {
        // SAFETY: reads counts.
        self.raw.iter().map(|&pool| unsafe { rte_mempool_avail_count(pool) as usize })
    }
}

/// The free buffers of natgate's pool are those of DPDK's.
#[derive(Debug)]
struct Shared(Arc<Pools>);

impl Store for Shared {
    /// Of the first pool that has a group: few frames are the gateway's own.
    fn take(&self) -> Option<[u32; GROUP]> {
        let mut starts = [std::ptr::null_mut(); GROUP];
        self.0.raw.iter().find(|&&pool| {
            // SAFETY: writes so many pointers, or none.
            unsafe { natgate_dpdk_take(pool, starts.as_mut_ptr(), GROUP as c_uint) == 0 }
        })?;
        Some(starts.map(|start| self.0.number(start)))
    }

    fn give(&self, slots: &[u32]) -> bool {
        let pool = if let [only] = *self.0.raw { only } else { std::ptr::null_mut() };
        for slots in slots.chunks(GROUP) {
            let mut starts = [std::ptr::null_mut(); GROUP];
            for (start, &slot) in starts.iter_mut().zip(slots) {
                *start = self.0.start_of(slot);
            }
            // SAFETY: so many buffers of this pool, or without one of several, whose ownership the caller gives up.
            unsafe { natgate_dpdk_give(pool, starts.as_mut_ptr(), slots.len() as c_uint) };
        }
        true
    }

    fn free(&self) -> usize {
        self.0.free().sum()
    }
}

/// The packet pool over DPDK's: a frame that a port has received, or will send, is in its buffer without a copy.
pub(in crate::nic::dpdk) fn pool_over(
    pools: &Arc<Pools>,
    slots: usize,
    size: u16,
    pages: Pages,
) -> Arc<Pool> {
    let region =
        Region { start: pools.start, len: pools.len, unit: UNIT, slot_size: usize::from(size), slots, pages };
    let store = Box::new(Shared(Arc::clone(pools)));
    // SAFETY: DPDK's memory is mapped and readable at each of its buffers, all of which lie in the region, as long as the
    // pools live, which the store holds. A number is where one of its buffers starts, each of which it gives out once.
    unsafe { Pool::over(&region, store) }
}
