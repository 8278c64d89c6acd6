//! What capsule 0.1.5 calls of DPDK, for DPDK 22.11 and newer as distributions package it.
//!
//! capsule was written for DPDK 19.11; the crate of this name on crates.io binds that. This one takes its place by Cargo's
//! `[patch.crates-io]`. It is written from DPDK's headers and has what capsule needs without its features `metrics`,
//! `pcap-dump` and `testils`. What has changed since 19.11 is bridged here:
//!
//! | capsule | DPDK 22.11 |
//! | --- | --- |
//! | `--master-lcore`, `--pci-whitelist` | `--main-lcore`, `-a` |
//! | `--vdev 0000:3b:00.0`, as capsule takes a PCI address with a letter in it for the name of a virtual device | `-a` |
//! | `ETH_RSS_*`, `ETH_MQ_RX_RSS`, `DEV_TX_OFFLOAD_*` | `RTE_ETH_*` |
//! | kernel NIC interface (KNI) | left out: to ask for it is an error |
//! | frames in several segments, VLAN tags that the port took out | made one segment as on the wire, or refused and counted ([`refused`]) |
//! | an `Mbuf` does not show its buffer | told for those of the last burst ([`with_last`]) |
//! | a port is closed when capsule ends, and not before | left alone if somebody has closed it before |
//! | what a full ring does not take is freed, and nobody is told | counted ([`sent`]) |
//!
//! The structures that capsule reads and writes in place are declared here with the fields that it uses; `shim.c` does not
//! compile where DPDK has them elsewhere. All others are structures of this crate's, which `shim.c` translates.

#![allow(non_camel_case_types, non_upper_case_globals, clippy::missing_safety_doc)]

mod eal;
mod kni;

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::offset_of;
use std::ptr;

pub use eal::{numa_node_of_cpu, rte_eal_init};
pub use kni::*;

/// `RTE_MBUF_DEFAULT_BUF_SIZE`: bytes of a buffer with its headroom.
pub const RTE_MBUF_DEFAULT_BUF_SIZE: u32 = 2176;
/// `RTE_PKTMBUF_HEADROOM`: bytes in front of a received frame.
pub const RTE_PKTMBUF_HEADROOM: u32 = 128;
/// `RTE_ETH_RSS_IP`.
pub const ETH_RSS_IP: u64 = 0xa38c;
/// `RTE_ETH_RSS_TCP`.
pub const ETH_RSS_TCP: u64 = 0x1_0410;
/// `RTE_ETH_RSS_UDP`.
pub const ETH_RSS_UDP: u64 = 0x2_0820;
/// `RTE_ETH_RSS_SCTP`.
pub const ETH_RSS_SCTP: u64 = 0x1040;
/// `RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE`.
pub const DEV_TX_OFFLOAD_MBUF_FAST_FREE: u64 = 0x1_0000;

/// How a port distributes frames over its queues.
pub mod rte_eth_rx_mq_mode {
    /// `RTE_ETH_MQ_RX_RSS`: by a hash.
    pub const ETH_MQ_RX_RSS: u32 = 1;
}

/// Cores as DPDK takes them: a bit each, as the C library has them.
pub type rte_cpuset_t = [u64; 16];

/// `struct rte_mbuf`, with the fields that are used here.
#[repr(C, align(64))]
pub struct rte_mbuf {
    /// Where the buffer starts.
    pub buf_addr: *mut c_void,
    _iova: u64,
    /// Bytes in the buffer before the frame.
    pub data_off: u16,
    _refcnt: u16,
    _nb_segs: u16,
    _port: u16,
    /// Offloads.
    pub ol_flags: u64,
    _packet_type: u32,
    /// Bytes of the frame.
    pub pkt_len: u32,
    /// Bytes of the frame in this segment.
    pub data_len: u16,
    _vlan: u16,
    _hash: [u32; 2],
    _vlan_outer: u16,
    /// Bytes of the buffer.
    pub buf_len: u16,
    /// The pool that it belongs to.
    pub pool: *mut rte_mempool,
    _next_line: [u64; 8],
}

