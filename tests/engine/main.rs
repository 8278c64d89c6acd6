//! The engine on a network in memory, where time is an argument: one subject a file.

#[path = "../support/mod.rs"]
mod support;

mod bandwidth;
mod corpora;
mod exhaustion;
mod explain;
mod ftp;
mod half_open;
mod port_blocks;
mod rivals;
mod robustness;
mod tcp_mss;
mod tcp_reset;
mod transfers;
mod usage;
