//! Bytes and their meaning: views, parsing once, checksum arithmetic. Pure: no state, no clock, no I/O.

pub mod packet;

pub use packet::{Arrival, Packet};
