//! DPDK's functions: its own where they are plain, and those of `shim.c`.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::io;
use std::sync::Arc;

use super::eal;
use super::pools::{Mempool, Pools};
use crate::base::{Checksum, PortIndex};
use crate::nic::{BURST, Burst, Frame, Pool};

/// A frame in a buffer, by the buffer's start.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawFrame {
    start: *mut c_void,
    head: u16,
    length: u16,
    flags: u16,
}

/// The port has verified the transport checksum.
const CHECKSUM_GOOD: u16 = 1;
/// Only the pseudo-header's sum is in the field.
const CHECKSUM_PARTIAL: u16 = 2;

#[repr(C)]
struct RawWish {
    pool: *mut Mempool,
    is_only_pool: bool,
    queues: u16,
    descriptors: u16,
    mtu: u16,
    key: *const u8,
    key_length: u8,
}

/// What a port is and can.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) mac: [u8; 6],
    /// Largest packet that it takes at present.
    pub(super) mtu: u16,
    /// The most queues of each kind.
    pub(super) receive_queues: u16,
    pub(super) transmit_queues: u16,
    /// Entries of a queue's rings, once started.
    pub(super) receive_ring: u16,
    pub(super) transmit_ring: u16,
    /// The NUMA node that it is on; negative if that is not known.
    pub(super) node: c_int,
    /// The kernel's interface underneath; zero if there is none.
    pub(super) interface: u32,
    /// Whether it verifies transport checksums.
    pub(super) checksums: bool,
    /// Whether it can distribute TCP and UDP over its queues by a hash of addresses and ports.
    pub(super) hashes: bool,
    /// Whether it gives buffers back without looking at them.
    pub(super) fast_free: bool,
    /// Bytes of the key of its hash; zero if it does not say.
    pub(super) key_length: u8,
    /// Entries of its indirection table; zero if it has none.
    pub(super) table_length: u16,
    driver: [c_char; 32],
}

impl Facts {
    /// The name of the driver.
    pub(super) fn driver(&self) -> String {
        self.driver.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte as u8)).collect()
    }
}

unsafe extern "C" {
    fn rte_eal_init(count: c_int, arguments: *mut *mut c_char) -> c_int;
    fn rte_eal_cleanup() -> c_int;
    fn rte_thread_register() -> c_int;
    fn rte_thread_unregister();
    fn rte_strerror(error: c_int) -> *const c_char;
    fn rte_dev_probe(arguments: *const c_char) -> c_int;
    fn rte_eth_dev_get_port_by_name(name: *const c_char, port: *mut u16) -> c_int;
    fn rte_eth_promiscuous_enable(port: u16) -> c_int;
    fn rte_eth_promiscuous_disable(port: u16) -> c_int;
    fn rte_eth_dev_stop(port: u16) -> c_int;
    fn rte_eth_dev_close(port: u16) -> c_int;

    fn natgate_dpdk_log(function: extern "C" fn(c_int, *const u8, usize)) -> c_int;
    fn natgate_dpdk_errno() -> c_int;
    fn natgate_dpdk_is_registered() -> c_int;
    fn natgate_dpdk_receive(
        port: u16,
        queue: u16,
        pools: *const *mut Mempool,
        pool_count: c_uint,
        frames: *mut RawFrame,
        most: c_uint,
        refused: *mut u64,
    ) -> c_uint;
    fn natgate_dpdk_transmit(port: u16, queue: u16, frames: *const RawFrame, count: c_uint) -> c_uint;
    fn natgate_dpdk_drain(port: u16, queue: u16, most: c_uint);
    fn natgate_dpdk_port(port: u16, facts: *mut Facts) -> c_int;
    fn natgate_dpdk_start(
        port: u16,
        wish: *const RawWish,
        facts: *mut Facts,
        step: *mut *const c_char,
    ) -> c_int;
    fn natgate_dpdk_key(port: u16, key: *mut u8, length: *mut u8) -> c_int;
    fn natgate_dpdk_set_key(port: u16, key: *const u8, length: u8) -> c_int;
    fn natgate_dpdk_table(port: u16, queues: *mut u16, length: u16, write: c_int) -> c_int;
    fn natgate_dpdk_statistics(
        port: u16,
        tell: extern "C" fn(*mut c_void, *const c_char, u64),
        whom: *mut c_void,
    ) -> c_int;
    fn natgate_dpdk_speed(port: u16) -> i64;
    fn natgate_dpdk_counters(port: u16, missed: *mut u64, refused: *mut u64, unsent: *mut u64) -> c_int;
}

