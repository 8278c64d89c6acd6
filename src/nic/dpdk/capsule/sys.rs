//! Buffers of capsule's as frames.
//!
//! capsule has a buffer as an [`Mbuf`], which frees it when dropped and shows neither where it starts nor lets one be made of
//! a pointer. As long as the gateway has the buffer, its `Mbuf` lies in the buffer itself, in front of what the frame sees:
//!
//! ```text
//! | struct rte_mbuf | the Mbuf .. | slot: rest of the headroom | frame ...... | tailroom |
//!                   ^ buffer      ^ 64                         ^ 128
//! ```

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{c_uint, c_void};
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use capsule::batch::{PacketRx, PacketTx};
use capsule::{Mbuf, PortQueue};
use capsule_ffi::{RTE_MBUF_DEFAULT_BUF_SIZE, RTE_PKTMBUF_HEADROOM, rte_mbuf, rte_mempool};

use super::runtime::Keeper;
use crate::base::hugepage::Pages;
use crate::base::{Checksum, PortIndex};
use crate::nic::pool::{GROUP, Region, Store};
use crate::nic::{Burst, Frame, Pool};

/// Bytes of a buffer with its headroom.
const BUFFER: usize = RTE_MBUF_DEFAULT_BUF_SIZE as usize;
/// Bytes before a received frame.
const HEADROOM: usize = RTE_PKTMBUF_HEADROOM as usize;
/// A cache line. Buffers are numbered by the one that they start with, which is in front of the slot, for the `Mbuf`.
#[repr(C, align(64))]
struct Line {
    _bytes: [u8; 64],
}
/// Bytes of a line.
const UNIT: usize = size_of::<Line>();
/// Lines of DPDK's header, in front of a buffer.
const HEADER: usize = size_of::<rte_mbuf>() / UNIT;
/// Bytes of a slot.
pub(super) const SLOT: usize = BUFFER - UNIT;
/// Frames that capsule receives at once.
const CAPSULES_BURST: usize = 32;

const _: () = assert!(
    size_of::<Mbuf>() <= UNIT
        && align_of::<Mbuf>() <= UNIT
        && UNIT < HEADROOM
        && HEADER * UNIT == size_of::<rte_mbuf>()
);

thread_local! {
    /// Whether this thread is one of capsule's: only those can take buffers from its pool.
    static IS_CAPSULES: Cell<bool> = const { Cell::new(false) };
}

/// Notes that this thread is one of capsule's.
pub(super) fn enter() {
    IS_CAPSULES.set(true);
}

/// capsule's pool of buffers.
#[derive(Debug)]
pub(super) struct Buffers {
    pool: NonNull<rte_mempool>,
    /// Where the first buffer starts.
    start: NonNull<Line>,
    /// Bytes from there to the end of the last one.
    len: usize,
    /// The pool is capsule's, which ends after this.
    _keeper: Arc<Keeper>,
}

// SAFETY: DPDK's pool may be used by all threads at once; the rest does not change.
unsafe impl Send for Buffers {}
// SAFETY: as above.
unsafe impl Sync for Buffers {}

