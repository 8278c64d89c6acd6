//! What the in-memory tests share: packets as values, configurations as values, and a network around the engine.
//!
//! - [`packet`]: packets as tests write them and as failures show them
//! - [`codec`]: packets to bytes and back, with etherparse as the judge
//! - [`config`]: a configuration as plain data, and its snapshot
//! - [`hosts`]: whole TCP hosts on both sides
//! - [`entry`]: what fuzz targets and corpora call with arbitrary bytes
//! - [`requests`]: the same for what people and programs write
//! - [`foretold`]: what `explain` says, against what becomes of a packet
//! - [`invariants`]: what always holds between listings, counters and ports
//! - [`net`]: one or more engines, links, neighbours and a clock; it checks the invariants after every step

// Each test is a crate of its own and uses a part of this.
#![allow(dead_code, unused_imports)]

pub mod codec;
pub mod config;
pub mod entry;
pub mod foretold;
pub mod hosts;
pub mod invariants;
pub mod net;
pub mod packet;
pub mod requests;

pub use config::{Config, Dnat, EipConfig, Ports, Side, Snat, VpcConfig};
pub use net::{Left, Observed, TestNet};
pub use packet::{Body, Flags, Ip, Packet, Quote, ip};

use proptest::prelude::ProptestConfig;
use proptest::test_runner::FileFailurePersistence;

/// Settings of a property test with so many cases; what fails is kept beside the test's source and tried first.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        max_shrink_iters: 4000,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}