/// The error of a function that returns its negative.
fn outcome(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// DPDK's own words for its last error on this thread.
pub(super) fn last_error() -> io::Error {
    // SAFETY: reads a number of this thread.
    let number = unsafe { natgate_dpdk_errno() };
    // SAFETY: takes a number and returns a string that stays valid until the thread's next call.
    let words = unsafe { rte_strerror(number) };
    // SAFETY: a C string, as it was returned just now.
    let words = unsafe { CStr::from_ptr(words) };
    io::Error::new(io::Error::from_raw_os_error(number).kind(), words.to_string_lossy().into_owned())
}

/// Sends what DPDK logs to [`eal::note`].
pub(super) fn log_to_eal() -> io::Result<()> {
    extern "C" fn note(level: c_int, text: *const u8, length: usize) {
        // SAFETY: the shim passes a text, never null, and its length; it does not change during the call.
        let text = unsafe { std::slice::from_raw_parts(text, length) };
        eal::note(level, &String::from_utf8_lossy(text));
    }
    // SAFETY: the function may be called on any thread at any time from now on, and takes just what the shim passes.
    outcome(unsafe { natgate_dpdk_log(note) })
}

/// Starts DPDK with these arguments. The error is of the kind `AlreadyExists` if DPDK does not begin again after an earlier try.
pub(super) fn start(arguments: &[CString]) -> io::Result<()> {
    let mut pointers: Vec<*mut c_char> = arguments.iter().map(|text| text.as_ptr().cast_mut()).collect();
    let count = c_int::try_from(pointers.len()).map_err(io::Error::other)?;
    // SAFETY: so many C strings, which live beyond the call; DPDK changes their order but not their text, and copies what
    // it keeps. It may be called again: what DPDK cannot do twice, it refuses.
    let result = unsafe { rte_eal_init(count, pointers.as_mut_ptr()) };
    if result >= 0 {
        return Ok(());
    }
    // SAFETY: reads a number of this thread.
    let is_begun = unsafe { natgate_dpdk_errno() } == libc::EALREADY;
    let error = last_error();
    Err(if is_begun { io::Error::new(io::ErrorKind::AlreadyExists, error) } else { error })
}

/// Ends DPDK.
pub(super) fn end() {
    // SAFETY: called once, by the owner of what `start` began, when no pool or port is left.
    unsafe { rte_eal_cleanup() };
}

/// Makes this thread one that DPDK knows, with caches of its own.
pub(super) fn register_thread() -> io::Result<()> {
    // SAFETY: takes nothing; DPDK has been started, as there is a queue.
    if unsafe { natgate_dpdk_is_registered() } != 0 {
        return Ok(());
    }
    // SAFETY: as above.
    if unsafe { rte_thread_register() } < 0 { Err(last_error()) } else { Ok(()) }
}

/// Undoes [`register_thread`].
pub(super) fn unregister_thread() {
    // SAFETY: takes nothing; does nothing on a thread that is not registered.
    unsafe { rte_thread_unregister() };
}

/// Has DPDK take a device: a PCI address, or a virtual device with its arguments.
pub(super) fn probe(arguments: &CStr) -> io::Result<()> {
    // SAFETY: a C string, of which a copy is kept.
    outcome(unsafe { rte_dev_probe(arguments.as_ptr()) })
}

/// The number of the port on a device.
pub(super) fn port_of(name: &CStr) -> io::Result<u16> {
    let mut port = 0;
    // SAFETY: a C string and a number to be written.
    outcome(unsafe { rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut port) })?;
    Ok(port)
}

/// What a port is.
pub(super) fn facts(port: u16) -> io::Result<Facts> {
    let mut facts = Facts {
        mac: [0; 6],
        mtu: 0,
        receive_queues: 0,
        transmit_queues: 0,
        receive_ring: 0,
        transmit_ring: 0,
        node: 0,
        interface: 0,
        checksums: false,
        hashes: false,
        fast_free: false,
        key_length: 0,
        table_length: 0,
        driver: [0; 32],
    };
    // SAFETY: writes the one structure; its truth values are 0 or 1.
    outcome(unsafe { natgate_dpdk_port(port, &raw mut facts) })?;
    Ok(facts)
}