/// `struct rte_mempool`, up to the last field that is used here. It is DPDK's and only looked at.
#[repr(C)]
pub struct rte_mempool {
    /// Its name.
    pub name: [c_char; 26],
    _memory: [u64; 3],
    /// How it was made.
    pub flags: c_uint,
    /// The NUMA node that it was asked for on.
    pub socket_id: c_int,
    /// The most objects.
    pub size: u32,
    /// The most objects in a core's cache.
    pub cache_size: u32,
}

/// An Ethernet address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct rte_ether_addr {
    /// Its bytes.
    pub addr_bytes: [u8; 6],
}

/// What a port is: the part of `struct rte_eth_dev_info` that capsule reads.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rte_eth_dev_info {
    /// The driver's name.
    pub driver_name: *const c_char,
    /// What it can do with received frames.
    pub rx_offload_capa: u64,
    /// What it can do with frames to be sent.
    pub tx_offload_capa: u64,
    /// The flows that it can hash.
    pub flow_type_rss_offloads: u64,
    /// The most receive queues.
    pub max_rx_queues: u16,
    /// The most transmit queues.
    pub max_tx_queues: u16,
}

impl Default for rte_eth_dev_info {
    fn default() -> Self {
        Self {
            driver_name: c"".as_ptr(),
            rx_offload_capa: 0,
            tx_offload_capa: 0,
            flow_type_rss_offloads: 0,
            max_rx_queues: 0,
            max_tx_queues: 0,
        }
    }
}

/// How a port is set up: the part of `struct rte_eth_conf` that capsule writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct rte_eth_conf {
    /// Receiving.
    pub rxmode: rte_eth_rxmode,
    /// Sending.
    pub txmode: rte_eth_txmode,
    /// More of receiving.
    pub rx_adv_conf: rte_eth_rx_adv_conf,
}

/// The part of `struct rte_eth_rxmode` that capsule writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct rte_eth_rxmode {
    /// How frames are distributed over queues.
    pub mq_mode: u32,
}

/// The part of `struct rte_eth_txmode` that capsule writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct rte_eth_txmode {
    /// Offloads.
    pub offloads: u64,
}

/// The part of the anonymous structure of that name that capsule writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct rte_eth_rx_adv_conf {
    /// Distribution by a hash.
    pub rss_conf: rte_eth_rss_conf,
}

/// The part of `struct rte_eth_rss_conf` that capsule writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct rte_eth_rss_conf {
    /// The flows that are hashed.
    pub rss_hf: u64,
}

/// `struct rte_eth_rxconf`, of which nothing is known here.
#[repr(C)]
pub struct rte_eth_rxconf {
    _private: [u8; 0],
}

/// `struct rte_eth_txconf`, of which nothing is known here.
#[repr(C)]
pub struct rte_eth_txconf {
    _private: [u8; 0],
}

/// The form in which `shim.c` takes [`rte_eth_conf`].
#[repr(C)]
struct Conf {
    rx_mq_mode: u32,
    rss_hf: u64,
    tx_offloads: u64,
}

// What the C compiler checks on its side.
const _: () = {
    assert!(offset_of!(rte_mbuf, data_off) == 16 && offset_of!(rte_mbuf, ol_flags) == 24);
    assert!(offset_of!(rte_mbuf, pkt_len) == 36 && offset_of!(rte_mbuf, data_len) == 40);
    assert!(offset_of!(rte_mbuf, buf_len) == 54 && offset_of!(rte_mbuf, pool) == 56);
    assert!(size_of::<rte_mbuf>() == 128);
    assert!(offset_of!(rte_mempool, flags) == 56 && offset_of!(rte_mempool, cache_size) == 68);
};