impl Buffers {
    /// Those of the pool that capsule has made.
    pub(super) fn find(keeper: &Arc<Keeper>) -> io::Result<Self> {
        // capsule numbers its pools. There is one, as all cores are on one node.
        // SAFETY: a C string.
        let pool = NonNull::new(unsafe { capsule_ffi::rte_mempool_lookup(c"mempool0".as_ptr()) })
            .ok_or_else(|| io::Error::other("capsule has made no pool of buffers"))?;
        let mut bounds = [usize::MAX, 0];
        // SAFETY: calls `widen` for each buffer with what it expects.
        unsafe { capsule_ffi::rte_mempool_obj_iter(pool.as_ptr(), widen, (&raw mut bounds).cast()) };
        let [lowest, highest] = bounds;
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut::<Line>(lowest));
        let len = highest.saturating_sub(lowest) + BUFFER;
        let start = start.filter(|_| highest != 0 && len / UNIT < u32::MAX as usize);
        let start = start.ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { pool, start, len, _keeper: Arc::clone(keeper) })
    }

    fn start_of(&self, number: u32) -> *mut Line {
        // Checked to lie inside when the frame was made of it.
        self.start.as_ptr().wrapping_add(number as usize)
    }

    /// Puts a buffer into the gateway's hands: its number, and where in the slot its frame starts. A buffer that is none of
    /// these is freed.
    ///
    /// # Safety
    /// The handle is that of the buffer with this header.
    #[inline]
    unsafe fn adopt(&self, mbuf: Mbuf, header: *const rte_mbuf) -> Option<(u32, usize)> {
        let at = (header.addr() + size_of::<rte_mbuf>()).checked_sub(self.start.as_ptr().addr())?;
        if at + BUFFER > self.len {
            return None;
        }
        let number = (at / UNIT) as u32;
        // SAFETY: the header of a buffer of the pool, which is its owner's.
        let head = usize::from(unsafe { (*header).data_off }).saturating_sub(UNIT);
        // SAFETY: the first bytes of a buffer of the pool, aligned and long enough, where nobody but its owner looks.
        unsafe { self.start_of(number).cast::<Mbuf>().write(mbuf) };
        Some((number, head))
    }

    /// Takes capsule's handle of a buffer back out of it.
    ///
    /// # Safety
    /// The buffer was adopted and not released since; whoever had it has given it up.
    #[inline]
    unsafe fn release(&self, number: u32) -> Mbuf {
        // SAFETY: `adopt` has put it there, and it is taken once.
        unsafe { self.start_of(number).cast::<Mbuf>().read() }
    }
}

/// Widens the bounds, two numbers, to take in a buffer's start.
extern "C" fn widen(_: *mut rte_mempool, bounds: *mut c_void, object: *mut c_void, _: c_uint) {
    // SAFETY: DPDK passes on what `find` has given it.
    let [lowest, highest] = unsafe { &mut *bounds.cast::<[usize; 2]>() };
    // SAFETY: an object of this pool is a buffer.
    let start = unsafe { (*object.cast::<rte_mbuf>()).buf_addr }.expose_provenance();
    (*lowest, *highest) = ((*lowest).min(start), (*highest).max(start));
}

/// The free buffers of natgate's pool are those of capsule's.
#[derive(Debug)]
struct Shared(Arc<Buffers>);

impl Store for Shared {
    fn take(&self) -> Option<[u32; GROUP]> {
        if !IS_CAPSULES.get() {
            return None;
        }
        let mut numbers = [0; GROUP];
        let mbufs = Mbuf::alloc_bulk(GROUP).ok()?;
        capsule_ffi::with_last(|headers| {
            let all = numbers.iter_mut().zip(mbufs).zip(headers);
            let adopted = all.filter_map(|((number, mbuf), &header)| {
                // SAFETY: in the order of their headers, as allocated just now.
                (*number, _) = unsafe { self.0.adopt(mbuf, header) }?;
                Some(())
            });
            (adopted.count() == GROUP).then_some(numbers)
        })
    }

    fn give(&self, slots: &[u32]) -> bool {
        for &slot in slots {
            // SAFETY: the caller gives up its ownership of the slot, which it has by `adopt`.
            drop(unsafe { self.0.release(slot) });
        }
        true
    }

    fn free(&self) -> usize {
        // SAFETY: reads counts of a pool that is there.
        unsafe { capsule_ffi::rte_mempool_avail_count(self.0.pool.as_ptr()) as usize }
    }
}