/// Sets a port up with `queues` queues of each kind and starts it; `mtu` zero leaves its MTU as it is, and an empty key that of
/// its hash. The pools and the key must be there as long as the port is. The error says what failed; the port is closed then.
pub(super) fn start_port(
    port: u16,
    pools: &Pools,
    queues: u16,
    descriptors: u16,
    mtu: u16,
    key: &[u8],
    facts: &mut Facts,
) -> Result<(), (String, io::Error)> {
    let key_length = key.len().min(MOST_KEY) as u8;
    let key = if key.is_empty() { std::ptr::null() } else { key.as_ptr() };
    let (pool, is_only_pool) = (pools.near(facts.node), pools.raw().len() == 1);
    let wish = RawWish { pool, is_only_pool, queues, descriptors, mtu, key, key_length };
    let mut step = c"".as_ptr();
    // SAFETY: reads the one structure, writes the others. The port keeps pointers to its pool and to the key: once it is
    // started, `Device` holds both until it has closed the port; a port that is not started is closed before this returns.
    let result = unsafe { natgate_dpdk_start(port, &raw const wish, facts, &raw mut step) };
    outcome(result).map_err(|error| {
        // SAFETY: a constant C string of the shim.
        let step = unsafe { CStr::from_ptr(step) };
        (step.to_string_lossy().into_owned(), error)
    })
}

/// Makes a started port deliver frames to any Ethernet address, or only those to its own and to all.
pub(super) fn set_promiscuous(port: u16, is_on: bool) -> io::Result<()> {
    let set = if is_on { rte_eth_promiscuous_enable } else { rte_eth_promiscuous_disable };
    // SAFETY: takes a number, which DPDK checks.
    outcome(unsafe { set(port) })
}

/// The speed of a port's link in Mbit/s, which is zero if it is down; if it says so.
pub(super) fn speed(port: u16) -> Option<u32> {
    // SAFETY: takes a number, which DPDK checks.
    let speed = unsafe { natgate_dpdk_speed(port) };
    u32::try_from(speed).ok()
}

/// The most bytes of a key that the shim takes.
const MOST_KEY: usize = 64;

/// The key of the hash by which a port distributes TCP and UDP.
pub(super) fn key(port: u16) -> io::Result<Vec<u8>> {
    let (mut key, mut length) = ([0; MOST_KEY], 0);
    // SAFETY: writes so many bytes at the most, and their number.
    outcome(unsafe { natgate_dpdk_key(port, key.as_mut_ptr(), &raw mut length) })?;
    Ok(key[..usize::from(length).min(MOST_KEY)].to_vec())
}

/// Gives a port another key.
pub(super) fn set_key(port: u16, key: &[u8]) -> io::Result<()> {
    // SAFETY: reads so many bytes, of which a driver keeps a copy.
    outcome(unsafe { natgate_dpdk_set_key(port, key.as_ptr(), key.len().min(MOST_KEY) as u8) })
}

/// A port's indirection table, which has so many entries.
pub(super) fn table(port: u16, length: u16) -> io::Result<Vec<u16>> {
    let mut queues = vec![0; usize::from(length)];
    // SAFETY: writes so many numbers.
    outcome(unsafe { natgate_dpdk_table(port, queues.as_mut_ptr(), length, 0) })?;
    Ok(queues)
}

/// Gives a port another indirection table.
pub(super) fn set_table(port: u16, queues: &[u16]) -> io::Result<()> {
    let length = u16::try_from(queues.len()).map_err(io::Error::other)?;
    // SAFETY: reads so many numbers, and writes none of them.
    outcome(unsafe { natgate_dpdk_table(port, queues.as_ptr().cast_mut(), length, 1) })
}

/// The port's own counters that are not zero, by its own names.
pub(super) fn statistics(port: u16) -> io::Result<Vec<(String, u64)>> {
    extern "C" fn tell(whom: *mut c_void, name: *const c_char, value: u64) {
        // SAFETY: the list below, which nobody else has during the call.
        let list = unsafe { &mut *whom.cast::<Vec<(String, u64)>>() };
        // SAFETY: a C string that lasts as long as this call.
        let name = unsafe { CStr::from_ptr(name) };
        list.push((name.to_string_lossy().into_owned(), value));
    }
    let mut list: Vec<(String, u64)> = Vec::new();
    // SAFETY: calls the function with the list, and does not keep it.
    outcome(unsafe { natgate_dpdk_statistics(port, tell, (&raw mut list).cast()) })?;
    Ok(list)
}

