//! The gateway between real kernels: network namespaces, real clients, both kernel back ends.
//!
//! Every test makes its own network (see `scripts/lib/lab.sh` for the picture), starts the real binary in it, and at the end
//! asserts what is true of every run: the counters add up, no kernel saw a wrong checksum, no private address was seen
//! outside, SIGTERM ends the gateway and gives its ports back as they were.

#[path = "../common/mod.rs"]
mod common;
mod configuration;
mod gateway;
mod lab;

mod clients;
mod hairpin;
mod million;
mod operation;
mod segments;

/// One test for each kernel back end.
macro_rules! with_both_back_ends {
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
    };
}
pub(crate) use with_both_back_ends;