unsafe extern "C" {
    pub fn rte_eal_cleanup() -> c_int;
    pub fn rte_strerror(error: c_int) -> *const c_char;
    pub fn rte_socket_id() -> c_uint;
    pub fn rte_socket_count() -> c_uint;
    pub fn rte_socket_id_by_idx(index: c_uint) -> c_int;
    pub fn rte_thread_set_affinity(cores: *mut rte_cpuset_t) -> c_int;

    pub fn rte_pktmbuf_pool_create(
        name: *const c_char,
        count: c_uint,
        cache: c_uint,
        private: u16,
        size: u16,
        socket: c_int,
    ) -> *mut rte_mempool;
    pub fn rte_mempool_free(pool: *mut rte_mempool);
    // The next three are for who works on capsule's pool besides capsule.
    pub fn rte_mempool_lookup(name: *const c_char) -> *mut rte_mempool;
    pub fn rte_mempool_avail_count(pool: *const rte_mempool) -> c_uint;
    pub fn rte_mempool_obj_iter(
        pool: *mut rte_mempool,
        each: extern "C" fn(*mut rte_mempool, *mut c_void, *mut c_void, c_uint),
        argument: *mut c_void,
    ) -> u32;

    pub fn rte_eth_dev_get_port_by_name(name: *const c_char, port: *mut u16) -> c_int;
    pub fn rte_eth_dev_socket_id(port: u16) -> c_int;
    pub fn rte_eth_dev_adjust_nb_rx_tx_desc(port: u16, rx: *mut u16, tx: *mut u16) -> c_int;
    pub fn rte_eth_rx_queue_setup(
        port: u16,
        queue: u16,
        descriptors: u16,
        socket: c_uint,
        conf: *const rte_eth_rxconf,
        pool: *mut rte_mempool,
    ) -> c_int;
    pub fn rte_eth_tx_queue_setup(
        port: u16,
        queue: u16,
        descriptors: u16,
        socket: c_uint,
        conf: *const rte_eth_txconf,
    ) -> c_int;
    pub fn rte_eth_dev_start(port: u16) -> c_int;
    pub fn rte_eth_dev_stop(port: u16) -> c_int;
    pub fn rte_eth_macaddr_get(port: u16, address: *mut rte_ether_addr) -> c_int;
    pub fn rte_eth_promiscuous_enable(port: u16) -> c_int;
    pub fn rte_eth_promiscuous_disable(port: u16) -> c_int;
    pub fn rte_eth_allmulticast_enable(port: u16) -> c_int;
    pub fn rte_eth_allmulticast_disable(port: u16) -> c_int;

    #[link_name = "capsule_ffi_errno"]
    pub fn _rte_errno() -> c_int;
    #[link_name = "capsule_ffi_alloc"]
    pub fn _rte_pktmbuf_alloc(pool: *mut rte_mempool) -> *mut rte_mbuf;
    #[link_name = "capsule_ffi_free"]
    pub fn _rte_pktmbuf_free(mbuf: *mut rte_mbuf);
    #[link_name = "capsule_ffi_put_bulk"]
    pub fn _rte_mempool_put_bulk(pool: *mut rte_mempool, objects: *const *mut c_void, count: c_uint);

    #[link_name = "rte_eth_dev_close"]
    fn close(port: u16) -> c_int;
    #[link_name = "rte_eth_dev_is_valid_port"]
    fn is_valid_port(port: u16) -> c_int;

    fn capsule_ffi_alloc_bulk(pool: *mut rte_mempool, mbufs: *mut *mut rte_mbuf, count: c_uint) -> c_int;
    fn capsule_ffi_receive(port: u16, queue: u16, mbufs: *mut *mut rte_mbuf, most: u16) -> u16;
    fn capsule_ffi_transmit(port: u16, queue: u16, mbufs: *mut *mut rte_mbuf, count: u16) -> u16;
    fn capsule_ffi_refused(port: u16) -> u64;
    fn capsule_ffi_info(port: u16, info: *mut rte_eth_dev_info) -> c_int;
    fn capsule_ffi_configure(port: u16, rx_queues: u16, tx_queues: u16, conf: *const Conf) -> c_int;
}

/// Asks a port what it is.
pub unsafe fn rte_eth_dev_info_get(port: u16, info: &mut rte_eth_dev_info) -> c_int {
    // SAFETY: writes the one structure, whose fields the shim has in the same order.
    unsafe { capsule_ffi_info(port, info) }
}

