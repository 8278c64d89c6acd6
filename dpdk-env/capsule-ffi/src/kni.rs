//! The kernel NIC interface, which DPDK has given up: what capsule names of it is here so that it compiles, and refuses.

use std::ffi::{c_char, c_int, c_uint};
use std::ptr;

use crate::{rte_mbuf, rte_mempool};

/// `ENOTSUP`.
const UNSUPPORTED: c_int = 95;

/// An interface. There is none.
pub enum rte_kni {}

/// How one would be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct rte_kni_conf {
    /// Its name.
    pub name: [c_char; 32],
    /// Its port.
    pub group_id: u16,
    /// Its address.
    pub mac_addr: [u8; 6],
    /// Bytes of a buffer.
    pub mbuf_size: c_uint,
}

/// What it would call.
#[derive(Clone, Copy, Debug, Default)]
pub struct rte_kni_ops {
    /// Its port.
    pub port_id: u16,
    /// Another MTU.
    pub change_mtu: Option<extern "C" fn(u16, c_uint) -> c_int>,
    /// Up or down.
    pub config_network_if: Option<extern "C" fn(u16, u8) -> c_int>,
    /// Another address.
    pub config_mac_address: Option<extern "C" fn(u16, *mut u8) -> c_int>,
    /// Promiscuous or not.
    pub config_promiscusity: Option<extern "C" fn(u16, u8) -> c_int>,
}

/// Refuses.
pub unsafe fn rte_kni_init(_: c_uint) -> c_int {
    -UNSUPPORTED
}

/// Does nothing.
pub unsafe fn rte_kni_close() {}

/// Refuses.
pub unsafe fn rte_kni_alloc(_: &mut rte_mempool, _: &rte_kni_conf, _: &mut rte_kni_ops) -> *mut rte_kni {
    ptr::null_mut()
}

/// Never called: there is no interface.
pub unsafe fn rte_kni_release(kni: &mut rte_kni) -> c_int {
    match *kni {}
}

/// Never called: there is no interface.
pub unsafe fn rte_kni_handle_request(kni: &mut rte_kni) -> c_int {
    match *kni {}
}

/// Never called: there is no interface.
pub unsafe fn rte_kni_rx_burst(kni: &mut rte_kni, _: *mut *mut rte_mbuf, _: c_uint) -> c_uint {
    match *kni {}
}

/// Never called: there is no interface.
pub unsafe fn rte_kni_tx_burst(kni: &mut rte_kni, _: *mut *mut rte_mbuf, _: c_uint) -> c_uint {
    match *kni {}
}