/// Frames that a port missed, refused, and could not send.
pub(super) fn counters(port: u16) -> io::Result<[u64; 3]> {
    let [mut missed, mut refused, mut unsent] = [0; 3];
    // SAFETY: writes three numbers.
    let result = unsafe { natgate_dpdk_counters(port, &raw mut missed, &raw mut refused, &raw mut unsent) };
    outcome(result)?;
    Ok([missed, refused, unsent])
}

/// Receives and frees what waits in a queue that nobody polls, at most `most` frames.
pub(super) fn drain(port: u16, queue: u16, most: usize) {
    // SAFETY: takes numbers of a started port; the frames go back to the pool that they came from.
    unsafe { natgate_dpdk_drain(port, queue, most as c_uint) };
}

/// Stops a port and gives its device back; what its rings held goes back to the pool.
pub(super) fn stop_port(port: u16) -> io::Result<()> {
    // SAFETY: takes a number; no queue of the port is polled any more.
    let stopped = outcome(unsafe { rte_eth_dev_stop(port) });
    // SAFETY: as above.
    outcome(unsafe { rte_eth_dev_close(port) })?;
    stopped
}

/// A receive and a transmit queue of a started port, in the form that its functions take.
#[derive(Debug)]
pub(super) struct Lane {
    port: u16,
    queue: u16,
    pools: Arc<Pools>,
    /// The packet pool over DPDK's.
    pool: Arc<Pool>,
    /// Room for a burst in the form of the shim.
    frames: Box<Frames>,
}

struct Frames([RawFrame; BURST]);

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Frames")
    }
}

// SAFETY: the pointers inside of `frames` mean something only within a call of `receive` or `transmit`.
unsafe impl Send for Lane {}

impl Lane {
    pub(super) fn new(port: u16, queue: u16, pools: &Arc<Pools>, pool: &Arc<Pool>) -> Self {
        let none = RawFrame { start: std::ptr::null_mut(), head: 0, length: 0, flags: 0 };
        let frames = Box::new(Frames([none; BURST]));
        Self { port, queue, pools: Arc::clone(pools), pool: Arc::clone(pool), frames }
    }

    /// Appends received frames to `burst`; those that no buffer could hold are added to `refused`.
    #[inline]
    pub(super) fn receive(
        &mut self,
        index: PortIndex,
        unverified: Checksum,
        burst: &mut Burst,
        refused: &mut u64,
    ) -> usize {
        let most = burst.remaining_capacity() as c_uint;
        let (pools, frames) = (self.pools.raw(), self.frames.0.as_mut_ptr());
        let (pools, pool_count) = (pools.as_ptr(), pools.len() as c_uint);
        // SAFETY: the port is started and has this queue, which is polled by its owner alone. At most `most` of the BURST
        // frames are written.
        let count =
            unsafe { natgate_dpdk_receive(self.port, self.queue, pools, pool_count, frames, most, refused) };
        for raw in self.frames.0.iter().take(count as usize) {
            // SAFETY: a buffer of the pools underneath, as the shim has checked, which the port gave up just now.
            let mut frame = unsafe { Frame::from_slot(&self.pool, self.pools.number(raw.start)) };
            frame.set_bounds(usize::from(raw.head), usize::from(raw.length));
            frame.port = index;
            frame.checksum = match raw.flags {
                CHECKSUM_GOOD => Checksum::Verified,
                CHECKSUM_PARTIAL => Checksum::Partial,
                _ => unverified,
            };
            burst.push(frame);
        }
        count as usize
    }

    /// Sends frames off the front of `burst`; says how many.
    #[inline]
    pub(super) fn transmit(&mut self, burst: &mut Burst) -> usize {
        let mut count = 0;
        for (raw, frame) in self.frames.0.iter_mut().zip(burst.iter()) {
            let start = self.pools.start_of(frame.slot());
            // A frame of another pool has no place here: it stays where it is.
            if start.cast_const() != frame.slot_bytes().as_ptr().cast() {
                break;
            }
            *raw = RawFrame { start, head: frame.head() as u16, length: frame.len() as u16, flags: 0 };
            count += 1;
        }
        let frames = self.frames.0.as_ptr();
        // SAFETY: the port is started and has this queue, which is polled by its owner alone. The frames are of the pools
        // underneath, and those that are taken are given up below.
        let taken = unsafe { natgate_dpdk_transmit(self.port, self.queue, frames, count) } as usize;
        for frame in burst.drain(..taken.min(count as usize)) {
            let _ = frame.into_slot();
        }
        taken
    }
}