/// Sets a port up.
pub unsafe fn rte_eth_dev_configure(port: u16, rx_queues: u16, tx_queues: u16, conf: &rte_eth_conf) -> c_int {
    let conf = Conf {
        rx_mq_mode: conf.rxmode.mq_mode,
        rss_hf: conf.rx_adv_conf.rss_conf.rss_hf,
        tx_offloads: conf.txmode.offloads,
    };
    // SAFETY: reads the one structure, whose fields the shim has in the same order.
    unsafe { capsule_ffi_configure(port, rx_queues, tx_queues, &raw const conf) }
}

/// Closes a port. capsule does so when it ends; one that was closed before by somebody else is left alone.
pub unsafe fn rte_eth_dev_close(port: u16) -> c_int {
    // SAFETY: takes a number.
    if unsafe { is_valid_port(port) } == 0 {
        return 0;
    }
    // SAFETY: as the caller says; nothing is changed.
    unsafe { close(port) }
}

/// Buffers that are remembered of a burst: more than capsule receives at once.
const REMEMBERED: usize = 64;

thread_local! {
    static SENT: Cell<u64> = const { Cell::new(0) };
    static LAST: RefCell<ArrayOfLast> = const { RefCell::new(([ptr::null_mut(); REMEMBERED], 0)) };
}

type ArrayOfLast = ([*mut rte_mbuf; REMEMBERED], usize);

/// Remembers the buffers of a burst.
///
/// # Safety
/// There are `count` of them.
unsafe fn remember(mbufs: *const *mut rte_mbuf, count: usize) {
    let count = count.min(REMEMBERED);
    LAST.with_borrow_mut(|(last, length)| {
        for (at, place) in last.iter_mut().enumerate().take(count) {
            // SAFETY: one of them.
            *place = unsafe { *mbufs.add(at) };
        }
        *length = count;
    });
}

/// Shows the buffers of this thread's last burst, received or allocated in bulk, in the order in which capsule has them: the
/// first 64 if there were more.
pub fn with_last<R>(show: impl FnOnce(&[*mut rte_mbuf]) -> R) -> R {
    LAST.with_borrow(|(last, length)| show(&last[..*length]))
}

/// Takes `count` buffers or none.
pub unsafe fn _rte_pktmbuf_alloc_bulk(
    pool: *mut rte_mempool,
    mbufs: *mut *mut rte_mbuf,
    count: c_uint,
) -> c_int {
    // SAFETY: as the caller says; nothing is changed.
    let error = unsafe { capsule_ffi_alloc_bulk(pool, mbufs, count) };
    // SAFETY: as many as were written.
    unsafe { remember(mbufs, if error == 0 { count as usize } else { 0 }) };
    error
}

/// Receives a burst.
pub unsafe fn _rte_eth_rx_burst(port: u16, queue: u16, mbufs: *mut *mut rte_mbuf, most: u16) -> u16 {
    // SAFETY: as the caller says; nothing is changed.
    let count = unsafe { capsule_ffi_receive(port, queue, mbufs, most) };
    // SAFETY: as many as were written.
    unsafe { remember(mbufs, usize::from(count)) };
    count
}

/// Sends a burst.
pub unsafe fn _rte_eth_tx_burst(port: u16, queue: u16, mbufs: *mut *mut rte_mbuf, count: u16) -> u16 {
    // SAFETY: as the caller says; nothing is changed.
    let taken = unsafe { capsule_ffi_transmit(port, queue, mbufs, count) };
    SENT.with(|sent| sent.set(sent.get() + u64::from(taken)));
    taken
}

/// Frames that this thread has sent by [`_rte_eth_tx_burst`]. capsule frees what a full ring does not take and tells nobody:
/// the difference does.
pub fn sent() -> u64 {
    SENT.with(Cell::get)
}

/// Received frames of a port that were refused, because they do not fit one buffer.
pub fn refused(port: u16) -> u64 {
    // SAFETY: takes a number, which is checked.
    unsafe { capsule_ffi_refused(port) }
}
