//! The NAT engine: what becomes of a packet.

pub mod counters;
pub mod engine;
pub mod output;

pub use counters::Counters;
pub use engine::{Engine, EngineConfig};
pub use output::{BATCH, Emission, NeighbourFact, Output, Verdict};