/// The packet pool over capsule's: a frame that a port has received, or will send, is in its buffer without a copy.
pub(super) fn pool_over(buffers: &Arc<Buffers>, slots: usize, pages: Pages) -> io::Result<Arc<Pool>> {
    let start =
        NonNull::new(buffers.start.as_ptr().wrapping_add(1)).ok_or(io::ErrorKind::OutOfMemory)?.cast();
    let region = Region { start, len: buffers.len - UNIT, unit: UNIT, slot_size: SLOT, slots, pages };
    let store = Box::new(Shared(Arc::clone(buffers)));
    // SAFETY: DPDK's memory is mapped and readable from the first buffer to the last, as long as the store holds capsule's
    // runtime. A number is where one of its buffers starts, each of which it gives out once; the slot is what lies behind
    // the handle.
    Ok(unsafe { Pool::over(&region, store) })
}

/// A receive and a transmit queue of a port, by capsule's handle.
#[derive(Debug)]
pub(super) struct Lane {
    buffers: Arc<Buffers>,
    /// The packet pool over them.
    pool: Arc<Pool>,
}

impl Lane {
    pub(super) fn new(buffers: &Arc<Buffers>, pool: &Arc<Pool>) -> Self {
        Self { buffers: Arc::clone(buffers), pool: Arc::clone(pool) }
    }

    /// Appends received frames to `burst`, in capsule's bursts as long as they are full and fit.
    #[inline]
    pub(super) fn receive(
        &self,
        queue: &mut PortQueue,
        index: PortIndex,
        checksum: Checksum,
        burst: &mut Burst,
    ) -> usize {
        let before = burst.len();
        while burst.remaining_capacity() >= CAPSULES_BURST {
            let mbufs = PacketRx::receive(queue);
            let count = mbufs.len();
            capsule_ffi::with_last(|headers| {
                for (mbuf, &header) in mbufs.into_iter().zip(headers) {
                    let len = mbuf.data_len();
                    // SAFETY: in the order of their headers, as received just now.
                    let Some((number, head)) = (unsafe { self.buffers.adopt(mbuf, header) }) else {
                        continue;
                    };
                    // SAFETY: adopted just now, so it is in the pool's region and nobody else's.
                    let mut frame = unsafe { Frame::from_slot(&self.pool, number) };
                    frame.set_bounds(head, len);
                    (frame.port, frame.checksum) = (index, checksum);
                    burst.push(frame);
                }
            });
            if count < CAPSULES_BURST {
                break;
            }
        }
        burst.len() - before
    }

    /// Gives frames off the front of `burst` to capsule, which sends or frees them; says how many it was given and how many
    /// it has sent.
    #[inline]
    pub(super) fn transmit(&self, queue: &mut PortQueue, burst: &mut Burst) -> (usize, usize) {
        let mbufs: Vec<Mbuf> = {
            // A frame of another pool has no place here: it stays where it is.
            let is_ours = |frame: &&Frame| {
                self.buffers.start_of(frame.slot()).wrapping_add(1).cast_const().cast()
                    == frame.slot_bytes().as_ptr()
            };
            let count = burst.iter().take_while(is_ours).count();
            burst.drain(..count).map(|frame| self.finished(frame)).collect()
        };
        if mbufs.is_empty() {
            return (0, 0);
        }
        let (given, before) = (mbufs.len(), capsule_ffi::sent());
        PacketTx::transmit(queue, mbufs);
        (given, (capsule_ffi::sent() - before) as usize)
    }

    /// The buffer of a frame of these, with the frame's bounds.
    #[inline]
    fn finished(&self, frame: Frame) -> Mbuf {
        let (head, len) = (frame.head(), frame.len());
        let number = frame.into_slot();
        let header = self.buffers.start_of(number).wrapping_sub(HEADER).cast::<rte_mbuf>();
        // SAFETY: DPDK's header of the buffer, which lies before it and is its owner's.
        let header = unsafe { &mut *header };
        header.data_off = (UNIT + head) as u16;
        header.data_len = len as u16;
        header.pkt_len = len as u32;
        header.ol_flags = 0;
        // SAFETY: the frame was adopted, and has been given up above.
        unsafe { self.buffers.release(number) }
    }
}
