//! The gateway between real kernels: network namespaces, real clients, all back ends that can use them.
//!
//! Every test makes its own network (see `scripts/lib/lab.sh` for the picture), starts the real binary in it, and at the end
//! asserts what is true of every run: the counters add up, no kernel saw a wrong checksum, no private address was seen
//! outside, SIGTERM ends the gateway and gives its ports back as they were.

#[path = "../common/mod.rs"]
mod common;
mod configuration;
mod gateway;
mod lab;

mod black_box;
mod clients;
mod ftp;
mod hairpin;
mod million;
mod operation;
mod protocols;
mod segments;
mod sessions;

/// One test for each back end that can use a device of the kernel's.
macro_rules! with_all_back_ends {
    ($($name:ident)*) => {
        mod af_xdp {
            $(#[test]
            fn $name() {
                crate::common::need_root!();
                super::$name("af_xdp");
            })*
        }
        mod af_packet {
            $(#[test]
            fn $name() {
                crate::common::need_root!();
                super::$name("af_packet");
            })*
        }
        // DPDK's virtual device on packet sockets: the driver and everything above it, without a NIC.
        #[cfg(feature = "dpdk")]
        mod dpdk {
            $(#[test]
            fn $name() {
                crate::common::need_root!();
                super::$name("dpdk");
            })*
        }
        // The same by the runtime of capsule.
        #[cfg(feature = "capsule")]
        mod capsule {
            $(#[test]
            fn $name() {
                crate::common::need_root!();
                super::$name("capsule");
            })*
        }
    };
}
pub(crate) use with_all_back_ends;
